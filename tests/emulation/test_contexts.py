from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixlab import BF16, E5M2, FP16, FP32, TF32, arithmetic, autocast

HALVES = [torch.float16, torch.bfloat16]


X, W, V, IMAGE = torch.randn(4, 4), torch.randn(4, 4), torch.randn(4), torch.randn(1, 2, 4, 4)
HEADS = torch.randn(1, 2, 4, 4)
COMPUTE_CALLS = {
    "linear": lambda: F.linear(X, W, V),
    "matmul": lambda: X @ W,
    "mm": lambda: torch.mm(X, W),
    "mv": lambda: torch.mv(X, V),
    "bmm": lambda: torch.bmm(X[None], W[None]),
    "addmm": lambda: torch.addmm(V, X, W),
    "addmv": lambda: torch.addmv(V, X, V),
    "addr": lambda: torch.addr(X, V, V),
    "addbmm": lambda: torch.addbmm(X, X[None], W[None]),
    "baddbmm": lambda: torch.baddbmm(X[None], X[None], W[None]),
    "einsum": lambda: torch.einsum("ij,jk", X, W),
    "chain_matmul": lambda: torch.linalg.multi_dot([X, W, X]),
    "linalg_multi_dot": lambda: torch.linalg.multi_dot([X, W]),
    "vecdot": lambda: torch.linalg.vecdot(X, W),
    "prelu": lambda: F.prelu(X, V[:1]),
    "conv1d": lambda: F.conv1d(IMAGE[:, :, 0], torch.randn(3, 2, 2)),
    "conv2d": lambda: F.conv2d(IMAGE, torch.randn(3, 2, 2, 2)),
    "conv3d": lambda: F.conv3d(IMAGE[None], torch.randn(3, 1, 1, 2, 2)),
    "conv_tbc": lambda: torch.conv_tbc(IMAGE[0], torch.randn(1, 4, 3), V[:3]),
    "conv_transpose1d": lambda: F.conv_transpose1d(IMAGE[:, :, 0], torch.randn(2, 3, 2)),
    "conv_transpose2d": lambda: F.conv_transpose2d(IMAGE, torch.randn(2, 3, 2, 2)),
    "conv_transpose3d": lambda: F.conv_transpose3d(IMAGE[None], torch.randn(1, 3, 1, 2, 2)),
    "lstm": lambda: nn.LSTM(4, 4)(torch.randn(3, 2, 4))[0],
    "gru": lambda: nn.GRU(4, 4)(torch.randn(3, 2, 4))[0],
    "rnn_tanh": lambda: nn.RNN(4, 4)(torch.randn(3, 2, 4))[0],
    "rnn_relu": lambda: nn.RNN(4, 4, nonlinearity="relu")(torch.randn(3, 2, 4))[0],
    "lstm_cell": lambda: nn.LSTMCell(4, 4)(X)[0],
    "gru_cell": lambda: nn.GRUCell(4, 4)(X),
    "rnn_tanh_cell": lambda: nn.RNNCell(4, 4)(X),
    "rnn_relu_cell": lambda: nn.RNNCell(4, 4, nonlinearity="relu")(X),
    "scaled_dot_product_attention": lambda: F.scaled_dot_product_attention(HEADS, HEADS, HEADS),
}


@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
@pytest.mark.parametrize("name", COMPUTE_CALLS)
def test_float32_operands_of_16_bit_ops_give_16_bit_results(name, fmt):
    with arithmetic("cpu"), autocast("cpu", fmt):
        assert COMPUTE_CALLS[name]().dtype is fmt.dtype


FLOAT32_CALLS = {
    "softmax": lambda x: F.softmax(x, -1),
    "Tensor.softmax": lambda x: x.softmax(-1),
    "softmax(input=)": lambda x: torch.softmax(input=x, dim=-1),
    "softmax with no dtype": lambda x: torch.softmax(x, -1, None),
    "log_softmax": lambda x: x.log_softmax(-1),
    "logsumexp": lambda x: x.logsumexp(-1),
    "layer_norm": lambda x: F.layer_norm(x, (4,)),
    "nn.LayerNorm": nn.LayerNorm(4),
    "rms_norm": lambda x: F.rms_norm(x, (4,)),
    "group_norm": lambda x: F.group_norm(x, 2),
    "exp": torch.exp,
    "log": lambda x: x.abs().log(),
    "x ** 2": lambda x: x**2,
    "2 ** x": lambda x: 2**x,
    "pow": lambda x: x.pow(2),
    "sum": lambda x: x.sum(),
    "sum(dim)": lambda x: x.sum(0),
    "prod": lambda x: x.prod(),
    "cumsum": lambda x: x.cumsum(0),
    "norm": lambda x: x.norm(),
    "vector_norm": torch.linalg.vector_norm,
    "nll_loss": lambda x: F.nll_loss(x, torch.zeros(4, dtype=torch.long)),
    "mse_loss": lambda x: F.mse_loss(x, x),
    "softplus": F.softplus,
    "rsqrt": lambda x: x.abs().rsqrt(),
}


@pytest.mark.parametrize("dtype", HALVES, ids=str)
@pytest.mark.parametrize("name", FLOAT32_CALLS)
def test_16_bit_operands_of_float32_ops_are_computed_in_float32(name, dtype):
    x = torch.randn(4, 4).to(dtype)
    with autocast("cpu", FP16 if dtype is torch.float16 else BF16):
        ours = FLOAT32_CALLS[name](x)
    expected = FLOAT32_CALLS[name](x.float())
    assert ours.dtype is torch.float32
    assert torch.equal(ours, expected)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_cross_entropy_rounds_logarithms_to_16_bits_as_on_cuda(dtype):
    logits = (3 * torch.randn(64, 10)).to(dtype).requires_grad_()
    targets = torch.randint(10, (64,))
    with arithmetic("cpu"), autocast("cpu", FP16 if dtype is torch.float16 else BF16):
        ours = F.cross_entropy(logits, targets)
    ours.backward()
    exact = logits.detach().float()
    rounded = exact.log_softmax(1).to(dtype).float()
    assert ours.dtype is torch.float32
    assert torch.equal(ours, F.nll_loss(rounded, targets))
    assert not torch.equal(ours, F.cross_entropy(exact, targets))
    upstream = (-F.one_hot(targets, 10) / 64).to(dtype).float()  # which CUDA rounds to 16 bits too
    expected = (upstream - rounded.exp() * upstream.sum(1, keepdim=True)).to(dtype)
    assert torch.equal(logits.grad, expected)


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_a_convolutions_bias_is_added_to_the_rounded_result(dtype):
    image, kernel, bias = (torch.randn(shape).to(dtype) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (4,)))
    with arithmetic("cpu"):
        ours = F.conv2d(image, kernel, bias)
    assert torch.equal(ours, F.conv2d(image.float(), kernel.float()).to(dtype) + bias.view(4, 1, 1))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_the_backward_of_tanh_rounds_after_each_operation(dtype):
    x = torch.randn(1000).to(dtype).requires_grad_()
    upstream = torch.randn(1000).to(dtype)
    with arithmetic("cpu"):
        y = x.tanh()
        y.backward(upstream)
    y = y.detach()
    assert torch.equal(x.grad, upstream * (1 - y * y))


@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_softmax_in_16_bits_is_rounded_once(dtype):
    x = torch.randn(64, 100).to(dtype)
    with arithmetic("cpu"):
        results = [x.softmax(-1), x.log_softmax(-1)]
    assert [one.dtype for one in results] == [dtype, dtype]
    for ours, exact in zip(results, (x.float().softmax(-1), x.float().log_softmax(-1)), strict=True):
        assert torch.equal(ours, exact.to(dtype))


def test_the_other_ops_follow_their_inputs():
    x = torch.randn(4, 4).half()
    with autocast("cpu", FP16):
        for call in (F.relu, F.gelu, torch.tanh, lambda x: x + x, lambda x: x * 2, lambda x: F.max_pool1d(x, 2)):
            assert call(x).dtype is torch.float16
            assert call(x.float()).dtype is torch.float32
        assert (x + x.float()).dtype is torch.float32
        assert torch.addcmul(x.float(), x, x).dtype is torch.float32
        assert torch.dot(x[0], x[0].float()).dtype is torch.float32
        assert F.softmax(x, -1, dtype=torch.float16).dtype is torch.float16  # asked for
        assert (X.double() @ W.double()).dtype is torch.float64


def test_binary_cross_entropy_raises_as_on_cuda():
    with autocast("cpu", FP16), pytest.raises(RuntimeError, match="use binary_cross_entropy_with_logits"):
        F.binary_cross_entropy(torch.rand(3), torch.ones(3))


def test_a_nested_switch_off_is_honoured():
    with autocast("cpu", FP16), torch.autocast("cpu", enabled=False):
        assert F.softmax(X.half(), -1).dtype is torch.float16
        assert (X @ W).dtype is torch.float32


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_products_are_accumulated_in_float32_and_rounded_once(dtype):
    a, b, bias = (torch.randn(*shape).to(dtype) for shape in ((64, 512), (512, 32), (32,)))
    image, kernel = torch.randn(2, 3, 8, 8).to(dtype), torch.randn(4, 3, 3, 3).to(dtype)
    with arithmetic("cpu"):
        results = [a @ b, torch.addmm(bias, a, b), torch.bmm(a[None], b[None]), F.conv2d(image, kernel, padding=1)]
    a, b, bias, image, kernel = (x.float() for x in (a, b, bias, image, kernel))
    expected = [a @ b, torch.addmm(bias, a, b), torch.bmm(a[None], b[None]), F.conv2d(image, kernel, padding=1)]
    for ours, theirs in zip(results, expected, strict=True):
        assert torch.equal(ours, theirs.to(dtype))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_backward_products_are_accumulated_in_float32_too(dtype):
    x, w = torch.randn(16, 256).to(dtype), torch.randn(8, 256).to(dtype).requires_grad_()
    upstream = torch.randn(16, 8).to(dtype)
    with arithmetic("cpu"):
        F.linear(x, w).backward(upstream)
    assert w.grad.dtype is dtype
    assert torch.equal(w.grad, (upstream.float().T @ x.float()).to(dtype))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_convolution_gradients_are_rounded_once(dtype):
    image, kernel, upstream = (torch.randn(*shape).to(dtype) for shape in ((2, 3, 8, 8), (4, 3, 3, 3), (2, 4, 6, 6)))
    ours, reference = kernel.clone().requires_grad_(), kernel.float().requires_grad_()
    with arithmetic("cpu"):
        F.conv2d(image, ours).backward(upstream)
    F.conv2d(image.float(), reference).backward(upstream.float())
    assert torch.equal(ours.grad, reference.grad.to(dtype))


@pytest.mark.cpu_kernels
@pytest.mark.parametrize("dtype", HALVES, ids=str)
def test_attention_is_rounded_at_its_borders(dtype):
    """The output is exact; backward starts from the rounded output, as in a GPU's kernel: gradients are close."""
    heads, upstream = torch.randn(3, 1, 2, 8, 16).to(dtype), torch.randn(1, 2, 8, 16).to(dtype)
    ours = [x.clone().requires_grad_() for x in heads]
    reference = [x.float().requires_grad_() for x in heads]
    with arithmetic("cpu"):
        output = F.scaled_dot_product_attention(*ours, is_causal=True)
        output.backward(upstream)
    expected = F.scaled_dot_product_attention(*reference, is_causal=True)
    expected.backward(upstream.float())
    assert torch.equal(output, expected.to(dtype))
    for mine, theirs in zip(ours, reference, strict=True):
        assert mine.grad.dtype is dtype
        assert (mine.grad.float() - theirs.grad).norm() <= torch.finfo(dtype).eps * theirs.grad.norm()


def test_autocast_is_the_rounding_of_operands_and_results():
    """The whole of AMP on one layer: cast in, product in float32, round the result; the same in backward."""
    x, weight, bias = torch.randn(8, 32), torch.randn(16, 32, requires_grad=True), torch.randn(16, requires_grad=True)
    with arithmetic("cpu"):
        with autocast("cpu", FP16):
            y = F.linear(x, weight, bias)
        y.float().square().sum().backward()
    rounded = [t.detach().half().float() for t in (x, weight, bias)]
    expected = torch.addmm(rounded[2], rounded[0], rounded[1].T).half()
    assert torch.equal(y, expected)
    upstream = (2 * expected.float()).half()  # the gradient enters the 16-bit part through the cast
    assert torch.equal(weight.grad, (upstream.float().T @ rounded[0]).half().float())
    assert torch.equal(bias.grad, upstream.float().sum(0).half().float())
    assert weight.grad.dtype is torch.float32


def test_weights_are_cast_once():
    weight = torch.randn(4, 4, requires_grad=True)
    with autocast("cpu", FP16):
        first, second = X @ weight, X @ weight
    assert first.grad_fn.next_functions[1][0] is second.grad_fn.next_functions[1][0]


def test_multi_head_attention_runs_in_16_bits():
    attention = nn.MultiheadAttention(8, 2, batch_first=True)
    x = torch.randn(2, 5, 8)
    with arithmetic("cpu"), autocast("cpu", BF16):
        out, _ = attention(x, x, x, need_weights=False)
    assert out.dtype is torch.bfloat16


def test_fp32_switches_autocast_off_and_other_formats_are_refused():
    with autocast("cpu", FP32):
        assert (X @ W).dtype is torch.float32
    with pytest.raises(ValueError, match="compute must be fp32, tf32, fp16 or bf16, got e5m2"):
        autocast("cpu", E5M2)


def rounded(x: torch.Tensor) -> torch.Tensor:
    """tf32 by integer arithmetic: to nearest even at the 13 lowest bits of float32."""
    bits = x.detach().contiguous().view(torch.int32)
    return ((bits + 0xFFF + ((bits >> 13) & 1)) & ~0x1FFF).view(torch.float32)


def test_tf32_rounds_the_operands_of_products_and_nothing_else():
    a, b, bias = torch.randn(5, 7), torch.randn(7, 3), torch.randn(3)
    image, kernel = torch.randn(2, 3, 8, 8), torch.randn(4, 3, 3, 3)
    with arithmetic("cpu", TF32):
        product, added = a @ b, torch.addmm(bias, a, b)
        vector, total = a @ b[:, 0], a + a
        convolved = F.conv2d(image, kernel)
    assert torch.equal(product, rounded(a) @ rounded(b))
    assert torch.equal(added, torch.addmm(bias, rounded(a), rounded(b)))
    assert torch.equal(convolved, F.conv2d(rounded(image), rounded(kernel)))
    assert torch.equal(vector, a @ b[:, 0])
    assert torch.equal(total, a + a)
    assert not torch.equal(product, a @ b)


def test_tf32_rounds_in_backward_too():
    a, b = torch.randn(5, 7, requires_grad=True), torch.randn(7, 3)
    seed = torch.randn(5, 3)
    with arithmetic("cpu", "tf32"):
        (a @ b).backward(seed)
    assert torch.equal(a.grad, rounded(seed) @ rounded(b).T)


def test_tf32_attention_rounds_its_operands():
    q, k, v = (torch.randn(1, 2, 6, 8) for _ in range(3))
    with arithmetic("cpu", TF32):
        result = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    expected = F.scaled_dot_product_attention(*map(rounded, (q, k, v)), is_causal=True)
    assert torch.equal(result, expected)


def test_tf32_is_no_autocast():
    with autocast("cpu", "tf32"), arithmetic("cpu", TF32):
        assert (X @ W).dtype is torch.float32


@pytest.mark.gpu
@pytest.mark.parametrize("fmt", [FP16, BF16], ids=str)
@pytest.mark.parametrize("name", ["digits-mlp", "digits-cnn", "chars-gpt"])
def test_emulation_agrees_with_native_amp_on_a_gpu(name, fmt):
    """The same weights and batch: loss and gradients differ by what another order of summation explains."""
    from mixlab import load_task

    task = load_task(name)
    batch = task.batch(0, 0)
    results = []
    for device in ("cpu", "cuda"):
        model = task.seeded_model(0).to(device)
        inputs, targets = (tensor.to(device) for tensor in batch)
        with arithmetic(device):
            with autocast(device, fmt):
                logits = model(inputs)
                loss = F.cross_entropy(logits.flatten(0, -2), targets.flatten())
            (loss * 1024).backward()
        assert logits.dtype is fmt.dtype
        results.append((logits.float().cpu(), [p.grad.cpu() for p in model.parameters()]))
    (ours, our_gradients), (theirs, their_gradients) = results
    scale = theirs.abs().max()
    assert (ours - theirs).abs().max() <= 8 * fmt.eps * scale
    for mine, native in zip(our_gradients, their_gradients, strict=True):
        assert mine.dtype is native.dtype is torch.float32
        assert (mine - native).norm() <= 16 * fmt.eps * native.norm()


@pytest.mark.parametrize("compute", ["fp16", "bf16"])
@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_compute_in_16_bits(kind, compute):
    """CUDA's autocast casts for cuDNN's recurrent kernels; the result is that of the same layer in 16 bits."""
    layer, x = kind(8, 4, num_layers=2, bidirectional=True), torch.randn(5, 3, 8)
    with arithmetic("cpu"), autocast("cpu", compute):
        output = layer(x)[0]
    output.float().sum().backward()
    dtype = {"fp16": torch.float16, "bf16": torch.bfloat16}[compute]
    low = kind(8, 4, num_layers=2, bidirectional=True)
    low.load_state_dict(layer.state_dict())
    with arithmetic("cpu"):
        expected = low.to(dtype)(x.to(dtype))[0]
    assert output.dtype is dtype
    assert torch.equal(output, expected)
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
