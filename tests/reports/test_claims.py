"""Claims as tables: every word of a claim is there, and a verdict is never colour alone."""

from __future__ import annotations

from dataclasses import replace

import pytest

from mixlab.claims import CLAIMS, Settled, Verdict, claim, settle
from mixlab.reports import ClaimsTable, claim_html, claim_lines, claims_markdown, recorded_words, verdict_line
from mixlab.reports.claims import MARKS

QUICK = ("bytes-per-number", "fp16-eps", "bf16-range")


@pytest.fixture
def settled() -> list[Settled]:
    return [settle(claim(key)) for key in QUICK]


def test_the_marks_differ():
    assert set(MARKS) == set(Verdict)
    assert len(set(MARKS.values())) == len(Verdict)


@pytest.mark.parametrize("said", CLAIMS, ids=lambda said: said.key)
def test_a_verdict_in_words_has_its_condition_or_the_right_value(said):
    line = verdict_line(said)
    assert line.startswith(MARKS[said.verdict])
    assert line.endswith(said.correct)
    assert ("does not hold" in line) == (said.verdict is Verdict.DOES_NOT_HOLD)


def test_the_table_in_text_and_html(settled: list[Settled]):
    table = ClaimsTable(settled)
    assert table.summary == "1 ✓ holds, 1 ◐ holds if, 1 ✗ does not hold"
    for shown in (repr(table), table._repr_html_()):
        for one in settled:
            assert one.claim.key in shown
            assert verdict_line(one.claim) in shown
            assert one.finding.shown in shown
        assert table.summary in shown
        assert "measured on " in shown
    assert table._repr_html_().count('scope="row"') == len(settled)


def test_several_are_counted_in_the_plural(settled: list[Settled]):
    assert ClaimsTable([*settled, *settled]).summary == "2 ✓ hold, 2 ◐ hold if, 2 ✗ do not hold"


def test_a_measurement_that_disagrees_shows(settled: list[Settled]):
    one = settled[1]
    wrong = replace(one, claim=replace(one.claim, verdict=Verdict.HOLDS, correct=""))
    table = ClaimsTable([wrong])
    assert "measured otherwise here: fp16-eps" in table.summary
    assert "<b>Measured here: ✗ does not hold</b>" in table._repr_html_()
    assert ("the measurement says", "✗ does not hold") in claim_lines(wrong)


def test_powers_are_raised_on_a_page():
    assert "2⁻¹⁰" in claim_html(settle(claim("fp16-eps")))


def test_a_long_table_unfolds_on_a_click(settled: list[Settled]):
    assert "<span>Show all 21 claims</span>" in ClaimsTable(7 * settled)._repr_html_()
    assert "<details>" not in ClaimsTable(3 * settled)._repr_html_()


def test_what_is_recorded_and_what_is_missing():
    said = replace(claim("bytes-per-number"), recorded=lambda: "Seen on a GPU", owed="another record")
    assert recorded_words(settle(said)) == "Seen on a GPU; not recorded yet: another record"
    assert recorded_words(settle(claim("bytes-per-number"))) == ""


def test_signs_of_html_and_markdown_are_only_text():
    said = replace(claim("bytes-per-number"), words="a < b | c * d_e")
    assert "a &lt; b | c" in claim_html(settle(said)) + ClaimsTable([settle(said)])._repr_html_()
    assert claims_markdown([said]).splitlines()[2] == r"| a &lt; b \| c \* d\_e | ✓ holds |"


def test_only_a_claim_can_be_settled():
    with pytest.raises(TypeError, match=r"give a claim, such as claim\('fp16-eps'\), got 'fp16-max'"):
        settle("fp16-max")
