"""One journal whatever the number of workers; each axis of the work is really shared."""

import pytest
import torch

from pipeline.config.settings import Cluster
from tests.cluster.searches import chain, events, search


SLOWER = [pytest.param(name, marks=pytest.mark.slow) for name in ("affine", "marginal-independent")]


@pytest.mark.parametrize("pruner", ["reconstruction-sequential", *SLOWER, "loss"])
def test_in_process_and_one_two_or_four_workers_write_the_same_bytes(prepared, ray_of_four, tmp_path, pruner):
    alone = chain(prepared, tmp_path / "0", pruner)
    assert any(name.endswith("journal.jsonl") for name in alone)
    assert any(name.endswith("curves.json") for name in alone) == pruner.startswith("marginal")
    for workers in (1, 2, 4):
        torch.set_num_threads(2)  # as an earlier stage may have left it
        assert chain(prepared, tmp_path / str(workers), pruner, f"cluster.workers={workers}") == alone
        assert torch.get_num_threads() == 1, "the coordinator chooses with scoring.threads"


@pytest.mark.parametrize("pruner, statistic", [("reconstruction-sequential", "gram"), ("reconstruction-independent", "gram_dense"), ("loss", "loss")])
def test_sample_blocks_of_a_gram_pass_and_candidate_blocks_of_a_step_are_shared(prepared, ray_of_four, tmp_path, pruner, statistic):
    _, seen = search(prepared, tmp_path / "search", pruner, Cluster(workers=2), warm=True)
    (told,) = [event["shares"][statistic] for event in seen if event["event"] == "shares"]
    print(f"{statistic}: answers of each worker {told}")
    assert set(told) == {"0", "1"} and min(told.values()) >= 0.2 * sum(told.values())


def test_more_workers_than_blocks_are_told_of(prepared, ray_of_four, tmp_path):
    chain(prepared, tmp_path / "runs", "reconstruction-sequential", "cluster.workers=4", "prune.calibration_samples=256")
    notices = [event["message"] for event in events(tmp_path / "runs", "notice")]
    assert any("4, but the work comes in 2 blocks: 2 workers idle; scoring.block_samples" in message for message in notices), notices


def test_workers_for_which_there_is_no_room_wait_and_the_others_work(prepared, ray_of_four, tmp_path):
    journal, seen = search(prepared, tmp_path / "wide", "loss", Cluster(workers=3, cpus=2.0))
    assert journal == search(prepared, tmp_path / "alone", "loss", None)[0]
    assert max(event["alive"] for event in seen if event["event"] == "workers") == 2
