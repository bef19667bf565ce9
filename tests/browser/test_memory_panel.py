"""The panel of lab 07 by keyboard: sliders, boxes, lists, a change that is applied and taken back."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.browser.lab import Notebook, write_notebook

CELLS = ("from mixlab.panels import MemoryPanel\npanel = MemoryPanel(batch=16, gpu='t4')\npanel",)


def test_the_panel_answers_the_keyboard(open_notebook: Callable[..., Notebook], tmp_path: Path):
    lab = open_notebook(write_notebook(tmp_path / "memory.ipynb", CELLS), width=800)
    lab.run_all()
    page = lab.page
    said, bars = page.get_by_role("status"), page.locator(".jp-OutputArea-output").get_by_role("img")
    gpus = page.get_by_role("list", name="GPUs on which it fits").get_by_role("listitem")
    expect(said).to_contain_text("16 x 1024 tokens")
    expect(said).to_contain_text("it does not fit on t4: 2.62 GiB are missing")
    expect(gpus).to_have_count(19)
    expect(gpus.filter(has_text="▶")).to_contain_text("✗ ▶ t4")
    drawn = bars.inner_html()

    page.get_by_role("slider", name="Rows of a batch, slider").focus()
    page.keyboard.press("ArrowLeft")
    expect(said).to_contain_text("8 x 1024 tokens")
    expect(said).to_contain_text("it fits on t4")
    expect(gpus.filter(has_text="▶")).to_contain_text("✓ ▶ t4")
    assert bars.inner_html() != drawn
    rows = page.get_by_role("textbox", name="Rows of a batch")
    expect(rows).to_have_value("8")
    rows.fill("24")
    rows.press("Tab")
    expect(said).to_contain_text("24 x 1024 tokens")
    tokens = page.get_by_role("textbox", name="Tokens per row")
    tokens.fill("4000")
    tokens.press("Tab")
    expect(tokens).to_have_accessible_description(re.compile("seq=4000 is longer than gpt2.*Still in use: 1024"))
    expect(tokens).to_have_value("4000")
    expect(said).to_contain_text("24 x 1024 tokens")

    cells = page.locator(".jp-Cell").count()
    page.get_by_label("Recipe", exact=True).focus()
    page.keyboard.type("pure bf16")  # a and b would add cells, and d d delete one, if JupyterLab heard them
    expect(said).to_contain_text("gpt2 under bf16,")
    page.keyboard.press("ArrowDown")
    expect(said).to_contain_text("gpt2 under bf16-sr")
    assert page.locator(".jp-Cell").count() == cells
    page.get_by_label("Recipe", exact=True).select_option("FP32")
    expect(said).to_contain_text("gpt2 under fp32")
    page.get_by_label("Model", exact=True).select_option("llama-3-8b (8.03 B)")
    page.get_by_label("GPU", exact=True).select_option("h200 (141 GiB)")
    expect(said).to_contain_text("it does not fit on h200")
    expect(page.get_by_role("row", name="weights cast by autocast")).to_have_count(0)

    before = said.inner_text()
    names = page.get_by_role("group", name="Changes").get_by_role("button").all_inner_texts()
    assert len(set(names)) == len(names) > 2
    assert all(name.startswith("Apply: ") for name in names[:-1])
    page.get_by_role("button", name="Apply: ").first.focus()
    page.keyboard.press("Enter")
    expect(said).not_to_have_text(before)
    expect(said).to_contain_text("it fits on h200")
    undo = page.get_by_role("button", name="Undo")
    expect(undo).to_be_enabled()
    undo.focus()
    page.keyboard.press("Enter")
    expect(said).to_have_text(before)

    for element in (bars, page.get_by_role("table"), page.get_by_role("list", name="GPUs on which it fits")):
        assert element.evaluate("node => node.getBoundingClientRect().right") <= 800
    page.get_by_label("Share", exact=True).fill("bf17")
    page.get_by_label("Share", exact=True).press("Tab")
    expect(page.get_by_label("Share", exact=True)).to_have_accessible_description(re.compile("unknown recipe 'bf17'"))
    assert (
        lab.run_in_kernel("print(panel.estimate.shape.name, panel.estimate.batch, panel.gpu)") == "llama-3-8b 24 h200"
    )
