"""The reference: it builds without a warning, has every public name, and describes every parameter."""

from __future__ import annotations

import re
import warnings
from html.parser import HTMLParser
from pathlib import Path

import pytest

from tests.docs import PAGES, all_undescribed, build, public_things, undescribed, with_mathml


class Page(HTMLParser):
    """The ids, the links and the pictures of an HTML page, and its texts."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.targets: list[str] = []
        self.text = path.read_text()
        self.feed(self.text)

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        for name, value in attributes:
            if name == "id":
                self.ids.add(value or "")
            elif name in ("href", "src"):
                self.targets.append(value or "")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[Path, Page]:
    """The pages of the reference, by their paths."""
    folder = tmp_path_factory.mktemp("docs")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        build(folder)
    return {path: Page(path) for path in sorted(folder.rglob("*.html"))}


def page_of(pages: dict[Path, Page], name: str) -> Page:
    return next(page for path, page in pages.items() if path.as_posix().endswith(f"{name.replace('.', '/')}.html"))


def test_only_a_reference_is_replaced(tmp_path: Path):
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(FileExistsError, match="holds no reference to replace"):
        build(tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "mine"


def test_every_public_name_is_on_the_page_of_its_face(pages: dict[Path, Page]):
    assert [
        f"{of}.{name}" for of, name, _ in public_things() if name not in page_of(pages, of).ids | {"mistakes"}
    ] == []


def test_readme_comes_first_and_leads_to_every_face(pages: dict[Path, Page]):
    page = page_of(pages, "index")
    assert "You turn knobs" in page.text
    assert {f"{name.replace('.', '/')}.html" for name in PAGES} <= set(page.targets)


def test_links_and_pictures_lead_somewhere(pages: dict[Path, Page]):
    broken = []
    for path, page in pages.items():
        for target in page.targets:
            place, _, anchor = target.partition("#")
            found = (path.parent / place).resolve() if place else path
            if not (
                re.match("https:|data:", target) or (found.exists() and (not anchor or anchor in pages[found].ids))
            ):
                broken.append(f"{path.name}: {target}")
    assert broken == []


def test_a_panel_shows_its_own_members_only(pages: dict[Path, Page]):
    ids = page_of(pages, "mixlab.panels").ids
    assert "MemoryPanel.estimate" in ids
    assert not {name for name in ids if name.endswith((".observe", ".layout", ".send"))}


def test_formulas_need_no_library(pages: dict[Path, Page]):
    assert "MathJax" not in "".join(page.text for page in pages.values())
    assert "<msqrt>" in page_of(pages, "mixlab.optimizers").text
    assert "<mfrac>" in with_mathml(r"$$ \frac{1}{2} $$")


def test_every_parameter_is_described():
    assert all_undescribed() == []


def test_a_parameter_that_is_not_described_is_found():
    def rounded(x: float, digits: int) -> float:
        """Rounds.

        Args:
            x: A number.
        """
        return round(x, digits)

    class Rounder:
        """Rounds.

        Args:
            digits: How many are kept.
        """

        def __init__(self, digits: int) -> None: ...

        def __call__(self, x: float) -> float: ...

        def public(self, x: float) -> None: ...

        def _private(self, x: float) -> None: ...

    Rounder.__module__ = "mixlab.planted"
    assert undescribed("rounded", rounded) == ["rounded: digits"]
    assert undescribed("Rounder", Rounder) == ["Rounder.public: x"]
