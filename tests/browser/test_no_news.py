"""JupyterLab, started by `mixlab lab` for somebody who has never used it, asks nothing and calls nobody."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Error, Page, expect, sync_playwright

from mixlab.cli import notebooks

pytestmark = pytest.mark.browser

QUESTION = "Would you like to get notified about official Jupyter news?"
STARTED_S = 60


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def new_user(home: Path) -> dict[str, str]:
    """Returns an environment in which Jupyter finds no setting that anybody made before."""
    folders = {"HOME": home, "JUPYTER_CONFIG_DIR": home / "config", "JUPYTER_DATA_DIR": home / "data"}
    kept = {name: value for name, value in os.environ.items() if not name.startswith("JUPYTER")}
    return kept | {name: str(path) for name, path in folders.items()}


@contextmanager
def serving(command: list[str], folder: Path, port: int) -> Iterator[str]:
    """Runs a JupyterLab command in `folder` until the block ends; yields its address."""
    token = secrets.token_hex(16)
    command = [*command, f"--IdentityProvider.token={token}"]
    command += [f"--LabApp.user_settings_dir={folder}/settings", f"--LabApp.workspaces_dir={folder}/workspaces"]
    address = f"http://127.0.0.1:{port}/lab?token={token}"
    with (folder / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=folder, env=new_user(folder), stdout=log, stderr=log)
        try:
            wait_for(address, server, folder / "server.log")
            yield address
        finally:
            server.send_signal(signal.SIGTERM)
            server.wait(timeout=30)


def wait_for(address: str, server: subprocess.Popen[bytes], log: Path) -> None:
    end = time.monotonic() + STARTED_S
    while time.monotonic() < end:
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(address, timeout=2).close()
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise AssertionError(f"no answer within {STARTED_S} s\n{log.read_text()}")


@pytest.fixture
def page() -> Iterator[Page]:
    names = ("chromium", "chromium-browser", "google-chrome")
    program = next((path for path in map(shutil.which, names) if path), None)
    if program is None:
        raise RuntimeError("the browser tests need Chromium; run: .ci/install-chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser.new_page(viewport={"width": 1280, "height": 800})
        browser.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a lab in `labs`."""
    (tmp_path / "labs").mkdir()
    nbformat.write(nbformat.v4.new_notebook(), tmp_path / "labs" / "00_small.ipynb")
    return tmp_path


def open_lab(page: Page, address: str) -> list[str]:
    """Opens JupyterLab, waits until it is at rest, returns the requests that concern news or updates."""
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/lab/api/" in request.url else None)
    page.goto(address)
    page.wait_for_selector(".jp-DirListing-item", timeout=60_000)
    with suppress(Error):
        page.wait_for_selector(".Toastify__toast", timeout=5_000)
    return [url for url in asked if "/news" in url or "/update" in url]


def test_mixlab_lab_opens_on_the_labs_and_asks_nothing(page: Page, folder: Path):
    port = free_port()
    command = [sys.executable, "-m", "mixlab", "lab", "labs", "--no-browser", "--port", str(port)]
    with serving(command, folder, port) as address:
        asked = open_lab(page, address)
        page.screenshot(path=folder / "screenshot.png")
        expect(page.get_by_text("00_small.ipynb")).to_be_visible()
        expect(page.get_by_text(QUESTION)).to_have_count(0)
        expect(page.locator(".Toastify__toast")).to_have_count(0)
        assert asked == []


def test_without_the_switch_it_would_ask(page: Page, folder: Path):
    port = free_port()
    command = notebooks.jupyterlab_command(folder / "labs", port=port, browser=False, root=os.geteuid() == 0)
    with serving(command, folder, port) as address:
        open_lab(page, address)
        page.screenshot(path=folder / "screenshot.png")
        expect(page.get_by_text(QUESTION)).to_be_visible()
