"""Claims about Adam's moments in few bits."""

from __future__ import annotations

import torch

from mixlab.claims.sources import ADAM, OWED_STATES, recorded_on_gpu
from mixlab.claims.verdicts import Claim, Finding, Verdict
from mixlab.formats import round_to
from mixlab.measure import Record, shipped
from mixlab.memory import model_states
from mixlab.optimizers import AdamW, Storage

_PLACE = "5. Training with BF16"


def _decayed(beta: float, steps: int, dtype: torch.dtype) -> float:
    """Returns what is left of a mean of 1 after steps with zero gradients."""
    moment = torch.tensor(1.0, dtype=dtype)
    for _ in range(steps):
        moment = beta * moment
    return float(moment)


def _states() -> Record:
    return shipped("states")[0]


def _worst_ratio(setting: str) -> tuple[float, float]:
    """Returns the lowest and the highest loss / loss in fp32 of the record, over its seeds, after a spike."""
    record = _states()
    exact, other = (record[f"{name}, lr 0.001, spike, loss"].samples for name in ("fp32", setting))
    ratios = [value / best for value, best in zip(other, exact, strict=True)]
    return min(ratios), max(ratios)


def _where() -> str:
    record = _states()
    return f"with five seeds, recorded on {record.machine['cpu']}, {record.date[:10]}"


def _first_moment() -> Finding:
    kept = {dtype: _decayed(0.9, 20, dtype) for dtype in (torch.float32, torch.bfloat16)}
    exact, rounded = kept.values()
    low, high = _worst_ratio("fp32,exp_avg=bf16")
    shown = (
        f"m of 1 after 20 zero gradients: {exact:.3f} in fp32, {rounded:.3f} in bf16. Trainings {_where()}: {low:.3f} "
        f"to {high:.3f} times the loss of fp32."
    )
    return Finding.of([abs(rounded / exact - 1) < 0.1, low > 0.98 and high < 1.02], shown)


def _second_moment() -> Finding:
    """Whether v stands still, for the usual beta2 and for a smaller one, and with stochastic rounding."""
    kept = {beta: _decayed(beta, 2000, torch.bfloat16) for beta in (0.999, 0.95)}
    v, coin = torch.ones(4096), torch.Generator().manual_seed(0)
    for _ in range(500):
        v = round_to(0.999 * v, "bf16", overflow="inf", rounding="stochastic", generator=coin)
    average = float(v.mean()) / 0.999**500
    low, high = _worst_ratio("fp32,exp_avg_sq=bf16")
    best, worst = _worst_ratio("fp32,exp_avg_sq=bf16,state_rounding=stochastic")
    half = _worst_ratio("fp32,exp_avg_sq=fp16")
    shown = (
        f"v of 1 after 2000 zero gradients: {kept[0.999]:g} in bf16 with beta2 0.999 (exact {0.999**2000:.3f}), "
        f"{kept[0.95]:.2g} with 0.95; rounded stochastically, after 500, {average:.2f} of the exact value on average. "
        f"Loss / loss of fp32 of trainings {_where()}: {low:.2f} to {high:.2f} in bf16, {best:.2f} to {worst:.2f} in "
        f"bf16 rounded stochastically, {half[0]:.2f} to {half[1]:.2f} in fp16."
    )
    stands_still = [kept[0.999] == 1.0 and low > 1.05, kept[0.95] > 0.5]
    return Finding.of([*stands_still, abs(average - 1) > 0.1 or worst > 1.05], shown)


def _few_bits() -> Finding:
    weight = torch.nn.Parameter(torch.zeros(1 << 16))
    optimizer = AdamW([weight], lr=1e-3, storage=Storage(exp_avg_dtype="dynamic8", exp_avg_sq_dtype="dynamic8"))
    weight.grad = torch.linspace(-1, 1, weight.numel())
    optimizer.step()
    right = float((weight.detach().sign() == -weight.grad.sign()).float().mean())
    size = model_states("fp32,exp_avg=dynamic8,exp_avg_sq=dynamic8", [weight.numel()])
    states = size.bytes_per_parameter - 8
    shown = (
        f"AdamW with both moments in 8 bits keeps {states:.3f} bytes of states a parameter; {right:.1%} of "
        "its first updates go the right way."
    )
    return Finding.of([states < 2.1 and right > 0.99], shown)


def _few_bits_recorded() -> str:
    record = recorded_on_gpu("optimizer")
    states, ratio = (record[f"bitsandbytes 8-bit, {what}"].median for what in ("states", "ratio"))
    return (
        f"bitsandbytes 8-bit: {states:.3f} bytes of states a parameter, a step takes {ratio:.1f} times "
        f"torch's fused one; {record.summary}"
    )


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "adam-first-moment-bf16",
        "Adam in bf16: the first moment is possible.",
        _PLACE,
        f"m forgets a tenth of itself each step, far more than half a gap of bf16. {ADAM}",
        Verdict.HOLDS,
        "",
        _first_moment,
        owed=OWED_STATES,
    ),
    Claim(
        "adam-second-moment-bf16",
        "Adam in bf16: the second moment is unstable, keep it in 32 bits.",
        _PLACE,
        f"v loses 1 - beta2 of itself each step; below half a gap of bf16, 1/512 to 1/256 of v, it rounds back. {ADAM}",
        Verdict.HOLDS_IF,
        "with beta2 = 0.999 and rounding to nearest, where v stands still and the loss ends higher; rounded "
        "stochastically it trains as fp32 does, and with beta2 = 0.95 v does move",
        _second_moment,
        owed=OWED_STATES,
    ),
    Claim(
        "low-bit-adam",
        "Specialised very low-bit Adam implementations exist.",
        _PLACE,
        "Blocks of values share a scale. Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022.",
        Verdict.HOLDS,
        "",
        _few_bits,
        _few_bits_recorded,
    ),
)
