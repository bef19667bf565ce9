"""Models that read masks, positions and lengths, which traces know from the batch; against real steps, to the byte."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from mixlab import Recipe
from mixlab.memory import trace
from mixlab.memory.categories import PHASES
from mixlab.memory.traceable import TraceError
from tests.reference.real_allocations import steps_without_scratch

CPU = torch.device("cpu")
MASK = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
BATCH = {"x": torch.zeros(2, 5, 8), "mask": MASK}


class Reads(nn.Module):
    """A linear layer, and what a function makes of its output and a mask."""

    def __init__(self, read: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.layer, self.read = nn.Linear(8, 8), read
        self.register_buffer("positions", torch.arange(5))

    def forward(self, x: Tensor, mask: Tensor) -> dict[str, Tensor]:
        return {"loss": self.read(self.layer(x), mask).square().mean()}


def differences(read: Callable[[Tensor, Tensor], Tensor], batch: dict[str, Any], recipe: str = "fp32") -> list[int]:
    found = trace(Reads(read), batch, recipe, optimizer="sgd", as_on="cpu")
    (step,) = steps_without_scratch(lambda: Reads(read), batch, Recipe.parse(recipe), device=CPU, optimizer="sgd")
    pairs = [(found.peak_bytes, step.peak_bytes)]
    pairs += [(found.after[phase], step.after[phase]) for phase in PHASES]
    pairs += [(found.phase_peaks[phase], step.phase_peaks[phase]) for phase in PHASES]
    return [traced - seen for traced, seen in pairs]


def skipped_if_full(y: Tensor, mask: Tensor) -> Tensor:
    return y if mask.bool().all() else y * mask[..., None].to(y.dtype)


def shifted(_y: Tensor, mask: Tensor) -> Tensor:
    """A mask that is written in place, as seq2seq models shift their targets."""
    right = mask.new_zeros(mask.shape)
    right[:, 1:] = mask[:, :-1].clone()
    right[:, 0] = 1
    return right


def of_packed_texts(y: Tensor, _mask: Tensor) -> Tensor:
    positions = torch.arange(5).expand(2, -1)
    starts = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1) != 1
    return y if (starts.cumsum(-1)[:, -1] == 0).all() else y.repeat(4, 1, 1)


READS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "all": skipped_if_full,
    "item": lambda y, mask: y * mask.sum().item(),
    "tolist": lambda y, mask: torch.cat([row[:n] for row, n in zip(y, mask.sum(-1).tolist(), strict=True)]),
    "nonzero": lambda y, mask: y.flatten(0, 1)[mask.flatten().nonzero().flatten()],
    "where": lambda y, mask: y[torch.where(mask == 1)],
    "boolean index": lambda y, mask: y[mask.bool()],
    "boolean index of one dimension": lambda y, mask: y[:, mask[1].bool()],
    "boolean assignment": lambda y, mask: y.tanh().index_put((~mask.bool(),), torch.tensor(0.0, dtype=y.dtype)),
    "masked_select": lambda y, mask: y.masked_select(mask[..., None].bool()),
    "written in place": lambda y, mask: y[shifted(y, mask).bool()],
    "constants": of_packed_texts,
    "repeat_interleave": lambda y, mask: y[0].repeat_interleave(mask[1] + 1, 0),
    "unique": lambda y, mask: y[:, : len(mask.unique())],
    "of a mask in floats": lambda y, mask: y[((1.0 - mask.to(y.dtype)) * -1e4).masked_fill(mask == 1, 2.0) > 0],
    "ones": lambda y, mask: y if torch.ones(2, 5).bool().all() else y.tanh(),
    "max": lambda y, mask: y[:, : int(mask.sum(-1).max())],
}


@pytest.mark.parametrize("name", READS)
def test_what_follows_from_a_mask_is_known(name: str):
    assert differences(READS[name], BATCH) == [0] * 7


def test_a_mask_that_masks_nothing_is_told_from_one_that_does():
    full = {**BATCH, "mask": torch.ones_like(MASK)}
    assert differences(skipped_if_full, full, "amp-bf16") == [0] * 7
    assert differences(skipped_if_full, BATCH, "amp-bf16") == [0] * 7
    padded, whole = (trace(Reads(skipped_if_full), batch, as_on="cpu") for batch in (BATCH, full))
    assert padded.after["forward"] > whole.after["forward"]


def test_the_batch_stays_as_it_is():
    mask = MASK.clone()
    trace(Reads(lambda y, mask: y[mask.sub_(1).add_(1).bool()]), {**BATCH, "mask": mask}, as_on="cpu")
    assert mask.equal(MASK)


def unknown_written(y: Tensor, mask: Tensor) -> Tensor:
    mask = mask.clone()
    mask.copy_(y[..., 0] > 0)
    return y[mask.bool()]


def unknown_written_to_a_view(y: Tensor, mask: Tensor) -> Tensor:
    mask = mask.clone()
    mask[0].view(-1)[1:] = (y[0, 1:, 0] > 0).long()
    return y[mask.bool()]


@pytest.mark.parametrize(
    ("read", "batch"),
    [
        pytest.param(lambda y, mask: y[y > 0], BATCH, id="of a weight"),
        pytest.param(unknown_written, BATCH, id="written"),
        pytest.param(unknown_written_to_a_view, BATCH, id="written to a view"),
        pytest.param(lambda y, mask: y[torch.empty_like(mask).bool()], BATCH, id="empty"),
        pytest.param(lambda y, mask: y[torch.randint(2, (2, 5)).bool()], BATCH, id="random"),
        pytest.param(lambda y, mask: y[mask.bool()], {**BATCH, "mask": MASK.to("meta")}, id="on meta"),
        pytest.param(lambda y, mask: y[:, : torch.ones(2**21, dtype=torch.long).sum()], BATCH, id="large"),
    ],
)
def test_what_is_not_known_is_refused(read: Callable[[Tensor, Tensor], Tensor], batch: dict[str, Any]):
    with pytest.raises(TraceError, match="integers do not decide"):
        trace(Reads(read), batch)
