"""Workers that are slow, stopped, killed or cannot start: the same bytes, or a loud, resumable stop."""

import errno
import os
import signal
import time

import pytest

from pipeline.cluster.executor import LATE_SECONDS
from pipeline.config.errors import BadInput, Failed, Stopped
from pipeline.config.settings import Cluster
from tests.cluster.searches import search


class Once:
    """A fault of worker 0 at its first question behind `after`; later workers have other numbers."""

    def __init__(self, act, after=3):
        self.act, self.after, self.asked = act, after, 0

    def __call__(self, number, question):
        self.asked += 1
        if number == 0 and self.asked == self.after:
            self.act()


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def stop():
    os.kill(os.getpid(), signal.SIGSTOP)


def fill():
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/spill")


def dawdle():
    time.sleep(12)


class Always:
    def __init__(self, act):
        self.act = act

    def __call__(self, number, question):
        self.act()


class Raises:
    def __init__(self, kind, message):
        self.kind, self.message = kind, message

    def __call__(self, number, question):
        raise self.kind(self.message)


@pytest.fixture(scope="module")
def alone(prepared, tmp_path_factory) -> dict[str, bytes]:
    root = tmp_path_factory.mktemp("alone")
    return {pruner: search(prepared, root / pruner, pruner, None)[0] for pruner in ("loss", "reconstruction-sequential")}


@pytest.mark.parametrize("pruner", ["loss", "reconstruction-sequential"])
def test_a_killed_worker_is_replaced_and_no_choice_is_lost_or_doubled(prepared, ray_of_four, tmp_path, alone, pruner):
    journal, seen = search(prepared, tmp_path / "killed", pruner, Cluster(workers=2), Once(die, after=2), warm=True)
    assert journal == alone[pruner]
    assert [event["lost"] for event in seen if event["event"] == "shares"] == [1]
    assert any("lost worker 0" in event.get("message", "") for event in seen)


@pytest.mark.parametrize("pruner, after", [("loss", 180), ("reconstruction-sequential", 10)])
def test_a_worker_that_takes_over_between_units_catches_up_from_the_committed_artifacts(prepared, ray_of_four, tmp_path, alone, pruner, after):
    committed = []

    def watch(event):
        if event["event"] == "notice" and "lost worker 0" in event["message"]:
            committed.extend((tmp_path / "later").glob("journal.jsonl"))
            committed[:] = [line for path in committed for line in path.read_text().splitlines() if '"kind":"unit"' in line]

    journal, seen = search(prepared, tmp_path / "later", pruner, Cluster(workers=1), Once(die, after=after), watch)
    assert journal == alone[pruner] and committed
    (shares,) = [event["shares"] for event in seen if event["event"] == "shares"]
    assert all(share.get("1", 0) >= 1 for share in shares.values())


@pytest.mark.parametrize("act", [stop, dawdle])
def test_a_late_block_is_raced_and_its_second_answer_ignored(prepared, ray_of_four, tmp_path, alone, act):
    waited = []

    def watch(event):  # let the dawdler answer before the search ends
        if act is dawdle and event["event"] == "pick" and not waited and event["unit"] == "conv_head":
            waited.append(time.sleep(10))

    began = time.monotonic()
    journal, seen = search(prepared, tmp_path / "late", "loss", Cluster(workers=2), Once(act), watch, warm=True)
    assert journal == alone["loss"]
    assert time.monotonic() - began > LATE_SECONDS, "a block was waited for until it was late"
    (shares,) = [event for event in seen if event["event"] == "shares"]
    assert shares["lost"] == 0
    if act is dawdle:
        assert shares["ignored"] >= 1


@pytest.mark.slow
def test_a_single_worker_that_gives_no_sign_of_life_is_replaced(prepared, ray_of_four, tmp_path, alone):
    journal, seen = search(prepared, tmp_path / "silent", "loss", Cluster(workers=1, wait_seconds=40.0), Once(stop))
    assert journal == alone["loss"]
    assert any("no sign of life" in event.get("message", "") for event in seen)


def test_more_losses_than_may_be_stop_resumably_naming_what_was_lost(prepared, ray_of_four, tmp_path):
    with pytest.raises(Stopped, match=r"lost worker 0 .*, worker 1 .*; cluster.restarts allows 1 replacements; run the same command"):
        search(prepared, tmp_path / "lost", "loss", Cluster(workers=1, restarts=1), Always(die))


@pytest.mark.parametrize("kind", [BadInput, Failed, Stopped])
def test_what_a_worker_meets_arrives_as_it_would_in_process(prepared, ray_of_four, tmp_path, kind):
    with pytest.raises(kind, match="^shard 3: is broken; mend it$"):
        search(prepared, tmp_path / "met", "loss", Cluster(workers=2), Raises(kind, "shard 3: is broken; mend it"))


def test_a_full_disk_at_a_worker_stops_resumably(prepared, ray_of_four, tmp_path):
    with pytest.raises(Stopped, match="^/spill: No space left on device; make room and run the same command$"):
        search(prepared, tmp_path / "full", "loss", Cluster(workers=2), Always(fill))


def test_activations_on_disk_are_gone_when_the_search_is_over(prepared, ray_of_four, tmp_path):
    small = "scoring.memory_limit=1e-6"
    spilled = []

    def watch(event):
        spilled.extend(tmp_path.glob("spilled/.walk-*/*.safetensors"))

    journal, _ = search(prepared, tmp_path / "spilled", "reconstruction-sequential", Cluster(workers=2), watch=watch, overrides=(small,))
    assert spilled and not list(tmp_path.glob("spilled/.walk-*"))
    assert journal == search(prepared, tmp_path / "held", "reconstruction-sequential", None)[0]


def test_without_room_for_any_worker_the_run_stops_resumably(prepared, ray_of_four, tmp_path):
    with pytest.raises(Stopped, match="no worker came within 3 s; each needs 64 CPU, free are 4 CPU"):
        search(prepared, tmp_path / "none", "loss", Cluster(workers=1, cpus=64.0, wait_seconds=3.0))
