"""`mixlab memory`: whether a training fits on a GPU, and what to change if it does not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, cast, get_args

import typer

from mixlab.cli.values import ANSWERED, fail, print_json, whole_number, words
from mixlab.memory import (
    GPUS,
    SHAPES,
    AttentionKind,
    Checkpointing,
    Estimate,
    GpuSpec,
    Parallelism,
    StepKind,
    Suggestion,
    Zero,
    estimate,
    gpu_spec,
    model_shape,
    suggestions,
)
from mixlab.optimizers import OptimizerName
from mixlab.recipes import PRESETS
from mixlab.tables import gib, text_table

if TYPE_CHECKING:
    from mixlab.memory import Trace

_SHOWN = 5  # suggestions


def predict(
    model: Annotated[str, typer.Option(help=f"One of {', '.join(SHAPES)}, or the path of a config.json.")] = "gpt2",
    recipe: Annotated[str, typer.Option(help=f"One of {', '.join(PRESETS)}, then e.g. ,exp_avg=bf16")] = "amp-bf16",
    batch: Annotated[int, typer.Option(parser=whole_number, help="Rows of one forward pass, on one GPU.")] = 1,
    seq: Annotated[
        int | None,
        typer.Option(parser=whole_number, help="Tokens per row. Default: the context, at most 2048."),
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
    traced: Annotated[bool, typer.Option("--trace", help="Also trace it: exact, takes seconds, one GPU only.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Show the memory of training a transformer by phase and kind, the GPUs it fits on, and what to change first."""
    try:
        if check and gpu is None:
            raise ValueError("--check needs --gpu NAME, the GPU to fit on")
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
        )
        answer = _answer(training, gpu, traced)
    except ANSWERED as error:
        fail(words(error), 2)
    if as_json:
        print_json(_as_json(answer))
    else:
        typer.echo("\n\n".join(_paragraphs(answer)))
    if check and answer.judged is not None and not training.fits(answer.judged):
        raise typer.Exit(1)


@dataclass(frozen=True)
class _Answer:
    """What the command shows.

    Attributes:
        training: The estimate.
        judged: The GPU to fit on; None if the training fits on all of `GPUS`.
        asked: Whether `judged` was asked for; else it is the largest GPU on which the training does not fit.
        advice: Suggestions for that GPU; none if the training fits.
        trace: The trace of the same training, if asked for.
    """

    training: Estimate
    judged: GpuSpec | None
    asked: bool
    advice: list[Suggestion]
    trace: Trace | None


def _answer(training: Estimate, gpu: str | None, traced: bool) -> _Answer:
    judged = _next_smaller(training) if gpu is None else gpu_spec(gpu)
    advice = [] if judged is None or training.fits(judged) else suggestions(training, judged)[:_SHOWN]
    return _Answer(training, judged, gpu is not None, advice, _traced(training) if traced else None)


def _traced(training: Estimate) -> Trace:
    from mixlab.memory import confirm  # which needs torch, as estimates do not

    return confirm(training)


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


def _by_size() -> list[GpuSpec]:
    return sorted(GPUS.values(), key=lambda gpu: gpu.usable_bytes)


def _next_smaller(training: Estimate) -> GpuSpec | None:
    """Returns the largest GPU on which the training does not fit; None if it fits on all."""
    return next((gpu for gpu in reversed(_by_size()) if not training.fits(gpu)), None)


def _paragraphs(answer: _Answer) -> Iterator[str]:
    training, judged, trace = answer.training, answer.judged, answer.trace
    yield str(training)
    outside = [(name, gib(size)) for name, size in training.outside.items()]
    outside = [("peak of tensors", gib(training.peak_bytes)), *outside, ("total", gib(training.total_bytes))]
    yield text_table(("what, modelled", "GiB"), outside)
    fits = [training.fits(gpu) for gpu in _by_size()]
    rows = [
        (fit.gpu.name, gib(fit.gpu.usable_bytes), f"{fit.room / 2**30:+8.2f}", "fits" if fit else "does not fit")
        for fit in fits
    ]
    yield text_table(("on a GPU", "GiB", "room", ""), rows)
    if trace is not None:
        apart = training.peak_bytes / trace.peak_bytes - 1
        yield f"traced: {gib(trace.peak_bytes)} GiB, in {trace.peak_phase}; the estimate is {apart:+.2%} from it"
    if judged is not None and answer.asked:
        yield str(training.fits(judged))
    if answer.advice:
        lines = [f"{number}. {one}" for number, one in enumerate(answer.advice, 1)]
        yield "\n".join([f"To fit on {judged}, change first:", *lines])


def _as_json(answer: _Answer) -> dict[str, Any]:
    training, judged, trace = answer.training, answer.judged, answer.trace
    parallel = training.parallel
    return {
        "model": training.shape.name,
        "parameters": training.shape.parameters,
        "recipe": str(training.recipe),
        **{name: getattr(training, name) for name in _INPUTS},
        "parallel": {**vars(parallel), "gpus": parallel.gpus},
        "phases": training.at_phase_peaks,
        "peak_phase": training.peak_phase,
        "peak_bytes": training.peak_bytes,
        "outside": training.outside,
        "total_bytes": training.total_bytes,
        "fits": {gpu.name: _fit_as_json(training, gpu) for gpu in _by_size()},
        "judged": None if judged is None else {"gpu": judged.name, **_fit_as_json(training, judged)},
        "suggestions": [
            {name: getattr(one, name) for name in ("change", "price", "saved_bytes", "total_bytes", "fits")}
            for one in answer.advice
        ],
        "trace": None if trace is None else _trace_as_json(trace),
    }


_INPUTS = ("batch", "seq", "attention", "checkpointing", "optimizer", "step", "accumulation")


def _fit_as_json(training: Estimate, gpu: GpuSpec) -> dict[str, Any]:
    fit = training.fits(gpu)
    return {"usable_bytes": gpu.usable_bytes, "room_bytes": fit.room, "fits": bool(fit)}


def _trace_as_json(trace: Trace) -> dict[str, Any]:
    return {
        "peak_bytes": trace.peak_bytes,
        "peak_phase": trace.peak_phase,
        "phases": trace.at_phase_peaks,
        "after": trace.after,
    }
