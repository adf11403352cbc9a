"""What each unit alone costs the network's output, by neurons kept, in a pruner's own order and under its own re-fit."""

from dataclasses import dataclass

from pipeline.networks.shrink import Choice, consumer_columns
from pipeline.pruners.pruner import Job, order
from pipeline.search.artifacts import save_choice
from pipeline.search.coordinator import Coordinator
from pipeline.selection.allocation import probed_curve, probed_widths
from pipeline.selection.quadratic import nested_errors, refit, ridged

PROBES = "probes"  # the folder of the choices tried


@dataclass(frozen=True)
class Curve:
    """One unit: its width, the widths probed and the divergence found at each, the curve at floor..N kept."""

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
        tried[name] = [_tried(job, coordinator, unit, full, neurons[:width]) for width in probed_widths(unit.width)]
        coordinator.observe({"event": "curve", "unit": name, "done": len(tried), "total": len(units), "unit_name": "units"})
    found = coordinator.divergences({name: commits for name, commits in tried.items() if commits}, samples)
    curves = {}
    for name, unit in units.items():
        kept = [len(commit.kept) for commit in tried[name]]
        divergence = [float(value) for value in found.get(name, ())]
        values = probed_curve(unit.width, dict(zip(kept, divergence)), errors[name])
        curves[name] = Curve(unit.width, kept, divergence, values.tolist())
    return curves


def _tried(job: Job, coordinator: Coordinator, unit, full, kept):
    weight = None if full is None else refit(full, kept).to(consumer_columns(job.network, unit).dtype)
    return save_choice(coordinator.folder, unit.name, Choice(tuple(kept), weight=weight), None, f"{PROBES}/{unit.name}-{len(kept)}.safetensors")
