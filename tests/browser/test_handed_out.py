"""A copy without answers on its page: a choice is kept for good, and `mixlab grade` reads the saved notebook."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Locator, Page, expect

from mixlab.cli import shipped
from mixlab.cli.answerless import as_bytes, without_answers
from mixlab.cli.grades import grade_all
from mixlab.cli.handed_in import all_handed_in
from tests.browser.lab import Notebook, Server

LAB = "05_dynamic_loss_scaling"
HELD = "Choose an answer above; the result appears here."
SHOWN = "Two overflows, then growth."


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of a lab as it is handed out, with one step, the cells that ask, and one result that is held back."""
    made = without_answers(json.loads(shipped.lab_named(LAB).read_bytes()), LAB)
    for cell in made["cells"]:
        cell["source"] = "".join(cell["source"]).replace("steps = 120", "steps = 1")
    asks = re.compile(r"^(from|recipe|lab = Lab)|lab\.(predict|exercise)|handed out", re.MULTILINE)
    made["cells"] = [cell for cell in made["cells"] if asks.search(cell["source"])]
    result = nbformat.v4.new_code_cell(f"forgiving.then({SHOWN!r})", id="result")
    place = next(i for i, cell in enumerate(made["cells"]) if "lab.predict" in cell["source"])
    made["cells"].insert(place + 1, result)
    path = tmp_path / f"{LAB}.ipynb"
    path.write_bytes(as_bytes(made))
    return path


def group(page: Page, name: str) -> Locator:
    return page.get_by_role("group", name=name)


def test_answers_are_kept_recorded_and_graded(copy: Path, open_notebook: Callable[..., Notebook], jupyterlab: Server):
    notebook = open_notebook(copy, height=1600)
    page = notebook.page
    notebook.run_all()
    expect(page.get_by_role("strong").filter(has_text="This copy was handed out without answers.")).to_be_visible()
    question = group(page, "Prediction: Two single overflows")
    results = page.locator(".jp-OutputArea-output").get_by_text(SHOWN).locator("visible=true")
    keep = question.get_by_role("button", name="Keep my choice")
    expect(keep).to_be_disabled()
    expect(page.get_by_role("button", name="Reveal")).to_have_count(0)
    first = question.get_by_role("radio").first
    question.get_by_role("radio", name="all four").press("Space")  # a slip
    expect(page.get_by_text("Press Keep my choice above; the result appears here.")).to_be_visible()
    first.press("Space")
    expect(question.get_by_role("radio", name="torch and apex")).to_be_checked()
    expect(results).to_have_count(0)
    keep.press("Enter")
    expect(results).to_be_visible(timeout=30_000)
    expect(first).to_be_disabled()
    expect(question).to_contain_text("Your choice, torch and apex, is kept. It is graded once you hand it in.")
    for number, typed in (("1", "5"), ("2", "7")):
        box = page.get_by_role("textbox", name=f"Exercise {number}", exact=True)
        box.fill(typed)
        box.press("Enter")
        exercise = group(page, f"Exercise {number}")
        expect(exercise).to_contain_text(f"{typed} is kept. It is graded once you hand it in.")
        expect(exercise).not_to_contain_text("right")
    expect(page.get_by_text("3 answers so far.")).to_be_visible()
    notebook.screenshot("handed_out")
    expect(page.get_by_role("textbox", name="Exercise 2", exact=True)).to_be_focused()
    notebook.save()  # Ctrl+S is the notebook's, even in a box

    (alone,) = all_handed_in([jupyterlab.root / copy.name])
    assert (alone.lab, alone.trouble, alone.parameters["steps"]) == (LAB, (), 1)
    file = json.loads((jupyterlab.root / "runs" / LAB / "answers.json").read_text())
    assert alone.given == {kind: file[kind] for kind in ("predictions", "answers")}
    (grade,) = grade_all([alone]).grades
    assert [one.right for one in grade.questions] == [True, True, False]

    notebook.run_all()
    expect(question.get_by_role("radio", name="torch and apex")).to_be_checked()
    expect(keep).to_be_disabled()
    expect(results).to_be_visible()
