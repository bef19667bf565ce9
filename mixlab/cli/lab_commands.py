"""`mixlab lab` opens a reader's copies of the labs in JupyterLab; `mixlab reset` puts one back."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer

from mixlab import __version__, machine
from mixlab.cli import notebooks, shipped
from mixlab.cli.lab_folder import LaidLabs, ResetLab, holds_handed_out, lay_labs, reset_lab, usual_folder
from mixlab.cli.values import ANSWERED, fail, port_number, print_error, words

_USUAL = "Default: mixlab-labs in the current folder, or the current folder if it holds labs."


def lab(
    ctx: typer.Context,
    folder: Annotated[
        str | None, typer.Argument(metavar="FOLDER", help=f"Your folder of labs, made if missing. {_USUAL}")
    ] = None,
    port: Annotated[
        int | None, typer.Option(parser=port_number, help="Port. Default: 8888, or the next free one.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Only print the address.")] = False,
) -> None:
    """Open your copies of the labs in JupyterLab.

    The first start lays them in a folder of yours. What you changed is never
    overwritten: a new version of a lab is laid beside it. A lab that you deleted
    comes back. A folder of copies that a teacher handed out is opened as it is.
    Arguments after the folder go to JupyterLab as they are.
    """
    extra = ctx.args
    if folder is not None and folder.startswith("-"):
        extra = [folder, *extra]
        folder = None
    if missing := [package for package in machine.widget_stack() if package.version is None]:
        names = ", ".join(package.name for package in missing)
        fail(f"{names} missing; run\n" + "\n".join(f"  {package.install_command}" for package in missing), 1)
    try:
        served = _prepared(folder)
    except ANSWERED as error:
        fail(words(error), 2)
    root = hasattr(os, "geteuid") and os.geteuid() == 0
    if root:
        typer.echo("you are root, so --allow-root is added: JupyterLab does not start for root without it", err=True)
    command = notebooks.jupyterlab_command(served, port=port, browser=not no_browser, root=root, extra=extra)
    sys.stdout.flush()
    os.execve(command[0], command, notebooks.jupyterlab_environment(os.environ))


def reset(
    labs: Annotated[
        list[str] | None, typer.Argument(metavar="LAB...", help="A lab's name, or the start of one such as 02.")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option("--in", metavar="FOLDER", help=f"Your folder of labs. {_USUAL}")
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="Reset all labs.")] = False,
    runs: Annotated[bool, typer.Option("--runs", help="Put the lab's runs aside too.")] = False,
) -> None:
    """Put a lab back as mixlab brings it, without your answers. Nothing is deleted.

    Your notebook and your answers are kept, with the date in their names. In place
    of a copy that a teacher handed out, a new one without answers is laid.
    """
    try:
        if every == bool(labs):
            raise ValueError("name the labs to reset, such as 02, or give --all, not both")
        chosen = usual_folder() if folder is None else folder
        for path in _all_labs_for(chosen) if every else dict.fromkeys(shipped.lab_named(lab) for lab in labs or ()):
            done = reset_lab(path, chosen, runs=runs)
            if done.remark:
                print_error(done.remark)
            for line in _said_of_reset(done):
                typer.echo(line)
    except ANSWERED as error:
        fail(words(error), 2)


def _all_labs_for(folder: Path) -> list[Path]:
    """Returns the labs that a folder is to hold: all, or those that were handed out in it."""
    labs = sorted(shipped.shipped_labs().glob("*.ipynb"))
    return [lab for lab in labs if (folder / lab.name).exists()] if holds_handed_out(folder) else labs


def _prepared(folder: str | None) -> Path:
    """Returns the folder to serve. In a checkout the labs themselves may be named; then nothing is copied."""
    chosen = usual_folder() if folder is None else _meant_as_folder(folder)
    labs = shipped.shipped_labs()
    if shipped.is_checkout() and os.path.exists(chosen) and chosen.samefile(labs):
        typer.echo(f"These are mixlab's own labs, not copies: {labs}")
        return labs
    if holds_handed_out(chosen):
        typer.echo(f"Your copies, as they were handed out: {chosen.resolve()}")
        return chosen.resolve()
    laid = lay_labs(labs, chosen, __version__)
    if laid.remark:
        print_error(laid.remark)
    for line in _said_of_laying(laid):
        typer.echo(line)
    return laid.folder


def _meant_as_folder(text: str) -> Path:
    """Returns what was typed as a path; a lab's name, which other commands take, is refused."""
    if text == "":
        raise shipped.LabError("the folder's name is empty; give a name, or none for mixlab-labs")
    if not os.path.isdir(text) and (text.endswith(".ipynb") or shipped.names_a_lab(text)):
        raise shipped.LabError(
            f"{text!r:.60} is a lab, and `mixlab lab` takes a folder: it opens all labs; "
            "to have them in a folder of this name, make it first"
        )
    return Path(text)


def _said_of_laying(laid: LaidLabs) -> Iterator[str]:
    yield f"Your labs: {laid.folder}"
    if laid.new:
        yield f"New there: {_names(laid.new) if len(laid.new) <= 3 else f'{len(laid.new)} labs'}"
    if laid.replaced:
        yield f"Replaced by mixlab {__version__}'s, as you had not changed them: {_names(laid.replaced)}"
    for name, beside in laid.beside.items():
        yield f"{Path(name).stem} stays as you have it; mixlab {__version__}'s is beside it: {beside}"


def _said_of_reset(done: ResetLab) -> Iterator[str]:
    state = f"{done.name} is as mixlab {__version__} {'hands it out' if done.handed_out else 'brings it'}"
    yield f"{state}; {'reload its page if it is open' if done.laid or done.moved else 'there are no answers'}"
    for old, new in done.moved:
        yield f"  your {old} is now {new}"


def _names(files: Sequence[str]) -> str:
    return ", ".join(Path(name).stem for name in files)
