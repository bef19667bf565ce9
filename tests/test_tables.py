"""Tables of results: text in full, HTML folded if it is long."""

from __future__ import annotations

import re

import pytest

from mixlab.tables import FIRST, LONGEST, NotedTable, folded, html_table


def rows(count: int) -> list[tuple[str, str]]:
    return [(f"row {i}", str(i)) for i in range(count)]


@pytest.mark.parametrize("count", [0, 1, FIRST, LONGEST])
def test_a_short_table_is_shown_whole(count: int):
    table = html_table(("what", "n"), rows(count))
    assert table.startswith("<table>")
    assert table.endswith("</table>")
    assert table.count("<tr>") == count + 1


def test_a_column_without_a_head_has_no_empty_heading():
    table = html_table(("", "n"), rows(2))
    assert table.startswith("<table><thead><tr><td></td><th>n</th></tr>")


def test_the_head_of_row_heads_stands_above_them():
    table = html_table(("what", "n"), rows(2), row_heads=True)
    assert table.startswith("<table><thead><tr><th style='text-align: left'>what</th><th>n</th></tr>")


def test_numbers_stay_on_one_line_and_recipes_may_break():
    table = html_table(
        ("what", "ratio", "said"), [("fp32,exp_avg=bf16", "3.30 to 3.38 ×", "5 steps, or more")], row_heads=True
    )
    assert "fp32,<wbr><abbr title=" in table
    assert "<td style='white-space: nowrap'>3.30 to 3.38 ×</td><td>5 steps, or more</td>" in table


@pytest.mark.parametrize("count", [LONGEST + 1, 500])
def test_a_long_table_has_every_row_and_a_line_that_unfolds_them(count: int):
    table = html_table(("what", "n"), iter(rows(count)))
    assert table.count("<tr>") == count + 1
    assert f"Show all {count} rows" in table
    assert "<script" not in table


def test_text_is_never_folded():
    table = NotedTable(("what", "n"), rows(40), ["a note"])
    assert [line.split("  ")[0] for line in repr(table).splitlines()] == [
        "what",
        *(f"row {i}" for i in range(40)),
        "a note",
    ]
    assert re.search(r"</details></div><div><small>a note</small></div>$", table._repr_html_())


def test_rows_may_have_another_name():
    assert folded("<table></table>", LONGEST, "claims") == "<table></table>"
    assert "Show all 57 claims" in folded("<table></table>", 57, "claims")
