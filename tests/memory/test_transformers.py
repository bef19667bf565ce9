from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from mixlab.memory import transformer
from mixlab.memory.transformers import attend_fused, attend_materialised, rotary_tables, rotate
from mixlab.shapes import SHAPES, ModelShape

GPT2 = ModelShape("tiny gpt2", 2, 32, 4, 4, 128, 61, True, 16, "gpt2")
LLAMA = ModelShape("tiny llama", 2, 32, 4, 2, 96, 61, False, 16)
QWEN = replace(LLAMA, name="tiny qwen", tied=True, qkv_bias=True)
KINDS = list(product(("fused", "materialised"), ("none", "selective", "full")))


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.lean])
def test_the_parameters_are_those_of_the_shape_to_the_last_one(name):
    with torch.device("meta"):
        model = transformer(SHAPES[name])
    assert sum(parameter.numel() for parameter in model.parameters()) == SHAPES[name].parameters
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert (model.head.weight is model.token.weight) == SHAPES[name].tied


def one_step(shape: ModelShape, attention: str, checkpointing: str) -> tuple[torch.Tensor, list[torch.Tensor]]:
    torch.manual_seed(0)
    model = transformer(shape, attention=attention, checkpointing=checkpointing)
    tokens = torch.randint(shape.vocabulary, (2, 12))
    loss = F.cross_entropy(model(tokens).flatten(0, 1), tokens.flatten())
    loss.backward()
    return loss.detach(), [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize("shape", [GPT2, LLAMA, QWEN], ids=lambda shape: shape.name)
def test_all_kinds_compute_the_same(shape):
    loss, gradients = one_step(shape, "fused", "none")
    for attention, checkpointing in KINDS[1:]:
        other, others = one_step(shape, attention, checkpointing)
        torch.testing.assert_close(other, loss)
        for gradient, same in zip(gradients, others, strict=True):
            torch.testing.assert_close(same, gradient)


@pytest.mark.parametrize("shape", [GPT2, LLAMA], ids=lambda shape: shape.name)
def test_it_learns(shape):
    torch.manual_seed(0)
    model = transformer(shape, checkpointing="full")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    tokens = torch.arange(13)[None].repeat(4, 1)
    losses = []
    for _ in range(15):
        loss = F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(torch.tensor(61.0).log().item(), rel=0.2)  # every token as likely as another
    assert losses[-1] < 0.5 * losses[0]


def test_a_token_sees_only_those_before_it():
    for attention, shape in product(("fused", "materialised"), (GPT2, LLAMA)):
        torch.manual_seed(0)
        model = transformer(shape, attention=attention)
        tokens = torch.randint(61, (1, 12))
        changed = tokens.clone()
        changed[0, 8] = (changed[0, 8] + 1) % 61
        before, after = model(tokens), model(changed)
        torch.testing.assert_close(after[:, :8], before[:, :8])
        assert not torch.allclose(after[:, 8:], before[:, 8:])


def test_both_attentions_against_softmax_in_float64():
    q, k, v = torch.randn(3, 2, 4, 7, 8, generator=torch.Generator().manual_seed(0)).double()
    mask = torch.ones(7, 7, dtype=torch.bool).triu(1)
    scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / 8**0.5
    expected = torch.einsum("bhqk,bhkd->bhqd", scores.where(~mask, -torch.inf).softmax(-1), v)
    torch.testing.assert_close(attend_fused(q, k, v, None), expected)
    torch.testing.assert_close(attend_materialised(q, k, v, mask), expected)


def test_rotated_products_depend_on_the_distance_alone():
    q, k = torch.randn(2, 1, 1, 1, 8, generator=torch.Generator().manual_seed(0))
    tables = rotary_tables(torch.arange(10), 8, torch.float32)
    turned_q, turned_k = (rotate(x.expand(1, 1, 10, 8), *tables)[0, 0] for x in (q, k))
    products = turned_q @ turned_k.T
    for distance in range(10):
        diagonal = products.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(turned_q.norm(dim=-1), q.norm().expand(10))


def test_its_layers_are_the_linears_of_the_shape():
    model = transformer(LLAMA)
    linears = [m for m in model.layers[0].modules() if isinstance(m, nn.Linear)]
    assert sorted(tuple(m.weight.shape) for m in linears) == sorted(LLAMA.layer_matrices)
    assert all(m.bias is None for m in linears)


def test_mistakes_are_named():
    with pytest.raises(TypeError, match=r"shape must be a ModelShape, got 'gpt2'; model_shape\(name\) returns one"):
        transformer("gpt2")
    with pytest.raises(ValueError, match="attention must be one of fused, materialised, got 'flash'"):
        transformer(GPT2, attention="flash")
    with pytest.raises(ValueError, match="checkpointing must be one of none, selective, full, got True"):
        transformer(GPT2, checkpointing=True)
    with pytest.raises(ValueError, match="tiny gpt2: at most 16 tokens a row, got 17"):
        transformer(GPT2)(torch.zeros(1, 17, dtype=torch.long))
