"""What can be promised of a greedy set, with no assumption."""

from pipeline.selection.quadratic import Quadratic, refit_error, ridged


def explained_share(q: Quadratic, ridge: float, kept) -> float:
    """f(S) / f(all) with f(S) = T' - error(S): then f(S) >= share x f(best set of any size).

    f is monotone, so no set of |S| neurons has more than f(all). It bounds this quadratic, ridge included, not accuracy.
    """
    full = ridged(q, ridge)
    everything = full.total - refit_error(full, range(q.width))
    return min((full.total - refit_error(full, kept)) / everything, 1.0) if everything > 0 else 1.0
