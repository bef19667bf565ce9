"""The audit of the labs' pages: what was planted is found, and what is right is not."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

import pytest
from axe_playwright_python.base import AXE_FILE_PATH
from playwright.sync_api import Browser, Page

from tests.browser import audit

NPM_SHA256 = "66a8aaa95a8b044a7fd74a5435873bf04ff65a1ca75567c921b7509742085a14"  # axe.min.js of npm's axe-core 4.12.1

STRIPES = '<pattern id="s" width="4" height="4" patternUnits="userSpaceOnUse"><rect width="2" height="4"/></pattern>'


@pytest.fixture(scope="module")
def empty_page(browser: Browser) -> Iterator[Page]:
    page = browser.new_page(viewport={"width": 700, "height": 600})
    yield page
    page.close()


def show(page: Page, output: str) -> None:
    """Shows HTML as the output of a notebook's only cell, on white."""
    page.set_content(
        "<body style='margin: 0; height: 0; color: black; background: white; font: 16px sans-serif'>"
        "<main class='jp-Notebook'><div class='jp-WindowedPanel-outer' style='height: 600px; overflow: auto'>"
        f"<div class='jp-Cell'><div class='jp-OutputArea-output' style='overflow: auto'>{output}</div></div>"
        "</div></main>"
    )


def svg(inside: str) -> str:
    return f"<svg width=400 height=200 role=img aria-label=chart><defs>{STRIPES}</defs>{inside}</svg>"


def test_axe_core_is_npms_file():
    assert hashlib.sha256(AXE_FILE_PATH.read_bytes().rstrip(b"\n")).hexdigest() == NPM_SHA256


@pytest.mark.parametrize(
    "output",
    [
        "<p style='color: #777'>grey words</p>",  # 4.48
        "<p style='opacity: 0.5'>pale words</p>",
        "<p style='background: black; color: #222'>dark words</p>",
        "<input aria-label=box value=typed style='color: #aaa; border-color: black'>",
        "<input aria-label=box placeholder=hint style='border-color: black'><style>::placeholder {color: #aaa}</style>",
        svg("<text x=9 y=30 fill='#777'>grey label</text>"),
        svg("<rect width=200 height=60 fill='#224'/><text x=20 y=30 fill='#333'>on a bar</text>"),
        svg("<rect width=55 height=60 fill='#333'/><text x=9 y=30 fill='#333'>half on a dark bar</text>"),
        svg("<rect width=200 height=60 fill='url(#s)'/><text x=9 y=30 fill='#000'>on hatches</text>"),
        svg("<path d='M0 9L300 90' stroke='#aaa' stroke-width=2 fill=none />"),  # 2.32
        svg("<g opacity=0.3><path d='M0 9L300 90' stroke='#000' stroke-width=2 fill=none /></g>"),
        svg("<rect width=300 height=100 fill='#333'/><path d='M9 9L290 90' stroke='#000' stroke-width=2 fill=none />"),
        svg("<rect x=50 y=50 width=40 height=40 fill='#bbb'/>"),
        "<input aria-label=box value=typed style='border: 1px solid #bbb'>",
    ],
)
def test_what_is_faint_is_found(empty_page: Page, output: str):
    show(empty_page, output)
    found = audit.faint(empty_page)
    assert len(found) == 1, found
    assert found[0].endswith(" to 1")


@pytest.mark.parametrize(
    "output",
    [
        "<p style='color: #767676'>grey words</p>",  # 4.54
        "<p style='color: #888; font-size: 24px'>large words</p>",
        "<button disabled style='color: #ccc'>off</button>",
        "<p style='display: none; color: #ccc'>hidden</p>",
        svg("<rect width=200 height=60 fill='#224'/><text x=20 y=30 fill='#fff'>on a bar</text>"),
        svg(
            "<rect width=55 height=60 fill='#333'/><text x=9 y=30 fill='#000' stroke='#fff' stroke-width=4 "
            "paint-order=stroke>with a halo</text>"
        ),
        svg("<path d='M0 9L300 90' stroke='#949494' stroke-width=2 fill=none />"),
        svg("<g class=gridlayer><path d='M0 9L300 9' stroke='#eee' fill=none /></g>"),
        svg("<rect x=50 y=50 width=40 height=40 fill='#bbb' stroke='#555'/>"),
        "<input aria-label=box value=typed style='border: 1px solid #888'>",
    ],
)
def test_what_stands_out_is_not(empty_page: Page, output: str):
    show(empty_page, output)
    assert audit.faint(empty_page) == []


@pytest.mark.parametrize(
    ("output", "words"),
    [
        ("<div style='width: 900px'>" + 40 * "word" + "</div>", "px outside"),
        ("<div style='width: 60px; overflow: hidden; white-space: nowrap'>more than fits</div>", "px outside"),
        ("<div style='height: 9px; overflow: hidden'>half of it</div>", "above or below"),
        (svg("<text x=350 y=30>beyond the picture</text>"), "px outside svg"),
        ("<input value='longer than its box' style='width: 60px'>", "its box is too narrow"),
        (
            "<button style='width: 60px; overflow: hidden; text-overflow: ellipsis'><nobr>longer than that</button>",
            "shortened",
        ),
        (svg("<text x=9 y=30>one label</text><text x=50 y=34>another</text>"), "lies over"),
        (svg("<text x=99 y=90 transform='rotate(40 99 90)'>turned</text><text x=110 y=104>over</text>"), "lies over"),
    ],
)
def test_what_is_cut_or_covered_is_found(empty_page: Page, output: str, words: str):
    show(empty_page, output)
    assert words in "\n".join(audit.cut_off(empty_page))


@pytest.mark.parametrize(
    "output",
    [
        "<div tabindex=0 style='width: 100px; overflow-x: auto'><nobr>longer than its place; it scrolls</div>",
        svg("<text x=9 y=30>one label</text><text x=9 y=46>another</text>"),
        svg("<text x=9 y=50 transform='rotate(45 9 50)'>turned</text><text x=40 y=50 transform='rotate(45 40 50)'>t"),
        "<p title='a hint'>plain words</p>",
    ],
)
def test_what_fits_is_not(empty_page: Page, output: str):
    show(empty_page, output)
    assert audit.cut_off(empty_page) == []


def test_names_are_missing_doubled_or_begin_with_an_icon(empty_page: Page):
    buttons = "<button>Apply</button><button>Apply</button><button>\uf04b Train</button><input>"
    show(empty_page, buttons + "<div role=group aria-label='Batch 8'><button>Apply</button><button>Undo</button></div>")
    assert audit.bad_names(empty_page) == [
        "a textbox without a name",
        "an icon in the name '\\uf04b Train'",
        "2 buttons named 'Apply' in ()",
    ]
    assert [finding.partition(":")[0] for finding in audit.violations(empty_page)] == ["label"]
