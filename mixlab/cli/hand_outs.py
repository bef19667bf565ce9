"""`mixlab hand-out`: copies of the labs for students, without answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from mixlab.cli import shipped
from mixlab.cli.answerless import as_bytes, is_untouched, without_answers
from mixlab.cli.values import ANSWERED, fail, words
from mixlab.files import replacing


def hand_out(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The folder to lay them in; it is created if missing.")],
    labs: Annotated[
        list[str] | None, typer.Argument(metavar="[LABS]...", help="Names, or starts such as 02. Default: all.")
    ] = None,
) -> None:
    """Lay copies of the labs in a folder, for students: they ask and record, and hold no answers.

    A file that stands there is replaced only if it is a copy that was handed out before, and nobody changed it.
    `mixlab grade` reads what students hand in.
    """
    try:
        paths = [shipped.lab_named(lab) for lab in labs or []] or sorted(shipped.shipped_labs().glob("*.ipynb"))
        made = {path.name: as_bytes(without_answers(json.loads(path.read_bytes()), path.stem)) for path in paths}
        _refuse_to_lose(folder, list(made))
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in made.items():
            with replacing(folder / name) as file:
                file.write(content)
    except ANSWERED as error:
        fail(words(error), 2)
    count = f"{len(made)} lab{'' if len(made) == 1 else 's'}"
    typer.echo(f"{count} without answers in {folder.resolve()}: {', '.join(sorted(made))}")
    typer.echo("Students open a folder of copies with `mixlab lab FOLDER`.")
    typer.echo("`mixlab grade` reads what they hand in: a saved notebook, or the folder in which they worked.")


def _refuse_to_lose(folder: Path, names: list[str]) -> None:
    """Refuses to replace anything but copies that were handed out before and that nobody changed."""
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; give the name of one, which need not exist")
    there = [folder / name for name in names if (folder / name).exists() or (folder / name).is_symlink()]
    if lost := [path.name for path in there if not (path.is_file() and is_untouched(path.read_bytes()))]:
        raise ValueError(
            f"{folder} holds {', '.join(lost)}, changed since it was handed out or never handed out; nothing was "
            "written: give another folder, or move what is there away"
        )
