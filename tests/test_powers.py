"""One way to write a power, and no other that reaches a reader."""

from __future__ import annotations

import ast
import json
import math
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab.powers import power, power_of_two, read_number, superscript
from mixlab.reports import power as reported
from tests.house import PACKAGE

OTHER_FORMS = re.compile(r"\b(?:2|10)\s?\^|\)\^|<sup>|\"sup\"|exponentformat|2\s?\*\*\s?-?\d")
RECIPES = re.compile(r"scale=2\^(?:-?\d+)?")  # the syntax of a recipe
SPOKEN = ("claims", "figures", "formats", "loss_scaling", "panels", "probes", "reports")  # the rooms that say powers
TYPED = {  # where a reader types one, or sees it as typed
    "panels/bit_explorer.py",
    "panels/bit_explorer.js",
    "panels/exercises.py",
    "panels/knobs.py",
}


def said(path: Path) -> Iterator[str]:
    """Yields the texts in a file that a reader may see: no docstrings, no comments."""
    source = path.read_text()
    if path.suffix == ".js":
        yield re.sub(r"/\*.*?\*/|//[^\n]*", "", source, flags=re.DOTALL)
        return
    tree = ast.parse(source)
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value
        elif isinstance(node, ast.keyword) and node.arg:
            yield node.arg


def other_forms(path: Path) -> list[str]:
    return [text for text in said(path) if OTHER_FORMS.search(RECIPES.sub("", text))]


SOURCES = sorted(path for room in SPOKEN for path in (PACKAGE / room).iterdir() if path.suffix in (".py", ".js"))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_no_other_form_reaches_a_reader(path: Path):
    if f"{path.parent.name}/{path.name}" not in TYPED:
        assert other_forms(path) == []


LABS = sorted((PACKAGE.parent / "labs").glob("*.ipynb"))


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.stem)
def test_no_other_form_is_printed_by_a_lab(lab: Path, tmp_path: Path):
    cells = json.loads(lab.read_text())["cells"]
    code = tmp_path / "code.py"
    code.write_text("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))
    assert other_forms(code) == []


@pytest.mark.parametrize(
    "planted", ["x = f'2^{k}'", "x = '10^3'", "x = 'a<sup>2</sup>'", "f(exponentformat='power')", "x = '(-1)^s'"]
)
def test_a_planted_one_is_found(planted: str, tmp_path: Path):
    path = tmp_path / "planted.py"
    path.write_text(f'"""2^10"""\n{planted}\n')
    assert len(other_forms(path)) == 1


@pytest.mark.parametrize(
    ("exponent", "text"),
    [
        (0, "2⁰"),
        (1, "2¹"),
        (-24, "2⁻²⁴"),
        (16.0, "2¹⁶"),
        (-1074, "2⁻¹⁰⁷⁴"),
        (0.5, "1.41 × 2⁰"),
        (-0.5, "1.41 × 2⁻¹"),
        (2.9999999, "2³"),
        (math.log2(3), "1.5 × 2¹"),
    ],
)
def test_a_power_has_its_exponent_raised_and_one_that_is_not_whole_gets_a_factor(exponent: float, text: str):
    assert power(exponent) == text


def test_reports_write_it_alike():
    assert reported is power


def test_no_number_has_no_power():
    with pytest.raises(ValueError, match="power: the exponent must be a number, got NaN"):
        power(math.nan)


@pytest.mark.parametrize(("value", "text"), [(1.0, "2⁰"), (65536.0, "2¹⁶"), (0.25, "2⁻²"), (1000.0, "1000")])
def test_powers_of_two_are_written_as_powers(value: float, text: str):
    assert power_of_two(value) == text


def test_every_digit_is_raised():
    assert superscript(-1234567890) == "⁻¹²³⁴⁵⁶⁷⁸⁹⁰"


@given(st.integers(-1000, 1000), st.sampled_from(["2^{}", "2**{}", " 2 ^ {} "]))
def test_what_is_written_reads_back(exponent: int, form: str):
    assert read_number(power(exponent)) == read_number(form.format(exponent)) == 2.0**exponent
    assert read_number(f"-{power(exponent)}") == -(2.0**exponent)


@pytest.mark.parametrize("text", ["", "2^", "^3", "2^0.5", "2^99999", "2^5000", "0^-1", "2 3", "abc", "2⁻"])
def test_what_is_no_number_is_refused(text: str):
    with pytest.raises(ValueError, match="is not a number such as 12"):
        read_number(text)
