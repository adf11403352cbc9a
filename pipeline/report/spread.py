"""Mean, sample standard deviation and 95 % t-interval of a few values."""

import math
import statistics
from dataclasses import dataclass

# 97.5 % quantiles of Student's t for 1 to 30 degrees of freedom
QUANTILES = (
    12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788, 2.1604, 2.1448, 2.1314,
    2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639, 2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
)  # fmt: skip


@dataclass(frozen=True)
class Spread:
    """`deviation` and `interval` are None for a single value."""

    n: int
    mean: float
    deviation: float | None
    interval: tuple[float, float] | None


def spread_of(values) -> Spread:
    values = list(values)
    mean = statistics.fmean(values)
    if len(values) < 2:
        return Spread(len(values), mean, None, None)
    deviation = statistics.stdev(values)
    half = quantile(len(values) - 1) * deviation / math.sqrt(len(values))
    return Spread(len(values), mean, deviation, (mean - half, mean + half))


def quantile(freedom: int) -> float:
    """97.5 % quantile of Student's t; beyond the table by the expansion around the normal one, right to four digits there."""
    if freedom <= len(QUANTILES):
        return QUANTILES[freedom - 1]
    z = statistics.NormalDist().inv_cdf(0.975)
    return z + (z**3 + z) / (4 * freedom) + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
