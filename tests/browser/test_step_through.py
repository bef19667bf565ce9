"""The step-through panel by keyboard: stage to stage, another recipe, the next step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import Notebook, write_notebook

CELLS = (
    "from mixlab import load_task\nfrom mixlab.panels import StepThrough",
    "panel = StepThrough(load_task('digits-mlp', loss_weight=1e-4), steps=2)\npanel",
)


def test_a_step_is_gone_through_by_keyboard(open_notebook: Callable[..., Notebook], tmp_path: Path):
    lab = open_notebook(write_notebook(tmp_path / "step.ipynb", CELLS), width=800)
    lab.run_all()
    page = lab.page
    here, words = page.locator('[aria-current="step"]'), page.get_by_role("status").last
    expect(here).to_contain_text("1 cast")
    following = page.get_by_role("button", name="Next", exact=True)
    following.focus()
    for name in ("2 forward", "3 scaled loss", "4 backward", "5 unscale"):
        expect(following).to_be_enabled()
        page.keyboard.press("Enter")
        expect(here).to_contain_text(name)
    expect(words).to_contain_text("Divided by 65536")
    page.get_by_role("button", name="2 forward, done").click()
    expect(here).to_contain_text("2 forward")
    for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
        page.keyboard.press(key)
    expect(here).to_be_focused()
    expect(here).to_contain_text("5 unscale")
    expect(words).to_contain_text("Divided by 65536")
    picture = page.locator("svg[role=img]").filter(has_text="on the range of fp16")
    assert picture.bounding_box()["width"] < 800

    page.get_by_label("Recipe", exact=True).select_option("bf16")
    expect(words).to_contain_text("Weights are stored in bf16 and used as they are")
    expect(page.get_by_label("Loss scale", exact=True)).to_be_disabled()
    page.get_by_title("Takes one more training step").click()
    assert lab.run_in_kernel("print(panel.status[:18], panel.last_error)") == "step 3 under bf16, None"
