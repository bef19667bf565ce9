"""The bit explorer: what the browser decodes is what Python decodes; and in JupyterLab, by mouse and by keyboard."""

from __future__ import annotations

import base64
import math
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from mixlab.formats import FORMATS, Format
from mixlab.panels import BitExplorer
from mixlab.panels.bit_explorer import bit_text, number_text, parameters
from mixlab.panels.scripts import script
from tests.browser.lab import Notebook, write_notebook

OTHERS = [Format.parse("e5m3"), Format("flush", 4, 3, subnormals=False), Format.parse("e8m1")]
CELLS = ("from mixlab.panels import BitExplorer", "panel = BitExplorer('fp16', 1.0)\npanel")


@pytest.fixture(scope="module")
def empty_page(browser: Browser) -> Iterator[Page]:
    """A page with the panel's functions in `panel`."""
    page = browser.new_page()
    source = base64.b64encode(script("bit_explorer.js").encode()).decode()
    page.evaluate("async (url) => { window.panel = await import(url); }", f"data:text/javascript;base64,{source}")
    yield page
    page.close()


def codes_of(fmt: Format) -> list[int]:
    """All codes of small formats; of others 2000 random ones, and those at the borders of the classes."""
    if fmt.bits <= 8:
        return list(range(1 << fmt.bits))
    chance = random.Random(fmt.bits)
    limits = [fmt.encode(x) for x in (0.0, fmt.smallest_subnormal, fmt.smallest_normal, fmt.max)]
    near = [limit + step for limit in limits for step in (-1, 0, 1) if limit + step >= 0]
    return near + [1 << (fmt.bits - 1), (1 << fmt.bits) - 1] + [chance.getrandbits(fmt.bits) for _ in range(2000)]


def as_text(x: float) -> str:
    """How numbers travel here: JSON has no -0, inf and NaN."""
    return "NaN" if math.isnan(x) else number_text(x)


@pytest.mark.parametrize("fmt", [*FORMATS.values(), *OTHERS], ids=str)
def test_the_browser_decodes_as_python_does(empty_page: Page, fmt: Format):
    codes = codes_of(fmt)
    expected: list[list[Any]] = []
    for code in codes:
        meaning = fmt.decode(code)
        value = meaning.value
        gap = as_text(fmt.ulp(value) if value or fmt.has_subnormals else fmt.smallest_normal)
        beside = [as_text(fmt.next_down(value)), as_text(fmt.next_up(value))]
        expected.append([as_text(value), meaning.kind, *beside, gap if math.isfinite(value) else ""])
    script = """([format, all]) => all.map((bits) => {
        const { text, decode, neighbours, ulp } = window.panel;
        const { value, kind } = decode(format, bits);
        const beside = neighbours(format, bits).map((next) => text(next ? next.value : NaN));
        return [text(value), kind, ...beside, Number.isFinite(value) ? text(ulp(format, bits)) : ""];
    })"""
    decoded = empty_page.evaluate(script, [parameters(fmt), [bit_text(code, fmt) for code in codes]])
    wrong = [pair for pair in zip(codes, decoded, expected, strict=True) if pair[1] != pair[2]]
    assert wrong == []


@pytest.mark.parametrize("fmt", ["fp16", "e4m3fn", "e8m0fnu", "fp64"])
def test_a_step_leads_to_the_neighbours_bits(empty_page: Page, fmt: str):
    script = """([format, all]) => all.flatMap((bits) => window.panel.neighbours(format, bits)).every(
        (next) => !next?.bits || Object.is(window.panel.decode(format, next.bits).value, next.value))"""
    codes = [bit_text(code, FORMATS[fmt]) for code in codes_of(FORMATS[fmt])]
    assert empty_page.evaluate(script, [parameters(FORMATS[fmt]), codes])


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0999755859375, "0.0999755859375"),
        (2.0**-24, "2⁻²⁴ = 5.9604644775390625e-08"),
        (0.1, "≈ 0.1"),
        (0.100000001490116119384765625, "0.100000001490116119384765625"),
        (-448.0, "-448"),
        (0.0, "0"),
    ],
)
def test_values_are_exact_or_say_so(empty_page: Page, value: float, shown: str):
    assert empty_page.evaluate("(value) => window.panel.exactText(value)", value) == shown


@pytest.fixture
def notebook(opened: Notebook) -> Notebook:
    assert opened.run_in_kernel("panel.format, panel.value = 'fp16', 1.0\nprint(panel.last_error)") == "None"
    expect(opened.page.locator(".mixlab-be-bit")).to_have_count(16)
    expect(opened.page.locator(".mixlab-be-value")).to_have_text("1")
    return opened


def value(page: Page) -> Any:
    return page.locator(".mixlab-be-value").first


def test_clicks_and_keys_flip_bits(notebook: Notebook):
    page = notebook.page
    expect(value(page)).to_have_text("1")
    page.get_by_role("button", name="sign bit").click()
    expect(value(page)).to_have_text("-1")
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("button", name="exponent bit worth 16:")).to_be_focused()
    page.keyboard.press("Space")
    expect(page.locator(".mixlab-be-kind")).to_have_text("infinity")
    page.keyboard.press("Space")
    page.keyboard.press("End")
    page.keyboard.press("Enter")
    expect(value(page)).to_have_text("-1.0009765625")
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(value(page)).to_have_text("1.0009765625")
    expect(page.locator(".mixlab-be-formula")).to_have_text(
        "(\u22121)⁰ × 1.0000000001₂ × 2¹⁵⁻¹⁵ = 1.0009765625 × 2⁰ = 1.0009765625"
    )
    expect(page.locator(".mixlab-be-status")).to_contain_text("In fp16, 0 01111 0000000001 is 1.0009765625")
    expect(page.locator(".mixlab-be-table caption")).to_have_text("1.0009765625 in every format")
    assert notebook.run_in_kernel("print(panel.bits, panel.last_error)") == "0011110000000001 None"


def test_numbers_are_typed_formats_chosen_and_neighbours_visited(notebook: Notebook):
    page = notebook.page
    box = page.get_by_label("Value", exact=True)
    box.fill("957")
    box.press("Enter")
    expect(value(page)).to_have_text("957")
    page.get_by_label("Format", exact=True).select_option("e5m2")
    expect(value(page)).to_have_text("896")
    expect(page.locator(".mixlab-be-bit")).to_have_count(8)
    expect(page.locator(".mixlab-be-here")).to_contain_text("896")
    page.get_by_role("button", name="next above").click()
    expect(value(page)).to_have_text("1024")
    box.fill("much")
    box.press("Enter")
    expect(page.get_by_role("alert")).to_contain_text("type a number such as 0.1")
    page.get_by_role("button", name="next below").click()
    expect(page.get_by_role("alert")).to_be_hidden()
    assert notebook.run_in_kernel("print(panel.format, panel.value, panel.last_error)") == "e5m2 896.0 None"


def test_python_moves_every_view_and_a_reload_keeps_it(tmp_path: Path, open_notebook: Callable[..., Notebook]):
    notebook = open_notebook(write_notebook(tmp_path / "views.ipynb", CELLS))
    notebook.run_all()
    page = notebook.page
    notebook.run_in_kernel("display(panel)\nprint()")
    notebook.run_in_kernel("panel.format = 'bf16'; panel.value = 0.1; print()")
    for shown in page.locator(".mixlab-be-value").all():
        expect(shown).to_have_text("0.10009765625")
    page.get_by_role("button", name="sign bit").last.click()
    expect(value(page)).to_have_text("-0.10009765625")
    notebook.save()
    notebook.reload()
    expect(value(page)).to_have_text("-0.10009765625")


def test_a_click_is_answered_without_the_kernel(notebook: Notebook):
    page = notebook.page
    notebook.run_in_kernel("import threading, time; print()")
    page.locator(".jp-Notebook-footer").click()
    page.locator(".jp-Notebook .jp-CodeCell").last.locator(".cm-content").fill("time.sleep(3)")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")).to_contain_text("*")
    shown, took_ms = page.evaluate("""async () => {
        const [bit, value] = ['.mixlab-be-bit', '.mixlab-be-value'].map((name) => document.querySelector(name));
        const shown = [], took_ms = [];
        for (let i = 0; i < 5; i += 1) {
            const began = performance.now();
            bit.click();
            await new Promise(requestAnimationFrame);
            took_ms.push(performance.now() - began);
            shown.push(value.textContent);
        }
        return [shown, took_ms];
    }""")
    assert shown == ["-1", "1", "-1", "1", "-1"]
    assert min(took_ms) <= 100
    expect(page.locator(".jp-CodeCell").last.locator(".jp-InputPrompt")).to_contain_text("*", timeout=1)
    notebook.wait_for_idle()
    expect(page.locator(".mixlab-be-status")).to_contain_text("is -1")


def test_nothing_is_cut_off(notebook: Notebook):
    page = notebook.page
    notebook.run_in_kernel("panel.format = 'fp32'; panel.value = 0.1; print()")
    for theme in ("Light", "Dark"):
        notebook.use_theme(theme)
        for width in (800, 1400):
            page.set_viewport_size({"width": width, "height": 900})
            page.locator(".mixlab-bit-explorer").scroll_into_view_if_needed()
            page.wait_for_timeout(200)
            notebook.screenshot(f"bit_explorer_{theme.lower()}_{width}")
            assert page.evaluate(_OUTSIDE_THE_OUTPUT) == []


_OUTSIDE_THE_OUTPUT = """() => {
    const output = document.querySelector('.mixlab-bit-explorer').closest('.jp-OutputArea-output');
    const limits = output.getBoundingClientRect();
    const parts = document.querySelectorAll('.mixlab-bit-explorer :is(button, input, select, p, span, div, td)');
    return [...parts].filter((part) => {
        const box = part.getBoundingClientRect();
        return box.width > 0 && (box.left < limits.left - 1 || box.right > limits.right + 1);
    }).map((part) => `${part.className}: ${part.textContent}`);
}"""


def test_the_number_that_the_kernel_writes_is_the_number_that_the_browser_writes(empty_page: Page):
    chance = random.Random(0)
    values = [chance.choice((1, -1)) * 10 ** chance.uniform(-40, 40) for _ in range(500)] + [1e15, 1e16, 1e-4, 9e-5]
    values += [sign * 2.0**k for k in (*range(-140, 130, 7), -14, 53, 54) for sign in (1, -1)]
    assert empty_page.evaluate("(all) => all.map(window.panel.text)", values) == list(map(number_text, values))
    assert BitExplorer("fp16", 1e-5)._answer["asked"] == empty_page.evaluate("() => window.panel.text(1e-5)")
