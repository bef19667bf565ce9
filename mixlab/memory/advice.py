"""Searches over estimates: the largest training that fits on a GPU, and what to change if one does not fit."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

from mixlab.machine import Gpu
from mixlab.memory.choices import AttentionKind, Checkpointing, Implementation
from mixlab.memory.estimates import Estimate, estimate
from mixlab.memory.gpus import GpuSpec, gpu_spec
from mixlab.memory.instants import StepKind
from mixlab.memory.parallel import ONE_GPU, Parallelism
from mixlab.optimizers import OptimizerName
from mixlab.recipes import Recipe
from mixlab.shapes import ModelShape

_MOST = 2**24  # rows or tokens at which a search ends
_WORTH = 0.005  # share of the total that a change must save to be suggested

# Kinds of prices, from free to another task; suggestions that fit come in this order.
FREE, SLOWER, NUMERICS, HARDWARE, TASK = range(5)


@dataclass(frozen=True)
class Suggestion:
    """A change that saves memory.

    Attributes:
        change: The change, in words.
        price: Its price, in words.
        kind: The kind of its price, from least to most drastic: 0 free, 1 slower, 2 other numerics, 3 more GPUs, 4
            another task.
        estimate: Estimate of the training with the change.
        saved_bytes: Bytes that the change saves of the total.
        fits: Whether the training then fits.
    """

    change: str
    price: str
    kind: int
    estimate: Estimate
    saved_bytes: int
    fits: bool

    @property
    def total_bytes(self) -> int:
        """Bytes that the training needs with the change."""
        return self.estimate.total_bytes

    def __str__(self) -> str:
        verdict = "fits" if self.fits else "does not fit"
        saved, total = (f"{size / 2**30:.1f} GiB" for size in (self.saved_bytes, self.total_bytes))
        return f"{self.change}: saves {saved}, {total} in all, {verdict}; price: {self.price}"


def largest_batch(training: Estimate, gpu: str | GpuSpec | Gpu) -> int:
    """Returns the largest batch with which a training fits on a GPU; 0 if not even one row fits.

    >>> largest_batch(estimate("gpt2", "amp-bf16", seq=1024), "rtx-4090")
    22

    Args:
        training: The training; its own batch does not matter.
        gpu: A GPU, or a name of `GPUS`.

    Raises:
        TypeError, ValueError: As `gpu_spec`.
    """
    spec = gpu_spec(gpu)
    return _largest(lambda batch: bool(replace(training, batch=batch).fits(spec)), _MOST)


def largest_seq(training: Estimate, gpu: str | GpuSpec | Gpu) -> int:
    """Returns the longest sequence with which a training fits on a GPU; 0 if not even one token fits.

    A "gpt2" shape ends at its context; rotary embeddings may go beyond it.

    >>> largest_seq(estimate("llama-3.2-1b", "amp-bf16", checkpointing="full"), "h200") > 32768
    True

    Args:
        training: The training; its own seq does not matter.
        gpu: A GPU, or a name of `GPUS`.

    Raises:
        TypeError, ValueError: As `gpu_spec`.
    """
    spec = gpu_spec(gpu)
    most = training.shape.context if training.shape.design.positions == "learned" else _MOST
    return _largest(lambda seq: bool(replace(training, seq=seq).fits(spec)), most)


def break_even_batch(
    model: ModelShape | str,
    recipe_a: Recipe | str = "fp32",
    recipe_b: Recipe | str = "amp-bf16",
    *,
    seq: int | None = None,
    attention: AttentionKind = "fused",
    checkpointing: Checkpointing = "none",
    optimizer: OptimizerName = "adam",
    step: StepKind = "foreach",
    accumulation: int = 1,
    parallel: Parallelism = ONE_GPU,
    implementation: Implementation | None = None,
) -> int | None:
    """Returns the batch at which `recipe_b` begins to need less memory than `recipe_a`.

    Autocast keeps all states of fp32 and adds casts of the weights, so it saves memory only with many activations. With
    one row fewer than the returned batch, `recipe_b` does not save memory. If the peak moves to another phase, there
    may be several such batches; one of them is returned.

    >>> break_even_batch("gpt2", seq=128), break_even_batch("llama-3-8b", seq=2048)
    (7, 3)

    Args:
        model: A shape, or its name.
        recipe_a, recipe_b: The recipes to compare, or their texts.
        seq, attention, checkpointing, optimizer, step, accumulation, parallel, implementation: As for `estimate`.

    Returns:
        None if `recipe_b` does not save memory even with 2^20 rows.

    Raises:
        TypeError, ValueError: As `estimate`.
    """
    a = estimate(
        model,
        recipe_a,
        seq=seq,
        attention=attention,
        checkpointing=checkpointing,
        optimizer=optimizer,
        step=step,
        accumulation=accumulation,
        parallel=parallel,
        implementation=implementation,
    )
    b = replace(a, recipe=Recipe.of(recipe_b))

    def not_less(batch: int) -> bool:
        return replace(b, batch=batch).peak_bytes >= replace(a, batch=batch).peak_bytes

    most = 2**20
    return None if not_less(most) else _largest(not_less, most) + 1


def _largest(holds: Callable[[int], bool], most: int) -> int:
    """Returns the largest number up to `most` for which `holds` is true, 0 if none; `holds` must be monotonic."""
    low, high = 0, 1
    while high <= most and holds(high):
        low, high = high, 2 * high
    high = min(high, most + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def suggestions(training: Estimate, gpu: str | GpuSpec | Gpu) -> list[Suggestion]:
    """Returns changes that save memory, ranked: first those with which the training fits, the cheapest of them first.

    If no single change is enough, the first suggestion combines changes, cheapest first, until the training fits, if
    that is possible. Whether a recipe still trains as well is not considered.

    >>> for one in suggestions(estimate("gpt2-large", "amp-bf16", batch=16), "a100-40gb")[:2]:
    ...     print(one.change)
    checkpointing of every layer (full)
    batch 8 with 2 accumulated passes

    Args:
        training: The training as planned.
        gpu: A GPU, or a name of `GPUS`.

    Raises:
        TypeError, ValueError: As `gpu_spec`.
    """
    spec = gpu_spec(gpu)
    found = [_suggestion(training, spec, *change) for change in _changes(training, spec)]
    found = sorted((one for one in found if one.saved_bytes > _WORTH * training.total_bytes), key=_rank)
    if training.fits(spec) or any(one.fits for one in found):
        return found
    together = _together(training, spec)
    return [together, *found] if together else found


def _rank(one: Suggestion) -> tuple[bool, int, int]:
    return not one.fits, one.kind if one.fits else 0, -one.saved_bytes


def _suggestion(training: Estimate, gpu: GpuSpec, change: str, price: str, kind: int, changed: Estimate) -> Suggestion:
    saved = training.total_bytes - changed.total_bytes
    return Suggestion(change, price, kind, changed, saved, bool(changed.fits(gpu)))


def _together(training: Estimate, gpu: GpuSpec) -> Suggestion | None:
    """Returns changes that together make the training fit, from free ones to more GPUs; None if that fails.

    It goes through the kinds, each time taking the first change that is enough, or else the one that saves most.
    """
    now, words, prices = training, [], []
    for kind in (FREE, SLOWER, NUMERICS, HARDWARE):
        while steps := [c for c in _changes(now, gpu) if c[2] == kind and c[3].total_bytes < now.total_bytes]:
            fitting = (step for step in steps if step[3].fits(gpu))
            change, price, _, now = next(fitting, min(steps, key=lambda step: step[3].total_bytes))
            words.append(change)
            prices.append(price)
            if now.fits(gpu):
                return _suggestion(training, gpu, ", then ".join(words), "; ".join(prices), kind, now)
            if kind == HARDWARE and now.parallel.gpus > _MOST_GPUS:
                return None
    return None


_MOST_GPUS = 4096
_Change = tuple[str, str, int, Estimate]


def _changes(now: Estimate, gpu: GpuSpec) -> Iterator[_Change]:
    """Yields single changes as (change, price, kind, estimate with the change)."""
    if now.step != "fused":
        yield "an optimizer step in one pass (fused)", "none", FREE, replace(now, step="fused")
    if now.attention != "fused":
        yield "fused attention", "none", FREE, replace(now, attention="fused")
    if now.checkpointing == "none" and now.module == "mixlab":
        selective = f"the attention core again in backward, some {_core_share(now):.0%} of the FLOPs on top"
        yield "checkpointing of attention (selective)", selective, SLOWER, replace(now, checkpointing="selective")
    if now.checkpointing != "full":
        full = "one more forward pass, a third of the FLOPs on top"
        yield "checkpointing of every layer (full)", full, SLOWER, replace(now, checkpointing="full")
    if now.batch > 1:
        passes = _in_passes(now, gpu)
        price = "smaller products, and gradients that live between passes"
        yield f"batch {passes.batch} with {passes.accumulation} accumulated passes", price, SLOWER, passes
    yield from _recipes(now)
    yield from _more_gpus(now)
    if now.seq > 1:
        yield f"rows of {now.seq // 2} tokens", "another task: less context", TASK, replace(now, seq=now.seq // 2)


def _core_share(now: Estimate) -> float:
    """Returns the FLOPs of the attention core's forward pass, over those of a step of the layers, about.

    A layer's forward pass takes 24 h^2 + 4 h s for each token of a row of s, with width h; the second term is the core,
    not causal. Backward takes twice as much (Korthikanti et al., 2022).
    """
    return now.seq / (3 * (6 * now.shape.width + now.seq))


def _in_passes(now: Estimate, gpu: GpuSpec) -> Estimate:
    """Returns the same rows in passes of a half, a quarter, ... of them, whichever fits first; or row by row."""
    sizes = (now.batch >> halvings for halvings in range(1, now.batch.bit_length()))
    passes = [replace(now, batch=rows, accumulation=now.accumulation * -(-now.batch // rows)) for rows in sizes]
    return next((one for one in passes if one.fits(gpu)), passes[-1])


def _recipes(now: Estimate) -> Iterator[_Change]:
    """Yields recipes that store or compute in fewer bits, those nearest to autocast first."""
    for text, price in _LEANER.items():
        recipe = Recipe.parse(text)
        if recipe != now.recipe:
            yield f"recipe {text}", price, NUMERICS, replace(now, recipe=recipe)


_LEANER = {
    "amp-bf16": "products in bf16",
    "amp-bf16,exp_avg=dynamic8,exp_avg_sq=dynamic8": "products in bf16, both moments in 8 bits",
    "lean-bf16": "gradients and first moment in bf16",
    "bf16-kahan": "all in bf16; a Kahan sum of each weight's updates",
    "bf16-sr": "all in bf16; updates rounded stochastically, right on average",
    "bf16": "all in bf16; small updates are lost",
}


def _more_gpus(now: Estimate) -> Iterator[_Change]:
    """Yields two to eight times the GPUs that share states, and twice the GPUs that share matrices."""
    parallel = now.parallel
    many = now.accumulation > 1
    prices = {  # Rajbhandari et al., ZeRO, 2020, section 7
        1: "as many bytes are sent as without ZeRO, half of them parameters",
        2: "gradients are sent in every pass, not once a step" if many else "as many bytes are sent as with ZeRO 1",
        3: f"parameters are gathered twice in every pass; {'' if many else 'half as '}much more is sent",
    }
    for data in (2, 4, 8):
        for zero, price in prices.items():
            if (data * parallel.data, zero) > (parallel.data, parallel.zero):
                shared = replace(parallel, data=data * parallel.data, zero=zero)  # type: ignore[arg-type]
                change = f"ZeRO {zero} on {shared.data} GPUs" + (" (FSDP)" if zero == 3 else "")
                yield change, f"{data} times the GPUs; {price}", HARDWARE, replace(now, parallel=shared)
    pair = replace(parallel, tensor=2 * parallel.tensor, sequence=True)
    if now.module == "mixlab" and _divides(pair, now.shape):
        price = "2 times the GPUs, with a fast link: something is sent in every layer"
        yield f"tensor parallelism over {pair.tensor} GPUs", price, HARDWARE, replace(now, parallel=pair)


def _divides(parallel: Parallelism, shape: ModelShape) -> bool:
    try:
        parallel.check(shape)
    except ValueError:
        return False
    return True
