"""Measures products of matrices in every format that this machine multiplies, and memory-bound ops beside them."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from mixlab.machine import usable_device
from mixlab.measure.devices import clock_s, free
from mixlab.measure.matmul_cases import (
    STORED,
    Case,
    Operands,
    ProductCase,
    all_cases,
    default_shapes,
)
from mixlab.measure.record import Record
from mixlab.measure.requests import check_matmul, parsed_formats
from mixlab.measure.resuming import Draft, earlier_record
from mixlab.measure.roofs import predicted_series
from mixlab.measure.sensors import clock_and_power, free_bytes, last_cache_bytes
from mixlab.process import OFF, ON, TF32_SWITCHES, THREADS, measuring_threads

_SAMPLE_S = {"cpu": 0.005, "cuda": 0.02}  # a sample is the mean of as many calls as take this long
_GUESSED_BANDWIDTH = {"cpu": 4e9, "cuda": 5e11}  # bytes/s, until an op was timed
_DRAWN = 1 << 20  # different random numbers in an operand; they repeat after that
_SHARE_OF_MEMORY = 0.8  # of what is free
_TRIED_S = 0.1  # seconds for which a format is tried, at each of two sizes
_TOO_LONG = "longer than the budget allows"
_OVERHEAD_BYTES = 1 << 28  # of memory, beside operands


def measure_matmul(
    device: torch.device | str | None = None,
    *,
    formats: Sequence[str] | None = None,
    shapes: Sequence[str] | None = None,
    numel: int | None = None,
    budget_s: float = 120.0,
    rounds: int = 15,
    threads: int | None = None,
    seed: int = 0,
    path: Path | str | None = None,
    command: str = "measure_matmul",
    progress: Callable[[float], None] = lambda _part: None,
) -> Record:
    """Measures products in GFLOP/s, and element-wise ops, softmax and layer norm in GB/s, within a time budget.

    A product is an (m, k) matrix by the transpose of an (n, k) one, as by the weight of `nn.Linear`, into a matrix that
    exists already. A sample is the mean of calls one after another, for 5 ms on a CPU and 20 ms on CUDA; the first call
    is not counted. Cases take turns, round by round, so that anything that slows the machine down slows them all, and
    long ones take part in fewer rounds. GB/s count each input read once and each result written once.

    Which formats the machine multiplies is found by trying. torch may multiply one by a plain loop, as it does fp8 on
    most CPUs; its speed shows that. What cannot be measured is named in the record's parameters with the reason: a
    format or shape that torch refuses, a case that needs more memory or time than there is.

    "read", "write" and "copy" are the bandwidths of memory, taken as in STREAM (McCalpin, Memory bandwidth and machine
    balance in current high performance computers, 1995) with tensors larger than the last cache. With the peak of each
    format they give the series "NAME, predicted", see `mixlab.measure.roofs`. On CUDA, "clock" and "power" are those
    that nvidia-smi reports during the largest product.

    Args:
        device: Device to measure; None takes CUDA if available, else the CPU.
        formats: Names out of fp32, tf32, fp16, bf16, e4m3fn and int8; None tries all. e4m3fn products are stored in
            bf16 and int8 products in int32, all others in the format of their operands.
        shapes: Texts such as "1024x1024x512" for m, n and k, or "8x64x64x32" for a batch of 8; None takes square, odd,
            skinny, long-summed and batched ones.
        numel: Elements of the tensors of element-wise ops; None takes too many for any cache, if memory allows.
        budget_s: Seconds that the measurement may take, about, over all calls that continue it.
        rounds: Samples of each case at most.
        threads: CPU threads; None keeps torch's number.
        seed: Seed of the random operands.
        path: File that is written every few seconds, so that the measurement can be stopped at any time: it is a
            record then, marked as unfinished in its parameter "state", and the same call continues it. If it is
            finished already, it is returned as it is. None writes nothing.
        command: Command line to store in the record.
        progress: Called with the completed fraction, from 0 to 1.

    Raises:
        OSError: If the file cannot be read or written.
        ValueError: If an argument is unknown or out of range, nothing can be measured, or the file holds something
            else: another kind of record, other settings, or another machine; the message says what differs.
    """
    check_matmul(
        formats=formats, shapes=shapes, numel=numel, budget_s=budget_s, rounds=rounds, threads=threads, seed=seed
    )
    device = usable_device(device)
    threads = measuring_threads() if threads is None else threads
    earlier = earlier_record(path, "matmul")
    if numel is None:
        numel = int(earlier.parameters.get("numel", 0)) if earlier else 0
        numel = numel or default_numel(device)
    chosen = parsed_formats(formats if formats is not None else tuple(STORED))
    taken = tuple(shapes) if shapes is not None else default_shapes(device.type, numel)
    cases = list(all_cases(chosen, taken, numel))
    settings: dict[str, str | int | float] = {
        "device": str(device),
        "formats": ",".join(chosen),
        "shapes": ",".join(taken),
        "numel": numel,
        "budget_s": float(budget_s),
        "rounds": rounds,
        "threads": threads,
    }
    draft = Draft(
        "matmul", settings, seed, command, Path(path) if path is not None else None, earlier, derived=predicted_series
    )
    if earlier is not None and draft.finished:
        return earlier
    draft.order([case.name for case in cases])
    measurement = _Measurement(device, seed, draft, float(budget_s), rounds, progress)
    with THREADS.held(threads), draft.kept():
        measurement.run(cases)
    return draft.record()


def default_numel(device: torch.device) -> int:
    """Returns a power of two: as many 16-bit numbers are more than the last cache holds, if memory allows."""
    numel = 1 << 28 if device.type == "cuda" else 1 << 22
    while 2 * numel < 1.25 * last_cache_bytes(device):
        numel *= 2
    room = free_bytes(device)
    while room is not None and 30 * numel > room / 2 and numel > 4096:
        numel //= 2
    return numel


@dataclass
class _Turn:
    """A case in the rounds: the seconds that a call takes, guessed at first, and those that it was measured for."""

    case: Case
    call_s: float
    call: Callable[[], object] | None = None
    spent_s: float = 0.0


@dataclass
class _Measurement:
    """A measurement under way; the draft has its samples and notes."""

    device: torch.device
    seed: int
    draft: Draft
    budget_s: float
    rounds: int
    progress: Callable[[float], None]
    pools: dict[tuple[torch.dtype, torch.dtype], Operands] = field(default_factory=dict)

    def run(self, cases: Sequence[Case]) -> None:
        """Takes the rounds that the budget allows."""
        self.draft.notes["last cache, bytes"] = last_cache_bytes(self.device)
        turns = self._turns([case for case in cases if not self.draft.left_out(case.name)])
        try:
            self._allocate([turn.case for turn in turns])
            for round_ in range(self.rounds):
                self._round(round_, turns)
        finally:
            self.pools.clear()
            for turn in turns:
                turn.call = None
            free(self.device)
        if not any(case.name in self.draft.samples for case in cases):
            raise ValueError(f"measure_matmul: nothing can be measured here: {self.draft.reasons():.400}")
        self.draft.finish()
        self.progress(1.0)

    def _round(self, round_: int, turns: list[_Turn]) -> None:
        """Takes a sample of each case that has fewer than the round asks for, and for which there is time."""
        share_s = 2 * self.budget_s / max(len(turns), 1)
        for number, turn in enumerate(tuple(turns)):
            have = len(self.draft.samples.get(turn.case.name, ()))
            next_s = max(turn.call_s, _SAMPLE_S[self.device.type])
            spent = turn.spent_s + next_s > share_s or self.draft.spent_s() + next_s > self.budget_s
            if have > round_ or (have and spent):
                continue
            if self.draft.spent_s() > 1.1 * self.budget_s:
                self.draft.leave_out(turn.case.name, _TOO_LONG)
                turns.remove(turn)
            elif not self._sample(turn):
                turns.remove(turn)
            self.draft.keep()
            of_time = self.draft.spent_s() / self.budget_s
            of_rounds = (round_ + (number + 1) / len(turns)) / self.rounds if turns else 1.0
            self.progress(min(max(of_time, of_rounds), 1.0))
        largest = max((turn for turn in turns if turn.call), key=lambda turn: turn.case.flops, default=None)
        if largest is not None and self.draft.spent_s() < self.budget_s:
            self._sense(largest)

    def _sample(self, turn: _Turn) -> bool:
        """Adds a sample; returns False, and notes why, if the case does not run."""
        case, began_s = turn.case, clock_s(self.device)
        try:
            with _arithmetic(case):
                first = turn.call is None
                if turn.call is None:
                    turn.call = case.call(self.pools[_stored(case)])
                    turn.call()
                    turn.call_s = self._seconds(turn.call, 1)
                count = math.ceil(_SAMPLE_S[self.device.type] / turn.call_s)
                if count > 1 or not first:
                    turn.call_s = self._seconds(turn.call, count)
        except (RuntimeError, ValueError, TypeError) as error:  # whatever torch raises for what it does not have
            self.draft.leave_out(case.name, _reason(error))
            return False
        self.draft.add(case.name, case.unit, case.work / turn.call_s)
        turn.spent_s += clock_s(self.device) - began_s
        return True

    def _seconds(self, call: Callable[[], object], count: int) -> float:
        """Returns the mean seconds of calls one after another."""
        began_s = clock_s(self.device)
        for _ in range(count):
            call()
        return max((clock_s(self.device) - began_s) / count, 1e-9)

    def _sense(self, turn: _Turn) -> None:
        """Adds the GPU's clock and power while it works on a case for about half a second."""
        if self.device.type == "cpu" or turn.call is None:
            return
        with _arithmetic(turn.case):
            for _ in range(max(1, math.ceil(0.5 / turn.call_s))):
                turn.call()
            for name, value in clock_and_power(self.device).items():  # the calls are still in the GPU's queue
                self.draft.add(name, {"clock": "MHz", "power": "W"}[name], value)
        clock_s(self.device)

    def _turns(self, cases: Sequence[Case]) -> list[_Turn]:
        """Returns the cases that the machine has formats, memory and time for, and notes why others are left out."""
        rates = {fmt: self._rate(fmt) for fmt in dict.fromkeys(case.format for case in cases if case.flops)}
        turns = []
        for case in self._fitting([case for case in cases if not case.flops or rates[case.format]]):
            guessed = _GUESSED_BANDWIDTH[self.device.type]
            call_s = case.flops / rates[case.format] if case.flops else 0.0
            turns.append(_Turn(case, max(call_s, (case.read_bytes + case.written_bytes) / guessed)))
        needed_s = 0.0
        for turn in sorted(turns, key=lambda one: one.call_s):
            needed_s += (
                2 * turn.call_s if turn.case.name not in self.draft.samples else 0.0
            )  # a call to warm up, and one
            if needed_s > self.budget_s and turn.case.name not in self.draft.samples:
                turns.remove(turn)
                self.draft.leave_out(turn.case.name, _TOO_LONG)
        return turns

    def _rate(self, fmt: str) -> float:
        """Returns the FLOP/s of small products in a format, found by trying; 0 if it is left out."""
        if fmt == "tf32" and self.device.type == "cpu":
            self.draft.leave_out(fmt, "only CUDA multiplies in it")
            return 0.0
        rate = 0.0
        for side in (128, 512):
            case = ProductCase(fmt, side, side, side)
            if rate and case.flops / rate > 2.0:  # seconds
                break
            try:
                with _arithmetic(case):
                    call = case.call(self._operands(_stored(case), case.numels))
                    call()
                    until_s = clock_s(self.device) + _TRIED_S  # the best call: the first may wait for a busy core
                    best_s = self._seconds(call, 1)
                    while clock_s(self.device) < until_s:
                        best_s = min(best_s, self._seconds(call, 1))
                    rate = max(rate, case.flops / best_s)
            except (RuntimeError, ValueError, TypeError) as error:
                self.draft.leave_out(fmt, _reason(error))
                return 0.0
        return rate

    def _fitting(self, cases: Sequence[Case]) -> list[Case]:
        """Returns the cases whose operands fit in memory, with those of all before them."""
        room = free_bytes(self.device)
        fitting: list[Case] = []
        for case in cases:
            needed = _pool_bytes([*fitting, case]) + _OVERHEAD_BYTES
            if room is None or needed <= _SHARE_OF_MEMORY * room:
                fitting.append(case)
            else:
                self.draft.leave_out(case.name, f"more than memory holds, of which {room / 2**30:.1f} GiB are free")
        return fitting

    def _allocate(self, cases: Sequence[Case]) -> None:
        for stored, numels in _pool_numels(cases).items():
            self.pools[stored] = self._operands(stored, numels)

    def _operands(self, stored: tuple[torch.dtype, torch.dtype], numels: tuple[int, ...]) -> Operands:
        """Returns random inputs, normally distributed or any int8, and room for the result."""
        generator = torch.Generator(self.device).manual_seed(self.seed)
        inputs = []
        for numel in numels[:2]:
            drawn = min(max(numel, 1), _DRAWN)
            if stored[0] == torch.int8:
                some = torch.randint(-128, 128, (drawn,), device=self.device, generator=generator, dtype=torch.int8)
            else:
                some = torch.randn(drawn, device=self.device, generator=generator).to(stored[0])
            inputs.append(_repeated(some, numel))
        return Operands(inputs[0], inputs[1], torch.zeros(numels[2], dtype=stored[1], device=self.device))


def _repeated(some: Tensor, numel: int) -> Tensor:
    """Returns `numel` elements that repeat those of a tensor."""
    whole = torch.empty(numel, dtype=some.dtype, device=some.device)
    for start in range(0, numel, some.numel()):
        piece = whole[start : start + some.numel()]
        piece.copy_(some[: piece.numel()])
    return whole


def _stored(case: Case) -> tuple[torch.dtype, torch.dtype]:
    return STORED[case.format]


def _pool_numels(cases: Sequence[Case]) -> dict[tuple[torch.dtype, torch.dtype], tuple[int, ...]]:
    """Returns the elements that operands must have to serve all cases, by their dtypes."""
    most: dict[tuple[torch.dtype, torch.dtype], tuple[int, ...]] = {}
    for case in cases:
        most[_stored(case)] = tuple(map(max, most.get(_stored(case), (0, 0, 0)), case.numels))
    return most


def _pool_bytes(cases: Sequence[Case]) -> int:
    return sum(
        (x + y) * stored[0].itemsize + out * stored[1].itemsize for stored, (x, y, out) in _pool_numels(cases).items()
    )


@contextmanager
def _arithmetic(case: Case) -> Iterator[None]:
    """The arithmetic that a case names: tf32 or full fp32, whatever is switched on, and no autocast."""
    with TF32_SWITCHES.held(ON if case.format == "tf32" else OFF), torch.no_grad():
        yield


def _reason(error: BaseException) -> str:
    """Returns the first line of an error without commas, which separate names in a record's remarks."""
    if isinstance(error, torch.OutOfMemoryError):
        return "out of memory"
    line = next(iter(str(error).splitlines()), "") or type(error).__name__
    return f"torch says: {line:.160}"
