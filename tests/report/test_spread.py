"""Mean, deviation and interval, by hand and against tables."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.report.spread import quantile, spread_of


def test_two_values_by_hand():
    spread = spread_of([1.0, 3.0])
    assert (spread.n, spread.mean) == (2, 2.0)
    assert spread.deviation == pytest.approx(math.sqrt(2))
    assert spread.interval == pytest.approx((2 - 12.7062, 2 + 12.7062))  # sqrt(2) / sqrt(2) = 1


def test_one_value_has_no_spread():
    spread = spread_of([5.0])
    assert (spread.n, spread.mean, spread.deviation, spread.interval) == (1, 5.0, None, None)


@pytest.mark.parametrize("freedom, expected", [(1, 12.706), (2, 4.303), (10, 2.228), (30, 2.042), (40, 2.021), (60, 2.000), (120, 1.980), (10**6, 1.960)])
def test_quantiles_are_those_of_the_printed_tables(freedom, expected):
    assert quantile(freedom) == pytest.approx(expected, abs=6e-4)


def test_quantiles_fall_towards_the_normal_one_without_a_jump_where_the_table_ends():
    values = [quantile(freedom) for freedom in range(1, 200)]
    assert all(after < before for before, after in zip(values, values[1:]))
    assert values[29] - values[30] < 0.004 and values[-1] > 1.95996


@given(st.lists(st.floats(0, 100), min_size=2, max_size=8), st.floats(-50, 50))
def test_a_shift_moves_mean_and_interval_and_leaves_the_deviation(values, shift):
    one, other = spread_of(values), spread_of([value + shift for value in values])
    assert other.mean == pytest.approx(one.mean + shift, abs=1e-6)
    assert other.deviation == pytest.approx(one.deviation, abs=1e-6)
    assert other.interval[0] <= other.mean + 1e-9 and other.mean <= other.interval[1] + 1e-9
