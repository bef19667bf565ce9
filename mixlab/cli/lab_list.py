"""`mixlab labs`: the labs, how long they take, and what their parameters may be."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mixlab.cli import shipped
from mixlab.cli.lab_files import LabFile, read_lab
from mixlab.cli.values import fail, print_error, print_json


def labs(
    lab: Annotated[
        str | None, typer.Argument(help="Show this lab's parameters in full: its name, or the start of one such as 04.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per lab.")] = False,
) -> None:
    """List the labs and their parameters, with defaults and what is allowed, for `mixlab run LAB -p NAME VALUE`."""
    try:
        paths = sorted(shipped.shipped_labs().glob("*.ipynb")) if lab is None else [shipped.find_lab(lab)]
    except shipped.LabError as error:
        fail(str(error), 2)
    read = {path: read_lab(path) for path in paths}
    for path in [path for path, one in read.items() if one is None]:
        trouble = "it is damaged, or its cell of parameters does more than assign values to names"
        if lab is not None:
            fail(f"{path} cannot be read: {trouble}", 2)
        print_error(f"{path.name} is left out: {trouble}")
    found = [one for one in read.values() if one is not None]
    if as_json:
        print_json([_as_json(one) for one in found])
        return
    console = Console(width=shutil.get_terminal_size((120, 24)).columns)
    if lab is None:
        console.print(_list(found, with_others=console.width >= _WIDE), "", _allowed(found), "")
        words = (
            "Beside each lab stand its defaults; those of loss_scale and seed are 0. `mixlab labs 04` says what a lab "
            "uses its parameters for, and `mixlab run 04 -p steps 30` changes one."
        )
        console.print(Text(words))
    for one in [] if lab is None else found:
        console.print(f"{one.name}: {one.title}, {_minutes(one)} minutes")
        console.print(_in_full(one))


_COLUMNS = ("recipe", "steps", "task")  # the parameters of all labs whose defaults differ


_WIDE = 100  # columns of a terminal; on a narrower one the titles need the room of the column `also`


def _list(found: Sequence[LabFile], *, with_others: bool) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("lab", "title", "minutes", *_COLUMNS, *(["also"] if with_others else [])):
        right = name in ("minutes", "steps")
        folds = name in ("title", "also")
        table.add_column(name, no_wrap=not folds, overflow="fold", justify="right" if right else "left")
    common = set.intersection(*({stated.name for stated in one.parameters} for one in found)) if found else set()
    for one in found:
        defaults = {stated.name: _typed(stated.default) for stated in one.parameters}
        also = "  ".join(f"{name} {default}" for name, default in defaults.items() if name not in common)
        columns = [defaults.get(name, "") for name in _COLUMNS]
        table.add_row(*map(Text, (one.name, one.title, _minutes(one), *columns, *([also] if with_others else []))))
    return table


def _allowed(found: Sequence[LabFile]) -> Table:
    """Returns what each parameter may be, once; where labs differ, with the numbers of the labs."""
    labs: dict[str, dict[str, list[str]]] = {}
    for one in found:
        for name, allowed in one.declared.items():
            labs.setdefault(name, {}).setdefault(str(allowed), []).append(one.name.partition("_")[0])
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("parameter", no_wrap=True)
    table.add_column("what it may be", overflow="fold")
    for name, kinds in labs.items():
        for words, numbers in kinds.items():
            only = f"in lab {', '.join(numbers)}: " if len(kinds) > 1 else ""
            table.add_row(name, Text(f"{only}{words}"))
    return table


def _in_full(one: LabFile) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("parameter", "default", "meaning", "what it may be"):
        table.add_column(name, no_wrap=name in ("parameter", "default"), overflow="fold")
    for stated in one.parameters:
        allowed = one.declared.get(stated.name, "")
        table.add_row(*map(Text, (stated.name, _typed(stated.default), stated.meaning, str(allowed))))
    return table


def _minutes(one: LabFile) -> str:
    return "?" if one.minutes is None else str(one.minutes)


def _typed(default: Any) -> str:
    """Returns a default as it is typed on the command line."""
    return str(default) if default != "" else '""'


def _as_json(one: LabFile) -> dict[str, Any]:
    return {"name": one.name, "title": one.title, "minutes": one.minutes, "parameters": list(_parameters(one))}


def _parameters(one: LabFile) -> Iterator[dict[str, Any]]:
    for stated in one.parameters:
        allowed = one.declared.get(stated.name)
        row = {"name": stated.name, "default": stated.default, "meaning": stated.meaning}
        yield row if allowed is None else {**row, "allowed": str(allowed), **allowed.to_dict()}
