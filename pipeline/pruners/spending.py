"""What a selection cost, counted from its journal alone, so that a resumed search reports the same as an unbroken one."""

from dataclasses import dataclass

from torch import nn

from pipeline.config.rules import measures_dense
from pipeline.config.settings import Prune, Scoring
from pipeline.networks.cost import CostTable
from pipeline.networks.units import Units
from pipeline.pruners.curves import Curve


@dataclass(frozen=True)
class Spending:
    """Images read, repeats counted, and MACs spent (one forward = the network's MACs)."""

    images: int
    macs: int


def spent(lines: list[dict], prune: Prune, scoring: Scoring, units: Units, table: CostTable, network: nn.Module) -> Spending:
    """Count a search. A Gram pass is one dense forward per image, in mode sequential one dense and one drifted (counted as
    dense: producers run at full width); a step of `loss` is one prefix and a suffix per candidate, at the widths so far."""
    dense, calibration = table.cost({}).macs, prune.calibration_samples or 0
    alone, walked = measures_dense(prune), prune.mode == "sequential"
    images = calibration * (alone + walked)
    macs = calibration * dense * (alone + 2 * walked)
    if prune.selector == "loss":
        widths: dict[str, int] = {}
        position = {layer.path: i for i, layer in enumerate(table.layers)}
        for line in lines:
            if line["kind"] == "pick":
                unit = units.units[line["unit"]]
                at = min(position[path] for path in ([reader.path for reader in unit.readers] or unit.producers))
                images += scoring.batch
                macs += scoring.batch * (table.stretch(widths, 0, at) + line["candidates"] * table.stretch(widths, at, None))
            elif line["kind"] == "unit":
                widths[line["unit"]] = len(line["kept"])
    return Spending(images, macs)


def spent_on_gradients(samples: int, units: Units, network: nn.Module, images) -> Spending:
    """Count the gradients of a criterion: per image a forward pass and a backward one of twice its cost."""
    return Spending(samples, 3 * samples * CostTable(network, units, images).cost({}).macs if samples else 0)


def spent_on_curves(curves: dict[str, Curve], samples: int, units: Units, table: CostTable) -> Spending:
    """Count the probes: per unit one dense forward, and for each width what lies behind the unit's first producer."""
    position = {layer.path: i for i, layer in enumerate(table.layers)}
    macs = 0
    for name, curve in curves.items():
        start = min(position[path] for path in units.units[name].producers)
        macs += samples * (table.cost({}).macs + sum(table.stretch({name: kept}, start, None) for kept in curve.kept))
    return Spending(samples, macs)
