"""A lab's page: results held back until a choice, answers that stay, panels without a kernel, one training a cell."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from nbconvert import HTMLExporter
from playwright.sync_api import Browser, Locator, Page, expect

from tests.browser.lab import Notebook, Server, write_notebook

CELLS = (
    "from mixlab.panels import BitExplorer, Cockpit, Lab, with_progress\nfrom mixlab.reports import ComparisonTable\n"
    "from mixlab import Trainer, figures",
    'lab = Lab("04_training_modes", recipe="amp-fp16", loss_scale=0, steps=3, seed=0, task="digits-mlp")\nlab',
    'which = lab.predict("Which one?", ["this", "that"], answer="that", explanation="It says so.")\nwhich',
    "runs = {name: list(Trainer(lab.task, lab.recipe).steps(3)) for name in with_progress(['mine'], 'runs')}\n"
    "which.then(ComparisonTable(runs))",
    "which.then(figures.training_curves(runs))",
    "which.then(BitExplorer())",
    'lab.exercise("1", expected=5, hint="two and three")',
)
HELD = "Choose an answer above; the result appears here."
NEEDS_KERNEL = "This panel needs its kernel: run the cell again"


@pytest.fixture
def page_of_a_lab(tmp_path: Path, open_notebook: Callable[..., Notebook]) -> Notebook:
    notebook = open_notebook(write_notebook(tmp_path / "page.ipynb", CELLS), height=2400)
    notebook.run_all()
    return notebook


@pytest.fixture
def saving_widget_state(jupyterlab: Server) -> Iterator[Callable[[Page], None]]:
    """Yields a function that makes JupyterLab save the widgets' state with the notebook; undone at the end."""
    address = f"{jupyterlab.url}/lab/api/settings/@jupyter-widgets/jupyterlab-manager:plugin"
    pages: list[Page] = []

    def save_state(page: Page) -> None:
        pages.append(page)
        page.request.put(address, data=json.dumps({"raw": '{"saveState": true}'}))

    yield save_state
    for page in pages:
        page.request.put(address, data=json.dumps({"raw": "{}"}))


def look_at_the_export(browser: Browser, saved: Path) -> None:
    html, _ = HTMLExporter().from_filename(str(saved))  # type: ignore[no-untyped-call]
    page = browser.new_page()
    page.set_content(html, wait_until="commit")
    shown = page.locator(".jp-OutputArea-output").locator("visible=true")
    for words in ("Your choice: this.", "In fp16, 0 01111 0000000000 is 1, a normal value", "Exercise 1: 5 is right"):
        expect(shown.filter(has_text=words)).to_have_count(1)
    expect(shown.get_by_role("columnheader", name="loss")).to_be_visible()
    page.close()


def cell(notebook: Notebook, number: int) -> Locator:
    return notebook.page.locator(".jp-Notebook .jp-CodeCell").nth(number).locator(".jp-Cell-outputArea")


def expect_results(notebook: Notebook) -> None:
    expect(cell(notebook, 3).get_by_role("columnheader", name="loss")).to_be_visible(timeout=60_000)
    expect(cell(notebook, 4).locator(".js-plotly-plot svg").first).to_be_visible(timeout=60_000)
    expect(cell(notebook, 5).get_by_label("Format", exact=True)).to_be_enabled(timeout=60_000)
    expect(notebook.page.get_by_text(HELD)).to_have_count(0)


def restart_kernel(notebook: Notebook) -> None:
    page = notebook.page
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.locator(".lm-Menu-itemLabel").get_by_text("Restart Kernel…", exact=True).click()
    page.locator(".jp-Dialog button").get_by_text("Restart", exact=True).click()
    notebook.wait_for_idle()


def forgive_missing_models(notebook: Notebook) -> None:
    """The widget manager logs each panel without a model; the page says it in words."""
    notebook.errors[:] = [error for error in notebook.errors if "widget model not found" not in error]


def test_results_wait_for_a_choice_and_answers_outlive_the_kernel(
    page_of_a_lab: Notebook, jupyterlab: Server, browser: Browser
):
    notebook, page = page_of_a_lab, page_of_a_lab.page
    expect(page.get_by_text(HELD)).to_have_count(3)
    expect(page.get_by_text(NEEDS_KERNEL).locator("visible=true")).to_have_count(0)
    expect(cell(notebook, 3).get_by_text(re.compile(r"1 runs in \d+ s"))).to_be_visible()
    page.get_by_role("radio", name="this").check()
    expect_results(notebook)
    box = page.get_by_role("textbox", name="Exercise 1", exact=True)
    box.fill("4")
    box.press("Enter")
    verdict = cell(notebook, 6).get_by_role("status").filter(has_text="Exercise 1")
    expect(verdict).to_contain_text("Exercise 1: 4 is not right. Hint: two and three")
    box.fill("5")
    expect(verdict).to_contain_text("not checked yet")
    page.get_by_role("button", name="Check", exact=True).click()
    expect(verdict).to_contain_text("Exercise 1: 5 is right")

    restart_kernel(notebook)
    expect(cell(notebook, 2).get_by_text(NEEDS_KERNEL).locator("visible=true")).to_have_count(1, timeout=10_000)
    for number in (2, 5, 6):
        assert cell(notebook, number).locator(".mixlab-off > [inert]").count() == 1
    expect(cell(notebook, 3).get_by_role("columnheader", name="loss")).to_be_visible()

    page.locator(".jp-InputPrompt").first.click()
    notebook.save()
    notebook.reload()
    for theme in ("Dark", "Light"):
        notebook.use_theme(theme)
        expect(cell(notebook, 2)).to_contain_text("Your choice: this.")
        expect(cell(notebook, 5)).to_contain_text("In fp16, 0 01111 0000000000 is 1, a normal value")
        expect(cell(notebook, 6)).to_contain_text("Exercise 1: 5 is right")
        for number in (2, 5, 6):
            expect(cell(notebook, number).get_by_text(NEEDS_KERNEL).locator("visible=true")).to_have_count(1)
    expect(page.get_by_text("Error displaying widget").locator("visible=true")).to_have_count(0)
    expect(cell(notebook, 3).get_by_role("columnheader", name="loss")).to_be_visible()
    look_at_the_export(browser, jupyterlab.root / "page.ipynb")
    forgive_missing_models(notebook)

    notebook.run_all()
    expect(cell(notebook, 1)).to_contain_text("2 answers so far.")
    expect(page.get_by_role("radio", name="this")).to_be_checked()
    expect_results(notebook)
    expect(verdict).to_contain_text("Exercise 1: 5 is right")
    page.get_by_role("button", name="Start anew").click()
    page.get_by_role("button", name="Press again to forget 2 answers for good").click()
    notebook.run_all()
    expect(page.get_by_text(HELD)).to_have_count(3)


def test_a_page_loaded_again_shows_what_was_held_back(page_of_a_lab: Notebook):
    notebook, page = page_of_a_lab, page_of_a_lab.page
    page.locator(".jp-InputPrompt").first.click()
    notebook.save()
    notebook.reload()
    page.get_by_role("radio", name="that").check()
    expect_results(notebook)


def test_a_choice_made_while_cells_run_says_that_it_was_heard(page_of_a_lab: Notebook):
    notebook, page = page_of_a_lab, page_of_a_lab.page
    expect(page.get_by_text(HELD)).to_have_count(3, timeout=30_000)  # a loaded machine draws them late
    last = page.locator(".jp-Notebook .jp-CodeCell").last
    last.locator(".cm-content").fill("import time; time.sleep(20)")
    page.keyboard.press("Control+Enter")
    expect(last.locator(".jp-InputPrompt")).to_have_text("[*]:")
    page.get_by_role("radio", name="that").check()
    expect(page.get_by_text("The result appears as soon as the cells that still run are done.")).to_have_count(3)
    expect_results(notebook)


def test_a_saved_widget_without_its_kernel_is_off(page_of_a_lab: Notebook, saving_widget_state):
    notebook, page = page_of_a_lab, page_of_a_lab.page
    saving_widget_state(page)
    notebook.reload()
    notebook.run_all()
    page.locator(".jp-InputPrompt").first.click()
    notebook.save()
    server, _, _ = notebook.url.partition("/doc/tree/")
    for session in page.request.get(f"{server}/api/sessions").json():
        if session["path"] == "page.ipynb":
            page.request.delete(f"{server}/api/sessions/{session['id']}")
    notebook.reload()
    expect(cell(notebook, 2).get_by_text(NEEDS_KERNEL).locator("visible=true")).to_have_count(1, timeout=10_000)
    assert cell(notebook, 2).locator(".mixlab-off > [inert]").count() == 1
    forgive_missing_models(notebook)


def test_a_cell_that_runs_again_ends_its_training(tmp_path: Path, open_notebook: Callable[..., Notebook]):
    cells = (
        *CELLS[:2],
        "cockpit = Cockpit(task='digits-mlp', steps=100000, runs_dir=lab.runs_dir)\ncockpit",
        "lab.seed",
    )
    cells = (*cells[:3], "other = Cockpit(task='digits-mlp', steps=100000)\nother")
    notebook = open_notebook(write_notebook(tmp_path / "again.ipynb", cells), height=2400)
    notebook.run_all()
    for number in (2, 3):
        cell(notebook, number).get_by_role("button", name="Train").click()
        expect(cell(notebook, number).get_by_role("status").first).to_contain_text("of 100000: loss", timeout=30_000)
    notebook.page.locator(".jp-Notebook .jp-CodeCell").nth(2).locator(".cm-content").click()
    notebook.page.keyboard.press("Control+Enter")
    notebook.wait_for_idle()
    runs = cell(notebook, 2).get_by_role("checkbox", name=re.compile("amp-fp16 on digits-mlp, seed 0"))
    expect(runs).to_have_count(1, timeout=60_000)
    expect(cell(notebook, 2)).to_contain_text("kept in runs/04_training_modes, beside this notebook")
    threads = "import threading; print(sum(one.name == 'mixlab-training' for one in threading.enumerate()))"
    assert notebook.run_in_kernel(threads) == "1"
    cell(notebook, 3).get_by_role("button", name="Stop").click()
    expect(cell(notebook, 3).get_by_role("status").first).to_contain_text("stopped", timeout=60_000)
