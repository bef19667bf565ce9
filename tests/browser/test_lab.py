"""The browser tests' own tools: an error in the page, in the kernel, or a call to the outside is seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Browser

from tests.browser.lab import Server, notebook_on_a_page, write_notebook


def test_planted_errors_are_seen(jupyterlab: Server, browser: Browser, tmp_path: Path):
    path = write_notebook(tmp_path / "planted.ipynb", ["import sys\nprint('lost', file=sys.stderr)\n1 / 0"])
    notebook = notebook_on_a_page(jupyterlab, browser, path)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        notebook.run_all()
    notebook.page.evaluate(
        "() => { setTimeout(() => { throw new Error('planted throw') }); console.error('planted log') }"
    )
    notebook.page.evaluate("() => { new Image().src = 'http://127.0.0.1:9/planted.png' }")
    notebook.page.wait_for_timeout(200)
    found = "\n".join(notebook.close())
    for words in (
        "lost",
        "ZeroDivisionError",
        "planted throw",
        "planted log",
        "outside: http://127.0.0.1:9/planted.png",
    ):
        assert words in found
