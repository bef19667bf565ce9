"""Measures the memory of labs that are open at once in JupyterLab, all their cells run: server and kernels.

    python -m tests.browser.measure_open_labs [LAB ...]

Labs 02, 04 and 07 unless others are named. A process's share of what it shares with others (PSS) counts once for all
of them together; what each holds alone is its USS. The browser is not counted. Linux only.
"""

from __future__ import annotations

import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import psutil

from mixlab.cli.shipped import lab_named
from mixlab.machine import describe
from tests.browser.lab import chromium, notebook_on_a_page, serving

LIMIT_BYTES = 1.3e9


def shares() -> dict[str, tuple[int, int]]:
    """Returns (PSS, USS) in bytes of JupyterLab's server and of each kernel below this process."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        try:
            words, memory = process.cmdline(), process.memory_full_info()
        except (psutil.NoSuchProcess, psutil.ZombieProcess):
            continue
        kind = next((kind for kind in ("jupyterlab", "ipykernel_launcher") if kind in words), None)
        if kind is not None:
            found[f"{kind} {process.pid}"] = memory.pss, memory.uss
    return found


@contextmanager
def watched(interval_s: float = 0.5) -> Iterator[list[int]]:
    """Yields a list that grows by the sum of all PSS at each interval."""
    sums: list[int] = []
    done = threading.Event()

    def watch() -> None:
        while not done.wait(interval_s):
            sums.append(sum(pss for pss, _ in shares().values()))

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield sums
    finally:
        done.set()
        thread.join()


def main(*names: str, print_line: Callable[[str], object] = print) -> int:
    labs = [lab_named(name) for name in names or ("02", "04", "07")]
    print_line(f"{describe().summary}; JupyterLab {version('jupyterlab')}")
    with chromium() as browser, tempfile.TemporaryDirectory() as folder, serving(Path(folder)) as server:
        with watched() as sums:
            opened = []
            for lab in labs:
                opened.append(notebook_on_a_page(server, browser, lab))
                opened[-1].run_all(timeout_s=600)
                for panel in opened[-1].page.get_by_role("button", name="Reveal").all():  # results that wait
                    if panel.is_enabled():
                        panel.click()
                opened[-1].wait_for_idle()
            after = shares()
        for name, (pss, uss) in after.items():
            print_line(f"{name:<28} PSS {pss / 1e6:5.0f} MB, USS {uss / 1e6:5.0f} MB")
        total = sum(pss for pss, _ in after.values())
        print_line(f"{' and '.join(lab.stem for lab in labs)}, all cells run: {total / 1e6:.0f} MB")
        print_line(f"highest of {len(sums)} sums while they ran: {max(sums) / 1e6:.0f} MB of {LIMIT_BYTES / 1e6:.0f}")
    return int(max(sums) > LIMIT_BYTES)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
