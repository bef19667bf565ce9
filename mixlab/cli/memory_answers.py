"""What `mixlab memory` answers, as tables and as JSON."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from mixlab.memory import GPUS, Estimate, GpuSpec, Suggestion
from mixlab.tables import gib, text_table

if TYPE_CHECKING:
    from mixlab.memory import Difference, Differences, Needs, Trace

_MODULES = 10  # that are shown by name


@dataclass(frozen=True)
class Answer:
    """What the command shows of a training.

    Attributes:
        training: The estimate of a shape, or what a module needs by its trace.
        judged: The GPU to fit on; None if the training fits on all of `GPUS`.
        asked: Whether `judged` was asked for; else it is the largest GPU on which the training does not fit.
        advice: Suggestions for that GPU; none if the training fits, or is a module's.
        trace: The trace, if there is one.
        differences: The trace beside the estimate, if there are both.
        heading: What is said of the model above all.
        note: Why there is no estimate beside a trace; "" for nothing to say.
    """

    training: Estimate | Needs
    judged: GpuSpec | None
    asked: bool
    advice: list[Suggestion]
    trace: Trace | None
    differences: Differences | None
    heading: str = ""
    note: str = ""

    @property
    def fits(self) -> bool:
        """Whether the training fits on the GPU to fit on."""
        return self.judged is None or bool(self.training.fits(self.judged))


def by_size() -> list[GpuSpec]:
    """Returns the GPUs by their memory."""
    return sorted(GPUS.values(), key=lambda gpu: gpu.usable_bytes)


def next_smaller(training: Estimate | Needs) -> GpuSpec | None:
    """Returns the largest GPU on which a training does not fit; None if it fits on all.

    Args:
        training: The training.
    """
    return next((gpu for gpu in reversed(by_size()) if not training.fits(gpu)), None)


def paragraphs(answer: Answer) -> Iterator[str]:
    """Yields the answer's paragraphs.

    Args:
        answer: The answer.
    """
    training, judged, trace = answer.training, answer.judged, answer.trace
    if answer.heading:
        yield answer.heading
    if isinstance(training, Estimate):
        yield str(training)
    elif trace is not None:
        yield str(trace)
        yield text_table(("activations and temporaries at the peak, by", "MiB"), _by_module(trace))
    outside = [(name, gib(size)) for name, size in training.outside.items()]
    outside = [("peak of tensors", gib(training.peak_bytes)), *outside, ("total", gib(training.total_bytes))]
    yield text_table(("what, modelled", "GiB"), outside)
    fits = [training.fits(gpu) for gpu in by_size()]
    rows = [
        (fit.gpu.name, gib(fit.gpu.usable_bytes), f"{fit.room / 2**30:+8.2f}", "fits" if fit else "does not fit")
        for fit in fits
    ]
    yield text_table(("on a GPU", "GiB", "room", ""), rows)
    if trace is not None and answer.differences is not None:
        apart = answer.differences.apart
        yield f"traced: {gib(trace.peak_bytes)} GiB, in {trace.peak_phase}; the estimate is {apart} from it"
        yield str(answer.differences)
    if answer.note:
        yield answer.note
    if judged is not None and answer.asked:
        yield str(training.fits(judged))
    if answer.advice:
        lines = [f"{number}. {one}" for number, one in enumerate(answer.advice, 1)]
        yield "\n".join([f"To fit on {judged}, change first:", *lines])


def _by_module(trace: Trace) -> list[tuple[str, str]]:
    """Returns the modules that made most of the peak, those of all layers together as one, with their MiB."""
    made: Counter[str] = Counter()
    for path, size in trace.at_peak_by_module.items():
        made[re.sub(r"(?<![^.])\d+(?![^.])", "*", path)] += size
    shown = dict(made.most_common(_MODULES))
    if len(made) > _MODULES:
        shown[f"{len(made) - _MODULES} more"] = sum(made.values()) - sum(shown.values())
    return [(name, f"{size / 2**20:,.1f}") for name, size in shown.items()]


def answer_as_json(answer: Answer, given: dict[str, Any]) -> dict[str, Any]:
    """Returns the answer for JSON.

    Args:
        answer: The answer.
        given: What the training is.
    """
    training, judged, trace = answer.training, answer.judged, answer.trace
    at_peaks = training.at_phase_peaks if isinstance(training, Estimate) else training.trace.at_phase_peaks
    peak_phase = training.peak_phase if isinstance(training, Estimate) else training.trace.peak_phase
    return {
        **given,
        "phases": at_peaks,
        "peak_phase": peak_phase,
        "peak_bytes": training.peak_bytes,
        "outside": training.outside,
        "total_bytes": training.total_bytes,
        "fits": {gpu.name: _fit_as_json(training, gpu) for gpu in by_size()},
        "judged": None if judged is None else {"gpu": judged.name, **_fit_as_json(training, judged)},
        "suggestions": [
            {name: getattr(one, name) for name in ("change", "price", "saved_bytes", "total_bytes", "fits")}
            for one in answer.advice
        ],
        "trace": None if trace is None else _trace_as_json(trace),
        "differences": None if answer.differences is None else _differences_as_json(answer.differences),
        "note": answer.note or None,
    }


def _fit_as_json(training: Estimate | Needs, gpu: GpuSpec) -> dict[str, Any]:
    fit = training.fits(gpu)
    return {"usable_bytes": gpu.usable_bytes, "room_bytes": fit.room, "fits": bool(fit)}


def _trace_as_json(trace: Trace) -> dict[str, Any]:
    return {
        "peak_bytes": trace.peak_bytes,
        "peak_phase": trace.peak_phase,
        "phases": trace.at_phase_peaks,
        "after": trace.after,
        "at_peak_by_module": trace.at_peak_by_module,
    }


def _differences_as_json(differences: Differences) -> dict[str, Any]:
    def listed(many: list[Difference]) -> list[dict[str, Any]]:
        return [{**one._asdict(), "bytes": one.bytes} for one in many]

    return {
        "estimated_peak_bytes": differences.estimate.peak_bytes,
        "at_peak": differences.at_peak,
        "kinds": listed(list(differences.kinds)),
        "parts": listed(list(differences.parts)),
        "largest": listed(differences.largest),
    }
