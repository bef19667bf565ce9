"""Every lab as readers use it: run, by keyboard, trained and stopped; then all of it shown, and looked at.

Nobody may be shut out: not by a screen reader or the keyboard alone, not in either theme, not on a narrow page. One of
1400 pixels at a zoom of 200 % is laid out as one of 700.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.browser import audit
from tests.browser.lab import Notebook, with_parameters

LABS = sorted((Path(__file__).parents[2] / "labs").glob("*.ipynb"))
# Training steps, by the number of the lab; the others train as they do.
SHORT = {"00": 10, "01": 20, "02": 40, "03": 10, "04": 10, "05": 20, "06": 20, "12": 6}


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_lab_answers_and_shuts_nobody_out(path: Path, open_notebook: Callable[..., Notebook], tmp_path: Path):
    number = path.name[:2]
    short = {"steps": SHORT[number]} if number in SHORT else {}
    lab = open_notebook(with_parameters(path, tmp_path, **short), height=audit.SCREEN)
    lab.run_all(timeout_s=300)
    if number in USED:
        USED[number](lab)
    audit.show_everything(lab)
    assert {where: faults for where, faults in faults_of(lab).items() if faults} == {}


def faults_of(lab: Notebook) -> dict[str, list[str]]:
    page = lab.page
    found = {"names": audit.bad_names(page), "charts": audit.chart_faults(page)}
    for theme in ("Dark", "Light"):
        lab.use_theme(theme)
        found[f"axe-core, {theme}"] = audit.violations(page)
        found[f"faint, {theme}"] = audit.faint(page)
    for pixels in (1400, 800, 700):
        with audit.width(page, pixels):
            found[f"cut off at {pixels}"] = audit.cut_off(page)
    found["axe-core, narrow"] = audit.violations(page)
    return found


def use_the_float_designer(lab: Notebook) -> None:
    page = lab.page
    page.get_by_role("radio", name="about half").check()
    words = page.get_by_role("status").filter(has_text="Relative RMS error")
    expect(words).to_contain_text("e4m3, 8 bits: max 240")
    page.get_by_role("slider").first.focus()
    page.keyboard.press("ArrowRight")
    expect(words).to_contain_text("e5m3, 9 bits: max 61440")
    page.get_by_label("Special values").select_option("NaN only (fn)")
    expect(words).to_contain_text("e5m3fn, 9 bits: max 114688")
    page.get_by_role("button", name="sign bit").click()
    expect(page.locator(".mixlab-be-value")).to_have_text("-0.0999755859375")
    shown = lab.run_in_kernel("print(designer.format, designer.last_error, panel.value)")
    assert shown == "e5m3fn None -0.0999755859375"


def use_the_loss_scale_panel(lab: Notebook) -> None:
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


def use_the_cockpit(lab: Notebook) -> None:
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


USED = {"01": use_the_float_designer, "02": use_the_loss_scale_panel, "04": use_the_cockpit}
