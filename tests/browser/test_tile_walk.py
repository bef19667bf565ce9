"""The tile walk in JupyterLab: tiles moved by keyboard and by mouse, bytes counted, in both themes."""

from __future__ import annotations

from typing import Any

import pytest
from playwright.sync_api import Page, expect

from tests.browser.lab import Notebook

CELLS = ("from mixlab.panels import TileWalk", "walk = TileWalk(8, 8, 8, fast_bytes=256, block=(4, 4, 4))\nwalk")

AS_AT_FIRST = """
walk.block, walk.m, walk.n, walk.k, walk.fast_bytes = "square", 8, 8, 8, 256
walk.a, walk.b, walk.accumulator, walk.out, walk.block, walk.position = "bf16", "bf16", "fp32", "bf16", (4, 4, 4), 0
print(walk.last_error)
"""


@pytest.fixture
def notebook(opened: Notebook) -> Notebook:
    assert opened.run_in_kernel(AS_AT_FIRST) == "None"
    expect(says(opened.page)).to_contain_text("Move 0 of 52")
    return opened


def says(page: Page) -> Any:
    return page.locator(".mixlab-tw-status")


def field(page: Page) -> Any:
    return page.locator(".mixlab-tw-field")


def counted(page: Page) -> str:
    return str(page.locator(".mixlab-tw-chart").get_attribute("aria-label"))


def test_by_keyboard_move_by_move_and_tile_by_tile(notebook: Notebook):
    page = notebook.page
    field(page).focus()
    for words in ("C tile of rows 0 to 3 and columns 0 to 3 is set to zero", "A tile of rows 0 to 3", "B tile of rows"):
        page.keyboard.press("ArrowRight")
        expect(says(page)).to_contain_text(words)
    assert "holds tiles of A, B, C, 128 of 256 bytes; 64 of 640 bytes are moved" in counted(page)
    expect(page.locator(".mixlab-tw-tile")).to_have_count(3)
    page.keyboard.press("ArrowRight")
    expect(says(page)).to_have_text(
        "Move 4 of 52: the tiles of A and B are multiplied and added to the C tile of rows 0 to 3 and columns 0 to 3, "
        "in fp32. No bytes are moved."
    )
    page.keyboard.press("ArrowLeft")
    expect(says(page)).to_contain_text("Move 3 of 52: the B tile of rows 0 to 3 and columns 0 to 3 is loaded; 32 bytes")
    page.keyboard.press("ArrowDown")
    expect(says(page)).to_contain_text("Move 13 of 52: the C tile of rows 0 to 3 and columns 0 to 3 is freed")
    expect(page.locator(".mixlab-tw-finished")).to_have_count(1)
    page.keyboard.press("ArrowDown")
    page.keyboard.press("ArrowUp")
    expect(says(page)).to_contain_text("Move 13 of 52")
    page.keyboard.press("End")
    assert "holds nothing, 0 of 256 bytes; 640 of 640 bytes are moved" in counted(page)
    page.keyboard.press("ArrowRight")
    expect(says(page)).to_contain_text("Move 52 of 52")
    expect(field(page)).to_be_focused()
    assert notebook.run_in_kernel("print(walk.position, walk.last_error)") == "52 None"
    field(page).focus()
    page.keyboard.press("Home")
    expect(says(page)).to_contain_text("Move 0 of 52: fast memory is empty")


def test_by_mouse_and_playing_to_the_end(notebook: Notebook):
    page = notebook.page
    page.get_by_role("button", name="Next move").click()
    expect(says(page)).to_contain_text("Move 1 of 52")
    expect(field(page)).to_be_focused()
    page.keyboard.press("Space")
    expect(page.get_by_role("button", name="Pause")).to_be_visible()
    expect(says(page)).to_have_attribute("aria-live", "off")
    page.get_by_role("button", name="Pause").click()
    expect(says(page)).to_have_attribute("aria-live", "polite")
    page.get_by_role("button", name="Play").click()
    expect(says(page)).to_contain_text("Move 52 of 52", timeout=20_000)
    expect(page.get_by_role("button", name="Play")).to_be_visible()
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Next tile of C").click()
    expect(says(page)).to_contain_text("Move 13 of 52")


def test_controls_change_the_product(notebook: Notebook):
    page = notebook.page
    sentence = page.locator(".mixlab-tw-sentence")
    page.get_by_label("M", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(sentence).to_contain_text("9 x 8 x 8, bf16 x bf16 + fp32 -> bf16, in blocks of 4 x 4 x 4")
    page.get_by_role("button", name="fp32", exact=True).click()
    expect(sentence).to_contain_text("9 x 8 x 8, fp32 x fp32 + fp32 -> fp32")
    expect(page.get_by_role("button", name="fp32", exact=True)).to_have_attribute("aria-pressed", "true")
    page.get_by_label("Sums").select_option("fp16")
    expect(sentence).to_contain_text("fp32 x fp32 + fp16 -> fp32")
    page.get_by_label("Block", exact=True).select_option("best square tiles")
    expect(sentence).to_contain_text("in blocks of 5 x 5 x 5")
    page.get_by_label("block k").focus()
    page.keyboard.press("ArrowLeft")
    expect(sentence).to_contain_text("in blocks of 5 x 5 x 4")
    expect(page.get_by_label("Block", exact=True)).to_have_value("own")
    assert notebook.run_in_kernel("print(walk.block, walk.m, walk.accumulator, walk.last_error)") == (
        "[5, 5, 4] 9 fp16 None"
    )


def test_a_block_that_does_not_fit_is_refused_in_red(notebook: Notebook):
    page = notebook.page
    page.get_by_label("block m").focus()
    page.keyboard.press("End")
    expect(page.locator(".mixlab-tw-sentence")).to_contain_text("in blocks of 8 x 4 x 4")
    page.get_by_label("block n").focus()
    page.keyboard.press("End")
    expect(page.get_by_role("alert")).to_contain_text(
        "a block of 8 x 8 x 4 needs 384 bytes of fast memory, which has 256"
    )
    expect(page.get_by_label("block n")).to_have_value("4")
    page.get_by_label("Fast memory", exact=True).focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("alert")).to_be_hidden()


def test_a_reload_keeps_everything(notebook: Notebook):
    page = notebook.page
    field(page).focus()
    page.keyboard.press("ArrowDown")
    expect(says(page)).to_contain_text("Move 13 of 52")
    notebook.wait_for_idle()
    notebook.save()
    notebook.reload()
    expect(says(page)).to_contain_text("Move 13 of 52")
    field(page).focus()
    page.keyboard.press("ArrowRight")
    expect(says(page)).to_contain_text("Move 14 of 52")


def test_nothing_is_cut_off(notebook: Notebook):
    page = notebook.page
    notebook.run_in_kernel("walk.block = 'square'; walk.fast_bytes = 8192; walk.m = walk.n = walk.k = 96; print()")
    notebook.run_in_kernel("walk.position = 78; print(walk.status)")
    for theme in ("Light", "Dark"):
        notebook.use_theme(theme)
        for width in (800, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.locator(".mixlab-tile-walk").scroll_into_view_if_needed()
            page.wait_for_timeout(200)
            notebook.screenshot(f"tile_walk_{theme.lower()}_{width}")
            assert page.evaluate(_OUTSIDE_THE_OUTPUT) == []
            assert page.evaluate(_SMALL_TEXT) == []


_OUTSIDE_THE_OUTPUT = """() => {
    const panel = '.mixlab-tile-walk';
    const limits = document.querySelector(panel).closest('.jp-OutputArea-output').getBoundingClientRect();
    const parts = document.querySelectorAll(`${panel} :is(button, input, select, label, p, span, svg, text, tspan)`);
    return [...parts].filter((part) => {
        const box = part.getBoundingClientRect();
        return box.width > 0 && (box.left < limits.left - 1 || box.right > limits.right + 1);
    }).map((part) => `${part.className.baseVal ?? part.className}: ${part.textContent}`);
}"""

_SMALL_TEXT = """() => [...document.querySelectorAll('.mixlab-tile-walk *')]
    .filter((part) => part.childElementCount === 0 && part.textContent.trim())
    .filter((part) => parseFloat(getComputedStyle(part).fontSize) < 12)
    .map((part) => part.textContent)"""
