"""Takes the pictures of the labs that README.md shows, into labs/img.

PYTHONPATH=. python -m tests.browser.take_pictures [START OF A LAB'S NAME]
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect

from tests.browser.lab import chromium, notebook_on_a_page, serving

LABS = Path(__file__).parents[2] / "labs"


def turn_the_scale(page: Page) -> None:
    page.get_by_label("Loss scale 2ᵏ").focus()
    for _ in range(9):
        page.keyboard.press("ArrowRight")


def train_two(page: Page) -> None:
    for mode, recipe in (("AMP fp16", "amp-fp16"), ("pure fp16", "fp16")):
        page.get_by_label("Mode", exact=True).select_option(mode)
        page.get_by_role("button", name="Train").click()
        expect(page.get_by_role("status").filter(has_text=f"done: {recipe} on")).to_be_visible(timeout=60_000)


def leave_as_it_is(page: Page) -> None:
    expect(page.get_by_text("in every format")).to_be_visible()


def go_to_backward(page: Page) -> None:
    for _ in range(3):
        page.get_by_title("The next stage").click()
    expect(page.locator('[aria-current="step"]')).to_contain_text("backward")


def see_the_board(page: Page) -> None:
    expect(page.get_by_text("DeepSpeed: consecutive hysteresis")).to_be_visible()


def round_the_weights(page: Page) -> None:
    cell = page.locator(".jp-CodeCell").filter(has=page.get_by_text("stands.then(microscope)"))
    cell.get_by_label("Weights", exact=True).select_option("bf16")
    expect(cell.get_by_role("status")).to_contain_text("it moves in 0 steps")


def see_the_memory(page: Page) -> None:
    expect(page.get_by_role("list", name="GPUs on which it fits").first).to_be_visible()


def load_some_tiles(page: Page) -> None:
    page.locator(".mixlab-tw-field").focus()
    for key in (*["ArrowDown"] * 4, *["ArrowRight"] * 9):
        page.keyboard.press(key)
    expect(page.locator(".mixlab-tw-tile")).to_have_count(3)
    page.evaluate("document.activeElement.blur()")


PICTURES = [
    ("01_number_formats", "bit_explorer", "BitExplorer(", leave_as_it_is),
    ("02_underflow_and_loss_scaling", "loss_scale_panel", "LossScalePanel(probe", turn_the_scale),
    ("03_inside_amp", "step_through", "stepper = StepThrough(", go_to_backward),
    ("04_training_modes", "cockpit", "cockpit = Cockpit(", train_two),
    ("05_dynamic_loss_scaling", "scaler_board", "board = ScalerBoard(", see_the_board),
    ("06_adam_in_low_precision", "microscope", "stands.then(microscope)", round_the_weights),
    ("07_memory", "memory_panel", "panel = MemoryPanel(", see_the_memory),
    ("08_bf16_matmul", "tile_walk", "walk = TileWalk(", load_some_tiles),
]


def main(only: str = "") -> None:
    (LABS / "img").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as root, serving(Path(root)) as server, chromium() as browser:
        for lab, name, source, act in PICTURES:
            if not lab.startswith(only):
                continue
            notebook = notebook_on_a_page(server, browser, LABS / f"{lab}.ipynb", width=1150, height=1500)
            notebook.run_all(timeout_s=240)
            for question in notebook.page.locator(".widget-radio").all():  # panels wait for an answer
                question.get_by_role("radio").first.check()
            act(notebook.page)
            cell = notebook.page.locator(".jp-CodeCell").filter(has=notebook.page.get_by_text(source))
            cell.locator(".jp-OutputArea-output:visible").first.screenshot(path=LABS / "img" / f"{name}.png")
            errors = [error for error in notebook.close() if "/img/" not in error]  # a picture that is being taken
            if errors:
                raise SystemExit(f"{lab}: {errors}")


if __name__ == "__main__":
    main(*sys.argv[1:])
