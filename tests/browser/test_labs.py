"""The labs as a reader uses them: run them, move the scale by keyboard, train, watch, stop, compare."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import Notebook, with_parameters

LABS = Path(__file__).parents[2] / "labs"


def test_the_loss_scaling_lab_answers_the_keyboard(open_notebook: Callable[..., Notebook], tmp_path: Path):
    lab = open_notebook(with_parameters(LABS / "02_underflow_and_loss_scaling.ipynb", tmp_path, steps=40))
    lab.run_all(timeout_s=240)
    page = lab.page
    status, bars = page.locator(".mixlab-ls-status"), page.locator(".mixlab-ls-bars").first
    expect(status).to_have_count(0)  # until the reader has said what to expect
    page.get_by_role("radio", name="50 % to 99 %").check()
    expect(status).to_contain_text("At scale 2⁰, all of the non-zero gradients become zero in fp16")
    drawn = bars.get_attribute("transform")
    page.get_by_label("Loss scale 2ᵏ").focus()
    for _ in range(20):
        page.keyboard.press("ArrowRight")
    expect(status).to_contain_text(re.compile(r"At scale 2²⁰, .* are subnormal, none overflow"))
    assert bars.get_attribute("transform") != drawn
    page.keyboard.press("End")
    expect(status).to_contain_text(re.compile(r"At scale 2⁶⁴, .* overflow"))
    assert lab.run_in_kernel("print(panel.scale_exponent, panel.last_error)") == "64 None"
    page.get_by_role("button", name="Reveal").first.click()
    expect(page.get_by_text("right is: more than 99 %").locator("visible=true")).to_have_count(1)


def test_the_training_lab_trains_stops_and_compares(open_notebook: Callable[..., Notebook], tmp_path: Path):
    lab = open_notebook(with_parameters(LABS / "04_training_modes.ipynb", tmp_path, steps=10))
    lab.run_all(timeout_s=240)
    page = lab.page
    status = page.get_by_role("status").filter(has_text=re.compile("ready|step|stopped|done|paused")).first
    train, stop = (page.get_by_role("button", name=name) for name in ("Train", "Stop"))
    expect(stop).to_be_disabled()

    page.get_by_label("Steps", exact=True).fill("5000")
    page.get_by_label("Steps", exact=True).press("Tab")
    expect(train).to_be_enabled()
    train.focus()
    page.keyboard.press("Enter")
    expect(status).to_contain_text("of 5000: loss", timeout=20_000)
    expect(train).to_be_disabled()
    loss = page.locator(".mixlab-chart path").first
    first = loss.get_attribute("d")
    expect(loss).not_to_have_attribute("d", first or "", timeout=10_000)
    page.get_by_role("button", name="Pause").click()
    expect(status).to_contain_text(re.compile(r"paused: amp-fp16 on digits-cnn, seed 0: step \d+ of 5000"))
    page.get_by_role("button", name="Resume").click()
    stop.click()
    expect(status).to_contain_text("stopped: amp-fp16 on digits-cnn", timeout=10_000)
    expect(train).to_be_enabled()

    page.get_by_label("Mode", exact=True).select_option("pure fp16")
    page.get_by_label("Steps", exact=True).fill("20")
    page.get_by_label("Steps", exact=True).press("Tab")
    train.click()
    expect(status).to_contain_text("diverged: the loss is nan from step 1 on", timeout=30_000)
    expect(page.locator(".mixlab-legend li")).to_have_count(2)
    page.get_by_label("Share", exact=True).fill("amp-fp17")
    page.get_by_label("Share", exact=True).press("Tab")
    expect(page.get_by_role("alert")).to_contain_text("unknown recipe 'amp-fp17'")
    page.get_by_label("Share", exact=True).fill("amp-bf16")
    page.get_by_label("Share", exact=True).press("Tab")
    expect(page.get_by_role("alert")).to_have_count(0)
    assert lab.run_in_kernel("print(cockpit.recipe_controls.recipe, len(cockpit.runs), cockpit.last_error)") == (
        "amp-bf16 2 None"
    )
