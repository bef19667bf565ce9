"""Every panel by keys alone: Tab reaches it and shows where it is, and its keys do what they should."""

from __future__ import annotations

from dataclasses import dataclass
from re import compile as words

import pytest
from playwright.sync_api import Locator, expect

from mixlab import panels
from tests.browser import audit
from tests.browser.lab import Notebook

MOST_STOPS = 60
SETUP = """
from dataclasses import replace
import torch
from mixlab import load_task, track
from mixlab.claims import SUBJECTS
from mixlab.experiments import record_gradients
from mixlab.panels import *
from mixlab.tables import NotedTable
lab = Lab("04_training_modes", recipe="amp-fp16", loss_scale=0, steps=3, seed=0, task="digits-mlp")
task = load_task("digits-mlp", loss_weight=1e-6)
model = task.seeded_model(0)
with track(model) as probe:
    (task.loss_and_metric(model, task.batch(0, 0))[0] * task.loss_weight).backward()
controls = StateControls("fp32,exp_avg_sq=bf16")
adam = replace(task, optimizer="adam", lr=1e-4)
"""


@dataclass(frozen=True)
class Use:
    """What a reader does at one stop of the Tab key, and what the panel then says.

    Attributes:
        role: Role of the control.
        name: Its accessible name begins so.
        keys: What is pressed there; a longer text than a key's name is typed.
        says: What the cell's output then holds; "" if only what the next use says shows it.
    """

    role: str
    name: str
    keys: tuple[str, ...]
    says: str


PANELS: dict[str, tuple[str, tuple[Use, ...]]] = {
    "Lab": (
        "lab.answers.set('answers', '9', '5'); Lab('04_training_modes', recipe='amp-fp16', loss_scale=0, steps=3, "
        "seed=0, task='digits-mlp')",
        (Use("button", "Start anew", ("Enter",), "Press again to forget 1 answer for good"),),
    ),
    "Prediction": (
        "lab.predict('Which one?', ['this', 'that'], answer='that', explanation='It says so.')",
        (
            Use("radio", "this", ("Space", "ArrowDown"), "Your choice: that"),
            Use("button", "Reveal", ("Enter",), "Right: that. It says so."),
        ),
    ),
    "Exercise": (
        "lab.exercise('1', expected=5, hint='two and three')",
        (
            Use("textbox", "Exercise 1", ("4", "Enter"), "4 is not right. Hint: two and three"),
            Use("textbox", "Exercise 1", ("Control+a", "5"), "not checked yet"),
            Use("button", "Check", ("Space",), "5 is right"),
        ),
    ),
    "BitExplorer": (
        "BitExplorer('fp16', 1.0)",
        (
            Use("combobox", "Format", ("ArrowDown",), "In bf16, 0 01111111 0000000 is 1"),
            Use("textbox", "Value", ("Control+a", "957", "Enter"), "is 956"),
            Use("button", "sign bit", ("Space",), "is -956"),
            Use("button", "next above", ("Enter",), "is -952"),
        ),
    ),
    "FloatDesigner": (
        "FloatDesigner(torch.randn(1000), exponent_bits=4, mantissa_bits=3)",
        (
            Use("slider", "Exponent bits", ("ArrowRight",), "e5m3, 9 bits"),
            Use("textbox", "Mantissa bits", ("Control+a", "2", "Enter"), "e5m2, 8 bits"),
            Use("combobox", "Special values", ("ArrowDown",), "e5m2fn, 8 bits"),
        ),
    ),
    "LossScalePanel": (
        "LossScalePanel(probe)",
        (
            Use("slider", "Loss scale", ("ArrowRight", "ArrowRight"), "At scale 2², "),
            Use("radio", "fp16", ("ArrowRight",), "in bf16"),
            Use("combobox", "Layer", ("ArrowDown",), "hidden1"),
        ),
    ),
    "StepThrough": (
        "StepThrough(load_task('digits-mlp', loss_weight=1e-4), steps=1)",
        (
            Use("button", "Next", ("Enter",), "2 forward"),
            Use("button", "2 forward", ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"), "Divided by 65536"),
            Use("combobox", "Recipe", ("bf16",), "Weights are stored in bf16 and used as they are"),
        ),
    ),
    "Cockpit": (
        "Cockpit(task='digits-mlp', steps=3, runs_dir=lab.runs_dir)",
        (
            Use("combobox", "Mode", ("ArrowDown",), "None is needed"),
            Use("button", "More knobs", ("Enter",), "Block size"),
            Use("textbox", "Steps", ("Control+a", "4", "Enter"), ""),
            Use("button", "Train", ("Space",), " after 4 steps"),
            Use("checkbox", "amp-bf16 on digits-mlp", ("Space",), ""),
            Use("button", "Delete", ("Enter",), "Press again to delete 1 run for good"),
        ),
    ),
    "RecipeControls": (
        "RecipeControls('amp-fp16')",
        (
            Use("combobox", "Mode", ("ArrowDown",), ""),
            Use("textbox", "Share", ("Control+a", "bf17", "Enter"), "Still in use: amp-bf16"),
        ),
    ),
    "ScalerBoard": (
        "ScalerBoard(steps=10, growth_interval=3)",
        (
            Use("button", "a burst", ("Enter",), "5 of 10 steps overflow"),
            Use("button", "step 0", ("ArrowRight", "Space"), "6 of 10 steps overflow"),
        ),
    ),
    "ScalingGame": (
        "ScalingGame([(8, 15), (8, 13)], init_exponent=16)",
        (
            Use("button", "÷2", ("Enter",), "step 1 of 2"),
            Use("group", "The game", ("ArrowDown",), "step 2 of 2"),
        ),
    ),
    "StateControls": (
        "controls",
        (Use("combobox", "Weights", ("bf16",), "10 bytes per parameter"),),
    ),
    "Microscope": (
        "Microscope(record_gradients(adam, steps=20), controls)",
        (Use("combobox", "Weights", ("fp32",), "14 bytes per parameter"),),
    ),
    "StateTraining": (
        "StateTraining(adam, controls, steps=3)",
        (Use("button", "Train", ("Enter",), "done: "),),
    ),
    "MemoryPanel": (
        "MemoryPanel(batch=16, gpu='t4')",
        (
            Use("combobox", "GPU", ("ArrowDown",), "it fits on a10"),
            Use("slider", "Rows of a batch", ("ArrowRight",), "32 x 1024 tokens"),
            Use("button", "Apply", ("Enter",), ""),
            Use("button", "Undo", ("Enter",), "32 x 1024 tokens"),
        ),
    ),
    "TileWalk": (
        "TileWalk(8, 8, 8, fast_bytes=256, block=(4, 4, 4))",
        (
            Use("button", "Next move", ("Enter",), "Move 1 of 52"),
            Use("group", "The walk", ("ArrowRight",), "Move 2 of 52"),
            Use("slider", "M", ("ArrowRight",), "9 x 8 x 8"),
        ),
    ),
    "ClaimQuiz": (
        "ClaimQuiz(SUBJECTS['number formats'])",
        (
            Use("radio", "holds", ("Space",), ""),
            Use("button", "Measure and reveal", ("Enter",), "Your prediction is right."),
            Use("button", "Next", ("Enter",), "Claim 2 of"),
        ),
    ),
    "a folded table": (
        "NotedTable(('what', 'n'), [(f'row {i}', str(i)) for i in range(26)], ['a note'])",
        (Use("", "Show all 26 rows", ("Enter",), "Show only the first 5"),),
    ),
}
CELLS = (SETUP, *(source for source, _ in PANELS.values()))


def test_every_panel_has_a_row():
    shown = {name for name in panels.__all__ if isinstance(getattr(panels, name), type)}
    assert shown <= PANELS.keys()


@pytest.mark.parametrize("name", PANELS)
def test_keys_alone_reach_it_and_move_it(opened: Notebook, name: str):
    cell = opened.page.locator(".jp-Notebook .jp-CodeCell").nth(1 + list(PANELS).index(name))
    output = cell.locator(".jp-Cell-outputArea")
    for use in PANELS[name][1]:
        cell.evaluate("node => node.focus()")  # as the arrows of JupyterLab's command mode do
        go_to(opened, stop_of(output, use))
        for key in use.keys:
            press(opened, key)
        expect(output).to_contain_text(use.says, timeout=30_000)


def stop_of(output: Locator, use: Use) -> Locator:
    if not use.role:
        return output.locator("summary")
    return output.get_by_role(use.role, name=words(f"^{use.name}")).locator("visible=true").first  # type: ignore[arg-type]


def go_to(notebook: Notebook, stop: Locator) -> None:
    """Presses Tab until the stop has the focus; fails when the focus does not show on the way."""
    expect(stop).to_be_enabled()
    for _ in range(MOST_STOPS):
        notebook.page.keyboard.press("Tab")
        assert audit.focus_faults(notebook.page) == []
        if stop.evaluate("node => node === document.activeElement"):
            return
    raise AssertionError(f"{MOST_STOPS} times Tab do not reach {stop}")


def press(notebook: Notebook, key: str) -> None:
    keyboard = notebook.page.keyboard
    named = {"Enter", "Space", "Home", "End"}
    if key in named or key.startswith(("Arrow", "Control+")):
        keyboard.press(key)
    else:
        keyboard.type(key)
