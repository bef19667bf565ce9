"""One figure from each function of `mixlab.figures`, by its name."""

from __future__ import annotations

import math
from collections.abc import Callable

import plotly.graph_objects as go
import torch
from torch import nn

from mixlab import Recipe, figures, load_task
from mixlab.emulation import cast_trace
from mixlab.experiments import dtype_ledger
from mixlab.formats import FORMATS, FP16
from mixlab.loss_scaling import all_policies, simulate
from mixlab.matmul import RooflinePoint, Summation, error_growth, operand_sample, roofs_of
from mixlab.measure import MatmulSpeed, shipped
from mixlab.memory import VARIANTS, estimate, gpu_spec, trace, transformer
from mixlab.probes import tensor_stats
from mixlab.shapes import model_shape
from tests.panels.trainings import DIVERGED, records


def _ledger_bars() -> go.Figure:
    task = load_task("digits-mlp")
    recipes = ("amp-fp16", "bf16-kahan")
    return figures.ledger_bars({text: dtype_ledger(task, Recipe.parse(text)) for text in recipes})


def _cast_map() -> go.Figure:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.LayerNorm(3), nn.Softmax(-1))
    return figures.cast_map(cast_trace(model, torch.ones(2, 4), compute="fp16"))


def _scale_histories() -> go.Figure:
    overflows = [step in (3, 4, 11) for step in range(24)]
    histories = {name: simulate(policy, overflows) for name, policy in all_policies(2.0**12, growth_interval=4).items()}
    return figures.scale_histories(histories, title="The same overflows")


def _error_lines() -> go.Figure:
    sample = operand_sample("normal", length=256, rows=9)
    return figures.error_lines(error_growth(sample.x, sample.y, [16, 64, 256], summations=[Summation("fp16"), "h100"]))


def _training_curves() -> go.Figure:
    fp16 = records(DIVERGED, layer=0.4)
    amp = records([2.0 / (step + 1) for step in range(60)], layer=0.02, scale=2.0**12)
    return figures.training_curves({"fp16 seed 0": fp16, "amp-fp16 seed 0": amp})


def _update_sizes() -> go.Figure:
    weights = torch.linspace(0.5, 2.0, 4000)
    after = weights * (1 + 2.0 ** torch.linspace(-16, -4, 4000))
    return figures.update_sizes({"w": weights}, {"w": after}, ("bf16", "fp16"))


def _accumulation_error() -> go.Figure:
    sums = {
        "fp16": [min(0.001 * n, 0.5) for n in range(1, 999)],
        "fp32": [0.001 * n * (1 + 1e-7) for n in range(1, 999)],
    }
    return figures.accumulation_error(sums, 0.001)


def _timeline() -> go.Figure:
    with torch.device("meta"):
        model, tokens = transformer(model_shape("gpt2")), torch.zeros(2, 128, dtype=torch.long)
    return figures.timeline(trace(model, (tokens, tokens.clone()), "amp-bf16"))


_GPT2 = estimate("gpt2", "amp-bf16", batch=8, seq=1024)
_SMALL = [FORMATS[name] for name in ("fp32", "tf32", "fp16", "bf16", "e4m3fn", "e5m2")]

EXAMPLES: dict[str, Callable[[], go.Figure]] = {
    "accumulation_error": _accumulation_error,
    "batch_lines": lambda: figures.batch_lines(
        {text: estimate("gpt2", text, seq=512) for text in ("fp32", "amp-bf16", "bf16")},
        range(1, 30),
        gpu=gpu_spec("t4"),
    ),
    "cast_map": _cast_map,
    "dynamic_range_and_precision": lambda: figures.dynamic_range_and_precision(
        fmt for fmt in FORMATS.values() if fmt.bits <= 32
    ),
    "error_lines": _error_lines,
    "format_limits": lambda: figures.format_limits(_SMALL),
    "gradient_histogram": lambda: figures.gradient_histogram(
        tensor_stats(2.0 ** torch.linspace(-34, 2, 3000), kind="weight_gradient"), FP16, 4
    ),
    "ledger_bars": _ledger_bars,
    "matmul_speed_dots": lambda: figures.matmul_speed_dots(
        [MatmulSpeed("fp32", "cpu", 512, 80.0, 60.0, 90.0, 5), MatmulSpeed("fp16", "cpu", 512, 3.0, 1.0, 5.0, 5)],
        "a machine",
    ),
    "moment_map": lambda: figures.moment_map(shipped("states")[0]),
    "number_line": lambda: figures.number_line("e3m2fn"),
    "phase_bars": lambda: figures.phase_bars(_GPT2, gpu_spec("rtx-4090")),
    "roofline": lambda: figures.roofline(
        roofs_of("h100-sxm"), [RooflinePoint("add", "fp32", 0.1, 2e11), RooflinePoint("product", "bf16", 900.0)]
    ),
    "scale_histories": _scale_histories,
    "state_bars": lambda: figures.state_bars(VARIANTS.values()),
    "swallowed_bars": lambda: figures.swallowed_bars(
        {"bf16": {"a": 0.5, "b": 1.0}, "fp16": {"a": 0.25, "b": 0.0}}, title="Updates lost"
    ),
    "timeline": _timeline,
    "training_curves": _training_curves,
    "underflow_map": lambda: figures.underflow_map(records([1.0] * 30, layer=0.3), title="Underflow by layer"),
    "update_sizes": _update_sizes,
    "useful_shares": lambda: figures.useful_shares(
        list(range(1, 300)),
        {f"tiles of {n}": [s / (n * math.ceil(s / n)) for s in range(1, 300)] for n in (8, 16, 64)},
        title="Square products",
    ),
    "weight_map": lambda: figures.weight_map(shipped("states")[0]),
}
