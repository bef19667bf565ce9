"""`mixlab measure`: measures this machine, shows the numbers, and saves them as records."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn
from rich.table import Table

from mixlab.cli.values import ANSWERED, fail, words
from mixlab.files import refuse_unwritable
from mixlab.machine import usable_device
from mixlab.measure import (
    Record,
    differences,
    measure_cast,
    measure_emulation,
    measure_memory,
    measure_optimizer,
    measure_states,
    measure_train,
    median_and_worst,
)
from mixlab.measure.optimizers import STORAGE_RECIPES
from mixlab.measure.training import SMALL, GPTShape
from mixlab.reports import MemoryTable, TrainingTable
from mixlab.tables import NotedTable

app = typer.Typer(help="Measure this machine.", no_args_is_help=True)


@app.callback()
def _about() -> None:
    """Measure this machine; every record keeps machine, versions, date and seed."""


_Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:<number>. Default: cuda if there is one.")]
_Threads = Annotated[int | None, typer.Option(help="CPU threads. Default: torch's number.")]
_Modes = Annotated[str, typer.Option(help="eager, compiled or both, separated by commas.")]
_Out = Annotated[Path | None, typer.Option(metavar="FILE", help="Save the record here, as JSON.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the record instead of a table.")]


@app.command()
def cast(
    formats: Annotated[str, typer.Option(help="Names, separated by commas.")] = "fp16,bf16,e4m3fn,e5m2,e2m1fn",
    device: _Device = None,
    numel: Annotated[int, typer.Option(help="Elements of the tensor.")] = 1 << 24,
    rounds: Annotated[int, typer.Option(help="Samples of each path.")] = 7,
    threads: _Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the tensor.")] = 0,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Measure how fast tensors are rounded to formats, by every code path, beside a plain copy."""

    def measured(progress: Callable[[float], None]) -> Record:
        return measure_cast(
            device,
            numel=numel,
            formats=_listed(formats),
            rounds=rounds,
            threads=threads,
            seed=seed,
            command=_typed(),
            progress=progress,
        )

    _measure(measured, out, as_json, _cast_table)


@app.command()
def train(
    device: _Device = None,
    recipes: Annotated[
        str | None,
        typer.Option(help="Separated by semicolons. Default: fp32, tf32, AMP and pure; on a CPU no fp16."),
    ] = None,
    modes: _Modes = "eager,compiled",
    steps: Annotated[int, typer.Option(help="Measured steps of each training, after 3 warm-up steps.")] = 20,
    width: Annotated[int | None, typer.Option(help="Width of the GPT. Default: 768 on CUDA, 256 on a CPU.")] = None,
    layers: Annotated[int | None, typer.Option(help="Default: 12 or 4.")] = None,
    heads: Annotated[int | None, typer.Option(help="Default: 12 or 4.")] = None,
    vocabulary: Annotated[int | None, typer.Option(help="Default: 50304 or 4096.")] = None,
    context: Annotated[int | None, typer.Option(help="Tokens per row. Default: 1024 or 128.")] = None,
    batch: Annotated[int | None, typer.Option(help="Rows per step. Default: 8.")] = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Measure training a GPT, recipe by recipe: tokens/s, memory, share of the peak, loss. Nothing is emulated."""
    sizes = {"width": width, "layers": layers, "heads": heads, "vocabulary": vocabulary, "context": context}

    def measured(progress: Callable[[float], None]) -> Record:
        base = GPTShape() if usable_device(device).type == "cuda" else SMALL
        given = {name: value for name, value in {**sizes, "batch": batch}.items() if value is not None}
        return measure_train(
            device,
            shape=replace(base, **given),
            recipes=_listed(recipes, ";") if recipes else None,
            modes=_listed(modes),
            steps=steps,
            seed=seed,
            command=_typed(),
            progress=progress,
        )

    _measure(measured, out, as_json, _train_table)


@app.command()
def emulation(
    device: _Device = None,
    formats: Annotated[str, typer.Option(help="fp16, bf16 or both, separated by commas.")] = "fp16,bf16",
    seed: Annotated[int, typer.Option(help="Seed of inputs and weights.")] = 0,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Measure how close emulated 16-bit training is to a device's own arithmetic: op by op, forward and backward."""

    def measured(progress: Callable[[float], None]) -> Record:
        return measure_emulation(device, formats=_listed(formats), seed=seed, command=_typed(), progress=progress)

    _measure(measured, out, as_json, _emulation_table)


@app.command()
def optimizer(
    device: _Device = None,
    numel: Annotated[int, typer.Option(help="Approximate number of parameters.")] = 25_000_000,
    recipes: Annotated[str | None, typer.Option(help="Separated by semicolons. Default: all pairs of formats.")] = None,
    backends: Annotated[str | None, typer.Option(help="Separated by commas. Default: all that are installed.")] = None,
    modes: _Modes = "eager,compiled",
    rounds: Annotated[int, typer.Option(help="Measured steps of each optimizer.")] = 7,
    threads: _Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of weights and gradients.")] = 0,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Measure steps of AdamW with every way to store it, beside torch's fused one and other libraries'."""

    def measured(progress: Callable[[float], None]) -> Record:
        return measure_optimizer(
            device,
            numel=numel,
            recipes=_listed(recipes, ";") if recipes else STORAGE_RECIPES,
            backends=_listed(backends) if backends else None,
            modes=_listed(modes),
            rounds=rounds,
            threads=threads,
            seed=seed,
            command=_typed(),
            progress=progress,
        )

    _measure(measured, out, as_json, _optimizer_table)


@app.command()
def states(
    steps: Annotated[int, typer.Option(help="Steps of each run.")] = 1500,
    spike_at: Annotated[int, typer.Option(help="Step with the gradient spike, counted from 0.")] = 50,
    seeds: Annotated[int, typer.Option(help="Runs of each setting.")] = 5,
    seed: Annotated[int, typer.Option(help="Seed of the first run; each further run takes the next.")] = 0,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Measure what training loses when Adam's moments or the weights have fewer bits, over several seeds."""

    def measured(progress: Callable[[float], None]) -> Record:
        return measure_states(
            steps=steps, spike_at=spike_at, seeds=seeds, seed=seed, command=_typed(), progress=progress
        )

    _measure(measured, out, as_json, _states_table)


@app.command()
def memory(
    device: _Device = None,
    cases: Annotated[str | None, typer.Option(help="Names, separated by semicolons. Default: all.")] = None,
    rounds: Annotated[int, typer.Option(help="Measured steps of each case, after one warm-up step.")] = 1,
    seed: Annotated[int, typer.Option(help="Seed of weights and batches.")] = 0,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Measure the peak memory of training steps, beside the prediction of a trace: models, recipes, checkpointing."""

    def measured(progress: Callable[[float], None]) -> Record:
        names = _listed(cases, ";") if cases is not None else None
        return measure_memory(device, names=names, rounds=rounds, seed=seed, command=_typed(), progress=progress)

    _measure(measured, out, as_json, _memory_table)


def _measure(
    measured: Callable[[Callable[[float], None]], Record],
    out: Path | None,
    as_json: bool,
    table: Callable[[Record], Table],
) -> None:
    """Measures behind a progress bar, saves and prints the record; exits with 2 and a message for a wrong argument."""
    console = Console(stderr=True)
    try:
        if out is not None:
            refuse_unwritable(out)
        with Progress(TextColumn("measuring"), BarColumn(), TaskProgressColumn(), console=console) as bar:
            task = bar.add_task("", total=1.0)
            record = measured(lambda part: bar.update(task, completed=part))
        if out is not None:
            record.save(out)
    except ANSWERED as error:
        fail(words(error), 2)
    except KeyboardInterrupt:
        fail("stopped; nothing was saved", 130)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        Console().print(table(record))


def _typed() -> str:
    return shlex.join(["mixlab", *sys.argv[1:]])


def _listed(text: str, separator: str = ",") -> list[str]:
    return [word.strip() for word in text.split(separator)]


def _new_table(record: Record, *columns: str) -> Table:
    parameters = ", ".join(f"{name} {value}" for name, value in record.parameters.items() if value != "")
    table = Table(title=record.summary, caption=parameters, box=None, title_justify="left", caption_justify="left")
    for number, column in enumerate(columns):
        table.add_column(column, justify="right" if number else "left", no_wrap=True)
    return table


def _cast_table(record: Record) -> Table:
    copy = record["copy_"].median
    table = _new_table(record, "path", "GB/s", "quartiles", "time / copy_")
    for series in record.series:
        low, high = series.quartiles
        table.add_row(series.name, f"{series.median:.3g}", f"{low:.3g} to {high:.3g}", f"{copy / series.median:.2f}")
    return table


def _train_table(record: Record) -> Table:
    return _filled(record, TrainingTable(record))


def _emulation_table(record: Record) -> Table:
    values = {series.name: series.samples[0] for series in record.series}
    table = _new_table(record, "op", "equal", "worst, ulp", "worst / largest value")
    for name in (name.removesuffix(", equal") for name in values if name.endswith(", equal")):
        worst = f"{name}, largest difference"
        table.add_row(
            name, f"{values[f'{name}, equal']:.2%}", f"{values[worst]:.3g}", f"{values[f'{worst} / largest value']:.1e}"
        )
    return table


def _states_table(record: Record) -> Table:
    values = {series.name: series for series in record.series}
    table = _new_table(record, "setting", "loss", "lowest to highest", "accuracy")
    for case in (name.removesuffix(", loss") for name in values if name.endswith(", loss")):
        loss, accuracy = values[f"{case}, loss"], values[f"{case}, accuracy"]
        spread = f"{min(loss.samples):.3g} to {max(loss.samples):.3g}"
        table.add_row(case, f"{loss.median:.3g}", spread, f"{accuracy.median:.1%}")
    return table


def _memory_table(record: Record) -> Table:
    table = _filled(record, MemoryTable(record))
    apart = differences(record)
    for word, difference in zip(("median", "worst"), median_and_worst(apart) if apart else (), strict=False):
        table.add_row(word, "", "", f"{difference:.2%}")
    return table


def _filled(record: Record, shown: NotedTable) -> Table:
    table = _new_table(record, *shown.columns)
    table.columns[0].no_wrap = False
    for row in shown.rows:
        table.add_row(*row)
    return table


def _optimizer_table(record: Record) -> Table:
    values = {series.name: series for series in record.series}
    table = _new_table(record, "AdamW", "ms", "/ fused", "state bytes", "GB/s")
    table.columns[0].no_wrap = False  # a recipe may be longer than the terminal is wide
    for case in (name.removesuffix(", step") for name in values if name.endswith(", step")):
        step, ratio, states, speed = (values[f"{case}, {what}"].median for what in ("step", "ratio", "states", "speed"))
        table.add_row(case, f"{1e3 * step:.3g}", f"{ratio:.2f}", f"{states:.4g}", f"{speed:.3g}")
    table.add_row("copy_", "", "", "", f"{values['copy_'].median:.3g}")
    return table
