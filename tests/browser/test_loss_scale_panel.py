"""The loss-scale panel in a real JupyterLab, by keyboard alone, in both themes, after a reload, and twice."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.lab import Notebook, write_notebook

CELLS = (
    "from mixlab import load_task, track\n"
    "from mixlab.panels import LossScalePanel\n"
    "task = load_task('digits-mlp', loss_weight=1e-6)\n"
    "model = task.seeded_model(0)\n"
    "with track(model) as probe:\n"
    "    (task.loss_and_metric(model, task.batch(0, 0))[0] * task.loss_weight).backward()",
    "panel = LossScalePanel(probe)\npanel",
)


AS_AT_FIRST = """
panel.format, panel.layer, panel.kind, panel.scale_exponent = 'fp16', 'all', 'gradient', 0
print(panel.last_error)
"""


@pytest.fixture
def notebook(opened: Notebook) -> Notebook:
    assert opened.run_in_kernel(AS_AT_FIRST) == "None"
    expect(opened.page.locator(".mixlab-ls-chart")).to_be_visible()
    expect(opened.page.locator(".mixlab-ls-status")).to_contain_text("At scale 2⁰, ")
    expect(opened.page.locator(".mixlab-ls-details")).to_contain_text("Gradients of all layers")
    return opened


def bars_at(page: Page) -> str | None:
    """Returns where the bars stand, as the page draws them."""
    return page.locator(".mixlab-ls-bars").first.get_attribute("transform")


def status(page: Page) -> str:
    return page.locator(".mixlab-ls-status").first.inner_text()


def test_keys_move_label_drawing_and_kernel(notebook: Notebook):
    page = notebook.page
    before = status(page), bars_at(page)
    page.get_by_label("Loss scale 2ᵏ").focus()
    for _ in range(10):
        page.keyboard.press("ArrowRight")
    expect(page.get_by_label("Exponent k of the loss scale")).to_have_value("10")
    expect(page.locator(".mixlab-ls-value")).to_have_text("= 1024")
    assert status(page).startswith("At scale 2¹⁰, ")
    assert status(page) == page.locator(".mixlab-ls-chart").get_attribute("aria-label")
    assert (status(page), bars_at(page)) != before
    assert notebook.run_in_kernel("print(panel.scale_exponent, panel.status == repr(panel))") == "10 True"

    page.get_by_label("Loss scale 2ᵏ").focus()
    for key, exponent in (("Home", -24), ("End", 64), ("PageDown", None), ("ArrowLeft", None), ("Home", -24)):
        page.keyboard.press(key)
        if exponent is not None:
            expect(page.get_by_label("Exponent k of the loss scale")).to_have_value(str(exponent))
    assert notebook.run_in_kernel("print(panel.scale_exponent, panel.last_error)") == "-24 None"


def test_the_box_takes_what_is_a_number_and_refuses_the_rest_in_words(notebook: Notebook):
    page = notebook.page
    box = page.get_by_label("Exponent k of the loss scale")
    box.fill("1.2e1")
    box.press("Enter")
    expect(box).to_have_value("12")
    expect(page.locator(".mixlab-ls-status")).to_contain_text("At scale 2¹², ")
    for typed in ("65", "1.5", "1e999", "abc", ""):
        box.fill(typed)
        box.press("Tab")
        expect(box).to_have_accessible_description(
            re.compile(f"k must be a whole number from -24 to 64, got '?{typed}'?. Still in use: 12")
        )
        expect(box).to_have_attribute("aria-invalid", "true")
        expect(box).to_have_value(typed)
    assert status(page).startswith("At scale 2¹², ")
    box.press("ArrowUp")
    expect(box).to_have_value("13")
    expect(box).to_have_attribute("aria-invalid", "false")


def test_format_layer_and_kind_go_through_the_kernel(notebook: Notebook):
    page = notebook.page
    page.get_by_role("radio", name="fp16").focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".mixlab-ls-status")).to_contain_text("in bf16")
    page.get_by_label("Layer", exact=True).select_option("output")
    page.get_by_label("Show", exact=True).select_option("weight gradients")
    expect(page.locator(".mixlab-ls-details")).to_contain_text("Weight gradients of layer output")
    shown = notebook.run_in_kernel("print(panel.format, panel.layer, panel.kind, panel.last_error)")
    assert shown == "bf16 output weight_gradient None"


def test_python_moves_every_view(tmp_path: Path, open_notebook: Callable[..., Notebook]):
    notebook = open_notebook(write_notebook(tmp_path / "views.ipynb", CELLS))
    notebook.run_all()
    page = notebook.page
    notebook.run_in_kernel("display(panel)\nprint()")
    expect(page.locator(".mixlab-ls-chart")).to_have_count(2)
    notebook.run_in_kernel("panel.scale_exponent = 16; panel.format = 'e5m2'; print()")
    for view in page.locator(".mixlab-ls-status").all():
        expect(view).to_contain_text("At scale 2¹⁶")
        expect(view).to_contain_text("in e5m2")
    page.get_by_label("Loss scale 2ᵏ").last.focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator(".mixlab-ls-status").first).to_contain_text("At scale 2¹⁷")


def test_an_error_behind_a_control_shows_in_red_and_goes_again(notebook: Notebook):
    page = notebook.page
    notebook.run_in_kernel(
        "def fail(*_): raise RuntimeError('no such luck')\nworking, panel._draw = panel._draw, fail\nprint()"
    )
    page.get_by_label("Layer", exact=True).select_option("output")
    expect(page.get_by_role("alert")).to_have_text("RuntimeError: no such luck")
    assert notebook.run_in_kernel("print(repr(panel.last_error))") == "RuntimeError('no such luck')"
    notebook.run_in_kernel("panel._draw = working; print()")
    page.get_by_label("Layer", exact=True).select_option("hidden1")
    expect(page.get_by_role("alert")).to_be_hidden()
    assert notebook.run_in_kernel("print(panel.last_error)") == "None"


def test_reload_restores_what_was_shown(notebook: Notebook):
    page = notebook.page
    page.get_by_label("Loss scale 2ᵏ").focus()
    for _ in range(7):
        page.keyboard.press("ArrowRight")
    page.get_by_role("radio", name="e5m2").check(force=True)
    expect(page.locator(".mixlab-ls-status")).to_contain_text("in e5m2")
    before = status(page), bars_at(page)
    notebook.save()
    notebook.reload()
    expect(page.locator(".mixlab-ls-status")).to_contain_text("At scale 2⁷, ")
    assert (status(page), bars_at(page)) == before


def test_nothing_is_cut_off(notebook: Notebook):
    page = notebook.page
    page.get_by_label("Loss scale 2ᵏ").focus()
    for _ in range(8):
        page.keyboard.press("ArrowRight")
    for theme in ("Light", "Dark"):
        notebook.use_theme(theme)
        for width in (800, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.locator(".mixlab-loss-scale").scroll_into_view_if_needed()
            page.wait_for_timeout(200)
            notebook.screenshot(f"loss_scale_{theme.lower()}_{width}")
            assert page.evaluate(_OUTSIDE_THE_OUTPUT) == []


_OUTSIDE_THE_OUTPUT = """() => {
    const output = document.querySelector('.mixlab-loss-scale').closest('.jp-OutputArea-output');
    const limits = output.getBoundingClientRect();
    const visible = 'input:not([type=radio]), output, select, span, svg, text, p';
    const parts = document.querySelectorAll(`.mixlab-loss-scale :is(${visible})`);
    return [...parts].filter((part) => {
        const box = part.getBoundingClientRect();
        return box.width > 0 && (box.left < limits.left - 1 || box.right > limits.right + 1);
    }).map((part) => `${part.className.baseVal ?? part.className}: ${part.textContent}`);
}"""
