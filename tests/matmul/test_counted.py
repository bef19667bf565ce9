"""Formula, simulation and lower bound in one table: no difference between the first two, and never below the third."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from mixlab.matmul import TRAFFIC_CASES, Matmul, Traffic, count_traffic
from mixlab.reports import TrafficTable


@pytest.mark.parametrize(
    ("fast_bytes", "depth", "walk"),
    [(8192, 16, "rows"), (8192, 16, "snake"), (16384, 4, "rows"), (4096, "square", "rows")],
)
def test_formula_and_count_agree_for_every_case(fast_bytes, depth, walk):
    shown = list(count_traffic(fast_bytes=fast_bytes, depth=depth, walk=walk))
    assert len({(one.matmul.m, one.matmul.n, one.matmul.k, one.matmul.formats) for one in shown}) >= 30
    assert [one.matmul for one in shown] == list(TRAFFIC_CASES)
    for one in shown:
        assert one.formula == one.counted
        assert one.difference_bytes == 0
        assert one.correct
        assert one.lower_bound_bytes <= one.counted.total_bytes
    assert any(one.lower_bound_bytes > one.matmul.compulsory_bytes for one in shown)


def test_the_table_has_a_row_for_each_product_and_says_what_differs():
    shown = list(count_traffic([Matmul(100, 100, 100), Matmul(33, 33, 33, "bf16", "bf16")]))
    text = repr(TrafficTable(shown))
    assert "100 x 100 x 100, fp32 x fp32 + fp32 -> fp32  8,192        34 x 25 x 16" in text
    assert "2 products: the formula differs from the count in none" in text
    planted = replace(shown[0], counted=Traffic(1, 2, 3), correct=False)
    assert planted.difference_bytes == shown[0].formula.total_bytes - 6
    assert re.search("differs from the count in 1, and the .* from torch.matmul in 1", repr(TrafficTable([planted])))
    assert TrafficTable(shown)._repr_html_().count("<tr>") == 3


def test_an_empty_table_is_refused():
    with pytest.raises(ValueError, match=r"no products; mixlab.matmul.count_traffic\(\) has some"):
        TrafficTable([])
