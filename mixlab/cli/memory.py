"""`mixlab memory`: whether a training fits on a GPU, and what to change if it does not."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from mixlab.arguments import require_whole
from mixlab.cli.memory_answers import Answer, answer_as_json, next_smaller, paragraphs
from mixlab.cli.values import ANSWERED, fail, print_json, whole_number, words
from mixlab.memory import (
    GPUS,
    AttentionKind,
    Checkpointing,
    Estimate,
    Implementation,
    Parallelism,
    StepKind,
    Zero,
    estimate,
    gpu_spec,
    suggestions,
)
from mixlab.optimizers import OptimizerName
from mixlab.own_models import from_here, own_model
from mixlab.recipes import PRESETS, Recipe
from mixlab.shapes import SHAPES, model_shape

if TYPE_CHECKING:
    from mixlab.memory import Differences, Trace

_SHOWN = 5  # suggestions


def predict(
    context: typer.Context,
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(SHAPES)}, or the path of a config.json or of its folder.")
    ] = "gpt2",
    module: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE",
            help="A model of your own, traced: package.module:function; the function returns (model, batch) or (model, "
            "batch, loss).",
        ),
    ] = None,
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}, then e.g. ,exp_avg=bf16")] = "amp-bf16",
    batch: Annotated[int, typer.Option(parser=whole_number, help="Rows of one forward pass, on one GPU.")] = 1,
    seq: Annotated[
        int | None,
        typer.Option(parser=whole_number, help="Tokens per row. Default: the context, at most 2048."),
    ] = None,
    implementation: Annotated[
        str | None,
        typer.Option(
            help=f"{', '.join(get_args(Implementation))}: whose module of the shape. Default: mixlab if it can."
        ),
    ] = None,
    attention: Annotated[str, typer.Option(help=f"{', '.join(get_args(AttentionKind))}.")] = "fused",
    checkpointing: Annotated[str, typer.Option(help=f"{', '.join(get_args(Checkpointing))}.")] = "none",
    optimizer: Annotated[str, typer.Option(help=f"{', '.join(get_args(OptimizerName))}.")] = "adam",
    step: Annotated[str, typer.Option(help=f"{', '.join(get_args(StepKind))}: how torch.optim steps.")] = "foreach",
    accumulation: Annotated[int, typer.Option(parser=whole_number, help="Forward and backward passes per step.")] = 1,
    gpus: Annotated[
        int | None, typer.Option(parser=whole_number, help="GPUs in all. Default: as many as tensor and pipeline need.")
    ] = None,
    zero: Annotated[
        int | None, typer.Option(parser=whole_number, help="ZeRO stage, 0 to 3: what data-parallel GPUs divide.")
    ] = None,
    fsdp: Annotated[bool, typer.Option("--fsdp", help="The same as --zero 3.")] = False,
    tensor: Annotated[int, typer.Option(parser=whole_number, help="GPUs that share each matrix.")] = 1,
    sequence_parallel: Annotated[
        bool,
        typer.Option("--sequence-parallel", help="These GPUs also divide the tensors between matrices."),
    ] = False,
    pipeline: Annotated[int, typer.Option(parser=whole_number, help="GPUs that share the layers.")] = 1,
    microbatches: Annotated[int, typer.Option(parser=whole_number, help="Microbatches per step of the pipeline.")] = 1,
    gpu: Annotated[str | None, typer.Option(metavar="NAME", help=f"GPU to fit on: {', '.join(GPUS)}.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if it does not fit on --gpu.")] = False,
    traced: Annotated[
        bool, typer.Option("--trace", help="Also trace it, and say what differs: takes seconds, one GPU.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the memory of training a transformer by phase and kind, the GPUs it fits on, and what to change first.

    With --module, show the same of any model of your own, from a trace of one step.
    """
    try:
        if check and gpu is None:
            raise ValueError("--check needs --gpu NAME, the GPU to fit on")
        if module is not None:
            _refuse_options_of_shapes(context)
            answer, given = _of_module(module, recipe, optimizer, accumulation, gpu)
        else:
            training = estimate(
                model_shape(model),
                recipe,
                batch=batch,
                seq=seq,
                attention=cast(AttentionKind, attention),
                checkpointing=cast(Checkpointing, checkpointing),
                optimizer=cast(OptimizerName, optimizer),
                step=cast(StepKind, step),
                accumulation=accumulation,
                parallel=_parallelism(gpus, zero, fsdp, tensor, sequence_parallel, pipeline, microbatches),
                implementation=cast(Implementation | None, implementation),
            )
            answer, given = _of_shape(training, model, gpu, traced), _as_given(training)
    except ANSWERED as error:
        fail(words(error), 2)
    if json:
        print_json(answer_as_json(answer, given))
    else:
        typer.echo("\n\n".join(paragraphs(answer)))
    if check and not answer.fits:
        raise typer.Exit(1)


_OF_ANY = frozenset({"module", "recipe", "optimizer", "accumulation", "gpu", "check", "json"})


def _refuse_options_of_shapes(context: typer.Context) -> None:
    """Raises ValueError if an option was given that only a shape has."""
    sources = {name: context.get_parameter_source(name) for name in context.params}
    typed = [name for name, source in sources.items() if source is not None and source.name == "COMMANDLINE"]
    flags = {one.name: one.opts[0] for one in context.command.params}
    if refused := [flags[name] for name in typed if name not in _OF_ANY]:
        one = len(refused) == 1
        raise ValueError(
            f"{', '.join(refused)} {'is' if one else 'are'} for --model; the function of --module says it itself, so "
            f"leave {'it' if one else 'them'} out"
        )


def _of_module(
    place: str, recipe: str, optimizer: str, accumulation: int, gpu: str | None
) -> tuple[Answer, dict[str, Any]]:
    """Returns what is said of a module of the user's own, by a trace."""
    parsed, judged = Recipe.parse(recipe), None if gpu is None else gpu_spec(gpu)
    require_whole("--accumulation", accumulation, 1)
    if optimizer not in get_args(OptimizerName):
        raise ValueError(f"optimizer must be one of {', '.join(get_args(OptimizerName))}, got {optimizer!r}")
    own = own_model(place)
    from mixlab.memory import Needs, estimate_of, trace

    name = cast(OptimizerName, optimizer)
    with from_here(), _without_logs_of("torch._subclasses.fake_tensor"):
        traced = trace(own.model, own.batch, parsed, loss=own.loss, optimizer=name, accumulation=accumulation)
    differences, note = None, ""
    try:
        expected = estimate_of(own.model, own.batch, parsed, optimizer=name, accumulation=accumulation)
        differences = _differences(expected, traced)
    except (ValueError, TypeError) as error:
        note = f"No formulas to compare with: {str(error).removeprefix('estimate_of: ')}"
    needs = Needs(traced)
    made = type(own.model).__name__
    heading = f"{place}: {made}"
    given = {"module": place, "class": made, "parameters": traced.numel, "recipe": str(parsed)}
    if differences is not None:
        heading += _parameters(differences.estimate)
        given["active_parameters"] = differences.estimate.shape.active_parameters
    given |= {"optimizer": optimizer, "accumulation": accumulation}
    smaller = judged or next_smaller(needs)
    return Answer(needs, smaller, judged is not None, [], traced, differences, heading, note), given


@contextmanager
def _without_logs_of(name: str) -> Iterator[None]:
    """Keeps a logger quiet: torch logs the traceback of an op that fails, which `trace` says in words."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        logger.setLevel(before)


def _of_shape(training: Estimate, model: str, gpu: str | None, traced: bool) -> Answer:
    judged = next_smaller(training) if gpu is None else gpu_spec(gpu)
    advice = [] if judged is None or training.fits(judged) else suggestions(training, judged)[:_SHOWN]
    trace = _traced(training, model) if traced else None
    differences = None if trace is None else _differences(training, trace)
    heading = f"{training.shape.name}{_parameters(training)}" if training.shape.experts else ""
    return Answer(training, judged, gpu is not None, advice, trace, differences, heading)


def _parameters(training: Estimate) -> str:
    """Returns the parameters of a mixture of experts, in words."""
    shape = training.shape
    if shape.experts is None:
        return ""
    return f", {shape.parameters:,} parameters, of which a token passes {shape.active_parameters:,}"


def _traced(training: Estimate, model: str) -> Trace:
    from mixlab.memory import confirm  # which needs torch, as estimates do not

    return confirm(training, config=None if model in SHAPES else Path(model))


def _differences(training: Estimate, trace: Trace) -> Differences:
    from mixlab.memory import Differences

    return Differences(training, trace)


def _as_given(training: Estimate) -> dict[str, Any]:
    shape = training.shape
    return {
        "model": shape.name,
        "parameters": shape.parameters,
        "active_parameters": shape.active_parameters,
        "recipe": str(training.recipe),
        **{name: getattr(training, name) for name in _INPUTS},
        "implementation": training.module,
        "notes": list(training.notes),
        "parallel": {**vars(training.parallel), "gpus": training.parallel.gpus},
    }


_INPUTS = ("batch", "seq", "attention", "checkpointing", "optimizer", "step", "accumulation")


def _parallelism(
    gpus: int | None, zero: int | None, fsdp: bool, tensor: int, sequence: bool, pipeline: int, microbatches: int
) -> Parallelism:
    if fsdp and zero not in (None, 3):
        raise ValueError(f"--fsdp means --zero 3, but --zero {zero} was given too; leave one of them out")
    one = Parallelism(tensor=tensor, sequence=sequence, pipeline=pipeline, microbatches=microbatches)
    data, rest = divmod(one.gpus if gpus is None else gpus, one.gpus)
    if rest or data < 1:
        raise ValueError(
            f"--gpus must be a multiple of --tensor times --pipeline, {one.gpus}, from {one.gpus} up, got {gpus}"
        )
    stage = cast(Zero, 3 if fsdp else zero or 0)
    return Parallelism(data, stage, tensor, sequence, pipeline, microbatches)
