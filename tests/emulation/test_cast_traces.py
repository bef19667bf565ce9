from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixlab import FP16, load_task
from mixlab.emulation import CastTrace, cast_trace


@pytest.fixture(scope="module")
def gpt() -> CastTrace:
    task = load_task("chars-gpt")
    return cast_trace(task.seeded_model(0), task.batch(0, 0))


def only(trace: CastTrace, op: str, module: str = ""):
    found = [traced for traced in trace if traced.op == op and traced.module.startswith(module)]
    assert found, f"no {op} in {module or 'the trace'}"
    return found[0]


def test_a_transformer_op_by_op(gpt):
    rows = {
        (op.op, op.inputs, op.computed, op.output, op.why)
        for op in gpt
        if op.module.startswith("blocks.1") or not op.module
    }
    assert rows == {
        ("layer_norm", ("fp32",) * 3, "fp32", "fp32", "fp32 by list"),
        ("linear", ("fp32",) * 3, "fp16", "fp16", "fp16 by list"),
        ("linear", ("fp16", "fp32", "fp32"), "fp16", "fp16", "fp16 by list"),
        ("scaled_dot_product_attention", ("fp16",) * 3, "fp16", "fp16", "fp16 by list"),
        ("gelu", ("fp16",), "fp16", "fp16", "on no list: follows its inputs"),
        ("add", ("fp32", "fp16"), "fp32", "fp32", "on no list: the widest input wins"),
        ("add", ("fp32", "fp32"), "fp32", "fp32", "on no list: follows its inputs"),
        ("cross_entropy", ("fp16",), "fp16, fp32", "fp32", "the ops it is made of are on a list"),
    }


def test_the_ops_come_in_order_with_their_modules(gpt):
    assert [(op.module, op.op) for op in gpt.ops[:5]] == [
        ("token", "embedding"),
        ("position", "embedding"),
        ("", "add"),
        ("blocks.0.norm_1", "layer_norm"),
        ("blocks.0.qkv", "linear"),
    ]
    assert (gpt[-1].op, gpt[-2].module) == ("cross_entropy", "head")
    assert only(gpt, "linear", "blocks.0.qkv").casts == 3
    assert only(gpt, "linear", "blocks.0.project").casts == 2  # its input is in fp16 already


def test_every_multiplied_weight_is_cast_once(gpt):
    model = load_task("chars-gpt").seeded_model(0)
    linears = {name for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert {cast.name.rpartition(".")[0] for cast in gpt.weight_casts} == linears
    assert {cast.times for cast in gpt.weight_casts} == {1}
    numel = sum(p.numel() for name, p in model.named_parameters() if name.rpartition(".")[0] in linears)
    assert gpt.cache_bytes == 2 * numel


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x):
        return self.layer(self.layer(x)) @ self.layer.weight


def test_a_weight_that_is_used_three_times_is_cast_once():
    trace = cast_trace(Tied(), torch.ones(2, 4), compute="bf16")
    assert {cast.name: (cast.times, cast.bytes) for cast in trace.weight_casts} == {
        "layer.weight": (1, 32),
        "layer.bias": (1, 8),
    }
    assert [op.casts for op in trace] == [3, 0, 0]
    assert {op.computed for op in trace} == {"bf16"}


def test_a_frozen_weight_is_not_cached_as_in_torch():
    model = Tied().requires_grad_(False)
    assert {cast.name: cast.times for cast in cast_trace(model, torch.ones(2, 4)).weight_casts} == {
        "layer.weight": 3,
        "layer.bias": 2,
    }


def test_an_encoder_layer():
    trace = cast_trace(nn.TransformerEncoderLayer(16, 2, batch_first=True), torch.ones(2, 3, 16))
    assert only(trace, "multi_head_attention_forward").why == "the ops it is made of are on a list"
    assert only(trace, "layer_norm").computed == "fp32"
    assert only(trace, "relu").output == "fp16"


def test_buffers_random_numbers_and_hooks_are_left_alone():
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before, state = [b.clone() for b in model.buffers()], torch.get_rng_state()
    assert len(cast_trace(model, torch.randn(8, 4, generator=torch.Generator().manual_seed(0)))) == 3
    assert all(map(torch.equal, before, model.buffers()))
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(RuntimeError, match="shape"):
        cast_trace(model, torch.ones(8, 5))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_several_arguments_and_a_loss_of_ones_own():
    batch = {"input1": torch.ones(5, 3), "input2": torch.ones(5, 4)}
    trace = cast_trace(nn.Bilinear(3, 4, 2), batch, loss=lambda out, _: out.exp().sum())
    assert [(op.op, op.why) for op in trace] == [
        ("bilinear", "widest of its inputs, by list"),
        ("exp", "fp32 by list"),
        ("sum", "fp32 by list"),
    ]


def test_it_shows_itself(gpt):
    lines = repr(gpt).splitlines()
    assert lines[0].split() == ["module", "op", "inputs", "computed", "in", "output", "casts", "why"]
    assert len(lines) == len(gpt) + 2
    assert lines[-1].startswith("weights cast: 33, ")
    assert "<td>scaled_dot_product_attention</td>" in gpt._repr_html_()


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cast_trace(F.relu, torch.ones(1)), "model must be a torch.nn.Module, got builtin|function"),
        (lambda: cast_trace(Tied(), torch.ones(2, 4), compute="fp32"), "compute must be fp16 or bf16, got fp32"),
        (lambda: cast_trace(Tied(), torch.ones(2, 4), compute="fp17"), "unknown format 'fp17'"),
        (lambda: cast_trace(Tied(), 3), "cast_trace: batch must be a tensor, .* got int"),
        (lambda: cast_trace(Tied(), torch.ones(0, 4)), "cast_trace: batch is empty"),
        (lambda: cast_trace(Tied(), torch.ones(2, 4, device="meta")), "batch is on the meta device"),
        (lambda: cast_trace(Tied(), torch.ones(2, 4), loss="mse"), "loss must be a function of .* got str"),
        (
            lambda: cast_trace(Tied(), {"y": torch.ones(2, 4)}),
            r"cast_trace: model\(\*\*batch\) failed: .*; the model takes x",
        ),
        (
            lambda: cast_trace(Tied(), torch.ones(2, 4), loss=lambda out, _: out),
            "cast_trace: loss must return one floating",
        ),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises((TypeError, ValueError), match=words):
        call()


def test_binary_cross_entropy_is_refused_as_on_cuda():
    with pytest.raises(RuntimeError, match="binary_cross_entropy is unsafe under autocast"):
        cast_trace(nn.Sigmoid(), (torch.ones(2), torch.ones(2)), compute=FP16, loss=F.binary_cross_entropy)


def test_the_reason_is_of_the_op_that_ran():
    """Functions made of listed ops, in-place ops and `out=` are on no list; a dtype of the caller's overrules one."""
    buffer = torch.empty(2, dtype=torch.float16)

    def ops(out, _):
        out = out.half()
        out.square()
        2**out
        torch.softmax(out, 0, dtype=torch.float64)
        out.sum()
        torch.trapezoid(out)
        torch.exp(out, out=buffer)
        F.avg_pool3d(out[None, None, None], 1)
        return out.exp_()[0]

    trace = cast_trace(nn.Identity(), torch.ones(2), loss=ops)
    rows = [(op.op, op.computed, op.output, op.why) for op in trace]
    assert rows == [
        ("square", "fp32", "fp32", "the ops it is made of are on a list"),
        ("__rpow__", "fp32", "fp32", "fp32 by list"),
        ("softmax", "fp64", "fp64", "the caller asks for this format"),
        ("sum", "fp32", "fp32", "fp32 by list"),
        ("trapezoid", "fp16, fp32", "fp32", "the ops it is made of are on a list"),
        ("exp", "fp16", "fp16", "on no list: follows its inputs"),
        ("avg_pool3d", "fp32", "fp16", "on no list: rounded once, as on CUDA"),
        ("exp_", "fp16", "fp16", "on no list: follows its inputs"),
    ]
