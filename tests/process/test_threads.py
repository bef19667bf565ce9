"""What divides its work by the number of threads gives the same numbers with any."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mixlab import Recipe, Trainer, load_task, round_to, tensor_stats
from mixlab.optimizers import SGD, Adam, AdamW, Storage, pieces, state_tensors
from mixlab.optimizers.pieces import _PIECE

NUMEL = 3 * _PIECE + 1001  # several pieces whatever the number of threads, the last one short


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.cpu_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    ("member", "storage"),
    [
        (Adam, Storage()),
        (AdamW, Storage(master_weights=True, exp_avg_dtype=torch.bfloat16)),
        (AdamW, Storage(update="stochastic", exp_avg_sq_dtype=torch.bfloat16, state_rounding="stochastic")),
        (AdamW, Storage(update="kahan", exp_avg_dtype="dynamic8", exp_avg_sq_dtype="dynamic8")),
        (Adam, Storage(exp_avg_dtype=torch.float8_e4m3fn, exp_avg_sq_dtype=torch.float16)),
        (SGD, Storage(update="stochastic", exp_avg_dtype=torch.bfloat16)),
    ],
)
def test_a_step_is_the_same_with_any_number_of_threads(member, storage):
    results = []
    for count in (1, 2):
        torch.set_num_threads(count)
        generator = torch.Generator().manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(NUMEL, generator=generator).bfloat16())
        knobs = {"momentum": 0.9} if member is SGD else {}
        optimizer = member([parameter], lr=1e-2, storage=storage, generator=generator, **knobs)
        for _ in range(2):
            parameter.grad = torch.randn(NUMEL, generator=generator).bfloat16()
            optimizer.step()
        results.append([parameter.detach(), *(state for _, state in state_tensors(optimizer))])
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one.view(torch.uint8), same.view(torch.uint8))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float8_e4m3fn, marks=pytest.mark.slow)])
def test_a_compiled_step_rounds_with_the_same_bits_whatever_the_threads(dtype, monkeypatch):
    """Its pieces grow with the number of threads, and their random bits are those of the whole parameter."""
    monkeypatch.setattr(pieces, "_VECTORS", "AVX512")
    monkeypatch.setattr(pieces, "_WIDE_PIECE", 512)
    monkeypatch.setattr(pieces, "_PIECE", 512)
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        generator = torch.Generator().manual_seed(0)
        parameter = torch.nn.Parameter(torch.randn(2100, generator=generator))
        storage = Storage(dtype, dtype, state_rounding="stochastic")
        optimizer = AdamW([parameter], storage=storage, generator=generator, compiled=True)
        parameter.grad = torch.randn(2100, generator=generator)
        optimizer.step()
        results.append([parameter.detach(), *(state for _, state in state_tensors(optimizer))])
    for other in results[1:]:
        for one, same in zip(results[0], other, strict=True):
            assert torch.equal(one.view(torch.uint8), same.view(torch.uint8))


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("rounding", [pytest.param("nearest_even", marks=pytest.mark.slow), "stochastic"])
def test_compiled_rounding_is_the_same_whatever_the_threads(rounding):
    x = torch.randn(300_000, generator=torch.Generator().manual_seed(0)) * 100
    results = []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        generator = torch.Generator().manual_seed(0)
        results.append(
            round_to(x, "e4m3fn", overflow="saturate", rounding=rounding, generator=generator, compiled=True)
        )
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


@pytest.mark.cpu_kernels
@pytest.mark.usefixtures("threads")
def test_statistics_are_the_same_with_two_threads():
    seen = []
    for count in (1, 2):
        torch.set_num_threads(count)
        x = torch.randn(NUMEL, generator=torch.Generator().manual_seed(0)) * 2.0**-20
        stats = tensor_stats(x)
        seen.append((stats.zeros, stats.amax, stats.histogram.counts.tolist()))
    assert seen[0] == seen[1]


@pytest.mark.cpu_kernels
@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize("recipe", ["amp-fp16", "bf16-sr"])
def test_with_two_threads_a_seed_gives_the_same_training_again(recipe):
    torch.set_num_threads(2)
    first, second = (Trainer(load_task("digits-cnn"), Recipe.parse(recipe), device="cpu") for _ in range(2))
    for trainer in (first, second):
        list(trainer.steps(2))
    for one, same in zip(first.model.parameters(), second.model.parameters(), strict=True):
        assert torch.equal(one, same)
