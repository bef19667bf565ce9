"""The glossary, the tables and the labs that show it."""

from __future__ import annotations

import json
import re

import pytest

from mixlab.glossary import GLOSSARY, marked, term_of
from mixlab.reports import GlossaryTable
from mixlab.tables import html_table
from tests.glossary_in_labs import LABS, LIST, marked_cells, marked_lab

LAB_FILES = sorted(LABS.glob("*.ipynb"))


@pytest.mark.parametrize("term", GLOSSARY)
def test_every_word_has_one_plain_sentence(term: str):
    sentence = GLOSSARY[term]
    assert sentence[0].isupper() or sentence.startswith(("fp32", "8 bits"))
    assert sentence.endswith(".")
    assert len(sentence) <= 160
    assert not re.search(r'["|*`<>_$]', sentence), "it stands in an attribute and in a cell of a Markdown table"


def test_the_words_are_in_order():
    assert list(GLOSSARY) == sorted(GLOSSARY, key=str.lower)


@pytest.mark.parametrize("term", GLOSSARY)
def test_a_word_is_found_with_its_endings_and_with_a_capital_if_it_has_none(term: str):
    assert term_of(term) == term_of(f"{term}s") == term
    assert term_of(term[0].upper() + term[1:]) == (None if term == "oneDNN" else term)
    assert term_of(f"{term}x") is None


@pytest.mark.parametrize("word", ["zero", "amp-fp16", "mfu", "unroundoff", "exp_avg_sqs_", "gradient"])
def test_other_words_are_none(word: str):
    assert term_of(word) is None


def test_the_longest_word_is_meant():
    assert marked("a loss scaler", set()).startswith(f'a <abbr title="{GLOSSARY["loss scaler"]}">loss scaler</abbr>')


def test_a_table_explains_a_word_once():
    table = html_table(("MFU", "what"), [("fp32 eager", "eager"), ("bf16 eager", "MFU")])
    assert table.count("<abbr") == 2
    assert f'<th><abbr title="{GLOSSARY["MFU"].replace(chr(39), "&#x27;")}">MFU</abbr></th>' in table


def test_the_table_of_words_has_them_all():
    table = GlossaryTable()
    assert len(repr(table).splitlines()) == len(GLOSSARY) + 1
    assert f"Show all {len(GLOSSARY)} words" in table._repr_html_()
    assert all(f">{term}</th>" in table._repr_html_() for term in GLOSSARY)


def abbr(words: str, term: str = "amax") -> str:
    return f'<abbr title="{GLOSSARY[term]}">{words}</abbr>'


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["The amax. Its amax.", "amax"], [f"The {abbr('amax')}. Its amax.", "amax"]),
        (["# amax\n\n`amax()` $amax$ [amax](amax.html) <b amax>amax"], None),
        (["An *amax* is the largest; amax"], None),
        (["An **amax**", "amax"], None),
        (["<abbr>amax</abbr>, amax"], [f"{abbr('amax')}, amax"]),
        (['<abbr title="wrong">Amax</abbr>'], [abbr("Amax")]),
        (["2 * amax * 3"], [f"2 * {abbr('amax')} * 3"]),
        (["`amax` and amax"], [f"{abbr('`amax`')} and amax"]),
        (["| MFU | amax |"], [f"| {abbr('MFU', 'MFU')} | {abbr('amax')} |".replace("'", "&#x27;")]),
    ],
)
def test_first_uses_are_marked(cells: list[str], expected: list[str] | None):
    if expected is None:
        expected = [cell.replace("<b amax>amax", f"<b amax>{abbr('amax')}") for cell in cells]
    assert marked_cells(cells) == expected
    assert marked_cells(expected) == expected


def test_a_mark_that_the_glossary_lacks_is_refused():
    with pytest.raises(AssertionError, match="the glossary has no 'gradient'"):
        marked_cells(["<abbr>gradient</abbr>"])


@pytest.mark.parametrize("path", LAB_FILES, ids=lambda path: path.stem)
def test_every_lab_explains_each_word_where_it_first_comes(path):
    text = path.read_text()
    assert text == marked_lab(text), "run python -m tests.glossary_in_labs"
    markdown = ["".join(cell["source"]) for cell in json.loads(text)["cells"] if cell["cell_type"] == "markdown"]
    assert path.stem.startswith("00") or any(LIST in source for source in markdown), f"link to {LIST}"
