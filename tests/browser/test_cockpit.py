"""The cockpit on a page: by keyboard alone, at two widths, and across a reload while it trains."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.browser.lab import Notebook, write_notebook


@pytest.fixture
def notebook(tmp_path: Path, open_notebook: Callable[..., Notebook]) -> Notebook:
    source = "from mixlab.panels import Cockpit\ncockpit = Cockpit(steps=20)\ncockpit"
    notebook = open_notebook(write_notebook(tmp_path / "cockpit.ipynb", [source]))
    notebook.run_all()
    return notebook


def press_train(page: Page, says: str) -> None:
    train = page.get_by_role("button", name="Train")
    expect(train).to_be_enabled()  # the status says "done" before that
    train.focus()
    page.keyboard.press("Space")
    expect(page.get_by_role("status")).to_contain_text(says, timeout=30_000)


def test_by_keyboard_the_scale_moves_and_runs_are_overlaid(notebook: Notebook):
    page = notebook.page
    move_the_scale(page)
    overlay_two_runs(page)
    assert notebook.run_in_kernel("print(list(cockpit.runs), cockpit.last_error)") == (
        "['bf16 on digits-mlp, seed 0'] None"
    )


def move_the_scale(page: Page) -> None:
    share, box = (page.get_by_label(name, exact=True) for name in ("Share", "Loss scale"))
    page.get_by_role("slider").focus()
    page.keyboard.press("ArrowLeft")
    expect(share).to_have_value("amp-fp16,scale=2^15")
    expect(box).to_have_value("2^15")
    box.focus()
    page.keyboard.press("ArrowUp")
    expect(share).to_have_value("amp-fp16")


def overlay_two_runs(page: Page) -> None:
    legend, tick = page.locator(".mixlab-legend li"), page.get_by_label("amp-fp16 on digits-mlp, seed 0", exact=True)
    press_train(page, "done: amp-fp16 on digits-mlp")
    page.get_by_label("Mode", exact=True).select_option("pure bf16")
    expect(page.get_by_label("Share", exact=True)).to_have_value("bf16")
    press_train(page, "done: bf16 on digits-mlp")
    expect(legend).to_have_count(2)
    tick.focus()
    page.keyboard.press("Space")
    expect(legend).to_have_count(1)
    expect(tick).to_be_focused()
    delete = page.get_by_role("button", name=re.compile("delete (unticked|1 run)", re.IGNORECASE))
    expect(delete).to_be_enabled()
    delete.focus()
    page.keyboard.press("Space")
    expect(delete).to_contain_text("Press again to delete 1 run for good")
    page.keyboard.press("Space")
    expect(tick).to_have_count(0)


def test_every_knob_is_one_unfolding_away_and_what_it_costs_stands_beside(notebook: Notebook):
    page = notebook.page
    expect(page.get_by_text("Bytes per parameter").last).to_be_visible()  # the first remains without a kernel
    expect(page.get_by_text("in the usable window")).to_be_visible(timeout=30_000)
    expect(page.get_by_text("predicted for this model and batch on a CPU")).to_be_visible(timeout=30_000)
    weights = page.get_by_label("Weights", exact=True)
    expect(weights).to_be_hidden()
    more = page.get_by_role("button", name="More knobs")
    more.focus()
    page.keyboard.press("Enter")
    expect(weights).to_be_visible()
    weights.select_option("bf16")
    expect(page.get_by_text("Changed with it: Products: bf16, Gradients: bf16.")).to_be_visible()
    expect(page.get_by_text("8: weights 2 (bf16), gradients 2 (bf16), momentum 4 (fp32)")).to_be_visible()
    expect(page.get_by_text("None is needed: gradients in bf16 reach as far as in fp32.")).to_be_visible()


def test_a_refused_text_stays_is_explained_at_its_box_and_stops_the_training(notebook: Notebook):
    page = notebook.page
    share, steps = (page.get_by_label(name, exact=True) for name in ("Share", "Steps"))
    share.fill("nonsense")
    share.press("Enter")
    expect(share).to_have_attribute("aria-invalid", "true")
    expect(share).to_have_accessible_description(re.compile("unknown recipe 'nonsense'.*Still in use: amp-fp16"))
    press_train(page, "not started")
    expect(share).to_have_value("nonsense")
    share.fill("bf16")
    share.press("Enter")
    expect(share).to_have_attribute("aria-invalid", "false")
    for typed in ("1.5", "1e999", "-1"):
        steps.fill(typed)
        steps.press("Tab")
        expect(steps).to_have_attribute("aria-invalid", "true")
        expect(steps).to_have_value(typed)
    steps.fill("1e1")
    steps.press("Enter")
    expect(steps).to_have_value("10")
    press_train(page, "done: bf16 on digits-mlp")


def test_the_charts_fit_the_page_and_a_reload_finds_the_training_where_it_is(notebook: Notebook):
    page = notebook.page
    press_train(page, "done:")
    for width in (800, 1400, 600, 1400):
        page.set_viewport_size({"width": width, "height": 1000})
        page.wait_for_function(_CHARTS_FIT)
    for theme in ("Dark", "Light"):
        notebook.use_theme(theme)
        page.wait_for_function(_CHARTS_FIT)
    page.get_by_label("Steps", exact=True).fill("100000")
    page.get_by_label("Steps", exact=True).press("Tab")
    press_train(page, "of 100000: loss")
    notebook.save()
    notebook.reload()
    status, charts = page.get_by_role("status"), page.get_by_role("img", name="Training curves")
    expect(status).to_contain_text(re.compile(r"step \d+ of 100000: loss"))
    expect(charts).to_have_accessible_name(re.compile(r"seed 0 \(running\): loss .* steps"))
    expect(page.locator(".mixlab-legend li")).to_have_count(2)
    page.get_by_role("button", name="Stop").click()
    expect(status).to_contain_text("stopped: amp-fp16 on digits-mlp", timeout=10_000)


_CHARTS_FIT = """() => {
    const [root, charts] = ['.mixlab-curves', '.mixlab-chart'].map((name) => [...document.querySelectorAll(name)]);
    const right = root[0].closest('.jp-OutputArea').getBoundingClientRect().right;
    const drawn = charts.map((chart) => chart.getBoundingClientRect().right);
    return drawn.length === 4 && Math.max(...drawn) <= right && Math.max(...drawn) > right - 120;
}"""


def test_a_page_too_slow_for_its_panels_hears_from_the_kernel_all_the_same(notebook: Notebook):
    page = notebook.page
    # anywidget waits 2 s for a model to start; here not at all, as if the page had been busy for so long.
    page.add_init_script(
        "AbortSignal.timeout = () => { const over = new AbortController(); "
        "setTimeout(() => over.abort()); return over.signal; };"
    )
    notebook.save()
    notebook.reload()
    press_train(page, "done: amp-fp16 on digits-mlp")
    expect(page.locator(".mixlab-legend li")).to_have_count(1)
    box = page.get_by_label("Steps", exact=True)
    box.fill("0")
    box.press("Tab")
    expect(box).to_have_accessible_description(re.compile("Steps must be a whole number from 1 to"))
