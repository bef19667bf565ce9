"""Rows that a model packs: traced against real steps, to the byte, and against torch's functions, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mixlab import Recipe
from mixlab.memory import TraceError, trace
from mixlab.memory.categories import PHASES
from mixlab.memory.packed_rows import pack, pad
from tests.reference.real_allocations import steps_without_scratch

CPU = torch.device("cpu")
IDS, LENGTHS, TAGS = torch.arange(48).view(4, 12) % 7, torch.tensor([9, 7, 9, 5]), torch.arange(48).view(4, 12) % 5


class Tagger(nn.Module):
    """Embeds ids, runs a recurrent layer over as many as there are, and scores five tags for each."""

    def __init__(self, kind: Any, *, ordered: bool = False, total: bool = True, **options: Any) -> None:
        super().__init__()
        self.embedding, self.rows = nn.Embedding(7, 8), kind(8, 8, **options)
        self.tags = nn.Linear(16 if self.rows.bidirectional else 8, 5)
        self.ordered, self.total = ordered, total

    def forward(self, ids: Tensor, lengths: Tensor) -> Tensor:
        first, x = self.rows.batch_first, self.embedding(ids)
        x = x if first else x.transpose(0, 1)
        packed = pack_padded_sequence(x, lengths, batch_first=first, enforce_sorted=self.ordered)
        total = ids.shape[1] if self.total else None
        found, _ = pad_packed_sequence(self.rows(packed)[0], batch_first=first, total_length=total)
        return self.tags(found if first else found.transpose(0, 1))


class Counting(Tagger):
    """Counts the ids that are not padding itself."""

    def forward(self, ids: Tensor, _lengths: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(ids, (ids != 0).sum(1).cpu())


def score(output: Tensor, tags: Tensor) -> Tensor:
    return F.cross_entropy(output.flatten(0, 1), tags[:, : output.shape[1]].flatten())


@pytest.mark.parametrize("recipe", ["fp32", "amp-bf16", "bf16"])
@pytest.mark.parametrize(
    ("make", "lengths"),
    [
        (lambda: Tagger(nn.LSTM, batch_first=True, bidirectional=True), LENGTHS),
        (
            lambda: Tagger(nn.LSTM, num_layers=2, dropout=0.1, ordered=True, total=False),
            LENGTHS.sort(descending=True)[0],
        ),
        (lambda: Tagger(nn.GRU, batch_first=True), torch.tensor([12, 12, 12, 12])),
        (lambda: Counting(nn.GRU), LENGTHS),
        (lambda: Tagger(nn.RNN, batch_first=True), LENGTHS),
    ],
    ids=["both ways", "ordered", "all of one length", "counted from ids", "tanh"],
)
def test_packed_rows_are_traced_to_the_byte(make, lengths, recipe):
    batch = ((IDS, lengths), TAGS)
    found = trace(make(), batch, recipe, loss=score, optimizer="sgd", as_on="cpu")
    (step,) = steps_without_scratch(make, batch, Recipe.parse(recipe), device=CPU, loss=score, optimizer="sgd")
    assert found.peak_bytes == step.peak_bytes
    assert {phase: found.after[phase] for phase in PHASES} == step.after
    assert {phase: found.phase_peaks[phase] for phase in PHASES} == step.phase_peaks


def test_fewer_rows_take_less():
    few, many = (
        trace(Tagger(nn.LSTM), ((IDS, torch.full((4,), length)), TAGS), loss=score).after["forward"]
        for length in (2, 12)
    )
    assert few < many


@pytest.mark.parametrize("batch_first", [True, False])
@pytest.mark.parametrize("lengths", [[5, 3, 3, 1], [5, 5, 5, 5], [2, 1, 1, 1]])
def test_the_same_numbers_and_gradients_as_torchs(lengths, batch_first):
    rows = torch.randn(4, 5, 3).transpose(0, int(not batch_first)).requires_grad_()
    ours, theirs = (
        pack(rows, torch.tensor(lengths), batch_first),
        torch._pack_padded_sequence(rows, torch.tensor(lengths), batch_first),
    )
    weight = torch.randn_like(theirs[0])
    gradients = [torch.autograd.grad((data * weight).sum(), rows)[0] for data, _ in (ours, theirs)]
    assert torch.equal(ours[0], theirs[0])
    assert torch.equal(ours[1], theirs[1])
    assert torch.equal(*gradients)
    assert gradients[0].stride() == gradients[1].stride()
    for total in (-1, 7):
        padded, known = pad(*theirs, batch_first, 0.5, total)
        expected, counted = torch._pad_packed_sequence(*theirs, batch_first, 0.5, total)
        assert torch.equal(padded, expected)
        assert padded.stride() == expected.stride()
        assert torch.equal(known, counted)


@pytest.mark.parametrize("lengths", [[9, 7, 9, 5], [9, 7, 5], [9, 7, 5, 0], [13, 9, 7, 5]])
def test_lengths_that_cannot_be_are_told(lengths):
    with pytest.raises(TraceError, match="pack_padded_sequence: lengths must be 4 numbers from 1 to 12, in decreasing"):
        trace(Tagger(nn.LSTM, ordered=True), ((IDS, torch.tensor(lengths)), TAGS), loss=score)


def test_lengths_that_are_not_known_are_refused():
    with pytest.raises(TraceError, match=r"_pack_padded_sequence.* depends on values \(.*, packed rows, "):
        trace(Tagger(nn.LSTM), ((IDS, LENGTHS.to("meta")), TAGS), loss=score)
