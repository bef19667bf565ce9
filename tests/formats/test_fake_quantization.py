from __future__ import annotations

import pytest
import torch

from mixlab import fake_quantize, round_to


def both_ways(x: torch.Tensor, **rules: object) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the values and the gradient for a gradient of 1.1 times the values' signs."""
    x = x.clone().requires_grad_()
    y = fake_quantize(x, **{"forward": "e4m3fn", "backward": "e5m2", "overflow": "saturate", **rules})
    y.backward(1.1 * torch.sign(x.detach()))
    return y.detach(), x.grad


@pytest.fixture
def x() -> torch.Tensor:
    return torch.randn(64, 9, generator=torch.Generator().manual_seed(0)) * 200


def test_values_and_gradients_are_rounded_each_to_its_format(x):
    y, gradient = both_ways(x)
    assert torch.equal(y, round_to(x, "e4m3fn", overflow="saturate"))
    assert torch.equal(gradient, x.sign())  # 1.1 rounds to 1 in e5m2


def test_none_leaves_either_way_as_it_is(x):
    assert torch.equal(both_ways(x, forward=None)[0], x)
    assert torch.equal(both_ways(x, backward=None)[1], 1.1 * x.sign())


def test_gradients_overflow_as_asked_for(x):
    x = torch.ones(3, requires_grad=True)
    formats = {"forward": "e4m3fn", "backward": "e5m2"}
    y = fake_quantize(x, **formats, overflow="saturate", backward_overflow="inf")
    y.backward(torch.tensor([1.0, 6e4, 7e4]))
    assert x.grad.tolist() == [1.0, 57344.0, torch.inf]
    y = fake_quantize(x, **formats, overflow="saturate")
    assert torch.autograd.grad(y, x, torch.tensor([1.0, 6e4, 7e4]))[0].tolist() == [1.0, 57344.0, 57344.0]


@pytest.mark.parametrize("formats", [("e4m3fn", "e5m2"), ("e5m2", "e4m3fn")])
def test_infinity_is_refused_where_a_format_has_none(formats):
    with pytest.raises(ValueError, match="e4m3fn has no infinity; use overflow='saturate' or overflow='nan'"):
        fake_quantize(torch.ones(1), forward=formats[0], backward=formats[1], overflow="inf")


def test_clipped_elements_pass_no_gradient_if_asked_for():
    x = torch.tensor([-500.0, -448.0, 3.0, 448.0, 449.0, torch.inf])
    assert both_ways(x, stop_clipped=True)[1].tolist() == [0, -1, 1, 1, 0, 0]
    assert both_ways(x)[1].tolist() == [-1, -1, 1, 1, 1, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_dtype_stays(x, dtype):
    y, gradient = both_ways(x.to(dtype))
    assert (y.dtype, gradient.dtype) == (dtype, dtype)
    assert torch.equal(y.double(), round_to(x.to(dtype), "e4m3fn", overflow="saturate").double())


def test_the_derivative_of_what_passes_through_is_one(x):
    """Where values are of the format already, fake_quantize is the identity, to autograd's own check too."""
    values = round_to(x[:2, :3].double(), "e4m3fn", overflow="saturate").requires_grad_()

    def straight(v: torch.Tensor) -> torch.Tensor:
        return fake_quantize(v, forward=None, backward=None, overflow="saturate") ** 2

    assert torch.autograd.gradcheck(straight, (values,))
    assert torch.autograd.gradgradcheck(straight, (values,))
    (first,) = torch.autograd.grad(
        (fake_quantize(values, forward="e4m3fn", backward=None, overflow="saturate") ** 3).sum(),
        values,
        create_graph=True,
    )
    (second,) = torch.autograd.grad(first.sum(), values)
    assert torch.equal(first, 3 * values**2)
    assert torch.equal(second, 6 * values)


@pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")  # torch.compile itself does
def test_compiled_equals_eager(x):
    def function(v: torch.Tensor) -> torch.Tensor:
        return fake_quantize(v, forward="e4m3fn", backward="e5m2", overflow="saturate", stop_clipped=True)

    eager, compiled = x.clone().requires_grad_(), x.clone().requires_grad_()
    outputs = function(eager), torch.compile(function, fullgraph=True)(compiled)
    for output in outputs:
        output.backward(torch.linspace(-9, 9, x.numel()).view_as(x))
    assert torch.equal(*outputs)
    assert torch.equal(eager.grad, compiled.grad)


@pytest.mark.parametrize("dim", [0, 1])
def test_vmap_changes_nothing(x, dim):
    def function(v: torch.Tensor) -> torch.Tensor:
        return fake_quantize(v, forward="e4m3fn", backward="e5m2", overflow="saturate")

    assert torch.equal(torch.vmap(function, in_dims=dim, out_dims=dim)(x), function(x))
    gradients = torch.vmap(torch.func.grad(lambda v: (1.1 * function(v)).sum()))(x)
    assert torch.equal(gradients, torch.ones_like(x))


@pytest.mark.parametrize(
    ("rules", "words"),
    [
        ({"forward": "fp17"}, "unknown format 'fp17'"),
        ({"backward": "e8m0fnu"}, "e8m0fnu is a scale"),
        ({"overflow": "wrap"}, "overflow must be one of"),
        ({"rounding": "up"}, "rounding must be one of"),
        ({"forward": None, "stop_clipped": True}, "stop_clipped needs a forward format"),
        ({"forward": 16}, "a format must be a Format or its name, such as 'fp16', got 16"),
    ],
)
def test_bad_rules_are_named_before_the_backward_pass(x, rules, words):
    with pytest.raises((TypeError, ValueError), match=words):
        both_ways(x, **rules)


@pytest.mark.parametrize("overflow", ["inf", "nan", "saturate"])
@pytest.mark.parametrize("backward", [None, "e5m2", "fp16"])
def test_a_stopped_gradient_is_zero_whatever_comes_from_behind(backward, overflow):
    x = torch.tensor([500.0, -1e4, 1.0, torch.inf], requires_grad=True)
    formats = {"forward": "e4m3fn", "backward": backward}
    y = fake_quantize(x, **formats, overflow="saturate", backward_overflow=overflow, stop_clipped=True)
    y.backward(torch.tensor([torch.inf, 1e38, 1.0, torch.nan]))
    assert x.grad.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_stochastic_rounding_is_repeated_by_a_generator(x, dtype):
    """Values first and gradients in the backward pass, from one stream; torch's global generator is left alone."""
    x, gradients = x.to(dtype), torch.linspace(-9, 9, x.numel()).view_as(x).to(dtype)
    torch.manual_seed(3)
    before = torch.get_rng_state()

    def draw(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        leaf = x.clone().requires_grad_()
        rules = {"forward": "e4m3fn", "backward": "e5m2", "overflow": "saturate", "rounding": "stochastic"}
        y = fake_quantize(leaf, generator=torch.Generator().manual_seed(seed), **rules)
        y.backward(gradients)
        return y.detach(), leaf.grad

    first, again, other = draw(1), draw(1), draw(2)
    stream = torch.Generator().manual_seed(1)
    for mine, same, else_, (came, fmt) in zip(first, again, other, ((x, "e4m3fn"), (gradients, "e5m2")), strict=True):
        wanted = round_to(came, fmt, overflow="saturate", rounding="stochastic", generator=stream)
        assert torch.equal(mine, wanted.to(dtype))
        assert torch.equal(mine, same)
        assert not torch.equal(mine, else_)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("fmt", ["bf16", "e8m2", "e6m3", "e7m1"])
def test_saturated_float16_values_stay_finite(fmt):
    """65504 is nearest to 65536 in bf16, which float16 does not hold: it becomes 65280."""
    x = torch.tensor([65504.0, -65504.0, 1.0]).half()
    y = fake_quantize(x, forward=fmt, backward=None, overflow="saturate")
    assert y.isfinite().all()
    assert y[0] == -y[1] == round_to(x[0], fmt, overflow="saturate", rounding="toward_zero")


def test_a_generator_must_be_one(x):
    with pytest.raises(TypeError, match="generator must be a torch.Generator or None, got 7"):
        fake_quantize(x, forward="fp16", backward=None, overflow="inf", rounding="stochastic", generator=7)
