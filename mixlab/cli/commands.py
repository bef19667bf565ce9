"""The command `mixlab`: reads arguments, calls the package, prints; no logic of its own.

Torch takes more than a second to import, and Jupyter's packages half a second. What needs them is imported where it is
called, after the arguments were checked, so that help, lists and refusals come at once.
"""

from __future__ import annotations

import platform
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text
from typer.core import TyperCommand

from mixlab import __version__, machine
from mixlab.arguments import require_whole
from mixlab.cli import claims, hand_outs, lab_commands, lab_list, measure, memory, notebooks, shipped, teaching
from mixlab.cli.values import ANSWERED, fail, number, print_error, print_json, whole_number, words
from mixlab.formats import FORMATS, Format, Overflow
from mixlab.recipes import PRESETS
from mixlab.training import TASKS, check_training

if TYPE_CHECKING:
    from mixlab.training import Run

app = typer.Typer(
    name="mixlab",
    help="A lab on mixed-precision training: turn the knobs, watch gradients underflow, train, see the NaN.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


app.command(name="lab", context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(lab_commands.lab)
app.add_typer(measure.app, name="measure")
app.command(name="memory")(memory.predict)
app.command(name="claims")(claims.settle_claims)
app.command(name="labs")(lab_list.labs)
app.command(name="reset")(lab_commands.reset)
app.command(name="hand-out")(hand_outs.hand_out)
app.command(name="grade")(teaching.grade)

_FORMAT_COLUMNS = (
    *("name", "bits", "exponent_bits", "mantissa_bits", "bias", "specials"),
    *("max", "smallest_normal", "smallest_subnormal", "eps"),
)


@app.callback(invoke_without_command=True)
def mixlab(version: Annotated[bool, typer.Option("--version", help="Show mixlab's version.")] = False) -> None:
    if version:
        typer.echo(__version__)
        raise typer.Exit


class _PairsCommand(TyperCommand):
    """Reads `-p NAME VALUE`, two words per option, which typer's lists cannot do; `-p NAME=VALUE` works too."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        return super().parse_args(ctx, list(_joined_pairs(args)))


@app.command(cls=_PairsCommand)
def run(
    lab: Annotated[
        str, typer.Argument(help="A lab's name, the start of one such as 02, or the path of an .ipynb file.")
    ],
    parameters: Annotated[
        list[str] | None,
        typer.Option(
            "-p",
            "--parameter",
            metavar="NAME VALUE",
            help="Set a parameter of the lab, see `mixlab labs LAB`; may be repeated.",
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(metavar="DIR", help="Save the executed notebook in this folder.")] = None,
) -> None:
    """Run a lab headless. Exits with 0 if every cell ran, 1 if one failed, 2 for a wrong argument."""
    try:
        notebook = shipped.find_lab(lab)
        notebooks.run_notebook(notebook, _parsed(parameters or []), out=out)
    except notebooks.CellError as error:
        if out is not None:
            print_error(f"executed up to the error: {out / notebook.name}")
        place = notebook.stem if error.cell is None else f"{notebook.stem}, cell {error.cell}"
        fail(f"{place}: {error}", 1)
    except ANSWERED as error:
        fail(words(error), 2)
    except KeyboardInterrupt:
        fail(f"{lab}: stopped", 130)
    if out is not None:
        Console().print(Text(f"executed notebook: {out / notebook.name}"), soft_wrap=True)


@app.command()
def train(
    task: Annotated[str, typer.Option(help=f"One of {', '.join(TASKS)}.")] = "digits-mlp",
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}, then e.g. ,scale=1024")] = "amp-fp16",
    steps: Annotated[
        int, typer.Option(parser=whole_number, help="Total steps, including those of a resumed run.")
    ] = 300,
    seed: Annotated[int, typer.Option(parser=whole_number, help="Seed of weights and batches.")] = 0,
    loss_weight: Annotated[float, typer.Option(parser=number, help="Factor on the loss.")] = 1.0,
    probe_every: Annotated[int, typer.Option(parser=whole_number, help="Steps between probes; 0 for none.")] = 0,
    device: Annotated[str | None, typer.Option(help="cpu or cuda. Default: cuda if there is one.")] = None,
    folder: Annotated[
        Path | None, typer.Option("--run", metavar="DIR", help="Save the run here, or resume it.")
    ] = None,
) -> None:
    """Train a task under a recipe. Ctrl-C stops; the same command with --run resumes."""
    try:
        require_whole("--steps", steps, 0)
        check_training(task, recipe, seed=seed, loss_weight=loss_weight, probe_every=probe_every)
        machine.check_device(device)
        from mixlab.training import Run, metric_words, outcome

        with ExitStack() as stack:
            path = folder or Path(stack.enter_context(TemporaryDirectory(prefix="mixlab-"))) / "run"
            run = Run.resume_or_create(
                path,
                task=task,
                recipe=recipe,
                seed=seed,
                loss_weight=loss_weight,
                probe_every=probe_every,
            )
            _print_training(run, steps, device)
            held_out_loss, held_out_metric = run.trainer(device=device).held_out()
            records = run.records()
    except ANSWERED as error:
        fail(words(error), 2)
    except KeyboardInterrupt:
        fail(
            f"stopped; the same command resumes the run in {folder}"
            if folder
            else "stopped; --run DIR makes a run resumable",
            130,
        )
    Console().print(f"{run.info.label}: {outcome(records)}", highlight=False, soft_wrap=True)
    measured = metric_words("accuracy", held_out_metric)  # which every shipped task has
    Console().print(f"held out: loss {held_out_loss:.3g}, {measured}", highlight=False)
    Console().print(f"on {run.info.machine}, started {run.info.started}", highlight=False, soft_wrap=True)


@app.command()
def doctor() -> None:
    """Show versions, devices and the notebooks' packages. Exits with 1 if a needed package is missing.

    GPUs are those that nvidia-smi lists; torch is not tried.
    """
    packages = machine.widget_stack()
    build = machine.torch_build()
    facts = [
        ("python", platform.python_version()),
        ("torch", str(build or machine.installed_version("torch") or "missing")),
        ("numpy", machine.installed_version("numpy") or "missing"),
        ("mixlab", __version__),
        ("cpu", machine.cpu_summary()),
        *[("gpu", line) for line in machine.gpu_lines(build, machine.seen_gpus())],
        *[(package.name, package.version or "missing") for package in packages],
        ("labs", _labs_status()),
    ]
    width = max(len(name) for name, _ in facts) + 2
    for name, value in facts:
        line = Text.assemble(name.ljust(width), (value, "red" if value == "missing" else ""))
        Console().print(line, soft_wrap=True)  # never broken in the middle of a path
    needed = [machine.Package(name, name, machine.installed_version(name)) for name in ("torch", "numpy")]
    missing = [package for package in (*needed, *packages) if package.version is None]
    if missing:
        fail(f"{_names(missing)} missing; run\n" + "\n".join(f"  {package.install_command}" for package in missing), 1)


@app.command()
def formats(
    names: Annotated[list[str] | None, typer.Argument(help="Names, or eXmY such as e5m3. Default: all.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, one object per format.")] = False,
) -> None:
    """Show number formats: bits, range and precision."""
    try:
        chosen = [Format.parse(name) for name in names or FORMATS]
    except ANSWERED as error:
        fail(words(error), 2)
    columns = {field: [getattr(fmt, field) for fmt in chosen] for field in _FORMAT_COLUMNS}
    if as_json:
        rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
        print_json(rows)
        return
    table = Table(box=None, pad_edge=False)
    for field in columns:
        table.add_column(
            field.replace("_", " "), no_wrap=True, justify="left" if field in ("name", "specials") else "right"
        )
    for row in zip(*columns.values(), strict=True):
        table.add_row(*(f"{value:.6g}" if isinstance(value, float) else str(value) for value in row))
    Console(width=max(Console().width, 130)).print(table)


@app.command(name="explain", context_settings={"ignore_unknown_options": True})
def explain_number(
    value: Annotated[float, typer.Argument(parser=number, help="A number such as 957, -1e-8, inf or nan.")],
    fmt: Annotated[str, typer.Argument(metavar="FORMAT", help="A name, or eXmY such as e4m3.")],
    overflow: Annotated[
        str | None, typer.Option(help=f"{', '.join(get_args(Overflow))}. Default: as hardware does.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """Explain step by step how a number is rounded to a format."""
    try:
        parsed = Format.parse(fmt)
        if overflow is not None and overflow not in get_args(Overflow):
            raise ValueError(f"--overflow must be one of {', '.join(get_args(Overflow))}, got {overflow!r:.60}")
        from mixlab.formats import explain

        explanation = explain(value, parsed, overflow=cast("Overflow", overflow or parsed.usual_overflow))
    except ANSWERED as error:
        fail(words(error), 2)
    if as_json:
        print_json(asdict(explanation))
    else:
        typer.echo(explanation)


def _print_training(run: Run, steps: int, device: str | None) -> None:
    from mixlab.training import metric_words

    training = run.train(until=steps, device=device)
    columns = [BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[state]}"), TimeRemainingColumn()]
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task("", total=steps, state="")
        skipped = None
        for record in training:
            if skipped is None:  # steps after the last checkpoint are trained and counted again
                skipped = sum(earlier.skipped for earlier in run.records()[: record.step])
            skipped += record.skipped
            measured = metric_words(record.metric_name, record.metric)
            state = f"loss {record.loss:.3g}  {measured}  scale {record.scale:g}  skipped {skipped}"
            progress.update(bar, completed=record.step + 1, state=state)


def main() -> None:
    """Entry point of the console script."""
    app()


def _joined_pairs(args: Iterable[str]) -> Iterator[str]:
    """Yields the arguments with each `-p NAME VALUE` as `-p NAME=VALUE`."""
    words = iter(args)
    for word in words:
        yield word
        if word in ("-p", "--parameter"):
            name = next(words, None)
            value = None if name is None or "=" in name else next(words, None)
            if name is not None:
                yield name if value is None else f"{name}={value}"


def _parsed(pairs: Iterable[str]) -> dict[str, Any]:
    parameters = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals:
            raise shipped.LabError(f"parameter {name!r} has no value; write -p {name} VALUE")
        parameters[name] = notebooks.parse_value(text)
    return parameters


def _labs_status() -> str:
    try:
        return str(shipped.shipped_labs())
    except shipped.LabError as error:
        return str(error)


def _names(packages: Iterable[machine.Package]) -> str:
    return ", ".join(package.name for package in packages)
