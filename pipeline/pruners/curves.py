"""What it costs to keep n neurons of a unit, in a pruner's own order: probed in the network, or told by its own scores."""

from dataclasses import dataclass

from pipeline.config.errors import BadInput
from pipeline.networks.shrink import Choice
from pipeline.pruners.pruner import Job, order, refitted, scores
from pipeline.search.artifacts import save_choice
from pipeline.search.coordinator import Coordinator
from pipeline.selection.allocation import floor_of, probed_curve, probed_widths, score_curve
from pipeline.selection.quadratic import nested_errors, ridged

PROBES = "probes"  # the folder of the choices tried


@dataclass(frozen=True)
class Curve:
    """One unit: its width, the widths probed and the divergence found at each (none without probes), the curve at floor..N kept."""

    width: int
    kept: list[int]
    divergence: list[float]
    values: list[float]


def measure_curves(job: Job, coordinator: Coordinator, samples: int) -> dict[str, Curve]:
    """The curve of every unit: {name: Curve}. `job.widths` are not read; `job.measured` where the pruner re-fits or searches."""
    units, tried, errors = job.units.units, {}, {}
    for name, unit in units.items():
        quadratic = job.measured.quadratics[name] if job.measured else None
        full = None if quadratic is None or job.prune.refit == "none" else ridged(quadratic, job.prune.ridge)
        neurons = [getattr(pick, "neuron", pick) for pick in order(job, unit, quadratic, unit.width)]
        errors[name] = None if full is None else nested_errors(full, neurons)
        tried[name] = [_tried(job, coordinator, unit, full, neurons[:width]) for width in probed_widths(unit.width, unit.groups)]
        coordinator.observe({"event": "curve", "unit": name, "done": len(tried), "total": len(units), "unit_name": "units"})
    found = coordinator.divergences({name: commits for name, commits in tried.items() if commits}, samples)
    curves = {}
    for name, unit in units.items():
        kept = [len(commit.kept) for commit in tried[name]]
        divergence = [float(value) for value in found.get(name, ())]
        values = probed_curve(unit.width, dict(zip(kept, divergence)), errors[name], unit.groups)
        curves[name] = Curve(unit.width, kept, divergence, values.tolist())
    return curves


def score_curves(job: Job) -> dict[str, Curve]:
    """The curve of every unit by the pruner's own scores alone: {name: Curve}; of reconstruction the error that a re-fit leaves."""
    return {name: Curve(unit.width, [], [], _lost(job, unit)) for name, unit in job.units.units.items()}


def _lost(job: Job, unit) -> list[float]:
    if job.prune.selector != "reconstruction":
        return score_curve(scores(job, unit)[order(job, unit, None, unit.width)].tolist(), unit.groups).tolist()
    full = ridged(job.measured.quadratics[unit.name], job.prune.ridge)
    errors = nested_errors(full, [pick.neuron for pick in order(job, unit, job.measured.quadratics[unit.name], unit.width)])
    if errors is None:
        raise BadInput(f"unit {unit.name}: prune.ridge 0 leaves its Gram matrix without an inverse, which allocation global needs; give a ridge")
    return errors[floor_of(unit.width, unit.groups) - 1 :]


def _tried(job: Job, coordinator: Coordinator, unit, full, kept):
    choice = Choice(tuple(kept)) if full is None else refitted(job, unit, full, kept, kept)
    return save_choice(coordinator.folder, unit.name, choice, None, f"{PROBES}/{unit.name}-{len(kept)}.safetensors")
