"""`mixlab measure`: measures this machine, shows the numbers, and saves them as records."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn

from mixlab import measure as measuring
from mixlab.cli.values import ANSWERED, fail, number, print_json, words
from mixlab.files import refuse_unwritable
from mixlab.machine import certain_kind, check_device, usable_device
from mixlab.measure import requests
from mixlab.measure.gpt_shapes import SMALL, GPTShape
from mixlab.measure.memory_cases import cases as memory_cases

if TYPE_CHECKING:
    from mixlab.measure import Record

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

    named = _listed(formats)

    def check() -> None:
        requests.check_cast(formats=named, numel=numel, rounds=rounds, threads=threads, seed=seed)

    def measured(progress: Callable[[float], None]) -> Record:
        return measuring.measure_cast(
            device,
            numel=numel,
            formats=named,
            rounds=rounds,
            threads=threads,
            seed=seed,
            command=_typed(),
            progress=progress,
        )

    _measure("cast", device, check, measured, out, as_json)


@app.command()
def matmul(
    device: _Device = None,
    formats: Annotated[
        str | None, typer.Option(help="Out of fp32,tf32,fp16,bf16,e4m3fn,int8. Default: all that run here.")
    ] = None,
    shapes: Annotated[
        str | None, typer.Option(help="MxNxK or BATCHxMxNxK, separated by commas. Default: of every kind.")
    ] = None,
    numel: Annotated[
        int | None, typer.Option(help="Elements of element-wise ops. Default: more than the last cache holds.")
    ] = None,
    budget: Annotated[float, typer.Option(parser=number, metavar="SECONDS", help="Time to spend, about.")] = 120.0,
    threads: _Threads = None,
    seed: Annotated[int, typer.Option(help="Seed of the operands.")] = 0,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keep the record here every few seconds; the same command continues it."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Measure products in every format, memory-bound ops and bandwidths, and what a roofline predicts of them."""

    named, sizes = _listed_or_none(formats), _listed_or_none(shapes)

    def check() -> None:
        requests.check_matmul(formats=named, shapes=sizes, numel=numel, budget_s=budget, threads=threads, seed=seed)

    def measured(progress: Callable[[float], None]) -> Record:
        return measuring.measure_matmul(
            device,
            formats=named,
            shapes=sizes,
            numel=numel,
            budget_s=budget,
            threads=threads,
            seed=seed,
            path=out,
            command=_typed(),
            progress=progress,
        )

    _measure("matmul", device, check, measured, out, as_json, keeps=True)


@app.command(name="all")
def everything(
    out: Annotated[Path, typer.Option(metavar="DIR", help="Folder of the records, one for each kind.")],
    device: _Device = None,
    budget: Annotated[
        float, typer.Option(parser=number, metavar="SECONDS", help="Time for all of them together, about.")
    ] = 1800.0,
    seed: Annotated[int, typer.Option(help="Seed of all random inputs.")] = 0,
) -> None:
    """Run every measurement. Those that DIR has are skipped. Exits with 1 if one is missing at the end."""
    console = Console(stderr=True)
    try:
        check_device(device)
        requests.require_budget("measure_all", budget)
        requests.require_seed("measure_all", seed)
        with Progress(TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), console=console) as bar:
            tasks = {kind: bar.add_task(kind, total=1.0) for kind in requests.KINDS}
            outcomes = measuring.measure_all(
                out,
                device,
                budget_s=budget,
                seed=seed,
                command=_typed(),
                progress=lambda kind, part: bar.update(tasks[kind], completed=part),
            )
    except ANSWERED as error:
        fail(words(error), 2)
    except KeyboardInterrupt:
        fail(f"stopped; {out} keeps the finished records, and the same command does the others", 130)
    for one in outcomes:
        where = (
            f"{one.path} ({one.seconds:.0f} s)"
            if one.state == "measured"
            else str(one.path)
            if one.done
            else one.message
        )
        typer.echo(f"{one.kind:<10} {one.state}: {where}")
    if missing := [one.kind for one in outcomes if not one.done]:
        fail(f"without a record: {', '.join(missing)}; the same command tries them again", 1)


@app.command(name="compare")
def compare_two(
    first: Annotated[Path, typer.Argument(metavar="A", help="A record's file; ratios are divided by its medians.")],
    second: Annotated[Path, typer.Argument(metavar="B", help="Another record of the same kind.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare two records of one kind: medians, quartiles and ratios of what both measured."""
    try:
        comparison = measuring.compare_records(measuring.Record.load(first), measuring.Record.load(second))
    except ANSWERED as error:
        fail(words(error), 2)
    if as_json:
        print_json(comparison.to_dict())
    else:
        from mixlab.cli.record_tables import compared_table

        Console().print(compared_table(comparison))


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
    given = {name: value for name, value in {**sizes, "batch": batch}.items() if value is not None}
    texts = _listed(recipes, ";") if recipes else None

    def check() -> None:
        requests.check_train(recipes=texts, modes=_listed(modes), steps=steps, seed=seed)
        if (kind := certain_kind(device)) is not None:
            replace(GPTShape() if kind == "cuda" else SMALL, **given)  # refuses sizes that do not fit together

    def measured(progress: Callable[[float], None]) -> Record:
        base = GPTShape() if usable_device(device).type == "cuda" else SMALL
        return measuring.measure_train(
            device,
            shape=replace(base, **given),
            recipes=texts,
            modes=_listed(modes),
            steps=steps,
            seed=seed,
            command=_typed(),
            progress=progress,
        )

    _measure("train", device, check, measured, out, as_json)


@app.command()
def emulation(
    device: _Device = None,
    formats: Annotated[str, typer.Option(help="fp16, bf16 or both, separated by commas.")] = "fp16,bf16",
    seed: Annotated[int, typer.Option(help="Seed of inputs and weights.")] = 0,
    out: _Out = None,
    as_json: _Json = False,
) -> None:
    """Measure how close emulated 16-bit training is to a device's own arithmetic: op by op, forward and backward."""

    named = _listed(formats)

    def check() -> None:
        requests.check_emulation(formats=named, seed=seed)

    def measured(progress: Callable[[float], None]) -> Record:
        return measuring.measure_emulation(device, formats=named, seed=seed, command=_typed(), progress=progress)

    _measure("emulation", device, check, measured, out, as_json)


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

    texts = _listed(recipes, ";") if recipes else requests.STORAGE_RECIPES
    named, ways = _listed(backends) if backends else None, _listed(modes)

    def check() -> None:
        requests.check_optimizer(
            numel=numel, recipes=texts, backends=named, modes=ways, rounds=rounds, threads=threads, seed=seed
        )

    def measured(progress: Callable[[float], None]) -> Record:
        return measuring.measure_optimizer(
            device,
            numel=numel,
            recipes=texts,
            backends=named,
            modes=ways,
            rounds=rounds,
            threads=threads,
            seed=seed,
            command=_typed(),
            progress=progress,
        )

    _measure("optimizer", device, check, measured, out, as_json)


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

    def check() -> None:
        requests.check_states(steps=steps, spike_at=spike_at, seeds=seeds, seed=seed)

    def measured(progress: Callable[[float], None]) -> Record:
        return measuring.measure_states(
            steps=steps, spike_at=spike_at, seeds=seeds, seed=seed, command=_typed(), progress=progress
        )

    _measure("states", None, check, measured, out, as_json)


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

    names = _listed_or_none(cases, ";")

    def check() -> None:
        requests.check_memory(rounds=rounds, seed=seed)
        if (kind := certain_kind(device)) is not None:
            memory_cases(kind, names)  # refuses unknown ones

    def measured(progress: Callable[[float], None]) -> Record:
        return measuring.measure_memory(
            device, names=names, rounds=rounds, seed=seed, command=_typed(), progress=progress
        )

    _measure("memory", device, check, measured, out, as_json)


def _measure(
    kind: str,
    device: str | None,
    check: Callable[[], None],
    measured: Callable[[Callable[[float], None]], Record],
    out: Path | None,
    as_json: bool,
    *,
    keeps: bool = False,
) -> None:
    """Measures behind a progress bar, saves and prints the record; exits with 2 and a message for a wrong argument.

    What `check` refuses is refused before torch is imported. A measurement that `keeps` writes its file itself, and
    continues it.
    """
    console = Console(stderr=True)
    try:
        check_device(device)
        check()
        if out is not None:
            refuse_unwritable(out)
        with Progress(TextColumn("measuring"), BarColumn(), TaskProgressColumn(), console=console) as bar:
            task = bar.add_task("", total=1.0)
            record = measured(lambda part: bar.update(task, completed=part))
        if out is not None and not keeps:
            record.save(out)
    except ANSWERED as error:
        fail(words(error), 2)
    except KeyboardInterrupt:
        kept = f"{out} keeps what was measured; the same command continues it"
        fail(f"stopped; {kept if keeps and out is not None else 'nothing was saved'}", 130)
    if as_json:
        typer.echo(record.to_json(), nl=False)
    else:
        from mixlab.cli.record_tables import TABLES

        Console().print(TABLES[kind](record))


def _typed() -> str:
    return shlex.join(["mixlab", *sys.argv[1:]])


def _listed(text: str, separator: str = ",") -> list[str]:
    return [word.strip() for word in text.split(separator)]


def _listed_or_none(text: str | None, separator: str = ",") -> list[str] | None:
    return None if text is None else _listed(text, separator)
