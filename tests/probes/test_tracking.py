from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrizations import weight_norm
from torch.utils.checkpoint import checkpoint

from mixlab import BF16, E4M3FN, E5M2, FP16, FP32, Format, Histogram, round_to, tensor_stats, track, usable_window
from mixlab.layers import floating_outputs
from mixlab.loss_scaling import ScaleWindow
from mixlab.probes import largest_scale_exponent
from mixlab.probes.tracking import underflow_by_layer


def doing_it_for_real(x: torch.Tensor, fmt: Format, k: int) -> tuple[float, float, float]:
    """Scales and rounds the values themselves, in float64, and counts."""
    scaled = x.double()[(x != 0) & x.isfinite()] * 2.0**k
    rounded = round_to(scaled, fmt, overflow="nan")
    zero, subnormal = rounded == 0, (scaled.abs() < fmt.smallest_normal) & (rounded != 0)
    return tuple(float(mask.double().mean()) for mask in (zero, subnormal, rounded.isnan()))


def gradients(n: int = 20_000, *, quantised: bool, seed: int = 0) -> torch.Tensor:
    """Magnitudes over 80 binades; quantised ones sit on powers of two and on ties much more often than by chance."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, generator=generator) * torch.exp2(torch.randint(-60, 20, (n,), generator=generator).float())
    x[::50] = 0
    return round_to(x, "e8m2", overflow="saturate") if quantised else x


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("fmt", [E4M3FN, E5M2, Format.parse("e3m2"), Format.parse("e2m1")], ids=str)
def test_fractions_of_8_bit_formats_equal_doing_it_for_real(fmt, quantised):
    x = gradients(quantised=quantised)
    histogram = Histogram.of(x)
    for k in range(-30, 50):
        found = histogram.fractions(fmt, k)
        expected = doing_it_for_real(x, fmt, k)
        assert (found.underflow, found.subnormal, found.overflow) == pytest.approx(expected, abs=1e-12)
        assert (found.underflow_error, found.subnormal_error, found.overflow_error) == (0, 0, 0)


@pytest.mark.parametrize("quantised", [False, True])
@pytest.mark.parametrize("fmt", [FP16, BF16, FP32, Format.parse("e6m9")], ids=str)
def test_fractions_of_wider_formats_miss_only_the_top_of_the_highest_binade(fmt, quantised):
    x = gradients(quantised=quantised)
    histogram = Histogram.of(x)
    for k in range(-30, 50):
        found, expected = histogram.fractions(fmt, k), doing_it_for_real(x, fmt, k)
        assert (found.underflow, found.subnormal) == pytest.approx(expected[:2], abs=1e-12)
        scaled = x.double().abs() * 2.0**k
        at_the_top = ((scaled > 1.9375 * 2.0**fmt.max_exponent) & (scaled < 2 * 2.0**fmt.max_exponent)).sum() / (
            x != 0
        ).sum()
        assert expected[2] - float(at_the_top) - 1e-9 <= found.overflow <= expected[2] + 1e-12


@given(st.lists(st.floats(width=32), max_size=30), st.integers(-40, 40))
@settings(max_examples=200)
def test_counts_are_exact_whatever_comes(values, k):
    x = torch.tensor(values, dtype=torch.float32)
    stats = tensor_stats(x)
    finite = x[x.isfinite()].abs()
    assert stats.numel == len(values)
    assert stats.zeros == int((x == 0).sum())
    assert stats.infs == int(x.isinf().sum())
    assert stats.nans == int(x.isnan().sum())
    assert stats.amax == (float(finite.max()) if len(finite) else 0.0)
    assert stats.histogram.non_zero == stats.numel - stats.zeros - stats.infs - stats.nans
    shares = stats.histogram.fractions(E5M2, k)
    assert 0 <= shares.underflow + shares.subnormal + shares.overflow <= 1 + 1e-12


def test_exponent_counts_equal_frexp():
    x = gradients(quantised=False)
    x = x[x != 0]
    exponents = np.frexp(x.abs().numpy())[1] - 1
    counts = Histogram.of(x).exponent_counts()
    assert counts.shape == (256,)
    assert {e - 127: n for e, n in enumerate(counts) if n} == dict(
        zip(*np.unique(exponents, return_counts=True), strict=True)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_tensors_are_counted_as_they_are(dtype):
    x = gradients(quantised=False).to(dtype)
    assert tensor_stats(x).zeros == int((x == 0).sum())
    assert np.array_equal(Histogram.of(x).counts, Histogram.of(x.float()).counts)


def test_a_sample_is_right_within_its_error_bar():
    """256 samples: the deviations, in units of the stated sigma, have mean 0 and spread 1, within 4 sigma of these."""
    torch.manual_seed(0)
    x = torch.randn(128, 256) * torch.linspace(-3, 3, 256).exp2()  # columns of very different sizes
    exact = Histogram.of(x).fractions(FP16, -24).underflow
    assert 0.05 < exact < 0.5
    random = Random(0)
    deviations = []
    for _ in range(256):
        histogram = Histogram.of(x, sample=1024, random=random)
        assert (histogram.sampled, histogram.numel, histogram.exact) == (1024, x.numel(), False)
        found = histogram.fractions(FP16, -24)
        deviations.append((found.underflow - exact) / found.underflow_error)
    assert abs(np.mean(deviations)) < 4 / 16
    assert np.std(deviations) < 1 + 4 / math.sqrt(2 * 256)


def test_a_sum_of_samples_of_different_rates_is_right_within_its_error_bar():
    """A small layer whose values all survive, seen whole, must not outweigh a large one seen through a sample."""
    torch.manual_seed(0)
    large, small = torch.randn(300, 301) * 2.0**-24, torch.ones(1000)
    exact = (Histogram.of(large) + Histogram.of(small)).fractions(FP16)
    assert exact.underflow > 0.3
    assert exact == Histogram.of(torch.cat([large.flatten(), small])).fractions(FP16)
    random, deviations = Random(0), []
    for _ in range(256):
        found = sum((Histogram.of(x, sample=1000, random=random) for x in (large, small)), start=Histogram(()))
        assert found.numel == large.numel() + small.numel()
        assert not found.exact
        deviations.append((found.fractions(FP16).underflow - exact.underflow) / found.fractions(FP16).underflow_error)
    assert abs(np.mean(deviations)) < 4 / 16
    assert np.std(deviations) < 1 + 4 / math.sqrt(2 * 256)


def test_a_sample_that_saw_nothing_does_not_claim_certainty():
    found = Histogram.of(torch.ones(10_000), sample=100).fractions(FP16)
    assert found.underflow == 0
    assert found.underflow_error > 0


def test_a_sample_as_large_as_the_tensor_is_exact():
    x = gradients(quantised=False)
    assert Histogram.of(x, sample=10**9).exact
    assert np.array_equal(Histogram.of(x, sample=x.numel()).counts, Histogram.of(x).counts)


def test_shifting_by_hand_equals_shifting_the_bins():
    x = gradients(quantised=True)
    assert Histogram.of(x * 2.0**10).fractions(FP16) == Histogram.of(x).fractions(FP16, 10)


@given(amax=st.floats(2.0**-120, 2.0**120, width=32), fmt=st.sampled_from([FP16, BF16, E4M3FN, E5M2]))
def test_the_largest_scale_is_the_last_that_fits(amax, fmt):
    k = largest_scale_exponent(amax, fmt)
    x = torch.tensor(amax, dtype=torch.float64)
    assert round_to(x * 2.0**k, fmt, overflow="nan").isfinite()
    assert round_to(x * 2.0 ** (k + 1), fmt, overflow="nan").isnan()


def test_the_usable_window_has_both_edges():
    x = torch.tensor([2.0**-30, 1.0, 3.0])
    window = usable_window(tensor_stats(x), FP16, tolerance=0)
    assert window == ScaleWindow(6, 14)  # 2^-30 * 2^6 = 2^-24; 3 * 2^14 < 65504 < 3 * 2^15
    assert usable_window(tensor_stats(x), "fp16", tolerance=0) == window
    window = usable_window(tensor_stats(x), BF16)
    assert (window.low < -60, window.high) == (True, 126)


def test_a_tensor_that_no_scale_saves_has_a_window_that_is_not_usable():
    wide = usable_window(tensor_stats(torch.tensor([2.0**-60, 1.0])), FP16)
    zeros = usable_window(tensor_stats(torch.zeros(3)), FP16)
    assert not wide.usable
    assert not zeros.usable
    assert str(zeros) == "none"


def small_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))


def test_track_sees_every_layer_and_kind():
    model, x = small_model(), torch.randn(5, 4)
    with track(model, sample=None) as probe:
        model(x).square().sum().backward()
    assert [(stats.layer, stats.kind) for stats in probe] == [
        (layer, kind) for layer in ("0", "2") for kind in ("activation", "gradient", "weight_gradient")
    ]
    assert len(probe) == 6
    assert probe["0", "activation"].amax == float(model[0](x).detach().abs().max())
    weight_gradients = torch.cat([model[2].weight.grad.flatten(), model[2].bias.grad])
    assert probe["2", "weight_gradient"].amax == float(weight_gradients.abs().max())
    assert np.array_equal(probe["2", "weight_gradient"].histogram.counts, Histogram.of(weight_gradients).counts)
    assert probe["2", "gradient"].numel == 15
    assert probe.total("gradient").numel == 15 + 40
    assert probe.total("gradient").amax == max(probe[layer, "gradient"].amax for layer in ("0", "2"))


@pytest.fixture
def probe() -> track:
    model = small_model()
    with track(model, sample=None) as probe:
        model(torch.randn(5, 4)).square().sum().backward()
    return probe


def test_a_probe_is_a_sequence(probe):
    assert isinstance(probe, Sequence)
    assert [probe[i] for i in range(len(probe))] == list(probe)
    assert probe[-1] is probe["2", "weight_gradient"]
    assert probe[1:3] == list(probe)[1:3]
    assert probe.index(probe["2", "activation"]) == 3
    assert list(reversed(probe)) == list(probe)[::-1]
    with pytest.raises(IndexError):
        probe[6]


def test_a_probe_becomes_a_frame(probe):
    frame = probe.to_frame()
    assert list(frame.columns) == ["layer", "kind", "numel", "zeros", "infs", "nans", "amax"]
    assert list(frame.layer + "/" + frame.kind) == [f"{stats.layer}/{stats.kind}" for stats in probe]
    assert list(frame.amax) == [stats.amax for stats in probe]
    assert list(track(small_model()).to_frame().columns) == list(frame.columns)


def test_a_frame_without_pandas_says_what_to_install(probe, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ImportError, match="track.to_frame needs pandas; install it with pip install pandas"):
        probe.to_frame()


def hooks_of(model: nn.Module) -> dict[str, int]:
    """Returns how many hooks of each kind hang on a model's modules and parameters."""
    owners = [*model.named_modules(), *model.named_parameters()]
    hooks = {}
    for name, owner in owners:
        for kind in dir(owner):
            if kind.endswith("_hooks") and isinstance(found := getattr(owner, kind), dict):
                hooks[f"{name}.{kind}"] = len(found)
    return {name: count for name, count in hooks.items() if count}


def test_track_leaves_no_hook_behind_even_after_an_error():
    model = small_model()
    assert hooks_of(model) == {}
    with track(model):
        assert {name.rpartition(".")[2] for name in hooks_of(model)} == {"_forward_hooks", "_backward_hooks"}
    assert hooks_of(model) == {}
    with pytest.raises(RuntimeError, match="mat1"), track(model):
        model(torch.randn(5, 99))
    assert hooks_of(model) == {}
    probe = track(model)
    model(torch.randn(5, 4)).sum().backward()
    assert len(probe) == 0


def test_what_is_computed_afterwards_is_not_seen():
    class Position(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.at = nn.Parameter(torch.ones(3))

        def forward(self):
            return self.at

    class Shifted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.position, self.out = Position(), nn.Linear(3, 2)

        def forward(self, x):
            return self.out(x + self.position())

    model = Shifted()
    with track(model, sample=None) as probe:
        for _ in range(3):
            model(torch.randn(4, 3)).sum().backward()
        late = model(torch.randn(4, 3)).sum()
    assert probe["position", "gradient"].numel == probe["position", "weight_gradient"].numel == 3 * 3
    assert probe["out", "gradient"].numel == 3 * 8
    late.backward()
    assert probe["out", "gradient"].numel == 3 * 8
    assert hooks_of(model) == {}


class Segments(nn.Module):
    """A layer used by two segments, and a table that is the head too; recomputed in backward (reentrant or not)."""

    def __init__(self, reentrant: bool | None, *, whole: bool = False) -> None:
        super().__init__()
        self.table = nn.Embedding(7, 4)
        self.layer = nn.Linear(4, 4)
        self.head = nn.Linear(4, 7)
        self.head.weight = self.table.weight
        self.loose = nn.Parameter(torch.ones(4))
        self.reentrant, self.whole = reentrant, whole

    def segment(self, x):
        return torch.tanh(self.layer(x)) * self.loose

    def run(self, segment, x):
        return segment(x) if self.reentrant is None else checkpoint(segment, x, use_reentrant=self.reentrant)

    def forward(self, tokens):
        x = self.table(tokens)
        if self.whole:
            return self.run(lambda y: self.head(self.run(self.segment, self.run(self.segment, y))), x)
        return self.run(self.head, self.run(self.segment, self.run(self.segment, x)))


@pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")  # of a checkpoint within one
@pytest.mark.parametrize("kinds", [("activation", "gradient", "weight_gradient"), ("weight_gradient",)], ids=len)
@pytest.mark.parametrize("passes", [1, 2])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpoints_count_as_what_they_recompute(reentrant, whole, passes, kinds):
    """With and without a gradient of an earlier pass in .grad."""
    seen = []
    for how in (None, reentrant):
        torch.manual_seed(0)
        model, tokens = Segments(how, whole=whole), torch.randint(7, (5,))
        with track(model, sample=None, kinds=kinds) as probe:
            for _ in range(passes):
                model(tokens).square().sum().backward()
        seen.append({(s.layer, s.kind): (s.numel, s.zeros, s.amax, s.histogram.counts.sum()) for s in probe})
    assert seen[0].keys() == seen[1].keys()
    for key, expected in seen[0].items():
        assert seen[1][key] == pytest.approx(expected, rel=1e-6), key  # parts are added in another order
    largest = max(float(p.grad.abs().max()) for p in (model.layer.weight, model.layer.bias)) / passes
    assert probe["layer", "weight_gradient"].amax == pytest.approx(largest, rel=1e-6)
    assert probe["layer", "weight_gradient"].numel == 20 * passes
    assert probe["table", "weight_gradient"].amax == pytest.approx(float(model.table.weight.grad.abs().max()) / passes)


def test_a_sampled_weight_gradient_in_parts_is_that_of_their_sum():
    torch.manual_seed(0)
    model = Segments(True)
    with track(model, sample=10**6, kinds=("weight_gradient",)) as probe:
        model(torch.randint(7, (5,))).square().sum().backward()
    gradients = torch.cat([model.layer.weight.grad.flatten(), model.layer.bias.grad])
    assert np.array_equal(probe["layer", "weight_gradient"].histogram.counts, Histogram.of(gradients).counts)


def test_a_pass_that_an_error_ends_does_not_mix_with_the_next():
    class Breaks(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            raise ArithmeticError("broken")

    model = small_model()
    with track(model, sample=None) as probe:
        with pytest.raises(ArithmeticError, match="broken"):
            model[2](torch.relu(Breaks.apply(model[0](torch.ones(5, 4))))).sum().backward()
        model.zero_grad()
        model(torch.ones(5, 4)).sum().backward()
    assert probe["2", "weight_gradient"].numel == 2 * 27
    assert probe["2", "weight_gradient"].amax == max(float(p.grad.abs().max()) for p in model[2].parameters())


def test_a_shared_weight_counts_once_with_the_first_of_its_layers():
    torch.manual_seed(0)
    model = Segments(None)
    with track(model, sample=None) as probe:
        model(torch.randint(7, (5,))).sum().backward()
    assert probe["table", "weight_gradient"].numel == 28
    assert probe["head", "weight_gradient"].numel == 7  # the bias
    assert probe["head", "activation"].numel == 35
    assert probe.total("weight_gradient").numel == sum(p.numel() for p in model.parameters())
    assert probe.total("weight_gradient").amax == max(float(p.grad.abs().max()) for p in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("sample", [None, 5, 10**6])
def test_a_sparse_gradient_counts_as_the_dense_one(sample, dtype):
    """Tokens that come again are stored twice in a sparse gradient, and are one element."""
    seen = []
    for sparse in (False, True):
        torch.manual_seed(0)
        model = nn.Embedding(50, 4, sparse=sparse).to(dtype)
        with track(model, sample=sample, kinds=("weight_gradient",)) as probe:
            (model(torch.tensor([1, 7, 7, 3, 1, 1])) * 2.0**-10).sum().backward()
        seen.append(probe["", "weight_gradient"])
    dense, sparse = seen
    counts = [(s.numel, s.zeros, s.infs, s.nans, s.amax) for s in seen]
    assert counts[0] == counts[1] == (200, 188, 0, 0, 3 * 2.0**-10)
    if sample != 5:
        assert np.array_equal(dense.histogram.counts, sparse.histogram.counts)
    assert sparse.histogram.numel == 200
    assert sparse.histogram.non_zero == pytest.approx(12)  # whatever the sample


@pytest.mark.filterwarnings("ignore:Sparse CS[RC] tensor support is in beta")
@given(st.lists(st.sampled_from([0.0, -0.0, 1.0, 3.0, 2.0**-140, math.inf, math.nan]), min_size=1, max_size=30))
def test_sparse_tensors_are_counted_as_dense_ones(values):
    x = torch.tensor(values)
    expected = tensor_stats(x)
    layouts = [x.to_sparse(), x[None].to_sparse_csr(), x[None].to_sparse_csc()]
    places = torch.arange(len(x))[None].repeat(1, 2)
    twice = torch.sparse_coo_tensor(places, torch.cat([x / 2, x / 2]), x.shape, check_invariants=True)
    for found in map(tensor_stats, layouts):
        assert (found.numel, found.zeros, found.infs, found.nans) == (
            expected.numel,
            expected.zeros,
            expected.infs,
            expected.nans,
        )
        assert found.amax == expected.amax
        assert np.array_equal(found.histogram.counts, expected.histogram.counts)
    assert tensor_stats(twice).numel == expected.numel
    assert tensor_stats(twice).amax == expected.amax


@dataclass
class Answer:
    logits: torch.Tensor
    words: str = "sure"


@pytest.mark.parametrize(
    "pack",
    [
        lambda x: {"logits": x, "same": x, "count": 3},
        lambda x: Answer(x),
        lambda x: [x, [x, (x,)]],
        lambda x: (None, {"deep": Answer(x)}),
        lambda x: nn.utils.rnn.PackedSequence(x, torch.ones(3, dtype=torch.long)),
    ],
)
def test_outputs_are_seen_in_containers(pack):
    class Packing(nn.Linear):
        def forward(self, x):
            return pack(super().forward(x))

    layer = Packing(4, 3)
    with track(layer, sample=None) as probe:
        output = floating_outputs(layer, layer(torch.randn(5, 4)))
        (output[0] * 3).sum().backward()
    assert len(output) == 1
    assert (probe["", "activation"].numel, probe["", "activation"].amax) == (15, output[0].detach().abs().max())
    assert (probe["", "gradient"].numel, probe["", "gradient"].amax) == (15, 3)


def test_parametrized_weights_belong_to_their_layer():
    model = nn.Sequential(weight_norm(nn.Linear(4, 8)), nn.ReLU(), weight_norm(nn.Linear(8, 3, bias=False)))
    with track(model, sample=None) as probe:
        model(torch.randn(5, 4)).sum().backward()
    assert [(s.layer, s.kind, s.numel) for s in probe] == [
        ("0", "activation", 40),
        ("0", "gradient", 40),
        ("0", "weight_gradient", 8 + 8 + 32),
        ("2", "activation", 15),
        ("2", "gradient", 15),
        ("2", "weight_gradient", 3 + 24),
    ]


def test_a_model_that_cannot_be_watched_is_named():
    with pytest.raises(ValueError, match=r"track: parameter 0.weight has no shape yet, because its lazy module"):
        track(nn.Sequential(nn.LazyLinear(3))).__enter__()
    with pytest.raises(ValueError, match="track: parameter 1.weight is on the meta device"):
        track(nn.Sequential(nn.ReLU(), nn.Linear(4, 3, device="meta"))).__enter__()
    compiled = torch.compile(small_model(), backend="eager")
    with pytest.raises(TypeError, match="track: module model is compiled, so its layers call no hooks"):
        track(nn.ModuleDict({"model": compiled})).__enter__()
    in_place = small_model()
    in_place.compile(backend="eager")
    with pytest.raises(TypeError, match="track: the model is compiled"):
        track(in_place).__enter__()
    with track(in_place, kinds=("weight_gradient",)) as probe:  # which needs no hook of a layer
        in_place(torch.ones(5, 4)).sum().backward()
    assert probe["0", "weight_gradient"].numel == 40


@pytest.mark.parametrize(
    ("dtype", "words"),
    [(torch.float64, "activation of layer '0': .*torch.float64"), (torch.complex64, "layer '0': .*torch.complex64")],
)
def test_numbers_that_cannot_be_counted_are_named_with_their_layer(dtype, words):
    model = nn.Sequential(nn.Linear(4, 3, dtype=dtype))
    with pytest.raises(TypeError, match=words), track(model):
        model(torch.ones(2, 4, dtype=dtype))
    assert hooks_of(model) == {}


def test_samples_of_several_devices_are_not_put_together(monkeypatch):
    """The second device is played: torch's own cat would refuse to join tensors of two."""
    joined = []
    cat = torch.cat
    monkeypatch.setattr("mixlab.probes.histograms.torch.cat", lambda parts: joined.append(len(parts)) or cat(parts))
    samples = [torch.tensor([1.0, 2.0]), OnAnother(torch.tensor([3.0])), torch.tensor([4.0])]
    found = Histogram.of_samples(samples, [2, 1, 1])
    assert sorted(joined) == [1, 2]
    for histogram, values in zip(found, ([1.0, 2.0], [3.0], [4.0]), strict=True):
        assert np.array_equal(histogram.counts, Histogram.of(torch.tensor(values)).counts)


class OnAnother(torch.Tensor):
    @property
    def device(self):
        return torch.device("cuda:1")


@pytest.mark.gpu
def test_a_model_on_two_devices_is_watched():
    model = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 3).cuda())
    with track(model) as probe:
        model[1](model[0](torch.randn(5, 4)).cuda()).sum().backward()
    assert [stats.numel for stats in probe] == [40, 40, 40, 15, 15, 27]


def test_track_adds_up_repeated_calls_of_one_layer():
    layer = nn.Linear(4, 4)
    with track(layer, kinds=("activation",)) as probe:
        layer(layer(torch.randn(2, 4)))
    assert [stats.numel for stats in probe] == [16]


def test_track_sees_the_gradient_of_this_pass_alone():
    layer, x = nn.Linear(8, 4), torch.randn(16, 8)
    layer(x).sum().backward()  # leaves a large gradient in .grad
    with track(layer) as probe:
        (layer(x).sum() * 1e-6).backward()
    clean = nn.Linear(8, 4)
    clean.load_state_dict(layer.state_dict())
    (clean(x).sum() * 1e-6).backward()
    assert probe["", "weight_gradient"].amax == float(max(p.grad.abs().max() for p in clean.parameters()))


def test_track_sees_outputs_in_tuples():
    lstm = nn.LSTM(8, 4)
    with track(lstm) as probe:
        output, _ = lstm(torch.randn(5, 2, 8))
        output.square().sum().backward()
    largest = float(output.detach().abs().max())
    assert {stats.kind for stats in probe} == {"activation", "gradient", "weight_gradient"}
    assert probe["", "activation"].amax == largest
    assert probe["", "gradient"].amax == 2 * largest


def test_track_changes_no_number():
    results = []
    for watched in (False, True):
        model, x = small_model(), torch.ones(5, 4)
        if watched:
            with track(model):
                model(x).sum().backward()
        else:
            model(x).sum().backward()
        results.append(model[0].weight.grad)
    assert torch.equal(*results)


def test_track_errors_say_what_to_do():
    with pytest.raises(TypeError, match=r"must be a torch.nn.Module, got int"):
        track(3)
    with pytest.raises(ValueError, match="unknown kinds grads; use activation, gradient, weight_gradient"):
        track(small_model(), kinds=("grads",))
    with pytest.raises(ValueError, match="sample must be a positive whole number, or None for all elements, got 0"):
        track(small_model(), sample=0)
    with pytest.raises(KeyError, match="nothing seen of"):
        track(small_model())["0", "gradient"]
    with pytest.raises(KeyError, match="run forward and backward inside the with block"):
        track(small_model()).total("gradient")


@pytest.mark.parametrize("x", [torch.zeros(3, dtype=torch.float64), torch.arange(3), [1.0]])
def test_what_cannot_be_counted_is_refused(x):
    with pytest.raises(TypeError, match="floating tensors of at most 32 bits, got"):
        tensor_stats(x)


def test_bad_numbers_are_refused():
    histogram = Histogram.of(torch.ones(3))
    with pytest.raises(ValueError, match=r"whole number from -512 to 512, got 0.5"):
        histogram.fractions(FP16, 0.5)
    with pytest.raises(ValueError, match="fraction from 0 to 1, got 2"):
        usable_window(tensor_stats(torch.ones(3)), FP16, tolerance=2)
    with pytest.raises(ValueError, match="positive and finite, got nan"):
        largest_scale_exponent(math.nan, FP16)


def test_underflow_by_layer_counts_only_what_was_alive():
    references = {
        "fc.weight": torch.tensor([1.0, 2.0, 0.0, 3.0]),
        "fc.bias": torch.tensor([4.0]),
        "out.bias": torch.zeros(2),
    }
    gradients = {
        "fc.weight": torch.tensor([0.0, 2.0, 0.0, 3.0]),
        "fc.bias": torch.tensor([4.0]),
        "out.bias": torch.zeros(2),
    }
    assert underflow_by_layer(gradients, references) == {"fc": 0.25, "out": 0.0}


@dataclass
class Reply:
    logits: torch.Tensor
    loss: torch.Tensor


class Twice(nn.Module):
    """Takes keyword arguments, runs a layer twice and returns a dataclass with its own loss."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 4), nn.Linear(4, 3)

    def forward(self, *, x, labels):
        logits = self.head(torch.tanh(self.body(torch.tanh(self.body(x)))))
        return Reply(logits, nn.functional.cross_entropy(logits, labels))


def test_keyword_arguments_and_dataclasses_with_an_evaluation_in_between():
    torch.manual_seed(0)
    model, batch = Twice(), {"x": torch.randn(5, 4), "labels": torch.zeros(5, dtype=torch.long)}
    with track(model, sample=None) as probe:
        model(**batch).loss.backward()
        with torch.no_grad():
            model.eval()(**batch)
    counted = {(s.layer, s.kind): s.numel for s in probe}
    assert counted["body", "activation"] == 4 * 20
    assert counted["body", "gradient"] == 2 * 20
    assert counted["body", "weight_gradient"] == 20
    assert counted["head", "gradient"] == 15


class Mixed(nn.Sequential):
    """A layer that no probe can count, between two that it can."""

    def __init__(self, dtype=torch.float64) -> None:
        super().__init__(nn.Linear(4, 8), nn.Linear(8, 8, dtype=dtype), nn.Linear(8, 3))

    def forward(self, x):
        return self[2](self[1](self[0](x).to(self[1].weight.dtype)).float())


def test_what_cannot_be_watched_is_left_out_of_a_training_that_must_not_stop():
    ends = []
    for watch in (False, True):
        torch.manual_seed(0)
        model, x = Mixed(), torch.randn(5, 4)
        probe = track(model, strict=False)
        if watch:
            with probe:
                model(x).sum().backward()
        else:
            model(x).sum().backward()
        ends.append([p.grad for p in model.parameters()])
    assert all(map(torch.equal, *ends))
    assert {stats.layer for stats in probe} == {"0", "2"}
    assert probe["2", "gradient"].numel == 15
    assert list(probe.left_out) == ["1"]
    assert "weight_gradient of layer '1': probes look at floating tensors of at most 32 bits" in probe.left_out["1"]
    assert hooks_of(model) == {}


def test_a_model_that_cannot_be_watched_at_all_is_left_out_in_words():
    lazy = nn.Sequential(nn.LazyLinear(3))
    with track(lazy, strict=False) as probe:
        lazy(torch.ones(2, 4)).sum().backward()
    assert (len(probe), list(probe.left_out)) == (0, [""])
    assert "parameter 0.weight has no shape yet" in probe.left_out[""]
    in_place = small_model()
    in_place.compile(backend="eager")
    with track(in_place, strict=False) as probe:
        in_place(torch.ones(5, 4)).sum().backward()
    assert {stats.kind for stats in probe} == {"weight_gradient"}
    assert "the model is compiled" in probe.left_out[""]


@pytest.fixture
def mesh():
    from torch.distributed.tensor import init_device_mesh

    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        yield init_device_mesh("cpu", (1,))
    finally:
        torch.distributed.destroy_process_group()


def test_a_model_of_several_processes_is_watched_like_the_one_inside(mesh):
    seen = []
    for wrap in (lambda m: m, nn.parallel.DistributedDataParallel):
        model = wrap(small_model())
        with track(model, sample=None) as probe:
            model(torch.ones(5, 4)).square().sum().backward()
        seen.append([(s.layer.removeprefix("module."), s.kind, s.numel, s.amax) for s in probe])
    assert seen[0] == seen[1]


def test_a_model_divided_by_fully_shard_shows_all_but_its_weights_gradients(mesh):
    from torch.distributed.fsdp import fully_shard

    seen = []
    for divided in (False, True):
        model = small_model()
        if divided:
            fully_shard(model[0], mesh=mesh)
            fully_shard(model, mesh=mesh)
            with pytest.raises(
                TypeError, match="track: the model is divided over processes by fully_shard, so no hook"
            ):
                track(model).__enter__()
        with track(model, sample=None, strict=False) as probe:
            model(torch.ones(5, 4)).square().sum().backward()
        seen.append([(s.layer, s.kind, s.numel, s.amax) for s in probe if s.kind != "weight_gradient"])
    assert seen[0] == seen[1]
    assert list(probe.left_out) == [""]


def test_weights_sharded_by_tensor_parallelism_are_watched_by_this_process_part(mesh):
    from torch.distributed.tensor.parallel import ColwiseParallel, parallelize_module

    seen = []
    for sharded in (False, True):
        model = small_model()
        if sharded:
            parallelize_module(model, mesh, {"0": ColwiseParallel()})
        with track(model, sample=None) as probe:
            model(torch.ones(5, 4)).square().sum().backward()
        seen.append([(s.layer, s.kind, s.numel, s.amax) for s in probe])
    assert seen[0] == seen[1]
