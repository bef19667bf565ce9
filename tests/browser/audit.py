"""Looks at a lab's page as people with other eyes and hands meet it: contrast, cuts, names, axe-core's rules."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Page, expect

from tests.browser.lab import Notebook

SCRIPT = Path(__file__).with_name("audit.js")
SCREEN = 3000  # the height of the page in pixels while it is looked at
ICONS = re.compile("[\ue000-\uf8ff]")
CONTROLS = {"button", "checkbox", "combobox", "listbox", "radio", "slider", "spinbutton", "switch", "textbox", "tab"}
GROUPS = {"group", "region", "radiogroup", "toolbar"}
# Lines at which labels stand anyway, and what is drawn around shapes in the page's own colour.
NOT_NEEDED = ".gridlayer, .zerolinelayer, .modebar, [class*=grid], [class*=halo]"
_WITHOUT_TEXTS = """
.jp-Notebook *, .jp-Notebook *::placeholder, .jp-Notebook *::marker {
  -webkit-text-fill-color: transparent !important; text-shadow: none !important; caret-color: transparent !important;
  text-decoration-color: transparent !important; transition: none !important; animation: none !important; }
.jp-Notebook svg:not(#a):not(#b) :is(text, tspan) { fill: transparent !important; stroke: transparent !important; }
"""


@cache
def _script() -> str:
    return f"data:text/javascript;base64,{base64.b64encode(SCRIPT.read_bytes()).decode()}"


def _call(page: Page, function: str, *arguments: object) -> Any:
    call = "async ([url, name, args]) => (await import(url))[name](...args)"
    return page.evaluate(call, [_script(), function, list(arguments)])


def violations(page: Page) -> list[str]:
    """Returns what axe-core finds in the outputs, one line for each element."""
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("() => axe.run({include: ['.jp-OutputArea-output']}, {resultTypes: ['violations']})")[
        "violations"
    ]
    return [f"{rule['id']}: {node['html'][:200]}" for rule in found for node in rule["nodes"]]


def faint(page: Page) -> list[str]:
    """Returns the texts under 4.5 to 1 (3 to 1 where they are large) and the lines under 3 to 1."""
    found: list[str] = []
    for _ in screens(page):
        texts, lines = _call(page, "textsOnScreen"), _call(page, "linesOnScreen", NOT_NEEDED)
        style = page.add_style_tag(content=_WITHOUT_TEXTS)
        picture = base64.b64encode(page.screenshot()).decode()
        style.evaluate("node => node.remove()")
        found += _call(page, "faint", picture, texts, lines)
    return list(dict.fromkeys(found))


def screens(page: Page) -> Iterator[int]:
    """Scrolls through the notebook, so that everything is once wholly on the screen."""
    scroller = page.locator(".jp-WindowedPanel-outer").first
    height = scroller.evaluate("node => node.scrollHeight")
    seen = scroller.evaluate("node => node.clientHeight")
    for top in range(0, max(1, height - seen // 4), 3 * seen // 4):
        scroller.evaluate("(node, top) => { node.scrollTop = top; }", top)
        page.wait_for_timeout(50)
        yield top
    scroller.evaluate("node => { node.scrollTop = 0; }")


def cut_off(page: Page) -> list[str]:
    """Returns the texts and controls that are cut off or leave their output, and the texts that overlap."""
    return [*_call(page, "cuts"), *_call(page, "overlaps")]


def chart_faults(page: Page) -> list[str]:
    """Returns the charts of plotly without a name, and what the Tab key stops at in them."""
    return list(_call(page, "chartFaults"))


def focus_faults(page: Page) -> list[str]:
    """Returns what has the focus and does not show it, if that is so."""
    return list(_call(page, "focusFaults"))


def bad_names(page: Page) -> list[str]:
    """Returns the controls without a name, with an icon's character in it, or with one that another has too."""
    nodes = controls(page)
    found = [f"a {role} without a name" for role, name, _ in nodes if not name.strip()]
    found += [f"an icon in the name {name!r}" for _, name, _ in nodes if ICONS.search(name)]
    buttons = Counter((name, groups) for role, name, groups in nodes if role == "button")
    found += [f"{count} buttons named {name!r} in {groups}" for (name, groups), count in buttons.items() if count > 1]
    return found


def controls(page: Page) -> list[tuple[str, str, tuple[str, ...]]]:
    """Returns role, name and the names of the groups around each control of the outputs."""
    session = page.context.new_cdp_session(page)
    nodes = {node["nodeId"]: node for node in session.send("Accessibility.getFullAXTree")["nodes"]}
    document = session.send("DOM.getDocument", {"depth": -1})["root"]
    inside = set(_within(document, "jp-OutputArea-output"))
    session.detach()
    found = []
    for node in nodes.values():
        if not node["ignored"] and _of(node, "role") in CONTROLS and node["backendDOMNodeId"] in inside:
            groups = (_of(one, "name") for one in _above(node, nodes) if _of(one, "role") in GROUPS)
            found.append((_of(node, "role"), _of(node, "name"), tuple(name for name in groups if name)))
    return found


def _within(node: dict[str, Any], name: str, inside: bool = False) -> Iterator[int]:
    """Yields the ids of all elements inside those of a class."""
    attributes = node.get("attributes", [])
    if inside:
        yield node["backendNodeId"]
    inside = inside or name in dict(zip(attributes[::2], attributes[1::2], strict=True)).get("class", "").split()
    for child in node.get("children", []):
        yield from _within(child, name, inside)


def _of(node: dict[str, Any], what: str) -> str:
    return str(node.get(what, {}).get("value", ""))


def _above(node: dict[str, Any], nodes: dict[str, dict[str, Any]]) -> Iterator[dict[str, Any]]:
    while node := nodes.get(node.get("parentId", ""), {}):
        yield node


def show_everything(notebook: Notebook) -> None:
    """Answers every question, trains what can be trained, is refused once, and unfolds what is folded."""
    page = notebook.page
    for question in page.locator(".jp-OutputArea-output .widget-radio:visible").all():
        if question.locator("input:checked").count() == 0:
            question.get_by_role("radio").first.check()
    notebook.wait_for_idle()
    expect(page.get_by_text("the result appears here").locator("visible=true")).to_have_count(0, timeout=60_000)
    expect(page.get_by_text("The result appears as soon").locator("visible=true")).to_have_count(0, timeout=60_000)
    for name in ("Reveal", "Measure and reveal", "More knobs", "Train"):
        for button in page.get_by_role("button", name=name).locator("visible=true").all():
            if button.is_enabled():
                button.click()
                notebook.wait_for_idle()
    stops = page.get_by_role("button", name="Stop")
    for stop in stops.locator("visible=true").all():
        expect(stop).to_be_disabled(timeout=120_000)
    for box in page.get_by_role("textbox", name=re.compile(r"^Exercise \w+$")).locator("visible=true").all():
        box.fill("1")
        box.press("Enter")
    page.evaluate(
        "() => document.querySelectorAll('.jp-OutputArea-output details').forEach((one) => { one.open = true; })"
    )
    notebook.wait_for_idle()


@contextmanager
def width(page: Page, pixels: int, height: int = SCREEN) -> Iterator[None]:
    """Makes the page as wide as that, and waits until its charts have followed."""
    page.set_viewport_size({"width": pixels, "height": height})
    page.wait_for_function(_FOLLOWED, arg=pixels, timeout=20_000)
    page.wait_for_timeout(300)
    page.wait_for_function(_FOLLOWED, arg=pixels, timeout=20_000)  # the page may have been laid out once more
    yield


_FOLLOWED = """(pixels) => document.querySelector('.jp-Notebook').getBoundingClientRect().right <= pixels &&
  [...document.querySelectorAll('.js-plotly-plot .main-svg')].every((chart) => {
    const place = chart.closest('.js-plotly-plot');
    return Math.abs(chart.getBoundingClientRect().width - place.clientWidth) < 2 || !chart.checkVisibility();
})"""
