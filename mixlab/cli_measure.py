"""`mixlab measure`: measures this machine, shows the numbers, keeps them as a record."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from mixlab.measure import measure_cast
from mixlab.records import Record

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)


@app.callback()
def measure() -> None:
    """Measure this machine; every number keeps its machine, versions, date and seed."""


@app.command()
def cast(
    formats: Annotated[str, typer.Option(help="Names, separated by commas.")] = "fp16,bf16,e4m3fn,e5m2,e2m1fn",
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:<number>.")] = "cpu",
    numel: Annotated[int, typer.Option(help="Elements of the tensor.")] = 1 << 24,
    rounds: Annotated[int, typer.Option(help="Samples of each path.")] = 7,
    threads: Annotated[int | None, typer.Option(help="Of the CPU. Default: as torch.")] = None,
    seed: Annotated[int, typer.Option(help="Of the tensor.")] = 0,
    out: Annotated[Path | None, typer.Option(metavar="FILE", help="Keep the record here, as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")] = False,
) -> None:
    """Measure how fast tensors are rounded to formats, by every path, beside the machine's own copy."""
    console = Console(stderr=True)
    try:
        if out is not None and not out.absolute().parent.is_dir():
            raise ValueError(f"there is no folder {out.absolute().parent} to keep the record in")
        with Progress(TextColumn("measuring"), BarColumn(), TaskProgressColumn(), console=console) as bar:
            task = bar.add_task("", total=1.0)
            record = measure_cast(
                device,
                numel=numel,
                formats=[name.strip() for name in formats.split(",")],
                rounds=rounds,
                threads=threads,
                seed=seed,
                command=shlex.join(["mixlab", *sys.argv[1:]]),
                progress=lambda part: bar.update(task, completed=part),
            )
        if out is not None:
            record.save(out)
    except (ValueError, RuntimeError, OSError) as error:
        console.print(str(error), style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(2) from None
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        Console().print(_table(record))


def _table(record: Record) -> Table:
    copy = record["copy_"].median
    parameters = ", ".join(f"{name} {value}" for name, value in record.parameters.items() if value != "")
    table = Table(title=record.summary, caption=parameters, box=None, title_justify="left", caption_justify="left")
    table.add_column("path")
    for column in ("GB/s", "quartiles", "time / copy_"):
        table.add_column(column, justify="right", no_wrap=True)
    for series in record.series:
        low, high = series.quartiles
        table.add_row(series.name, f"{series.median:.3g}", f"{low:.3g} to {high:.3g}", f"{copy / series.median:.2f}")
    return table
