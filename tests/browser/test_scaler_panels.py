"""The scaler board and the scaling game in JupyterLab, by mouse and by keyboard, in both themes."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.lab import Notebook

CELLS = (
    "from mixlab.panels import ScalerBoard\nfrom mixlab.panels import ScalingGame",
    "board = ScalerBoard(steps=10, growth_interval=3)\nboard",
    "game = ScalingGame([(8, 15), (8, 13), (14, 16), (8, 15)], init_exponent=16)\ngame",
)


AS_AT_FIRST = """
board.overflows, board.init_exponent, board.growth_interval = [], 10, 3
board.hysteresis, board.consecutive_hysteresis = 2, False
game.restart()
print(board.last_error, game.last_error)
"""


@pytest.fixture
def notebook(opened: Notebook) -> Notebook:
    assert opened.run_in_kernel(AS_AT_FIRST) == "None None"
    expect(opened.page.locator(".mixlab-sb-step")).to_have_count(10)
    expect(game_says(opened.page)).to_contain_text("step 0 of 4")
    return opened


def step(page: Page, number: int) -> Any:
    return page.get_by_role("button", name=f"step {number}", exact=True)


def board_says(page: Page) -> Any:
    return page.locator(".mixlab-sb-status")


def game_says(page: Page) -> Any:
    return page.locator(".mixlab-sg-status")


def test_the_board_by_keyboard(notebook: Notebook):
    page = notebook.page
    page.get_by_role("button", name="clear").focus()
    page.keyboard.press("Tab")
    expect(step(page, 0)).to_be_focused()
    for key in ("Space", "ArrowRight", "Enter", "End", "Space", "ArrowLeft", "ArrowLeft", "Space"):
        page.keyboard.press(key)
    expect(step(page, 7)).to_be_focused()
    expect(board_says(page)).to_have_text(
        "4 of 10 steps overflow. torch ends at 2⁷ (fell 4×, grew 1×); apex ends at 2⁷ (fell 4×, grew 1×); "
        "Megatron ends at 2⁹ (fell 2×, grew 1×); DeepSpeed ends at 2⁹ (fell 2×, grew 1×)."
    )
    assert page.locator(".mixlab-sb-step[aria-pressed=true]").count() == 4
    expect(page.locator(".mixlab-sb-tint")).to_have_count(4)
    expect(page.locator(".mixlab-sb-kept")).to_have_count(4)  # Megatron's and DeepSpeed's first of each pair
    assert page.locator(".mixlab-sb-chart").get_attribute("aria-label") == board_says(page).inner_text()
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(step(page, 0)).to_have_attribute("aria-pressed", "false")
    page.keyboard.press("ArrowLeft")
    expect(step(page, 0)).to_be_focused()
    page.keyboard.press("Tab")
    expect(page.locator(".mixlab-sb-step:focus")).to_have_count(0)
    assert notebook.run_in_kernel("print(board.overflows, board.last_error)") == "[1, 7, 9] None"


def test_the_board_by_mouse(notebook: Notebook):
    page = notebook.page
    for number in (9, 0, 1, 5, 5, 7):
        step(page, number).click()
    expect(board_says(page)).to_contain_text("DeepSpeed ends at 2⁹")
    page.get_by_label("DeepSpeed: consecutive hysteresis").check()
    expect(board_says(page)).to_contain_text("DeepSpeed ends at 2¹⁰")
    page.get_by_role("button", name="a burst").click()
    expect(page.locator(".mixlab-sb-tint")).to_have_count(5)
    expect(page.get_by_role("button", name="a burst")).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Start at 2ᵏ, k =").fill("2")
    page.get_by_label("Hysteresis (Megatron, DeepSpeed)").fill("1")
    page.get_by_label("Hysteresis (Megatron, DeepSpeed)").press("Enter")
    expect(board_says(page)).to_contain_text("DeepSpeed gives up at step 4, at its minimum 2⁰ (fell 2×, grew 0×)")
    expect(page.locator(".mixlab-sb-mark.mixlab-sb-end")).to_have_count(1)
    page.get_by_role("button", name="clear").click()
    expect(board_says(page)).to_contain_text("None of 10 steps overflow")
    shown = notebook.run_in_kernel("print(board.overflows, board.init_exponent, board.hysteresis, board.last_error)")
    assert shown == "[] 2 1 None"


def test_the_board_refuses_at_the_box_and_follows_python(notebook: Notebook):
    page = notebook.page
    box, interval = page.get_by_label("Start at 2ᵏ, k ="), page.get_by_label("Growth interval")
    box.fill("99")
    box.press("Enter")
    expect(box).to_have_accessible_description("Start must be a whole number from 0 to 24, got 99. Still in use: 10")
    expect(box).to_have_value("99")
    for typed, came in (("", "''"), ("1e999", "'1e999'"), ("100000000099", "100000000099")):
        interval.fill(typed)
        interval.press("Tab")
        expect(interval).to_have_accessible_description(
            f"Growth interval must be a whole number from 1 to 1000000000, got {came}. Still in use: 3"
        )
        expect(interval).to_have_value(typed)
    interval.fill("2e0")
    interval.press("Tab")
    expect(interval).to_have_value("2")
    expect(interval).to_have_attribute("aria-invalid", "false")
    expect(box).to_have_value("99")
    notebook.run_in_kernel("board.overflows = [3, 4]; board.init_exponent = 12; print()")
    expect(board_says(page)).to_contain_text("2 of 10 steps overflow")
    expect(page.locator(".mixlab-sb-step[aria-pressed=true]")).to_have_count(2)
    expect(box).to_have_value("12")


def test_the_game_by_keyboard(notebook: Notebook):
    page = notebook.page
    expect(game_says(page)).to_contain_text("step 0 of 4: 0 skipped, 0 underflowed, 0 good You are the loss scaler")
    page.locator(".mixlab-sg-field").focus()
    page.keyboard.press("ArrowDown")
    expect(game_says(page)).to_contain_text("step 1 of 4: 0 skipped, 0 underflowed, 1 good")
    page.keyboard.press("Space")
    expect(game_says(page)).to_contain_text("step 2 of 4: 1 skipped, 0 underflowed, 1 good")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(game_says(page)).to_contain_text("step 4 of 4: 1 skipped, 0 underflowed, 3 good")
    expect(page.locator(".mixlab-sg-chart .mixlab-sg-sign")).to_have_count(4)
    rows = page.locator(".mixlab-sg-table tbody tr")
    expect(rows).to_have_count(5)
    expect(rows.first).to_have_text("you1103★ fewest lost")
    for name in ("÷2", "keep", "×2"):
        expect(page.get_by_role("button", name=name)).to_be_disabled()
    page.keyboard.press("ArrowUp")
    assert notebook.run_in_kernel("print(game.score.good, game.over, game.last_error)") == "3 True None"
    page.get_by_role("button", name="New game").focus()
    page.keyboard.press("Enter")
    expect(page.locator(".mixlab-sg-field")).to_be_focused()
    expect(rows).to_have_count(0)
    page.keyboard.press("ArrowRight")
    expect(game_says(page)).to_contain_text("step 1 of 4: 1 skipped")


def test_the_game_by_mouse(notebook: Notebook):
    page = notebook.page
    page.get_by_role("button", name="÷2").click()
    expect(game_says(page)).to_contain_text("The last step, at 2¹⁵: good; 2⁸ to 2¹⁵ was usable.")
    expect(page.locator(".mixlab-sg-field")).to_be_focused()
    page.keyboard.press("Space")  # keep, not the button again
    expect(game_says(page)).to_contain_text("at 2¹⁵: overflow, so the step is skipped; 2⁸ to 2¹³ was usable.")
    expect(page.get_by_role("button", name="×2")).to_contain_text("→ 2¹⁶")
    page.get_by_role("button", name="÷2").focus()
    page.keyboard.press("Enter")
    expect(game_says(page)).to_contain_text("step 3 of 4")
    expect(page.get_by_role("button", name="÷2")).to_be_focused()
    page.get_by_role("button", name="keep").click()
    expect(page.locator(".mixlab-sg-table")).to_be_visible()
    notebook.save()
    notebook.reload()
    expect(game_says(page)).to_contain_text("step 4 of 4: 1 skipped, 0 underflowed, 3 good")
    page.get_by_role("button", name="New game").click()
    expect(page.locator(".mixlab-sg-table")).to_be_hidden()
    assert notebook.run_in_kernel("print(game.score, game.last_error)") == "0 skipped, 0 underflowed, 0 good None"


def test_nothing_is_cut_off(notebook: Notebook):
    page = notebook.page
    notebook.run_in_kernel("board.init_exponent = 2; board.hysteresis = 1; board.overflows = [1, 2, 3, 8]; print()")
    notebook.run_in_kernel("for move in ('halve', 'keep', 'double', 'keep'): game.play(move)\nprint()")
    for theme in ("Light", "Dark"):
        notebook.use_theme(theme)
        for width in (800, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            for name in ("scaler-board", "scaling-game"):
                page.locator(f".mixlab-{name}").scroll_into_view_if_needed()
                page.wait_for_timeout(100)
                notebook.screenshot(f"{name.replace('-', '_')}_{theme.lower()}_{width}")
                assert page.evaluate(_OUTSIDE_THE_OUTPUT, f".mixlab-{name}") == []
                assert page.evaluate(_SMALL_TEXT, f".mixlab-{name}") == []


_OUTSIDE_THE_OUTPUT = """(panel) => {
    const limits = document.querySelector(panel).closest('.jp-OutputArea-output').getBoundingClientRect();
    const parts = document.querySelectorAll(`${panel} :is(button, input, label, p, span, svg, text, tspan, td, th)`);
    return [...parts].filter((part) => {
        const box = part.getBoundingClientRect();
        return box.width > 0 && (box.left < limits.left - 1 || box.right > limits.right + 1);
    }).map((part) => `${part.className.baseVal ?? part.className}: ${part.textContent}`);
}"""

_SMALL_TEXT = """(panel) => [...document.querySelectorAll(`${panel} *`)]
    .filter((part) => part.childElementCount === 0 && part.textContent.trim())
    .filter((part) => parseFloat(getComputedStyle(part).fontSize) < 12)
    .map((part) => part.textContent)"""
