"""An actor: holds the frozen network and its samples, catches up from committed artifacts, answers questions."""

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from pipeline.config.errors import Failed
from pipeline.config.settings import Scoring
from pipeline.data.streams import ScoringStream
from pipeline.networks.shrink import Choice, apply_choice
from pipeline.networks.units import Unit, Units
from pipeline.search import statistics
from pipeline.search.artifacts import load_choice
from pipeline.search.computing import compute_exactly, within_memory
from pipeline.search.question import Answer, Commit, Question
from pipeline.search.walk import Walk

STATISTICS = {
    "gram_dense": statistics.gram_dense,
    "gram": statistics.gram,
    "divergence": statistics.divergence,
    "loss": statistics.loss,
    "gradient": statistics.gradient,
    "squared_gradient": statistics.squared_gradient,
}


@dataclass(frozen=True)
class Bench:
    """What every actor is given: the dense network, its units, the samples, the settings, where artifacts lie."""

    network: nn.Module
    units: Units
    stream: ScoringStream
    scoring: Scoring
    folder: Path
    device: torch.device
    seed: int | None


class Actor:
    """Answers questions about one frozen network. Nothing it keeps changes an answer, only how soon it comes."""

    def __init__(self, bench: Bench):
        compute_exactly(bench.scoring.threads)
        self.bench = bench
        self.dense = copy.deepcopy(bench.network).to(bench.device, memory_format=torch.channels_last).eval()
        self.committed: dict[str, Choice] = {}
        self.shrunk = copy.deepcopy(self.dense)
        self.walk = Walk(self.dense, bench)
        self.prefix: tuple | None = None
        self.cut_to: tuple | None = None

    def unit(self, name: str) -> Unit:
        return self.bench.units.units[name]

    def drifted_to(self, name: str, kept: tuple[int, ...]) -> nn.Module:
        """The walk's drifted network, or a copy in which a unit has only the `kept` neurons from its hold on."""
        if not kept:
            return self.walk.drifted
        key = (name, kept, len(self.committed))
        if self.cut_to is None or self.cut_to[0] != key:
            network = copy.deepcopy(self.walk.drifted)
            apply_choice(network, self.unit(name), Choice(kept), behind=True)
            self.cut_to = (key, network)
        return self.cut_to[1]

    def answer(self, question: Question) -> Answer:
        """The sums of one question. Raises Failed naming the settings when the block does not fit memory."""
        self._catch_up(question.committed)
        place = f"unit {question.unit or question.statistic}"
        with within_memory(place, "scoring.batch, scoring.block_candidates or scoring.block_samples"), torch.inference_mode():
            return STATISTICS[question.statistic](self, question)

    @torch.inference_mode()
    def go_ahead(self, samples: tuple[int, int]) -> None:
        """Do of a sample block what the next unit needs whatever is chosen now."""
        self.walk.go_ahead(samples)

    def _catch_up(self, commits: tuple[Commit, ...]) -> None:
        """Bring the shrunk network to the question's state from the committed artifacts."""
        known = list(self.committed)
        if known != [commit.unit for commit in commits[: len(known)]]:
            raise Failed("search: a question goes back behind a committed unit; delete the stage and run again")
        for commit in commits[len(known) :]:
            choice = load_choice(self.bench.folder, commit)
            apply_choice(self.shrunk, self.unit(commit.unit), choice)
            self.walk.commit(commit.unit, choice)
            self.committed[commit.unit] = choice
            self.prefix = None
