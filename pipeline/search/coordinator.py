"""The coordinator: turns a search's needs into questions, adds the answers in block order, commits choices to the journal."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from pipeline.config.errors import Failed
from pipeline.config.settings import Scoring
from pipeline.journal import Journal
from pipeline.networks.shrink import Choice, neuron_columns
from pipeline.networks.units import Unit
from pipeline.search.artifacts import load_choice, save_choice
from pipeline.search.executor import Executor
from pipeline.search.question import Answer, Commit, Question, add, blocks
from pipeline.search.statistics import SUMS, numbered
from pipeline.selection.joint import join
from pipeline.selection.quadratic import Quadratic, as_blocks, centred


class Coordinator:
    """One search at work. `calibration` = samples of a Gram pass; a step's fresh batch lies behind them in the sequence."""

    def __init__(self, executor: Executor, journal: Journal, folder: Path, scoring: Scoring, calibration: int, observe):
        self.executor, self.journal, self.folder, self.scoring = executor, journal, Path(folder), scoring
        self.calibration, self.observe = calibration, observe
        self.committed: tuple[Commit, ...] = ()
        self.batches = 0  # fresh batches used so far, over all units
        self.images = 0  # samples read, repeats counted

    def ask(self, statistic: str, unit: str | None, samples, step=0, candidate_blocks=((),), picks=()) -> list[Answer]:
        """One answer per candidate block, each the ordered sum over the sample blocks; all their questions are asked together."""
        parts = [(tuple(block), run) for block in candidate_blocks for run in samples]
        questions = [Question(statistic, self.committed, unit, step, run, block, tuple(picks)) for block, run in parts]
        answers = self._watched(questions, statistic, unit)
        totals = [add(itertools.islice(answers, len(samples))) for _ in candidate_blocks]
        next(answers, None)  # lets the executor see that all were taken
        self.images += sum(stop - start for start, stop in samples)
        return totals

    def _watched(self, questions, statistic, unit):
        for number, answer in enumerate(self.executor.ask(questions)):
            self.observe({"event": "answer", "statistic": statistic, "unit": unit, "done": number + 1, "total": len(questions)})
            yield answer

    def calibration_blocks(self) -> list[tuple[int, int]]:
        return blocks(0, self.calibration, self.scoring.block_samples)

    def quadratic(self, unit: Unit, weights: list[torch.Tensor], kept: tuple[int, ...] = (), centre: bool = False) -> Quadratic:
        """The unit's quadratic in the network as shrunk so far, against the dense one; `weights`: its consumers' columns.

        With `kept`, of these neurons alone, as they lie, measured with the others gone; with `centre`, about its means.
        """
        (answer,) = self.ask("gram", unit.name, self.calibration_blocks(), picks=kept)
        _refuse_infinite(unit.name, answer.sums)
        parts = []
        for i, (reader, weight) in enumerate(zip(unit.consumers, weights)):
            gram, cross = (as_blocks(torch.from_numpy(answer.sums[numbered(name, i)]).clone()) for name in ("gram", "cross"))
            weight = weight[:, neuron_columns(unit.laid(kept), reader.columns)] if kept else weight
            total = float(answer.sums[numbered("total", i)])
            found = Quadratic(gram, cross, total, weight.double().cpu(), reader.columns, torch.finfo(weight.dtype).eps)
            sums = (torch.from_numpy(answer.sums[numbered(name, i)]).clone() for name in ("sums", "output_sums"))
            parts.append(centred(found, *sums, reader.groups) if centre else found)
        return replace(join(parts), groups=unit.groups)

    def dense_grams(self) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """G of every unit in the dense network, `<unit>/<i>` of its further consumers, and the sums (NK + 1,) that each is centred by.

        (NK, NK), of a grouped consumer that of each group (g, NK / g, NK / g).
        """
        (answer,) = self.ask("gram_dense", None, self.calibration_blocks())
        for name, value in answer.sums.items():
            _refuse_infinite(name, {"gram": value})
        found = {name: torch.from_numpy(value) for name, value in answer.sums.items()}
        grams = {name: value for name, value in found.items() if not name.endswith(SUMS)}
        return grams, {name: found[f"{name}{SUMS}"] for name in grams}

    def gradients(self, statistic: str) -> dict[str, torch.Tensor]:
        """Mean over the calibration images of what the statistic sums of every parameter's gradient."""
        (answer,) = self.ask(statistic, None, self.calibration_blocks())
        for name, value in answer.sums.items():
            if not np.isfinite(value).all():
                raise Failed(f"parameter {name}: its gradients are not finite on the calibration images; check the weights and the images")
        return {name: torch.from_numpy(value / answer.count) for name, value in answer.sums.items()}

    def losses(self, unit: str, step: int, candidates: list[int], picks: list[int]) -> np.ndarray:
        """Mean loss of each candidate on the next fresh batch."""
        start = self.calibration + self.batches * self.scoring.batch
        samples = [(start, start + self.scoring.batch)]
        size = self.scoring.block_candidates
        parts = [candidates[i : i + size] for i in range(0, len(candidates), size)]
        answers = self.ask("loss", unit, samples, step, parts, picks)
        return np.concatenate([answer.sums["loss"] / answer.count for answer in answers])

    def divergences(self, tried: dict[str, list[Commit]], samples: int) -> dict[str, np.ndarray]:
        """Mean divergence of the network's output for each choice tried of each unit; the images lie behind the calibration ones."""
        runs = blocks(self.calibration, self.calibration + samples, self.scoring.block_samples)
        questions = [Question("divergence", self.committed, unit, 0, run, tried=tuple(each)) for unit, each in tried.items() for run in runs]
        answers = self._watched(questions, "divergence", None)
        totals = {unit: add(itertools.islice(answers, len(runs))) for unit in tried}
        next(answers, None)
        self.images += samples
        for unit, answer in totals.items():
            _refuse_infinite(unit, answer.sums)
        return {unit: answer.sums["divergence"] / answer.count for unit, answer in totals.items()}

    def next_batch(self) -> None:
        self.batches += 1

    def replayed(self, unit: str) -> tuple[list[dict], Choice | None]:
        """(picks, choice) that the journal already holds of `unit`; the choice is verified against its artifact."""
        picks, end = self.journal.replayed(unit)
        if end is None:
            return picks, None
        commit = Commit(unit, tuple(end["kept"]), end["artifact"], end["sha256"])
        choice = load_choice(self.folder, commit)
        self.journal.commit(*picks, end)
        self.committed += (commit,)
        return picks, choice

    def commit(self, unit: str, choice: Choice, stop_reason: str, explained: float | None, picks=()) -> None:
        """Commit a whole unit: the artifact first, then its lines with one fsync."""
        commit = save_choice(self.folder, unit, choice, explained)
        line = {"kind": "unit", "unit": unit, "kept": list(choice.kept), "stop_reason": stop_reason}
        self.journal.commit(*picks, line | {"artifact": commit.artifact, "sha256": commit.sha256})
        self.committed += (commit,)


def _refuse_infinite(unit: str, sums: dict[str, np.ndarray]) -> None:
    if not all(np.isfinite(value).all() for value in sums.values()):
        raise Failed(f"unit {unit}: its activations are not finite on the calibration images; check the weights and the images")
