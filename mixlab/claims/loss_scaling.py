"""Claims about underflow and the loss scale."""

from __future__ import annotations

import math
from functools import cache

import torch

from mixlab.claims.sources import MICIKEVICIUS
from mixlab.claims.trainings import end, trained
from mixlab.claims.verdicts import Claim, Finding, Verdict
from mixlab.formats import FP16, round_to
from mixlab.loss_scaling import DeepSpeedPolicy, MegatronPolicy, ScalePolicy, ScaleWindow, TorchPolicy, simulate
from mixlab.optimizers import SGD, AdamW
from mixlab.probes import TensorStats, scale_window, track
from mixlab.process import THREADS
from mixlab.training import Trainer, load_task

_TASK, _STEPS = "digits-mlp", 120


@cache
def _probed(loss_weight: float) -> tuple[TensorStats, ScaleWindow]:
    """Gradients of a backward pass after a few steps in fp32, and the scales that fit them."""
    with THREADS.held(1):
        trainer = Trainer(load_task(_TASK, loss_weight=loss_weight), "fp32", seed=0, device="cpu")
        list(trainer.steps(20))
        with track(trainer.model, sample=None, kinds=("gradient", "weight_gradient")) as probe:
            trainer.backward()
    return probe.total("gradient"), scale_window(probe, FP16)


def _underflow() -> Finding:
    lost = {weight: _probed(weight)[0].histogram.fractions(FP16).underflow for weight in (1.0, 1e-6)}
    shown = (
        f"{_TASK}: {lost[1.0]:.2%} of the gradients become zero in fp16, {lost[1e-6]:.0%} if the loss is "
        "weighted with 1e-6."
    )
    return Finding.of([lost[1e-6] > 0.5 and lost[1.0] < lost[1e-6]], shown)


def _scaled_gradient() -> Finding:
    model = load_task(_TASK).seeded_model(0)
    inputs, targets = load_task(_TASK).batch(0, 0)
    loss = torch.nn.functional.cross_entropy(model(inputs), targets)
    parameters = list(model.parameters())
    plain = torch.autograd.grad(loss, parameters, retain_graph=True)
    scaled = torch.autograd.grad(loss * 1024, parameters)
    equal = [torch.equal(one * 1024, other) for one, other in zip(plain, scaled, strict=True)]
    return Finding.of(
        [all(equal)], f"{sum(equal)} of {len(equal)} gradients are 1024 times the unscaled ones, bit for bit."
    )


def _scale_rescues() -> Finding:
    """Tries 1024 and 2¹⁶ where the window is elsewhere, and where it is there."""
    cases, words = [], []
    for weight in (1e-6, 1e-4, 1.0):
        window = _probed(weight)[1]
        for exponent in (10, 16):
            cases.append(window.low <= exponent <= window.high)
        words.append(f"{weight:g}: {window}")
    return Finding.of(cases, f"Usable scales of {_TASK} by the weight of its loss: {'; '.join(words)}.")


def _fails_without() -> Finding:
    """Too small and too large gradients, each without a scaler and with one that finds its scale."""
    small, large = 1e-6, 2.0**20

    def loss(recipe: str, weight: float) -> float:
        return end(trained(_TASK, recipe, steps=_STEPS, loss_weight=weight))

    exact = loss("fp32", small), loss("fp32", large)
    without = loss("amp-fp16,scaler=none", small), loss("amp-fp16,scaler=none", large)
    scaled = loss("amp-fp16,scaler=static,scale=2^24", small), loss("amp-fp16,scaler=static,scale=2^-20", large)
    fails = all(bad > 1.5 * good for bad, good in zip(without, exact, strict=True))
    cured = all(good < 1.3 * best for good, best in zip(scaled, exact, strict=True))
    shown = "; ".join(
        f"{words} gradients: loss {bad:.3g} without and {good:.3g} with a scale (fp32 {best:.3g})"
        for words, bad, good, best in zip(("small", "large"), without, scaled, exact, strict=True)
    )
    return Finding.of([fails and cured], f"{_TASK}, {_STEPS} steps, {shown}.")


def _moved_by_zero(optimizer: str) -> float:
    """Returns how far a weight moves in a step with a zero gradient, after one with a real gradient."""
    weight = torch.nn.Parameter(torch.ones(1))
    chosen: torch.optim.Optimizer
    if optimizer.startswith("SGD"):
        chosen = SGD([weight], lr=0.1, momentum=0.9 if "momentum" in optimizer else 0.0)
    else:
        chosen = AdamW([weight], lr=0.01, weight_decay=0.1 if optimizer == "AdamW" else 0.0)
    for gradient in (0.5, 0.0):
        before = weight.detach().clone()
        weight.grad = torch.full((1,), gradient)
        chosen.step()
    return float(weight.detach() - before)


def _set_to_zero() -> Finding:
    moved = {name: _moved_by_zero(name) for name in ("SGD with momentum", "Adam", "AdamW")}
    plain = _moved_by_zero("SGD")
    skipping = torch.amp.GradScaler("cpu", init_scale=2.0**16)
    weight = torch.nn.Parameter(torch.ones(1))
    optimizer = torch.optim.SGD([weight], lr=0.1, momentum=0.9)
    skipping.scale(weight.sum() * math.inf).backward()  # type: ignore[no-untyped-call]
    skipping.step(optimizer)
    shown = (
        f"A zeroed gradient moves a weight by {', '.join(f'{way:+.4f} ({name})' for name, way in moved.items())} and "
        f"{plain:+.1f} (SGD); torch's scaler takes no step at all: the weight stays {float(weight.detach()):g}."
    )
    return Finding.of([any(way == 0 for way in moved.values()) or float(weight.detach()) != 1.0], shown)


def _lower_scale() -> Finding:
    policies: dict[str, ScalePolicy] = {
        "torch": TorchPolicy(2.0**16),
        "Megatron": MegatronPolicy(2.0**16, hysteresis=2),
        "DeepSpeed": DeepSpeedPolicy(2.0**16, hysteresis=2),
    }
    after = {name: simulate(policy, [True]).scales[-1] for name, policy in policies.items()}
    shown = ", ".join(f"{name} {scale:,.0f}" for name, scale in after.items())
    return Finding.of((scale < 2.0**16 for scale in after.values()), f"One overflow at 65,536, hysteresis 2: {shown}.")


def _bf16_needs_scaling() -> Finding:
    """Asks what bf16 loses of the small gradients, and whether a scale changes their rounding."""
    small = _probed(1e-6)[0]
    lost = {fmt: small.histogram.fractions(fmt).underflow for fmt in ("fp16", "bf16")}
    x = torch.randn(10_000, generator=torch.Generator().manual_seed(0)) * 1e-8
    plain = round_to(x, "bf16", overflow="inf")
    scaled = round_to(x * 2.0**16, "bf16", overflow="inf") / 2.0**16
    same = float((plain == scaled).float().mean())
    shown = (
        f"Of {_TASK}'s gradients with a loss weighted with 1e-6, {lost['fp16']:.0%} become zero in fp16 and "
        f"{lost['bf16']:.2%} in bf16; {same:.0%} of 10,000 small numbers round alike with a scale of 2¹⁶."
    )
    return Finding.of([lost["bf16"] > 0.01, same < 1], shown)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "fp16-underflow",
        "Because fp16 has a narrow range, small gradients can underflow to zero.",
        "3. Mathematical explanation and advantages",
        f"A number of at most 2⁻²⁵ rounds to zero. IEEE 754-2019; {MICIKEVICIUS}",
        Verdict.HOLDS,
        "",
        _underflow,
    ),
    Claim(
        "scaled-gradient",
        "The scaled gradient is the gradient of loss * S.",
        "3. Mathematical explanation and advantages",
        "The gradient is linear in the loss. For a power of two it is exact, as long as nothing leaves the range.",
        Verdict.HOLDS,
        "",
        _scaled_gradient,
    ),
    Claim(
        "scale-brings-into-range",
        "A factor S such as 1024 or 2¹⁶ pushes gradients into the range of fp16, where they stay.",
        "3. Mathematical explanation and advantages",
        f"S must lift the small gradients above 2⁻²⁵ and leave the largest below 65504: a window. {MICIKEVICIUS}",
        Verdict.HOLDS_IF,
        "if S lies in the window of usable scales, which depends on the network, the loss and the step",
        _scale_rescues,
    ),
    Claim(
        "fails-without-scaling",
        "Without loss scaling, gradients can vanish to zero or explode to NaN, and training fails.",
        "4. Are we sacrificing anything?",
        f"Below 2⁻²⁵ they are zero, from 65520 on infinite. {MICIKEVICIUS}",
        Verdict.HOLDS,
        "",
        _fails_without,
    ),
    Claim(
        "bf16-needs-loss-scaling",
        "Training in bf16 loses precision by underflow; gradient scaling is the solution.",
        "5. Training with BF16",
        "bf16 has the exponents of fp32. A power of two moves numbers, and does not make them more precise. "
        "Kalamkar et "
        "al., A Study of BFLOAT16 for Deep Learning Training, 2019.",
        Verdict.DOES_NOT_HOLD,
        "that is fp16: bf16 needs no loss scale, and a scale does not restore its digits",
        _bf16_needs_scaling,
    ),
    Claim(
        "overflow-sets-gradient-to-zero",
        "On overflow, ignore the gradient (set it to 0).",
        "5. Training with BF16",
        "Momentum, Adam's moments and weight decay move a weight without a gradient. torch, apex, Megatron and "
        "DeepSpeed skip "
        "the step.",
        Verdict.DOES_NOT_HOLD,
        "the step is skipped; a zero gradient is the same only for plain SGD",
        _set_to_zero,
    ),
    Claim(
        "overflow-lowers-scale",
        "On overflow, lower the gradient scale.",
        "5. Training with BF16",
        "torch and apex halve at once; with hysteresis, Megatron and DeepSpeed forgive the first overflows.",
        Verdict.HOLDS_IF,
        "if the scaler has no hysteresis left",
        _lower_scale,
    ),
)
