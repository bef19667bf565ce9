from __future__ import annotations

import gc
import re
import subprocess
import sys
import weakref
from functools import partial

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab import PRESETS, Recipe, emulation
from mixlab.batches import BatchError
from mixlab.measure import real_steps
from mixlab.memory import Trace, TraceError, model_states, trace, transformer
from mixlab.memory.allocation_log import freed_by_reference_counts
from mixlab.memory.categories import PHASES
from mixlab.optimizers import AdamW, Storage
from mixlab.process import ONEDNN
from mixlab.shapes import SHAPES, ModelShape
from mixlab.training import TinyGPT

GPT2 = ModelShape("tiny gpt2", 2, 64, 4, 4, 256, 211, True, 32, "gpt2")
LLAMA = ModelShape("tiny llama", 2, 64, 4, 2, 172, 211, False, 32)
WIDE = ModelShape("wide llama", 1, 64, 4, 2, 172, 5003, True, 32)  # what it needs most is its tied embedding
CPU = torch.device("cpu")
MIB = 2**20


def mlp() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 96), nn.ReLU(), nn.Linear(96, 96), nn.Tanh(), nn.Linear(96, 10))


def cnn() -> nn.Module:
    first = (nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2))
    second = (nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    return nn.Sequential(*first, *second, nn.Flatten(), nn.Linear(64, 10))


MODELS = {
    "mlp": mlp,
    "cnn": cnn,
    "tiny-gpt": lambda: TinyGPT(width=64, layers=2, vocabulary=211),
    "gpt2": lambda: transformer(GPT2),
    "gpt2 checkpointed": lambda: transformer(GPT2, checkpointing="full"),
    "gpt2 materialised": lambda: transformer(GPT2, attention="materialised"),
    "llama": lambda: transformer(LLAMA),
    "wide llama": lambda: transformer(WIDE),
    "llama checkpointed": lambda: transformer(LLAMA, checkpointing="full"),
}


def batch_of(name: str) -> tuple[torch.Tensor, torch.Tensor]:
    if name == "mlp":
        return torch.zeros(32, 64), torch.zeros(32, dtype=torch.long)
    if name == "cnn":
        return torch.zeros(16, 3, 16, 16), torch.zeros(16, dtype=torch.long)
    rows = torch.zeros(4, 33, dtype=torch.long)
    return rows[:, :-1], rows[:, 1:]  # with gaps, as batches of text are drawn


EXACT = [
    *[("mlp", recipe, "adam") for recipe in ("fp32", "amp-fp16", "bf16", "bf16-kahan", "bf16-master", "lean-bf16")],
    ("mlp", "lean-bf16", "sgd"),
    ("mlp", "fp32,exp_avg=dynamic8,exp_avg_sq=dynamic8", "adamw"),
    ("tiny-gpt", "amp-bf16", "adamw"),
    ("gpt2", "fp32", "sgd"),
    ("mlp", "bf16-sr,exp_avg=e4m3fn,exp_avg_sq=fp16,state_rounding=stochastic", "adamw"),
    ("gpt2 checkpointed", "amp-fp16", "adamw"),
    ("llama", "amp-bf16", "adamw"),
    ("llama checkpointed", "lean-bf16", "adamw"),
    ("wide llama", "amp-bf16", "sgd"),  # the embedding's gradient is added in place to that of the head
    ("wide llama", "bf16-master", "sgd"),
    ("wide llama", "bf16", "sgd"),  # and here it is not
]


@pytest.mark.cpu_kernels
@pytest.mark.parametrize(("name", "recipe", "optimizer"), EXACT, ids=map(" ".join, EXACT))
def test_to_the_byte_what_a_real_step_on_a_cpu_allocates(name, recipe, optimizer):
    """Against torch.profiler's log of a real step: the peak, that of each phase, and what is left after each."""
    assert differences(name, recipe, optimizer) == [0] * 7


def differences(name: str, recipe: str, optimizer: str) -> list[int]:
    """Returns bytes traced less bytes seen: the peak, what is left after each phase, the peak of each."""
    batch = batch_of(name)
    # The trace comes first: tables that states in 8 bits are looked up in are made once a process, and not in a step.
    found = trace(MODELS[name](), batch, recipe, optimizer=optimizer, as_on="cpu")
    (step,) = real_steps(MODELS[name], batch, Recipe.parse(recipe), device=CPU, optimizer=optimizer)
    pairs = [(found.peak_bytes, step.peak_bytes)]
    pairs += [(found.after[phase], step.after[phase]) for phase in PHASES]
    pairs += [(found.phase_peaks[phase], step.phase_peaks[phase]) for phase in PHASES]
    return [traced - seen for traced, seen in pairs]


@pytest.mark.parametrize("before", [True, False])
def test_a_real_step_is_taken_without_onednn_and_then_all_is_as_before(before, request):
    seen = []

    def fails(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(torch.backends.mkldnn.enabled)
        raise RuntimeError("in between")

    request.addfinalizer(partial(torch._C._set_mkldnn_enabled, torch.backends.mkldnn.enabled))
    torch._C._set_mkldnn_enabled(before)  # torch's own flags() warns of a GPU's switch that it sets beside
    with pytest.raises(RuntimeError, match="in between"):
        real_steps(MODELS["mlp"], batch_of("mlp"), Recipe.parse("fp32"), device=CPU, loss=fails)
    assert (seen, torch.backends.mkldnn.enabled) == ([False], before)


def test_numbers_that_autograd_keeps_are_counted():
    """It makes a tensor of 8 bytes of each, one a layer here; with a GPU too it lies in the host's memory."""
    assert differences("gpt2 materialised", "amp-bf16", "adamw") == [0] * 7


@pytest.mark.cpu_kernels
def test_what_a_convolution_allocates_inside_is_left_out():
    peak, *after, forward, backward, step = differences("cnn", "fp32", "adam")
    assert (after, step) == ([0, 0, 0], 0)
    assert -256 <= peak <= 0
    assert -256 <= forward <= 0
    assert -256 <= backward <= 0


def logged_peak(step) -> int:
    """Returns the most bytes that torch.profiler saw alive while `step` ran, above those from before."""
    with (
        torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as log,
    ):
        step()
    events = sorted(log.profiler.kineto_results.events(), key=lambda event: event.start_ns())
    return int(np.cumsum([0, *(event.nbytes() for event in events if event.name() == "[memory]")]).max())


@pytest.mark.cpu_kernels
@pytest.mark.parametrize(("name", "recipe"), [("mlp", "fp32"), ("tiny-gpt", "amp-bf16")])
def test_micro_steps_to_the_byte(name, recipe):
    """Against a plain loop with torch.optim, written out here."""
    (inputs, targets), model = batch_of(name), MODELS[name]()
    targets = targets.contiguous()  # as in a trace
    optimizer = torch.optim.AdamW(model.parameters())

    def step() -> None:
        for _ in range(2):
            with emulation.autocast("cpu", Recipe.parse(recipe).compute):
                loss = F.cross_entropy(model(inputs).flatten(0, -2), targets.flatten())
            (loss / 2).backward()
            del loss
        optimizer.step()
        optimizer.zero_grad()

    with freed_by_reference_counts(), ONEDNN.held(False):
        step()
        states = [state for kept in optimizer.state.values() for state in kept.values()]
        before = sum(tensor.nbytes for tensor in (*model.parameters(), inputs, targets, *states))
        peak = before + logged_peak(step)
    assert trace(model, (inputs, targets), recipe, optimizer="adamw", as_on="cpu", accumulation=2).peak_bytes == peak


@pytest.mark.parametrize(("recipe", "name"), [("amp-fp16", "tiny-gpt"), ("lean-bf16", "mlp")])
def test_gradients_live_on_from_micro_step_to_micro_step(recipe, name):
    once, twice = (trace(MODELS[name](), batch_of(name), recipe, accumulation=n) for n in (1, 2))
    gradients = once.at_end["backward"]["gradients"]
    assert [span.phase for span in twice.spans] == ["forward", "backward", "forward", "backward", "step"]
    assert twice.after["forward"] - once.after["forward"] == gradients
    assert (twice.after["backward"], twice.after["step"]) == (once.after["backward"], once.after["step"])
    assert twice.phase_peaks["forward"] - once.phase_peaks["forward"] == gradients


@pytest.mark.parametrize(
    ("recipe", "optimizer"), [*((recipe, "adam") for recipe in PRESETS), ("fp32", "sgd"), ("bf16-master", "sgd")]
)
def test_what_is_kept_is_what_the_recipe_says(recipe, optimizer):
    model = mlp()
    numels = [parameter.numel() for parameter in model.parameters()]
    found = trace(model, batch_of("mlp"), recipe, optimizer=optimizer, as_on="cpu")
    parts = dict(model_states(Recipe.parse(recipe), numels, optimizer=optimizer).parts)
    kept = {name: size for name, size in found.at_end["backward"].items() if name not in ("batch and buffers",)}
    assert kept == parts
    assert {**found.at_end["step"], "gradients": parts["gradients"]}.items() >= parts.items()
    for phase in PHASES:
        assert sum(found.at_phase_peaks[phase].values()) == found.phase_peaks[phase]
        assert sum(found.at_end[phase].values()) == found.after[phase]
    assert sum(found.at_peak.values()) == found.peak_bytes == max(found.phase_peaks.values())


def test_gpt2_as_on_a_gpu():
    with torch.device("meta"):
        model, tokens = transformer(SHAPES["gpt2"]), torch.zeros(4, 512, dtype=torch.long)
    found = trace(model, (tokens, tokens), "amp-bf16")
    assert found.peak_bytes / MIB == pytest.approx(3371.85, abs=0.01)  # what an H100 was asked for, see the records
    assert found.at_peak["weights cast by autocast"] / MIB == pytest.approx(235.6, abs=0.05)
    assert found.peak_phase == "backward"
    weights = 4 * 124_439_808
    assert found.phase_peaks["step"] == pytest.approx(5 * weights, rel=1e-4)  # foreach: one more of each parameter
    assert found.after["step"] == pytest.approx(3 * weights, rel=1e-4)
    assert all(allocation.bytes % 512 == 0 for allocation in found.allocations)


def traced_tokens(model: nn.Module, recipe: str = "fp32", **options: object) -> Trace:
    tokens = torch.zeros(4, 32, dtype=torch.long)
    return trace(model, (tokens, tokens), recipe, **options)


def test_foreach_fused_and_a_loop_over_parameters():
    model = TinyGPT(vocabulary=211, layers=1)
    foreach = traced_tokens(model, optimizer="adamw")
    fused = traced_tokens(model, optimizer=lambda parameters, lr: torch.optim.AdamW(parameters, lr, fused=True))
    loop = traced_tokens(model, optimizer=lambda parameters, lr: torch.optim.AdamW(parameters, lr, foreach=False))
    weights = sum(allocation.bytes for allocation in foreach.allocations if allocation.category == "parameters")
    assert foreach.at_phase_peaks["step"]["temporaries"] == weights
    assert "temporaries" not in fused.at_phase_peaks["step"]
    largest = max(allocation.bytes for allocation in foreach.allocations if allocation.category == "parameters")
    assert largest <= loop.at_phase_peaks["step"]["temporaries"] <= 3 * largest
    counters = fused.at_end["step"]["batch and buffers"] - foreach.at_end["step"]["batch and buffers"]
    assert counters == 512 * len(list(model.parameters()))  # on the GPU, as the fused kernel wants them


class Drop(nn.Module):
    """What CUDA computes otherwise than a CPU: RMSNorm, LayerNorm in 16 bits, dropout, attention with dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.token = nn.Embedding(211, 64)
        self.rms, self.layer = nn.RMSNorm(64), nn.LayerNorm(64)
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(64, 211)

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        x = self.token(tokens)
        q = self.layer(self.rms(x)).view(*x.shape[:2], 4, 16).transpose(1, 2)
        x = F.scaled_dot_product_attention(q, q, q, dropout_p=0.1 if self.training else 0.0)
        return self.head(self.dropout(x.transpose(1, 2).flatten(2)))


def test_kernels_of_cuda_keep_what_cuda_keeps():
    tokens = 4 * 32
    found, on_cpu = traced_tokens(Drop(), "bf16"), traced_tokens(Drop(), "bf16", as_on="cpu")
    kept = {
        module: sorted(
            allocation.bytes
            for allocation in found.allocations[len(found.allocations) // 2 :]
            if (allocation.category, allocation.phase, allocation.module) == ("activations", "forward", module)
        )
        for module in ("rms", "layer", "dropout", "(model)")
    }
    assert kept["rms"] == [tokens * 4, tokens * 64 * 2]  # a statistic a row, and the output, which LayerNorm keeps
    assert kept["layer"] == [tokens * 4, tokens * 4, tokens * 64 * 2]
    assert kept["dropout"] == [tokens * 64, tokens * 64 * 2]  # a mask of bytes
    assert kept["(model)"] == [4 * tokens * 4, tokens * 64 * 2]  # a sum a row and head; no (T, T) scores
    scores = 4 * 4 * 32 * 32 * 2
    assert on_cpu.after["forward"] - found.after["forward"] > 2 * scores


class Attends(nn.Linear):
    """Attention of 4 heads of queries to `heads` of keys and values, with 8 numbers each."""

    def __init__(self, heads: int) -> None:
        super().__init__(64, (4 + 2 * heads) * 8)
        self.heads = heads

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = super().forward(x).unflatten(-1, (-1, 8)).transpose(1, 2).split((4, self.heads, self.heads), 1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=self.heads < 4)


@pytest.mark.parametrize(
    ("model", "recipe", "keeps_scores"),
    [
        pytest.param(nn.TransformerEncoderLayer(64, 4, 32, 0.0, batch_first=True), "fp32", False, id="of a layer"),
        pytest.param(nn.TransformerEncoderLayer(64, 4, 32, batch_first=True), "bf16", False, id="with dropout"),
        pytest.param(Attends(4), "fp32", False, id="float32"),
        pytest.param(Attends(2), "bf16", False, id="grouped"),
        pytest.param(Attends(2), "fp32", True, id="grouped in float32, which no fused kernel takes"),
    ],
)
def test_attention_keeps_scores_where_cuda_does(model, recipe, keeps_scores):
    batch = torch.zeros(2, 128, 64), torch.zeros(1)
    found = trace(model, batch, recipe, loss=lambda y, _target: y.square().mean())
    scores = 2 * 4 * 128 * 128 * Recipe.parse(recipe).weights.dtype.itemsize
    assert any(allocation.bytes == scores for allocation in found.allocations) == keeps_scores


def test_modules_own_what_their_forward_and_backward_make():
    found = trace(nn.Sequential(nn.Linear(64, 4096), nn.Tanh(), nn.Linear(4096, 8)), batch_of("mlp"), optimizer="sgd")
    assert found.peak_phase == "backward"
    by_module = found.at_peak_by_module
    assert sum(by_module.values()) == found.at_peak["activations"] + found.at_peak["temporaries"]
    assert next(iter(by_module)) == "1"
    made = {(allocation.op, allocation.module) for allocation in found.allocations if allocation.phase == "backward"}
    assert made >= {
        ("aten.nll_loss_backward.default", "(loss)"),
        ("aten.mm.default", "2"),
        ("aten.tanh_backward.default", "1"),
        ("aten.mm.default", "0"),
    }
    checkpointed = traced_tokens(transformer(GPT2, checkpointing="full"))
    again = {b.module for b in checkpointed.allocations if (b.category, b.phase) == ("activations", "backward")}
    assert {"layers.0.feed_forward.expand", "layers.1.attention.query"} <= again


def test_a_timeline_keeps_the_peak_and_sums_to_all_that_lives():
    found = traced_tokens(TinyGPT(vocabulary=211), "amp-bf16")
    for points in (7, 400, 10**6):
        columns = found.timeline(points)
        place = columns.pop("place")
        total = sum(columns.values())
        assert len(place) <= points
        assert np.all(np.diff(place) > 0)
        assert total.max() == found.peak_bytes
        assert {name: int(column[total.argmax()]) for name, column in columns.items() if column[total.argmax()]} == (
            found.at_peak
        )
    assert len(place) == found.spans[-1].last - found.spans[0].first + 1
    assert int(total[-1]) == found.after["step"]
    with pytest.raises(ValueError, match="points must be a whole number from 1 up, got 0"):
        found.timeline(0)


def test_it_reads_as_a_table():
    found = trace(mlp(), batch_of("mlp"), "amp-bf16")
    title, head, *rows = repr(found).splitlines()
    assert title == f"amp-bf16 as on a GPU: 16,522 parameters, peak of {found.peak_bytes / MIB:,.1f} MiB, in step"
    assert head.split() == ["MiB", "at", "the", "peak", "of", "forward", "backward", "step"]
    assert [row.split("  ")[0] for row in rows][-2:] == ["sum", "at its end"]
    shown = re.sub(r"</?abbr[^>]*>", "", found._repr_html_())
    assert "<td>weights cast by autocast</td>" in shown


class Tied(nn.Module):
    """Weights that are shared, a buffer, a plain tensor, a hook, a frozen layer: what a copy could lose."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(64, 64), nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.frozen = nn.Linear(64, 64).requires_grad_(False)
        self.register_buffer("scale", torch.ones(64))
        self.plain = torch.ones(64)
        self.norm = nn.BatchNorm1d(64)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.second(self.first(x)) * self.scale + self.plain.to(x.dtype)) + self.frozen(x)


def test_the_model_stays_as_it_was():
    model, calls = Tied(), []
    model.register_forward_hook(lambda *_: calls.append(1))
    model(torch.ones(4, 64)).sum().backward()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    hooks = len(model._forward_hooks), len(model.first._forward_hooks), len(model.first._forward_pre_hooks)
    state = torch.get_rng_state()
    found = trace(model, batch_of("mlp"), "bf16-sr,gradients=bf16")
    assert torch.equal(torch.get_rng_state(), state)
    assert (len(model._forward_hooks), len(model.first._forward_hooks), len(model.first._forward_pre_hooks)) == hooks
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is gradients[name] and p.dtype is torch.float32 for name, p in model.named_parameters())
    assert {type(p) for p in model.parameters()} == {nn.Parameter}
    assert found.at_end["backward"]["gradients"] == 2 * 64 * 64 + 4 * 512  # of one weight, two biases and the norm
    assert found.numel == sum(p.numel() for p in model.parameters())


def test_the_same_on_meta_as_with_real_tensors():
    real = traced_tokens(transformer(LLAMA), "amp-bf16")
    with torch.device("meta"):
        on_meta = traced_tokens(transformer(LLAMA), "amp-bf16")
    assert on_meta == real
    assert on_meta.log == real.log


def test_nothing_is_left_behind():
    model = mlp()
    reference = weakref.ref(model)
    found = trace(model, batch_of("mlp"), "fp32,exp_avg=dynamic8,exp_avg_sq=e4m3fn")
    del model
    gc.collect()
    assert reference() is None
    assert found.peak_bytes
    # tables of 8-bit states are made once a process: real steps after a trace must not find fake ones
    parameter = nn.Parameter(torch.ones(300))
    parameter.grad = torch.ones(300)
    optimizer = AdamW([parameter], storage=Storage(exp_avg_dtype="dynamic8", exp_avg_sq_dtype=torch.float8_e4m3fn))
    optimizer.step()
    assert bool((parameter < 1).all())


class Own(nn.Linear):
    """A layer that does more than a product."""

    def __init__(self, more) -> None:
        super().__init__(64, 10)
        self.more = more

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.more(super().forward(x))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (lambda y: y * y.sum().item(), r"aten._local_scalar_dense.default of 0 cannot be traced: it reads a value"),
        (
            lambda y: y if y.sum() > 0 else -y,
            r"of 0 cannot be traced: it reads a value .*: keep the value in a tensor \(torch.where",
        ),
        (
            lambda y: y if torch.rand(()) < 0.1 else -y,
            r"it reads a value .*, set the rate of a layer drop to 0, or trace",
        ),
        (lambda y: y[y > 0], r"of 0 cannot be traced: the shape of its result depends on values"),
        (lambda y: y @ y, r"of 0 failed with RuntimeError: .* check that the model trains on a real batch"),
    ],
)
def test_what_cannot_be_traced_is_named(more, words):
    assert gc.isenabled()
    with pytest.raises(TraceError, match=words):
        trace(nn.Sequential(Own(more)), batch_of("mlp"))
    assert gc.isenabled()
    trace(mlp(), batch_of("mlp"))  # and the next one is traced


class Careful(torch.optim.SGD):
    """Steps if no gradient is inf or NaN."""

    def step(self) -> None:
        gradients = [parameter.grad for group in self.param_groups for parameter in group["params"]]
        if all(gradient.isfinite().all() for gradient in gradients):
            super().step()


def test_an_optimizer_that_decides_by_values_is_told():
    with pytest.raises(
        TraceError, match=r"of \(optimizer\) cannot be traced: the optimizer decides by values, .*: switch"
    ):
        trace(mlp(), batch_of("mlp"), optimizer=Careful)


def test_a_model_that_fails_by_itself():
    with pytest.raises(TraceError, match="the model, its loss or its optimizer failed with ValueError: tiny gpt2: at"):
        trace(transformer(GPT2), (torch.zeros(1, 33, dtype=torch.long),) * 2)


def test_a_loss_and_an_optimizer_of_your_own():
    batch = torch.zeros(32, 64), torch.zeros(32, 10)
    found = trace(mlp(), batch, loss=F.mse_loss, optimizer=lambda parameters, lr: torch.optim.Adagrad(parameters, lr))
    assert set(found.at_end["step"]) == {"parameters", "batch and buffers", "sum"}
    with pytest.raises(ValueError, match="trace: your own optimizer chooses its storage, but recipe bf16-kahan"):
        trace(mlp(), batch, "bf16-kahan", optimizer=torch.optim.Adagrad)
    with pytest.raises(TypeError, match="trace: optimizer must return a torch.optim.Optimizer, got int"):
        trace(mlp(), batch, optimizer=lambda parameters, lr: 1)


def on_cuda(tensor: torch.Tensor) -> torch.Tensor:
    with torch._subclasses.FakeTensorMode():
        return torch.empty(tensor.shape, device="cuda")


def test_mistakes_are_named():
    batch = batch_of("mlp")
    for arguments, error, words in (
        ((F.relu, batch), TypeError, "model must be a torch.nn.Module, got function"),
        ((mlp(), batch[0]), BatchError, "trace: there is no loss: .*, or for a batch .* got an output that is"),
        ((mlp(), (batch[0], [1])), BatchError, "must return logits, .* for targets a list of 1: give loss"),
        (
            (mlp(), (on_cuda(batch[0]), batch[1])),
            BatchError,
            "trace: batch has a tensor on cuda:0, the model is on cpu",
        ),
        ((mlp(), 3), TypeError, "batch must be a tensor, a tuple or list of arguments, a dict .*; got int"),
        ((mlp(), (batch[0][:0], batch[1][:0])), ValueError, r"batch is empty: got \(torch.float32 \(0, 64\)"),
        ((mlp(), (batch[0].to_sparse(), batch[1])), TypeError, "batch must hold dense tensors"),
        ((mlp(), batch, 16), TypeError, "a recipe must be a Recipe or its text, such as 'amp-fp16', got 16"),
        ((mlp(), batch, "int4"), ValueError, "unknown recipe 'int4'"),
        ((mlp().requires_grad_(False), batch), ValueError, "no parameter of the model requires a gradient"),
    ):
        with pytest.raises(error, match=words):
            trace(*arguments)
    for options, words in (
        ({"optimizer": "lion"}, "optimizer must be one of sgd, adam, adamw, or a function .*, got 'lion'"),
        ({"as_on": "tpu"}, "as_on must be one of cuda, cpu, got 'tpu'"),
        ({"accumulation": 0}, "accumulation must be a whole number from 1 up, got 0"),
    ):
        with pytest.raises(ValueError, match=words):
            trace(mlp(), batch, **options)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "seconds", "peak"), [("llama-3-8b", 5, 153_165), ("llama-3-70b", 15, 1_345_705)])
def test_models_of_any_size_in_seconds(name, seconds, peak):
    program = (
        "import resource, time, torch\n"
        "from mixlab.memory import trace, transformer\n"
        "from mixlab.shapes import SHAPES\n"
        "with torch.device('meta'):\n"
        f"    model, tokens = transformer(SHAPES[{name!r}]), torch.zeros(1, 2048, dtype=torch.long)\n"
        "started = time.process_time()\n"
        "peak = trace(model, (tokens, tokens), 'amp-bf16').peak_bytes\n"
        "print(peak // 2**20, time.process_time() - started, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    found, took, mebibytes = map(float, done.stdout.split())
    assert found == peak
    assert took < seconds
    assert mebibytes < 1000
