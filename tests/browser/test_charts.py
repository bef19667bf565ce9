"""Charts in JupyterLab: in the page's colours in both themes, named, without tab stops, after a reload too."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, expect

from tests.browser.lab import Notebook

CELLS = [
    """
from mixlab import figures, memory
figures.state_bars(memory.VARIANTS.values())
""",
    """
from mixlab.panels import Prediction
held = Prediction("How far?", ["far", "not far"], "not far", "Not far.")
held
""",
    "held.then(figures.number_line('e2m1fn'))",
    "print('after the charts')",
]
PAGE_TEXT = {"Light": "rgba(0, 0, 0, 0.87)", "Dark": "rgba(255, 255, 255, 0.87)"}


def fill(text: Locator) -> str:
    return str(text.evaluate("text => getComputedStyle(text).fill"))


def check_chart(chart: Locator, name: str, theme: str) -> None:
    picture = chart.get_by_role("img")
    expect(picture).to_have_count(1)
    expect(picture).to_have_attribute("aria-label", name)
    expect(chart.locator(".modebar-btn")).to_have_count(2)
    expect(chart.locator(".modebar-btn:not([tabindex='-1']), [tabindex='0']")).to_have_count(0)
    for text in (".gtitle", ".xtick text", ".legendtext"):
        assert fill(chart.locator(text).first) == PAGE_TEXT[theme]


@pytest.mark.parametrize("when", ["shown", "saved and opened again"])
def test_a_chart_is_named_has_the_pages_colours_and_no_tab_stops(opened: Notebook, when: str):
    page = opened.page
    if when == "shown":
        page.get_by_label("not far", exact=True).click()
        expect(page.locator(".js-plotly-plot")).to_have_count(2)
    else:
        opened.save()
        opened.reload()
    bars, line = page.locator(".js-plotly-plot").all()
    for theme in ("Dark", "Light"):
        opened.use_theme(theme)
        check_chart(line, LINE, theme)
        assert fill(bars.locator(".ytick text").first) == PAGE_TEXT[theme]
        inks = {fill(text) for text in bars.locator(".bartext-inside").all()}
        assert inks == {"rgb(0, 0, 0)", "rgb(255, 255, 255)"}, "each bar keeps its own ink"


LINE = (
    "Every finite value of e2m1fn, 15 of them. 15 values from -6 to 6, 2 of them subnormal; "
    "the gap between neighbours is 0.5 at the narrowest and 2 at the widest."
)
