"""Allocations that follow curves: the budget shared between units by what a neuron less costs.

A curve holds what it costs that one unit alone keeps n neurons: for `marginal` the divergence of the network's output, for
`global` the share of its scores that is lost. Curves have plateaus, so steps are taken along their lower convex hulls:
always the step that costs least per what it saves. Where costs add over units that is the exact optimum; where two units
meet in one layer, savings are measured anew at the widths reached.
"""

import math
from dataclasses import dataclass, field

import numpy as np

from pipeline.config.errors import BadInput
from pipeline.selection.budgets import TOLERANCE, Allocation, Budget, measure, reach, uniform

FLOOR = 0.06  # of a unit's neurons, at least one: curves say little below (prototype: best of 3, 6 and 10 %)
PROBED = (0.06, 0.09, 0.13, 0.18, 0.25, 0.35, 0.48, 0.65, 0.82)


@dataclass(frozen=True)
class Sharing:
    """A budget, the exact cost of any widths, the units' dense widths, and how the budget is shared between them.

    `steps`: of which number a unit's width must be a multiple, where not of 1.
    """

    budget: Budget
    table: object
    dense: dict[str, int]
    allocation: str
    round_to: int | None = None
    steps: dict[str, int] = field(default_factory=dict)

    def check(self) -> None:
        """Raises BadInput with the range when the budget is out of this allocation's reach."""
        if self.allocation == "uniform":
            uniform(self.budget, self.table, self.dense, self.steps)
        else:
            reachable(self.budget, self.table, self.dense, self.steps)
        if self.round_to is not None:
            self._refuse_rounded()

    def reach(self) -> tuple[float, float]:
        """(smallest, largest) value of the budget's kind that this allocation gives, rounded as it rounds."""
        steps = {name: self.steps.get(name, 1) for name in self.dense}
        floors = {name: floor_of(width, steps[name]) for name, width in self.dense.items()}
        least = Allocation(steps if self.allocation == "uniform" else floors, None)
        least = least if self.round_to is None else self._rounded(least)
        return tuple(measure(self.budget.kind, self.table, self.dense, widths) for widths in (least.widths, self.dense))

    def _refuse_rounded(self) -> None:
        """Refuse a budget that no widths rounded upward can meet."""
        low, high = self.reach()
        if (target := self.budget.absolute(high)) * (1 + TOLERANCE) < low:
            raise BadInput(
                f"budget.{self.budget.kind}: {target:g} is out of reach: widths rounded up to multiples of prune.round_to {self.round_to} "
                f"allow {low:g} to {high:g} ({low / high:.2%} to 100%); raise the budget or lower prune.round_to"
            )

    def widths(self, curves: dict[str, np.ndarray] | None) -> Allocation:
        """The widths of the budget; `curves` for an allocation that follows them. Rounding comes last, upward."""
        if self.allocation == "uniform":
            found = uniform(self.budget, self.table, self.dense, self.steps)
        else:
            found = along_curves(self.budget, self.table, self.dense, curves, self.steps)
        return found if self.round_to is None else self._rounded(found)

    def _rounded(self, found: Allocation) -> Allocation:
        steps = {name: math.lcm(self.round_to, self.steps.get(name, 1)) for name in found.widths}
        widths = {name: min(self.dense[name], -(-kept // steps[name]) * steps[name]) for name, kept in found.widths.items()}
        reached, target = (measure(self.budget.kind, self.table, self.dense, at) for at in (widths, found.widths))
        note = f"rounded up to multiples of {self.round_to}: {reached:g} of {self.budget.kind}, {reached / target - 1:.1%} above {target:g}"
        return Allocation(widths, note if widths != found.widths else found.note, found.widths)


def floor_of(width: int, step: int = 1) -> int:
    """The fewest neurons that curves leave of a unit, of which multiples of `step` can be kept."""
    return step * max(1, round(FLOOR * width / step))


def probed_widths(width: int, step: int = 1) -> list[int]:
    """The widths at which a unit is probed, falling, multiples of `step`; the whole unit costs nothing."""
    return sorted({max(floor_of(width, step), step * round(share * width / step)) for share in PROBED} - {width}, reverse=True)


def probed_curve(width: int, probes: dict[int, float], errors: list[float] | None, step: int = 1) -> np.ndarray:
    """Divergence at floor..N kept: (N - floor + 1,). Between `probes` {kept: divergence} it goes along the `errors` of 1..N
    kept neurons, re-fitted, or straight where there are none."""
    floor = floor_of(width, step)
    whole = probes | {width: 0.0}
    at = sorted(whole)
    every = np.arange(floor, width + 1)
    if errors is None:
        return np.interp(every, at, [max(whole[kept], 0.0) for kept in at])
    errors = np.minimum.accumulate(np.asarray(errors, dtype=float))
    found = np.zeros(len(every))
    for left, right in zip(at, at[1:]):
        inside = np.arange(left, right + 1)
        fall = errors[left - 1] - errors[right - 1]
        share = (errors[inside - 1] - errors[right - 1]) / fall if fall > 0 else (right - inside) / (right - left)
        low, high = max(whole[right], 0.0), max(whole[left], 0.0)
        found[inside - floor] = low + (high - low) * share
    return found


def score_curve(scores: list[float], step: int = 1) -> np.ndarray:
    """Share of a unit's scores that is lost at floor..N kept: (N - floor + 1,). `scores` = of its neurons in their order."""
    left = np.cumsum(np.asarray(scores, dtype=float))
    return (1 - left / left[-1] if left[-1] > 0 else np.zeros(len(left)))[floor_of(len(scores), step) - 1 :]


def lower_hull(values: np.ndarray) -> list[int]:
    """Indices of the vertices of the lower convex hull of (0, values[0]), (1, values[1]), ..."""
    hull: list[int] = []
    for point in range(len(values)):
        while len(hull) > 1 and _lies_above(values, hull[-2], hull[-1], point):
            hull.pop()
        hull.append(point)
    return hull


def _lies_above(values, first, middle, last) -> bool:
    """Whether the middle point lies on or above the line between the others."""
    return (values[middle] - values[first]) * (last - first) >= (values[last] - values[first]) * (middle - first)


def along_curves(budget: Budget, table, dense: dict[str, int], curves: dict[str, np.ndarray], steps: dict[str, int] | None = None) -> Allocation:
    """Widths whose costs by the curves sum to the least that the budget allows, never above it. Raises BadInput where the
    floor is. `curves`: of each unit in `dense`, (N - floor + 1,); `steps`: of which number its width must be a multiple."""
    steps = dict.fromkeys(dense, 1) | (steps or {})
    target = reachable(budget, table, dense, steps)
    ahead = {name: _steps(curves[name], floor_of(width, steps[name]), steps[name]) for name, width in dense.items()}
    widths, reached = dict(dense), measure(budget.kind, table, dense, dense)
    while reached > target:
        name = min(_prices(budget, table, dense, widths, ahead))[1]
        kept = ahead[name].pop()[0]
        if measure(budget.kind, table, dense, widths | {name: kept}) < target:
            kept = _most_that_fits(budget, table, dense, widths, name, kept, target, steps[name])
        widths |= {name: kept}
        reached = measure(budget.kind, table, dense, widths)
    missed = target - reached > TOLERANCE * target
    note = f"nearest widths reach {reached:g} of {budget.kind}, {1 - reached / target:.1%} below the target" if missed else None
    return Allocation(widths, note)


def reachable(budget: Budget, table, dense: dict[str, int], steps: dict[str, int] | None = None) -> float:
    """The budget as a number. Raises BadInput with the range that widths from the floor up allow."""
    high, steps = reach(budget.kind, table, dense)[1], steps or {}
    low = measure(budget.kind, table, dense, {name: floor_of(width, steps.get(name, 1)) for name, width in dense.items()})
    target = budget.absolute(high)
    if not low <= target <= high:
        raise BadInput(
            f"budget.{budget.kind}: {target:g} is out of reach: allocations marginal and global leave {FLOOR:.0%} of each unit, "
            f"which allows {low:g} to {high:g} ({low / high:.2%} to 100%); raise the budget or set prune.allocation to uniform"
        )
    return target


def _steps(curve: np.ndarray, floor: int, step: int) -> list[tuple[int, float]]:
    """(neurons kept, cost of the step there) down the curve's hull, the first step last."""
    curve = curve[::step]
    hull = lower_hull(curve)
    return [(low * step + floor, max(float(curve[low] - curve[high]), 0.0)) for low, high in zip(hull, hull[1:])]


def _prices(budget, table, dense, widths, ahead):
    """(cost per what it saves, unit) of the next step of every unit that has one."""
    here = measure(budget.kind, table, dense, widths)
    for name, steps in ahead.items():
        if steps:
            kept, cost = steps[-1]
            saved = here - measure(budget.kind, table, dense, widths | {name: kept})
            yield cost / saved if saved > 0 else np.inf, name


def _most_that_fits(budget, table, dense, widths, name, low, target, step) -> int:
    """The most neurons of one unit, from `low` up, with which the budget is met."""
    high = widths[name]  # met at low, not at high
    while high - low > step:
        middle = low + (high - low) // (2 * step) * step
        low, high = (middle, high) if measure(budget.kind, table, dense, widths | {name: middle}) <= target else (low, middle)
    return low
