"""The toggles of lab 06, the microscope and the training that hang on them, by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import Notebook, write_notebook

CELLS = (
    "from dataclasses import replace\nfrom mixlab import load_task\n"
    "from mixlab.experiments import record_gradients\n"
    "from mixlab.panels import Microscope\nfrom mixlab.panels import StateControls\n"
    "from mixlab.panels import StateTraining",
    "task = replace(load_task('digits-cnn'), lr=1e-4)\ncontrols = StateControls('fp32,exp_avg_sq=bf16')\n"
    "microscope = Microscope(record_gradients(task, steps=90), controls)\nmicroscope",
    "training = StateTraining(task, controls, steps=40)\ntraining",
)


def test_toggles_move_the_microscope_and_the_training(open_notebook: Callable[..., Notebook], tmp_path: Path):
    lab = open_notebook(write_notebook(tmp_path / "adam.ipynb", CELLS), width=800)
    lab.run_all()
    page = lab.page
    first, second = page.locator(".jp-CodeCell").nth(1), page.locator(".jp-CodeCell").nth(2)
    said = first.get_by_role("status")
    expect(said).to_contain_text("90 steps at lr 0.0001. Exact: the weight goes from")
    expect(first.locator(".mixlab-chart")).to_have_count(4)
    stored = first.locator(".mixlab-chart").first.locator("path").nth(1)
    moving = stored.get_attribute("d")

    weights = first.get_by_label("Weights", exact=True)
    weights.select_option("bf16")
    expect(said).to_contain_text("it moves in 0 steps, by +0. Half the gap to its next bf16 value is")
    assert stored.get_attribute("d") != moving
    expect(first.get_by_text(re.compile(r"10 bytes per parameter"))).to_be_visible()
    expect(second.get_by_label("Weights", exact=True)).to_have_value(weights.input_value())

    train = second.get_by_role("button", name="Train")
    expect(train).to_be_enabled()
    train.focus()
    page.keyboard.press("Enter")
    done = second.get_by_role("status")
    expect(done).to_contain_text("done: bf16,exp_avg=fp32,update=nearest, lr 0.0001: loss", timeout=60_000)
    expect(done).to_contain_text("of the updates swallowed")
    expect(second.locator(".mixlab-legend li")).to_have_count(1)
    for chart in range(4):
        drawn = second.locator(".mixlab-chart").nth(chart)
        assert len(drawn.locator("path").first.get_attribute("d") or "") > 20
        assert drawn.bounding_box()["width"] < 400

    first.get_by_label("Share", exact=True).fill("bf17")
    first.get_by_label("Share", exact=True).press("Tab")
    expect(first.get_by_role("alert")).to_contain_text("unknown recipe 'bf17'")
    assert lab.run_in_kernel("print(controls.label, microscope.stored.moved, len(training.runs))") == (
        "bf16,exp_avg=fp32,update=nearest, lr 0.0001 0 1"
    )
