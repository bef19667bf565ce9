"""A JupyterLab of one's own, a headless Chromium, and a notebook in it, driven as a person drives it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote

import nbformat
from playwright.sync_api import Browser, ConsoleMessage, Error, Page, Request, expect, sync_playwright

from mixlab.cli.notebooks import jupyterlab_command, jupyterlab_environment

SHOTS = Path(__file__).parent / "shots"
REPOSITORY = Path(__file__).parents[2]

# Words of errors that no reader can notice, each with its reason.
HARMLESS: dict[str, str] = {
    "[anywidget] Failed to initialize model.": "more than 2 s on a busy machine; presence.js makes up for it",
}


@dataclass(frozen=True)
class Server:
    url: str
    root: Path
    log: Path


@contextmanager
def serving(root: Path) -> Iterator[Server]:
    """Serves an empty folder in JupyterLab, with settings, workspaces and history of its own, until left."""
    notebooks, state = root / "notebooks", root / "state"
    notebooks.mkdir()
    state.mkdir()
    _keep_every_cell_on_the_page(state / "settings")
    server = Server(f"http://127.0.0.1:{_free_port()}", notebooks, root / "jupyterlab.log")
    options = [
        "--ServerApp.ip=127.0.0.1",
        "--IdentityProvider.token=",
        "--ServerApp.disable_check_xsrf=True",
        "--ServerApp.terminals_enabled=False",
        "--ServerApp.allow_root=True",
        f"--LabApp.user_settings_dir={state / 'settings'}",
        f"--LabApp.workspaces_dir={state / 'workspaces'}",
    ]
    command = jupyterlab_command(notebooks, port=int(server.url.rpartition(":")[2]), browser=False, extra=options)
    with server.log.open("w") as log:
        process = subprocess.Popen(command, env=_environment(state), stdout=log, stderr=log, stdin=subprocess.DEVNULL)
    try:
        _wait_until_up(server, process)
        yield server
    finally:
        process.terminate()
        process.wait(timeout=20)


def _environment(state: Path) -> dict[str, str]:
    own = {
        "HOME": str(state),
        "IPYTHONDIR": str(state / "ipython"),
        "JUPYTER_CONFIG_DIR": str(state / "config"),
        "JUPYTER_DATA_DIR": str(state / "data"),
        "JUPYTER_RUNTIME_DIR": str(state / "runtime"),
        "PYTHONPATH": str(REPOSITORY),
    }
    return jupyterlab_environment({**os.environ, **own})


def _keep_every_cell_on_the_page(settings: Path) -> None:
    """JupyterLab takes cells that are out of sight out of the page; the tests look at all of them."""
    tracker = settings / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    tracker.parent.mkdir(parents=True)
    tracker.write_text('{"windowingMode": "none"}')


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait_until_up(server: Server, process: subprocess.Popen[bytes], *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with urllib.request.urlopen(f"{server.url}/api", timeout=5):
                return
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not come up in {timeout_s:.0f} s:\n{server.log.read_text()[-4000:]}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """Starts the Chromium or Chrome that is installed, without a window."""
    found = [path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))]
    if not found:
        raise RuntimeError("no chromium, chromium-browser or google-chrome on PATH; Debian: apt-get install chromium")
    arguments = [
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found[0], headless=True, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


def write_notebook(path: Path, cells: Sequence[str]) -> Path:
    """Writes a notebook of code cells for the Python kernel, and returns its path."""
    kernel = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook = nbformat.v4.new_notebook(metadata={"kernelspec": kernel})
    notebook.cells = [nbformat.v4.new_code_cell(source, id=f"cell-{i}") for i, source in enumerate(cells)]
    nbformat.write(notebook, path)
    return path


def with_parameters(lab: Path, folder: Path, **values: object) -> Path:
    """Writes a copy of a lab, with its pictures, whose cell of parameters ends with these values; returns its path."""
    notebook = nbformat.read(lab, as_version=4)
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    cell.source += "".join(f"\n{name} = {value!r}" for name, value in values.items())
    shutil.copytree(lab.parent / "img", folder / "img")
    nbformat.write(notebook, folder / lab.name)
    return folder / lab.name


def notebook_on_a_page(
    server: Server, browser: Browser, path: Path, *, width: int = 1400, height: int = 1000
) -> Notebook:
    """Opens a copy of the notebook, with its pictures, in a new page of JupyterLab, with nothing else on it.

    What readers of earlier pages predicted, answered and trained is gone.
    """
    shutil.rmtree(server.root / "runs", ignore_errors=True)
    shutil.copy(path, server.root / path.name)
    if (path.parent / "img").is_dir():
        shutil.copytree(path.parent / "img", server.root / "img", dirs_exist_ok=True)
    page = browser.new_page(viewport={"width": width, "height": height})
    notebook = Notebook(page, f"{server.url}/doc/tree/{quote(path.name)}")
    page.on("pageerror", notebook.fail)
    page.on("console", notebook.hear)
    page.on("request", notebook.watch)
    notebook.open()
    return notebook


@dataclass
class Notebook:
    """A notebook in JupyterLab's single-document mode; `errors` collects what went wrong in the page."""

    page: Page
    url: str
    errors: list[str] = field(default_factory=list)

    def open(self) -> None:
        self.page.goto(self.url)
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
        self.wait_for_idle()

    def reload(self) -> None:
        """Loads the page again; the kernel lives on."""
        self.page.reload()
        self.page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=60_000)
        self.wait_for_idle()

    def run_all(self, *, timeout_s: float = 120) -> None:
        """Runs all cells and waits until the last one is done; fails when one raised."""
        self.page.get_by_role("menuitem", name="Run", exact=True).click()
        self.page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
        self.page.wait_for_function(_ALL_CELLS_RAN, timeout=timeout_s * 1000)
        self.wait_for_idle(timeout_s=timeout_s)
        if errors := self.kernel_errors():
            raise AssertionError("\n".join(errors))

    def wait_for_idle(self, *, timeout_s: float = 60) -> None:
        # The status bar: the notebook's own indicator says idle before there is a kernel.
        self.page.get_by_text("| Idle").wait_for(timeout=timeout_s * 1000)

    def save(self) -> None:
        changed = self.page.locator(".jp-mod-dirty")
        self.page.keyboard.press("Control+s")
        with suppress(AssertionError):  # an output that the kernel updates meanwhile is a change that was not saved
            expect(changed).to_have_count(0)
            return
        self.page.keyboard.press("Control+s")
        expect(changed).to_have_count(0)

    def run_in_kernel(self, code: str) -> str:
        """Runs code in a new last cell and returns what it printed."""
        self.page.locator(".jp-Notebook-footer").click()
        cell = self.page.locator(".jp-Notebook .jp-CodeCell").last
        cell.locator(".cm-content").fill(code)
        self.page.keyboard.press("Control+Enter")
        self.page.wait_for_function(_ALL_CELLS_RAN)
        self.wait_for_idle()
        return str(cell.locator(".jp-OutputArea-output").last.inner_text()).strip()

    def kernel_errors(self) -> list[str]:
        """Returns the error outputs of all cells, tracebacks and what went to stderr."""
        marks = '[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]'
        return [str(text) for text in self.page.locator(f".jp-OutputArea-output:is({marks})").all_inner_texts()]

    def use_theme(self, theme: str) -> None:
        """Switches to "Light" or "Dark"."""
        self.page.get_by_role("menuitem", name="Settings", exact=True).click()
        items = self.page.locator(".lm-Menu-itemLabel")
        items.get_by_text("Theme", exact=True).hover()
        items.get_by_text(f"JupyterLab {theme}", exact=True).click()
        self.page.locator(f'body[data-jp-theme-name="JupyterLab {theme}"]').wait_for(state="attached")

    def screenshot(self, name: str) -> Path:
        SHOTS.mkdir(exist_ok=True)
        path = SHOTS / f"{name}.png"
        self.page.screenshot(path=path)
        return path

    def fail(self, error: Error) -> None:
        if not any(words in str(error) for words in HARMLESS):
            self.errors.append(f"page: {error}")

    def hear(self, message: ConsoleMessage) -> None:
        if message.type == "error" and not any(words in message.text for words in HARMLESS):
            self.errors.append(f"console: {message.text} ({message.location.get('url', '')})")

    def watch(self, request: Request) -> None:
        if request.url.startswith("http") and not request.url.startswith(self.url.partition("/doc/")[0]):
            self.errors.append(f"asked for something outside: {request.url}")

    def close(self) -> list[str]:
        """Closes the page and its kernel, and returns everything that went wrong in them."""
        found = [*self.errors, *self.kernel_errors()]
        server, _, name = self.url.partition("/doc/tree/")
        for session in self.page.request.get(f"{server}/api/sessions").json():
            if session["path"] == unquote(name):
                self.page.request.delete(f"{server}/api/sessions/{session['id']}")
        self.page.close()
        return found


_ALL_CELLS_RAN = """() => {
    const cells = [...document.querySelectorAll('.jp-Notebook .jp-CodeCell')];
    const written = cells.filter((cell) => cell.querySelector('.cm-content')?.textContent.trim());
    return written.every((cell) => /\\[\\d+\\]:/.test(cell.querySelector('.jp-InputPrompt').textContent));
}"""
