"""Measures the loss-scale panel in JupyterLab: from a key press on the scale control to the redrawn chart.

    python -m tests.browser.measure_latency

A press counts from the browser's keydown event to two points: the last change of the chart's elements, and the first
animation frame after it, when the change is on its way to the screen.
"""

from __future__ import annotations

import platform
import statistics
import tempfile
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

from playwright.sync_api import Page

from mixlab.machine import describe
from tests.browser.lab import chromium, notebook_on_a_page, serving, write_notebook
from tests.browser.test_loss_scale_panel import CELLS

MOVES = 20
TARGET_MS = 80

_WATCH = """() => {
    const chart = document.querySelector('.mixlab-ls-chart');
    window.moves = [];
    document.addEventListener('keydown', (event) => {
        const move = { pressed: event.timeStamp, changed: null, painted: null };
        window.moves.push(move);
        const observer = new MutationObserver(() => {
            move.changed = performance.now();
            requestAnimationFrame(() => requestAnimationFrame(() => {
                observer.disconnect();
                move.painted = performance.now();
            }));
        });
        observer.observe(chart, { attributes: true, subtree: true, childList: true, characterData: true });
    }, true);
}"""


def measure(page: Page) -> list[dict[str, float]]:
    """Returns for each of the moves when it was pressed, changed and painted, in ms."""
    page.evaluate(_WATCH)
    page.get_by_label("Loss scale 2k").focus()
    for i in range(1, MOVES + 1):
        page.keyboard.press("ArrowRight")
        page.wait_for_function(f"window.moves.length === {i} && window.moves[{i - 1}].painted !== null")
    moves: list[dict[str, float]] = page.evaluate("window.moves")
    return moves


def report(name: str, milliseconds: list[float]) -> str:
    p95 = sorted(milliseconds)[-(-95 * len(milliseconds) // 100) - 1]
    return f"{name:>34}: median {statistics.median(milliseconds):5.1f} ms, p95 {p95:5.1f} ms"


def main(print_line: Callable[[str], object] = print) -> None:
    with tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server, chromium() as browser:
        notebook = notebook_on_a_page(server, browser, write_notebook(Path(folder) / "latency.ipynb", CELLS))
        notebook.run_all()
        moves = measure(notebook.page)
        errors = notebook.close()
        browser_version = browser.version
    painted = [move["painted"] - move["pressed"] for move in moves]
    here = describe()
    print_line(f"{MOVES} key presses on the loss scale; {here.cpu}, {here.cores} cores, {platform.system()}")
    print_line(f"headless Chromium {browser_version}, JupyterLab {version('jupyterlab')}, torch {here.torch}")
    print_line(report("key press to changed chart", [move["changed"] - move["pressed"] for move in moves]))
    print_line(report("key press to second frame after it", painted))
    if errors or statistics.median(painted) > TARGET_MS:
        raise SystemExit(f"errors: {errors}; target: {TARGET_MS} ms median")


if __name__ == "__main__":
    main()
