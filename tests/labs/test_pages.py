"""How every lab's page is built: what is folded, what holds what back, and what a reader never meets."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest

from mixlab.labs import lab_parameters

LABS = Path(__file__).parents[2] / "labs"
FOLDED = {"setup", "parameters", "answer", "checked"}


NAMES = sorted(path.stem for path in LABS.glob("*.ipynb"))

FOLDED_LINE = (
    r"\*Folded below: imports and parameters\. To change a parameter, unfold its cell, or run "
    r"`mixlab run {number} -p \w+ [^`]+`\.\*"
)
LAST_LINE = (
    "*Before you open the next lab, shut down this kernel (Kernel > Shut Down Kernel): each keeps its memory, some "
    "450 MB with torch 2.13 for CPUs.*"
)


class Page:
    """A lab's cells, as its notebook holds them."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.cells = nbformat.read(LABS / f"{name}.ipynb", as_version=4).cells
        self.code = [cell for cell in self.cells if cell.cell_type == "code"]
        self.markdown = [cell for cell in self.cells if cell.cell_type == "markdown"]

    def tagged(self, tag: str) -> list[nbformat.NotebookNode]:
        return [cell for cell in self.code if tag in tags_of(cell)]

    def one(self, tag: str) -> nbformat.NotebookNode:
        (cell,) = self.tagged(tag)
        return cell


def tags_of(cell: nbformat.NotebookNode) -> list[str]:
    return list(cell.metadata.get("tags", []))


def is_folded(cell: nbformat.NotebookNode) -> bool:
    return cell.metadata.get("jupyter", {}).get("source_hidden") is True


def calls(source: str, method: str) -> list[ast.Call]:
    """Returns the calls `anything.method(...)` in a cell."""
    found = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call))
    return [call for call in found if isinstance(call.func, ast.Attribute) and call.func.attr == method]


def prose(page: Page) -> str:
    """Returns the Markdown without code, formulas and the addresses of links."""
    text = "\n\n".join(cell.source for cell in page.markdown)
    for pattern in (r"```.*?```", r"`[^`]*`", r"\$\$.*?\$\$", r"\$[^$]*\$", r"\]\([^)]*\)"):
        text = re.sub(pattern, " ", text, flags=re.DOTALL)
    return text


@pytest.fixture(params=NAMES)
def page(request: pytest.FixtureRequest) -> Page:
    return Page(request.param)


def test_it_begins_with_a_title_a_goal_the_time_and_what_it_needs(page: Page):
    first = page.cells[0]
    assert first.cell_type == "markdown"
    assert first.source.startswith("# ")
    assert re.search(r"\*Time: [\w ]*\d+ minutes?", first.source)
    assert "Needs:" in first.source


def test_no_picture_looks_like_a_panel(page: Page):
    for cell in page.markdown:
        assert not re.search(r"!\[|<img", cell.source), cell.source


def test_what_holds_answers_is_folded(page: Page):
    for cell in page.code:
        if {"answer", "checked"} & set(tags_of(cell)):
            assert is_folded(cell), cell.source


def test_the_line_that_a_folded_cell_shows_gives_nothing_away(page: Page):
    """JupyterLab shows its first line; in a cell with answers or asserts that is a comment."""
    for cell in page.code:
        if {"answer", "checked"} & set(tags_of(cell)):
            assert cell.source.startswith("# "), cell.source


def test_imports_and_parameters_are_folded_and_said(page: Page):
    setup, parameters = page.one("setup"), page.one("parameters")
    assert [is_folded(cell) for cell in (setup, parameters)] == [True, True]
    assert re.match(r"(import|from) ", setup.source)
    said = FOLDED_LINE.format(number=page.name[:2])
    told = [index for index, cell in enumerate(page.cells) if re.search(said, " ".join(cell.source.split()))]
    assert len(told) == 1
    assert told[0] < page.cells.index(setup) < page.cells.index(parameters)


def test_the_lab_comes_next_and_takes_every_parameter(page: Page):
    first = page.code[page.code.index(page.one("parameters")) + 1]
    (call,) = (node for node in ast.walk(ast.parse(first.source)) if is_lab(node))
    assert first.source.startswith("lab = Lab(")
    assert [ast.literal_eval(argument) for argument in call.args] == [page.name]
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
    assert given == {name: name for name in lab_parameters(page.name)}
    assert first.source.rstrip().splitlines()[-1] == "lab"


def is_lab(node: ast.AST) -> bool:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Lab"


def test_a_prediction_holds_back_what_follows(page: Page):
    predicting = [cell for cell in page.code if calls(cell.source, "predict")]
    assert predicting
    for cell in predicting:
        assert "answer" in tags_of(cell), cell.source
        assigned, shown = ast.parse(cell.source).body[-2:]
        assert isinstance(assigned, ast.Assign), "assign the prediction, then show it"
        name = ast.unparse(assigned.targets[0])
        assert ast.unparse(shown) == name
        later = [one for one in page.code[page.code.index(cell) + 1 :] if "checked" not in tags_of(one)]
        assert name in results_behind(later[0].source), f"the cell after {name} shows {name}.then(...)"
    assert not any(re.search(r"\b(Prediction|check)\(", cell.source) for cell in page.code)


def results_behind(source: str) -> Iterator[str]:
    """Returns the predictions that a cell's last expression waits for."""
    last = ast.parse(source).body[-1]
    held = calls(ast.unparse(last), "then") if isinstance(last, ast.Expr) else []
    return (ast.unparse(call.func.value) for call in held if isinstance(call.func, ast.Attribute))


def test_an_exercise_is_one_folded_cell(page: Page):
    exercises = [cell for cell in page.code if calls(cell.source, "exercise")]
    assert len(exercises) >= 2
    for cell in exercises:
        assert "answer" in tags_of(cell)
        assert len(calls(cell.source, "exercise")) == 1
    assert [cell for cell in page.code if re.search(r"^\w+ = None\b", cell.source, re.MULTILINE)] == []


def test_asserts_are_folded_and_have_words(page: Page):
    for cell in page.code:
        for node in ast.walk(ast.parse(cell.source)):
            if isinstance(node, ast.Assert):
                assert {"checked", "answer"} & set(tags_of(cell)), cell.source
                assert node.msg is not None, ast.unparse(node)


def test_every_tag_is_known_and_every_folded_cell_has_one(page: Page):
    for cell in page.code:
        assert set(tags_of(cell)) <= FOLDED, cell.source
        assert is_folded(cell) == bool(tags_of(cell)), cell.source


def test_mathematics_is_typeset(page: Page):
    assert re.findall(r"\S*\w\^\S*", prose(page)) == []
    assert "<sup>" not in prose(page)


def test_the_last_words_are_to_shut_down(page: Page):
    assert " ".join(page.cells[-1].source.split()).endswith(LAST_LINE)


def test_a_planted_power_in_prose_is_found():
    page = Page.__new__(Page)
    page.markdown = [nbformat.v4.new_markdown_cell("`2^3` and $2^4$ are fine, 2^-24 is not; [so](a^b) is.")]
    assert re.findall(r"\S*\w\^\S*", prose(page)) == ["2^-24"]
