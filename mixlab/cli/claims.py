"""`mixlab claims`: measures what is said of mixed precision, and prints what holds."""

from __future__ import annotations

import datetime
import sys
from collections.abc import Sequence
from dataclasses import asdict, fields
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table
from rich.text import Text

from mixlab.claims import Verdict, require_claim
from mixlab.cli.values import ANSWERED, fail, print_error, print_json, words
from mixlab.machine import describe

if TYPE_CHECKING:
    from mixlab.claims import Claim, Settled

_VERDICTS = {str(verdict).replace(" ", "-"): verdict for verdict in Verdict}
_FUNCTIONS = ("measure", "recorded")


def settle_claims(
    keys: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY]...", help="Show these claims in full. Default: a table of all.")
    ] = None,
    verdict: Annotated[str | None, typer.Option(help=f"Only claims with this verdict: {', '.join(_VERDICTS)}.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with the machine, versions and date.")] = False,
) -> None:
    """Measure what is said of mixed precision, and show what holds.

    Exits with 1 if a measured verdict differs from the one on file. All claims take less than a minute.
    """
    try:
        _check(keys or [], verdict)
    except ValueError as error:
        fail(str(error), 2)
    from mixlab.reports import ClaimsTable

    try:
        settled = _measured(_chosen(keys or [], verdict))
    except KeyboardInterrupt:
        fail("stopped", 130)
    if as_json:
        print_json(_document(settled))
    elif keys:
        for one in settled:
            _print_in_full(one)
    else:
        Console(width=max(Console().width, 100)).print(_table(settled))
        typer.echo(f"{ClaimsTable(settled).summary}\nmeasured on {describe().summary}")
    if differing := [one for one in settled if not one.agrees]:
        for one in differing:
            print_error(f"{one.claim.key}: on file {one.claim.verdict}, measured here {one.finding.verdict}")
        sys.exit(1)


def _check(keys: Sequence[str], verdict: str | None) -> None:
    if verdict is not None and verdict not in _VERDICTS:
        raise ValueError(f"unknown verdict {verdict!r:.60}; use one of {', '.join(_VERDICTS)}")
    for key in keys:
        require_claim(key)


def _chosen(keys: Sequence[str], verdict: str | None) -> Sequence[Claim]:
    from mixlab.claims import CLAIMS, claim

    chosen = [claim(key) for key in dict.fromkeys(keys)] or CLAIMS
    return [one for one in chosen if verdict is None or one.verdict is _VERDICTS[verdict]]


def _measured(chosen: Sequence[Claim]) -> list[Settled]:
    """Measures the claims, with a bar on stderr."""
    from mixlab.claims import settle

    columns = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}")]
    settled = []
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("", total=len(chosen))
        for one in chosen:
            progress.update(bar, description=one.key)
            try:
                settled.append(settle(one))
            except ANSWERED as error:
                fail(f"claim {one.key!r} could not be measured: {words(error)}", 1)
            progress.advance(bar)
    return settled


def _table(settled: Sequence[Settled]) -> Table:
    from mixlab.reports import recorded_words, verdict_line

    table = Table(box=None, pad_edge=False, padding=(0, 2, 1, 0))
    for name, ratio in (("claim", 4), ("verdict", 4), ("measured here", 5), ("recorded on a GPU", 4)):
        table.add_column(name, ratio=ratio, overflow="fold")
    for one in settled:
        claim = Text.assemble(one.claim.words, "\n", (one.claim.key, "cyan"))
        table.add_row(claim, Text(verdict_line(one.claim)), Text(one.finding.shown), Text(recorded_words(one) or "-"))
    return table


def _print_in_full(one: Settled) -> None:
    from mixlab.reports import claim_lines

    Console().print(Text.assemble((f"{one.claim.key}: ", "cyan"), (one.claim.words, "bold")), soft_wrap=True)
    for what, sentence in [("from", one.claim.place), *claim_lines(one)]:
        Console().print(Text(f"  {what}: {sentence}"), soft_wrap=True)


def _document(settled: Sequence[Settled]) -> dict[str, Any]:
    from mixlab.claims import Claim

    rows = []
    for one in settled:
        row = {field.name: getattr(one.claim, field.name) for field in fields(Claim) if field.name not in _FUNCTIONS}
        rows.append({**row, "measured": asdict(one.finding), "recorded": one.recorded, "agrees": one.agrees})
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    return {"machine": asdict(describe()), "date": now, "claims": rows}
