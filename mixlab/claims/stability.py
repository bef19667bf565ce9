"""Claims about stability and effort, settled by short trainings."""

from __future__ import annotations

from mixlab.claims.sources import MICIKEVICIUS, recorded_on_gpu
from mixlab.claims.trainings import SEEDS, end, survives, trained
from mixlab.claims.verdicts import Claim, Finding, Verdict

_STEPS = {"digits-cnn": 20, "digits-mlp": 60}  # the CNN trains with Adam, the MLP with SGD


def _stability() -> Finding:
    """Counts the trainings that survive, by recipe, with Adam and with SGD."""
    finite = {
        (task, recipe): sum(survives(trained(task, recipe, steps=steps, seed=seed)) for seed in SEEDS)
        for task, steps in _STEPS.items()
        for recipe in ("fp32", "amp-fp16", "fp16")
    }
    adam, sgd = (
        ", ".join(f"{recipe} {finite[task, recipe]}" for recipe in ("fp32", "amp-fp16", "fp16")) for task in _STEPS
    )
    as_said = [finite[task, "fp32"] == finite[task, "amp-fp16"] == len(SEEDS) > finite[task, "fp16"] for task in _STEPS]
    shown = f"Of {len(SEEDS)} trainings survive, with Adam: {adam}; with SGD: {sgd}."
    return Finding.of(as_said, shown)


def _stability_recorded() -> str:
    record = recorded_on_gpu("train")
    ends = []
    for name in ("fp32", "amp-fp16", "fp16"):
        losses = record[f"{name} eager, loss"].samples  # the finite ones
        diverged = str(record.parameters.get(f"{name} eager", "")).startswith("diverged")
        ends.append(
            f"{name} " + (f"NaN ({losses[-1]:.2f} at step {len(losses) - 1})" if diverged else f"{losses[-1]:.2f}")
        )
    return f"Loss of a GPT at the end, with AdamW: {', '.join(ends)}; {record.summary}"


def _tuning() -> Finding:
    """Trains with fp32's hyperparameters and SGD, under AMP and in pure bf16."""
    exact = [end(trained("digits-mlp", "fp32", steps=60, seed=seed)) for seed in SEEDS]
    ratios = {}
    for recipe in ("amp-fp16", "amp-bf16", "bf16"):
        ends = [end(trained("digits-mlp", recipe, steps=60, seed=seed)) for seed in SEEDS]
        ratios[recipe] = sum(ends) / sum(exact)
    needs = [ratio > 1.03 for ratio in ratios.values()]
    each = ", ".join(f"{recipe} {ratio:.2f}" for recipe, ratio in ratios.items())
    shown = (
        f"Loss / loss of fp32 with the same hyperparameters, digits-mlp with SGD, mean of {len(SEEDS)} seeds: {each}."
    )
    return Finding.of(needs, shown)


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "careful-tuning",
        "Mixed precision requires careful hyperparameter tuning.",
        "4. Are we sacrificing anything?",
        f"AMP was made to keep the hyperparameters of fp32. {MICIKEVICIUS}",
        Verdict.HOLDS_IF,
        "of pure bf16 with SGD, which ends higher here with the settings of fp32; not of AMP with a dynamic scale, "
        "which trains with them. Whether tuning helps is not measured",
        _tuning,
    ),
    Claim(
        "stability-of-the-modes",
        "Stability: fp32 highest, AMP high, pure fp16 poor with a high risk of NaN.",
        "Comparison of training modes",
        "In pure fp16 Adam's eps of 1e-8 is zero, and so is v of small gradients: m / 0 = inf, unless a fused "
        "step computes in fp32.",
        Verdict.HOLDS_IF,
        "with Adam; with SGD pure fp16 may survive",
        _stability,
        _stability_recorded,
    ),
)
