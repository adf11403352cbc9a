"""Rows summed up into a Gram matrix: in what pieces they come changes nothing but the last bits."""

import pytest
import torch

from pipeline.search.products import PANEL, Products


@pytest.mark.parametrize("columns, pieces", [(3, [1] * 7), (40, [16, 16, 5, 100]), (2 * PANEL + 7, [600, 700, 64])])
def test_the_sums_are_those_of_all_rows_at_once(columns, pieces):
    torch.manual_seed(0)
    weight, products = torch.randn(4, columns + 2), Products()
    beside = Products(weight=weight)
    rows, wanted = [torch.randn(n, columns) for n in pieces], [torch.randn(n, columns + 2) for n in pieces]
    for one, other in zip(rows, wanted):
        products.add(one)
        beside.add(one, other)
    found, whole, target = beside.close(), torch.cat(rows).double(), torch.cat(wanted).double() @ weight.double().T
    near = {"rtol": 1e-5, "atol": 1e-3}
    torch.testing.assert_close(found["gram"], whole.T @ whole, **near)
    torch.testing.assert_close(found["cross"], target.T @ whole, **near)
    torch.testing.assert_close(found["sums"], torch.cat([whole.sum(0), torch.tensor([sum(pieces)]).double()]), **near)
    torch.testing.assert_close(found["output_sums"], target.sum(0), **near)
    torch.testing.assert_close(found["total"], (target**2).sum(), **near)
    assert torch.equal(found["gram"], found["gram"].T)
    alone = products.close()
    assert set(alone) == {"gram", "sums"} and torch.equal(alone["gram"], found["gram"])


def test_whole_numbers_are_summed_exactly():
    products = Products()
    for first in ([[1.0, 2.0]], [[3.0, 0.0], [0.0, 1.0]]):
        products.add(torch.tensor(first))
    found = products.close()
    assert found["gram"].tolist() == [[10.0, 2.0], [2.0, 5.0]] and found["sums"].tolist() == [4.0, 3.0, 3.0]


def test_rows_that_wait_are_not_changed_by_work_in_place():
    rows, products = torch.ones(1, 3), Products()
    products.add(rows)
    rows.zero_()
    assert products.close()["gram"].tolist() == [[1.0] * 3] * 3


def test_fewer_rows_wait_than_there_are_columns():
    products = Products()
    for count in (4, 3, 2, 9, 30, 9, 1):
        products.add(torch.ones(count, 10))
        assert sum(len(held) for held, _ in products.waiting) < 10
    assert products.close()["gram"][0, 0] == 58
