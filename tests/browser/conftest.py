"""JupyterLab on copies of notebooks, a headless Chromium on it, and a page that fails its test on any error.

def test_something(open_notebook):
    notebook = open_notebook(path)
    notebook.run_all()
    notebook.page.get_by_label("Loss scale 2k").press("ArrowRight")
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.lab import Notebook, Server, chromium, notebook_on_a_page, serving, write_notebook


@pytest.fixture(scope="session")
def jupyterlab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serving(tmp_path_factory.mktemp("jupyterlab")) as server:
        yield server


# One a module: Playwright allows one at a time, and a module may bring its own.
@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture(scope="module")
def opened(
    request: pytest.FixtureRequest, jupyterlab: Server, browser: Browser, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Notebook]:
    """A notebook of the module's CELLS, in one page for most of its tests: another kernel takes longer than they do."""
    name = request.module.__name__.rpartition(".")[2].removeprefix("test_")
    path = write_notebook(tmp_path_factory.mktemp("opened") / f"{name}.ipynb", request.module.CELLS)
    notebook = notebook_on_a_page(jupyterlab, browser, path)
    notebook.run_all()
    yield notebook
    assert notebook.close() == []


@pytest.fixture
def open_notebook(jupyterlab: Server, browser: Browser) -> Iterator[Callable[..., Notebook]]:
    """Yields a function that opens a copy of a notebook; afterwards no page or kernel may have reported an error."""
    opened: list[Notebook] = []

    def open_one(path: Path, *, width: int = 1400, height: int = 1000) -> Notebook:
        context = notebook_on_a_page(jupyterlab, browser, path, width=width, height=height)
        opened.append(context)
        return context

    yield open_one
    errors = [error for notebook in opened for error in notebook.close()]
    assert errors == []


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = os.path.dirname(__file__)
    for item in items:
        if str(item.path).startswith(here):
            item.add_marker("browser")
