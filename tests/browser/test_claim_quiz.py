"""The quiz on claims and the table of claims in JupyterLab, by mouse and by keyboard, in both themes."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.browser.lab import Notebook

CELLS = (
    "from mixlab.claims import SUBJECTS, settle\nfrom mixlab.panels import ClaimQuiz, with_progress\n"
    "from mixlab.reports import ClaimsTable",
    "quiz = ClaimQuiz(SUBJECTS['number formats'])\nquiz",
    "ClaimsTable(settle(said) for said in with_progress(SUBJECTS['memory'], 'claims'))",
)


def first_claim(page: Page) -> Locator:
    return page.get_by_role("status").filter(has_text="fp32 requires 4 bytes per parameter")


@pytest.fixture
def notebook(opened: Notebook) -> Notebook:
    assert (
        opened.run_in_kernel("quiz.predictions.clear(); quiz.choose('bytes-per-number'); print(quiz.score)") == "(0, 0)"
    )
    expect(first_claim(opened.page)).to_contain_text("Claim 1 of 14")
    return opened


def test_a_claim_is_predicted_and_revealed_by_keyboard(notebook: Notebook):
    page = notebook.page
    reveal = page.get_by_role("button", name="Measure and reveal")
    expect(reveal).to_be_disabled()
    page.get_by_role("radio", name="holds", exact=True).focus()
    page.keyboard.press("Space")
    expect(reveal).to_be_enabled()
    reveal.focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Your prediction is right.")).to_contain_text("✓ holds")
    page.get_by_role("button", name="Next").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("status").filter(has_text="Claim 2 of 14")).to_be_visible()
    expect(page.get_by_role("radio", checked=True)).to_have_count(0)
    assert notebook.run_in_kernel("print(quiz.score, quiz.last_error)") == "(1, 1) None"


def test_a_wrong_prediction_gets_the_right_value(notebook: Notebook):
    page = notebook.page
    notebook.run_in_kernel("quiz.choose('fp16-eps'); print()")
    page.get_by_role("radio", name="holds", exact=True).check()
    page.get_by_role("button", name="Measure and reveal").click()
    answer = page.get_by_role("status").filter(has_text="Not so.")
    expect(answer).to_contain_text("✗ does not hold; right: 9.8e-4")
    expect(page.get_by_text("0 of 1 predictions right; 13 claims left.")).to_be_visible()


def test_nothing_leaves_the_page(notebook: Notebook):
    page = notebook.page
    for theme in ("Light", "Dark"):
        notebook.use_theme(theme)
        for width in (1400, 800):
            page.set_viewport_size({"width": width, "height": 1000})
            table = page.get_by_role("table").first
            expect(table.get_by_role("row")).to_have_count(9)
            assert table.evaluate("node => node.scrollWidth <= node.closest('.jp-OutputArea-output').clientWidth")
            notebook.screenshot(f"claims_{theme.lower()}_{width}")
    expect(page.get_by_text("8 claims in")).to_be_visible()
