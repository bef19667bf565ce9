"""`mixlab grade`: a table of who predicted and answered what, and what was right."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mixlab.arguments import require_whole
from mixlab.cli.grade_tables import as_json, print_shown, refuse_csv, write_csv
from mixlab.cli.grades import grade_all
from mixlab.cli.handed_in import all_handed_in
from mixlab.cli.values import ANSWERED, fail, print_json, whole_number, words


def grade(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILES", help="Notebooks, answers.json files, and folders, which are searched."),
    ],
    csv: Annotated[
        Path | None, typer.Option("--csv", metavar="FILE", help="Write a line for each student, lab and question.")
    ] = None,
    questions: Annotated[bool, typer.Option("--questions", help="Show every question, not only sums.")] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of the table.")] = False,
    minutes: Annotated[
        int, typer.Option(parser=whole_number, help="Give up on a lab if one of its cells takes longer.")
    ] = 10,
) -> None:
    """Grade what students handed in. Exits with 1 if something could not be graded, 2 for a wrong argument.

    Each lab is run headless as mixlab ships it, once for each set of parameters that students chose, which takes up to
    a minute. The code in students' notebooks is never run.
    """
    try:
        require_whole("--minutes", minutes, 1, 24 * 60)
        found = all_handed_in(files)
        if csv is not None:
            refuse_csv(csv)
        grades = grade_all(found, most_s=60 * minutes, tell=lambda line: typer.echo(line, err=True))
    except ANSWERED as error:
        fail(words(error), 2)
    except KeyboardInterrupt:
        fail("stopped; nothing was written", 130)
    if json:
        print_json(as_json(grades))
    else:
        print_shown(grades, questions=questions)
    if csv is not None:
        try:
            write_csv(grades, csv)
        except OSError as error:
            fail(words(error), 1)
        typer.echo(f"grades: {csv.resolve()}", err=True)
    if any(one.trouble for one in grades.grades):
        raise typer.Exit(1)
