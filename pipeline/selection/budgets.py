"""Budgets: how small the network must become, what is reachable, and the widths of a uniform allocation."""

from dataclasses import dataclass

from pipeline.config.errors import BadInput

TOLERANCE = 0.01
KINDS = ("macs", "macs_bn", "prunable_macs", "params", "width")


@dataclass(frozen=True)
class Budget:
    """One kind and its target: up to 1 a share of the dense network, above an absolute number."""

    kind: str
    target: float

    def absolute(self, dense: float) -> float:
        return self.target * dense if self.target <= 1 else self.target


@dataclass(frozen=True)
class Allocation:
    """Neurons kept per unit; `note` says why the budget is missed by more than 1 %, else None; `raw` = before rounding."""

    widths: dict[str, int]
    note: str | None
    raw: dict[str, int] | None = None


def measure(kind: str, table, dense: dict[str, int], widths: dict[str, int]) -> float:
    """What a budget of this kind counts, at these widths."""
    return sum(widths.values()) if kind == "width" else getattr(table.cost(widths), kind)


def reach(kind: str, table, dense: dict[str, int], steps: dict[str, int] | None = None) -> tuple[float, float]:
    """(smallest, largest) value of this kind: one neuron per unit (`steps` neurons of those it names), everything."""
    return measure(kind, table, dense, dict.fromkeys(dense, 1) | (steps or {})), measure(kind, table, dense, dense)


def min_max_table(table, dense: dict[str, int], kinds=KINDS, steps: dict[str, int] | None = None) -> list[tuple]:
    """Rows (kind, smallest, largest, smallest share) of what each kind of budget can ask for."""
    rows = [(kind, *reach(kind, table, dense, steps)) for kind in kinds]
    return [(kind, low, high, low / high) for kind, low, high in rows]


def reachable_target(budget: Budget, table, dense: dict[str, int], steps: dict[str, int] | None = None) -> float:
    """The target as an absolute number. Raises BadInput with the reachable range when it lies outside it."""
    low, high = reach(budget.kind, table, dense, steps)
    target = budget.absolute(high)
    if not low <= target <= high:
        raise BadInput(
            f"budget.{budget.kind}: {budget.target:g} is out of reach: this network allows {low:g} to {high:g} ({low / high:.2%} to 100%)"
        )
    return target


def uniform(budget: Budget, table, dense: dict[str, int], steps: dict[str, int] | None = None) -> Allocation:
    """The same share of every unit, the share found so that the exact cost is nearest to the target.

    `steps`: of which number a unit's width must be a multiple, where not of 1. Raises BadInput with the reachable range when
    the target lies outside it.
    """
    steps = dict.fromkeys(dense, 1) | (steps or {})
    target = reachable_target(budget, table, dense, steps)
    counts = {name: width // steps[name] for name, width in dense.items()}
    shares = sorted({(n + 0.5) / count for count in counts.values() for n in range(count)} | {1.0})
    first, last = 0, len(shares) - 1  # the cost rises with the share: bisect the steps at which a width changes
    while first < last:
        middle = (first + last) // 2
        if measure(budget.kind, table, dense, _at(shares[middle], counts, steps)) < target:
            first = middle + 1
        else:
            last = middle
    nearby = [_at(share, counts, steps) for share in shares[max(first - 1, 0) : first + 1]] + [steps]
    widths = min(nearby, key=lambda w: (abs(measure(budget.kind, table, dense, w) - target), sum(w.values())))
    reached = measure(budget.kind, table, dense, widths)
    missed = abs(reached - target) > TOLERANCE * target
    note = f"nearest uniform widths reach {reached:g} of {budget.kind}, {abs(reached / target - 1):.1%} from the target" if missed else None
    return Allocation(widths, note)


def _at(share: float, counts: dict[str, int], steps: dict[str, int]) -> dict[str, int]:
    """Each unit's share of its steps, rounded half up, at least one: in neurons."""
    return {name: steps[name] * max(1, int(share * count + 0.5 + 1e-9)) for name, count in counts.items()}
