"""`prune(model, loader, budget)`: the same search as `gfs run`, on a module and batches in memory, no files needed."""

import copy
import difflib
import tempfile
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import nn

from pipeline.config.errors import BadInput, Failed
from pipeline.config.rules import (
    CRITERIA,
    curves_pruner,
    follows_curves,
    measures_dense,
    measures_gram,
    reads_gradients,
    resolve_prune,
    warnings_of,
)
from pipeline.config.settings import Prune, Scoring, budget_target
from pipeline.data.loader import collect, refuse_beyond
from pipeline.data.streams import MemoryStream
from pipeline.evaluation.layer_times import LatencyTable, measure_layer_times
from pipeline.journal import Journal
from pipeline.networks.cost import CostTable
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.saved import arch_of, save_pruned
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.trial import copy_of, refuse_unfaithful, refuse_unfed
from pipeline.networks.units import Units, find_units, refuse_without_intercept, without_large
from pipeline.networks.zoo import Blueprint
from pipeline.pruners.criteria import criterion_scores
from pipeline.pruners.curves import measure_curves, score_curves
from pipeline.pruners.pruner import Job, Measured, dense_quadratics, prune_units
from pipeline.pruners.second_pass import Samples, refit_layers
from pipeline.pruners.shipped import ship
from pipeline.search.actor import Bench
from pipeline.search.artifacts import load_choice
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from pipeline.selection.allocation import Sharing
from pipeline.selection.budgets import Budget


@dataclass(frozen=True)
class Pruned:
    """A new, smaller network in eval mode, with {unit: (dense width, kept indices)}, MACs per image and parameters."""

    network: nn.Module
    units: dict[str, tuple[int, tuple[int, ...]]]
    macs: int
    macs_dense: int
    params: int
    arch: dict

    def save(self, directory) -> None:
        """Write arch.json and model.safetensors; read them back with load_pruned(directory, build=...)."""
        Path(directory).mkdir(parents=True, exist_ok=True)
        save_pruned(Path(directory), self.network, self.arch)


def prune(model: nn.Module, loader, budget=None, *, seed: int = 0, **settings) -> Pruned:
    """A smaller copy of `model`; `model` itself is untouched.

    `loader` yields batches or (batch, label) pairs and is iterated once: its images are the calibration set, and what the
    steps of selector `loss` and the gradients of `tp.taylor` and `tp.hessian` are fed with. `settings`: those of the
    `prune:` section. Raises UnsupportedModule naming the module's path, ValueError when the budget is out of reach or a setting is wrong.
    """
    options = _options(settings, budget := {"prunable_macs": 0.5} if budget is None else budget)
    if not isinstance(seed, int) or seed < 0:
        raise BadInput(f"prune: seed: {seed!r} is no seed; give a whole number from 0")
    dense = copy_of(model)
    images, labels = collect(loader, options.selector == "loss" or reads_gradients(options), options.selector)
    if options.calibration_samples and "calibration_samples" not in settings:
        options = options.model_copy(update={"calibration_samples": len(images)})  # the loader is the calibration set
    units = find_units(dense, options.units)
    refuse_beyond(labels, refuse_unfed(dense, images[:2].to(_device(dense))).shape[-1])
    refuse_unfaithful(dense, units, images[:2].to(_device(dense)))
    table = CostTable(dense, units, example := images[:1].to(_device(dense)))
    counted = LatencyTable(table, measure_layer_times(dense, units.units, table, example)) if "latency_ms" in budget else table
    if measures_gram(options):
        units = without_large(units, Scoring().gram_limit)
    if options.refit == "affine":
        refuse_without_intercept(units)
    for warning in warnings_of(options):
        warnings.warn(warning, stacklevel=2)
    ((kind, target),) = budget.items()
    widths = {name: unit.width for name, unit in units.units.items()}
    sharing = Sharing(Budget(kind, _amount(kind, target)), counted, widths, options.allocation, options.round_to, units.steps)
    sharing.check()
    with _switches_kept():
        choices = _search(dense, units, sharing, options, images, labels, seed)
    if (difference := folding_difference(dense, units, choices, images[:4])) > FOLDING_LIMIT:
        raise Failed(f"prune: gated and shrunk network differ by {difference:.1e} (relative, float64); the module does more than its units show")
    network = copy.deepcopy(dense)
    apply_choices(network, units.units, choices)
    if options.second_pass:
        samples = Samples(MemoryStream(images, torch.zeros(len(images), dtype=torch.long), Scoring().batch), len(images), seed, _device(dense))
        with _switches_kept():
            kept_alone = {name: choice.kept for name, choice in choices.items()}
            refit_layers(dense, network, units, kept_alone, samples, options.ridge, Scoring(threads=torch.get_num_threads()), lambda event: None)
    plan = Blueprint("own", f"{type(model).__module__}.{type(model).__qualname__}", {})
    kept = {name: (units.units[name].width, choice.kept) for name, choice in choices.items()}
    macs = table.cost({name: len(choice.kept) for name, choice in choices.items()}).macs
    params = sum(parameter.numel() for parameter in network.parameters())
    return Pruned(network, kept, macs, table.cost({}).macs, params, arch_of(plan, units, choices, options.units))


def _options(settings: dict, budget: dict) -> Prune:
    known = list(Prune.model_fields)
    for name in settings:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise BadInput(f"prune: unknown setting {name!r}; {f'did you mean {near[0]}?' if near else 'known: ' + ', '.join(known)}")
    if not isinstance(budget, dict) or len(budget) != 1:
        found = f"holds {len(budget)} kinds" if isinstance(budget, dict) else f"is {budget!r}"
        raise BadInput(f"budget: {found}; give exactly one, such as {{'prunable_macs': 0.5}}")
    try:
        if "top1_drop" in budget:
            raise BadInput("budget: top1_drop is measured on validation images, which the loader has none of; use `gfs run`, or another kind")
        return resolve_prune(Prune(**settings), "prune", next(iter(budget)))
    except ValidationError as error:
        fault = error.errors()[0]
        raise BadInput(f"prune: {fault['loc'][0]}: {fault['msg']}") from error


def _amount(kind, target) -> float:
    try:
        return budget_target(kind, target)
    except ValueError as error:
        raise BadInput(f"budget: {error}") from error


def _search(dense, units: Units, sharing: Sharing, options: Prune, images, labels, seed) -> dict[str, Choice]:
    """The committed choice of every unit; journal and artifacts live in a temporary folder."""
    scoring = Scoring(threads=torch.get_num_threads())
    samples = min(options.calibration_samples or 0, len(images))
    stream = MemoryStream(images, torch.zeros(len(images), dtype=torch.long) if labels is None else labels, scoring.batch)
    with tempfile.TemporaryDirectory(prefix="goodsubnets-") as folder:
        bench = Bench(dense, units, stream, scoring, Path(folder), _device(dense), seed)
        executor = InProcess(bench) if options.mode or follows_curves(options) or reads_gradients(options) else None
        journal = Journal(Path(folder) / "journal.jsonl", lambda event: None)
        coordinator = Coordinator(executor, journal, Path(folder), scoring, samples, lambda event: None)
        measured, curves = None, None
        if measures_dense(options):
            grams, sums = coordinator.dense_grams()
            measured = Measured(dense_quadratics(dense, units, grams, sums if options.refit == "affine" else None), {})
        gradients = coordinator.gradients(CRITERIA[options.selector]) if reads_gradients(options) else None
        example, scores, shipped = images[:1].to(_device(dense)), None, None
        if options.as_shipped:
            allocation, shipped = ship(options.selector, dense, units, sharing, example, gradients)
        elif options.selector in CRITERIA:
            scores = criterion_scores(options.selector, dense, units, example, gradients)
        if follows_curves(options):
            job = Job(dense, units, {}, curves_pruner(options), seed, measured, scores)
            probed = options.allocation == "marginal"
            found = measure_curves(job, coordinator, min(options.probe_samples, len(images))) if probed else score_curves(job)
            curves = {name: curve.values for name, curve in found.items()}
        allocation = allocation if options.as_shipped else sharing.widths(curves)
        job = Job(dense, units, allocation.widths, options, seed, measured if options.mode == "independent" else None, scores, shipped)
        prune_units(job, coordinator)
        journal.close()
        return {commit.unit: load_choice(Path(folder), commit) for commit in coordinator.committed}


@contextmanager
def _switches_kept():
    """A search sets torch's global switches for exact sums; the caller gets back its own."""
    places = [(torch.backends.cudnn, n) for n in ("deterministic", "benchmark", "allow_tf32")] + [(torch.backends.cuda.matmul, "allow_tf32")]
    before = [getattr(place, name) for place, name in places]
    try:
        yield
    finally:
        for (place, name), value in zip(places, before):
            setattr(place, name, value)


def _device(network: nn.Module) -> torch.device:
    return next(network.parameters()).device
