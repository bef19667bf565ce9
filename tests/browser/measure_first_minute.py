"""Measures a newcomer's path in JupyterLab: from the server's start to the first thing that moves, and through lab 02.

    python -m tests.browser.measure_first_minute [FOLDER FOR SCREENSHOTS]

The first time counts from starting the server of `make lab`, installed as it is, to the first drawn step of lab 00's
cockpit; Run All is the reader's only act. The second counts from opening lab 02 to gradients that vanished, and the
third to gradients that came back: Run All, and the arrow keys of the loss scale.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from playwright.sync_api import Page, expect

from mixlab.machine import describe
from tests.browser.lab import REPOSITORY, Notebook, Server, chromium, notebook_on_a_page, serving

LABS = REPOSITORY / "labs"


def run_all(page: Page) -> None:
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def first_step_of_the_cockpit(page: Page) -> None:
    page.locator(".mixlab-curves path[d^='M']").first.wait_for(state="attached", timeout=120_000)


def gradients_that_vanished(page: Page) -> None:
    page.get_by_role("radio").first.check(timeout=120_000)  # a prediction, which may hold the panel back
    expect(page.get_by_role("img", name=re.compile("become zero")).first).to_be_visible(timeout=120_000)


def gradients_that_came_back(page: Page) -> None:
    page.get_by_role("slider", name=re.compile("^Loss scale")).first.focus()
    saved = page.get_by_role("img", name=re.compile("(none|less than .*) of the non-zero gradients become zero"))
    for _ in range(64):
        page.keyboard.press("ArrowRight")
        if saved.count():
            return
    raise AssertionError("no scale saved the gradients")


def timed(
    server: Server, browser: object, lab: str, acts: list[Callable[[Page], None]], began_s: float
) -> tuple[Notebook, list[float]]:
    """Opens a lab, runs all of it, and returns the seconds after which each act was done."""
    notebook = notebook_on_a_page(server, browser, LABS / f"{lab}.ipynb")  # type: ignore[arg-type]
    run_all(notebook.page)
    seconds = []
    for act in acts:
        act(notebook.page)
        seconds.append(time.monotonic() - began_s)
    return notebook, seconds


def main(shots: str = "", print_line: Callable[[str], object] = print) -> None:
    here = describe()
    print_line(f"{here.summary}; JupyterLab {version('jupyterlab')}; load {os.getloadavg()[0]:.1f}")
    with chromium() as browser, tempfile.TemporaryDirectory() as folder:
        began_s = time.monotonic()
        with serving(Path(folder)) as server:
            notebook, (moved,) = timed(server, browser, "00_start_here", [first_step_of_the_cockpit], began_s)
            print_line(f"lab 00, from the server's start to the first drawn step: {moved:.1f} s")
            if shots:
                notebook.page.screenshot(path=Path(shots) / "first_minute_00.png")
            notebook.close()
            acts = [gradients_that_vanished, gradients_that_came_back]
            notebook, (vanished, back) = timed(server, browser, "02_underflow_and_loss_scaling", acts, time.monotonic())
            print_line(
                f"lab 02, from opening: gradients seen to vanish after {vanished:.1f} s, back after {back:.1f} s"
            )
            if shots:
                notebook.page.screenshot(path=Path(shots) / "first_minute_02.png")
            notebook.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
