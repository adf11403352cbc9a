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
from pipeline.data.streams import MemoryStream
from pipeline.evaluation.layer_times import LatencyTable, measure_layer_times
from pipeline.journal import Journal
from pipeline.networks.cost import CostTable
from pipeline.networks.gates import FOLDING_LIMIT, folding_difference
from pipeline.networks.saved import arch_of, save_pruned
from pipeline.networks.shrink import Choice, apply_choices
from pipeline.networks.units import Units, find_units, refuse_without_intercept, without_large
from pipeline.networks.zoo import Blueprint
from pipeline.pruners.criteria import criterion_scores
from pipeline.pruners.curves import measure_curves, score_curves
from pipeline.pruners.pruner import Job, Measured, dense_quadratics, prune_units
from pipeline.pruners.shipped import ship
from pipeline.search.actor import Bench
from pipeline.search.artifacts import load_choice
from pipeline.search.coordinator import Coordinator
from pipeline.search.executor import InProcess
from pipeline.selection.allocation import Sharing
from pipeline.selection.budgets import Budget

KEPT_LIMIT = 4 * 2**30  # bytes of calibration batches that are held in memory


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
    images, labels = _collect(loader, options.selector == "loss" or reads_gradients(options), options.selector)
    if options.calibration_samples and "calibration_samples" not in settings:
        options = options.model_copy(update={"calibration_samples": len(images)})  # the loader is the calibration set
    if any(parameter.dtype in (torch.float16, torch.bfloat16) for parameter in model.parameters()):
        raise BadInput("model: has half-precision weights, in which least squares has no digits left; prune model.float(), then convert")
    dense = copy.deepcopy(model).eval()
    units = find_units(dense, options.units)
    table = CostTable(dense, units, example := images[:1].to(_device(dense)))
    counted = LatencyTable(table, measure_layer_times(dense, units.units, table, example)) if "latency_ms" in budget else table
    if measures_gram(options):
        units = without_large(units, Scoring().gram_limit)
    if options.refit == "affine":
        refuse_without_intercept(units)
    for warning in warnings_of(options):
        warnings.warn(warning, stacklevel=2)
    _check_labels(dense, images, labels)
    ((kind, target),) = budget.items()
    widths = {name: unit.width for name, unit in units.units.items()}
    sharing = Sharing(Budget(kind, _amount(kind, target)), counted, widths, options.allocation, options.round_to)
    sharing.check()
    with _switches_kept():
        choices = _search(dense, units, sharing, options, images, labels, seed)
    if (difference := folding_difference(dense, units, choices, images[:4])) > FOLDING_LIMIT:
        raise Failed(f"prune: gated and shrunk network differ by {difference:.1e} (relative, float64); the module does more than its units show")
    network = copy.deepcopy(dense)
    apply_choices(network, units.units, choices)
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


def _collect(loader, with_labels: bool, selector: str) -> tuple[torch.Tensor, torch.Tensor | None]:
    """All images and, where they are asked for, labels; the loader is iterated exactly once."""
    images, labels, held = [], [], 0
    for item in loader:
        parts = item if isinstance(item, (tuple, list)) else (item,)
        if len(parts) not in (1, 2) or not isinstance(parts[0], torch.Tensor):
            raise BadInput(f"loader: yields {type(item).__name__} of {len(parts)}; give tensors of images, or (images, labels) pairs")
        batch = parts[0]
        held += batch.numel() * batch.element_size()
        if held > KEPT_LIMIT:
            raise BadInput(f"loader: its batches take more than {KEPT_LIMIT / 2**30:g} GiB, which are held in memory; give fewer calibration images")
        if images and batch.shape[1:] != images[0].shape[1:]:
            raise BadInput(f"loader: yields images of {tuple(batch.shape[1:])} after {tuple(images[0].shape[1:])}; give images of one size")
        images.append(batch.detach().cpu())
        labels += [_labels(parts, len(batch), selector)] if with_labels else []
    if not sum(map(len, images)):
        raise BadInput("loader: yields no image; give calibration images")
    return torch.cat(images), torch.cat(labels) if with_labels else None


def _check_labels(network, images, labels) -> None:
    """Refuse labels beyond the network's outputs."""
    if labels is None:
        return
    with torch.inference_mode():
        classes = network(images[:1].to(_device(network))).shape[-1]
    if int(labels.max()) >= classes:
        raise BadInput(f"loader: label {int(labels.max())} is beyond the network's {classes} outputs; mend the labels")


def _labels(parts, count: int, selector: str) -> torch.Tensor:
    """The labels of one batch as int64 (count,)."""
    if len(parts) == 1 or parts[1] is None:
        raise BadInput(f"loader: selector {selector!r} needs (batch, label) pairs; give labels, or take selector 'reconstruction'")
    try:
        label = torch.as_tensor(parts[1]).cpu()
    except (TypeError, ValueError, RuntimeError) as error:
        raise BadInput(f"loader: labels cannot be read ({error}); give one integer per image") from error
    if label.is_floating_point() or label.shape != (count,) or (count and int(label.min()) < 0):
        raise BadInput(f"loader: labels are {label.dtype} of shape {tuple(label.shape)} for {count} images; give one integer per image, from 0")
    return label.long()


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
