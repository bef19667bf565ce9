"""Traces as on a CPU against real steps, to the byte: the losses of torch.nn, with their reductions and options."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixlab.memory import trace
from mixlab.memory.traceable import TraceError
from tests.memory.test_trace_exact import EXACT, RECIPES, ROWS, differences, little_to_collect, small

__all__ = ["little_to_collect"]

Make = Callable[..., nn.Module]
Call = Callable[[nn.Module, Tensor, Tensor], Tensor]
REDUCTIONS = ("mean", "sum", "none")
VALUES, SIGNS = torch.zeros(6, 5), torch.ones(6)
CLASSES, SHARES = torch.tensor([0, 1, 2, 0, 1, 4]), torch.full((6, 5), 0.2)
LABELS, ROW_OF_LABELS = torch.ones(2, 1, dtype=torch.long), torch.ones(3, dtype=torch.long)
PIXELS = torch.zeros(1, 3, 2, dtype=torch.long)


def plain(loss: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    return loss(y, target)


def of_logs(loss: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    return loss(y.log_softmax(-1), target)


def of_probabilities(loss: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    return loss(y.sigmoid(), target)


def of_images(loss: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    return loss(y.view(1, 3, 2, 5).permute(0, 3, 1, 2), target)


def of_log_images(loss: nn.Module, y: Tensor, target: Tensor) -> Tensor:
    return loss(y.view(1, 3, 2, 5).permute(0, 3, 1, 2).log_softmax(1), target)


def of_sequences(input_lengths: Any, target_lengths: Any) -> Call:
    return lambda loss, y, labels: loss(y.view(3, 2, 5).log_softmax(-1), labels, input_lengths, target_lengths)


def of_three(loss: nn.Module, y: Tensor, _target: Tensor) -> Tensor:
    return loss(y, y.tanh(), y.sin())


def weighted(kind: Make, *names: str, **options: Any) -> Make:
    """Returns a loss with a weight for each of 5 classes under each name."""
    return lambda **reduction: kind(**{name: torch.ones(5) for name in names or ("weight",)}, **options, **reduction)


def far_apart(x: Tensor, y: Tensor) -> Tensor:
    return 1 - F.cosine_similarity(x, y)


LOSSES: dict[str, tuple[Make, Tensor, Call]] = {
    "L1Loss": (nn.L1Loss, VALUES, plain),
    "MSELoss": (nn.MSELoss, VALUES, plain),
    "SmoothL1Loss": (partial(nn.SmoothL1Loss, beta=0.5), VALUES, plain),
    "SmoothL1Loss, beta 0": (partial(nn.SmoothL1Loss, beta=0.0), VALUES, plain),
    "HuberLoss": (partial(nn.HuberLoss, delta=0.5), VALUES, plain),
    "CrossEntropyLoss": (nn.CrossEntropyLoss, CLASSES, plain),
    "CrossEntropyLoss, weights": (weighted(nn.CrossEntropyLoss), CLASSES, plain),
    "CrossEntropyLoss, smoothing": (partial(nn.CrossEntropyLoss, label_smoothing=0.1), CLASSES, plain),
    "CrossEntropyLoss, weights and smoothing": (weighted(nn.CrossEntropyLoss, label_smoothing=0.1), CLASSES, plain),
    "CrossEntropyLoss, ignored": (partial(nn.CrossEntropyLoss, ignore_index=0), CLASSES, plain),
    "CrossEntropyLoss of shares": (nn.CrossEntropyLoss, SHARES, plain),
    "CrossEntropyLoss of shares, weights": (weighted(nn.CrossEntropyLoss, label_smoothing=0.1), SHARES, plain),
    "CrossEntropyLoss of images": (weighted(nn.CrossEntropyLoss), PIXELS, of_images),
    "NLLLoss": (nn.NLLLoss, CLASSES, of_logs),
    "NLLLoss, weights": (weighted(nn.NLLLoss, ignore_index=0), CLASSES, of_logs),
    "NLLLoss of images": (nn.NLLLoss, PIXELS, of_log_images),
    "CTCLoss": (nn.CTCLoss, LABELS, of_sequences(torch.tensor([3, 3]), torch.tensor([1, 1]))),
    "CTCLoss, numbers": (partial(nn.CTCLoss, zero_infinity=True), LABELS, of_sequences((3, 2), (1, 1))),
    "CTCLoss, one row": (
        nn.CTCLoss,
        torch.ones(3, dtype=torch.long),
        of_sequences(torch.tensor([3, 3]), torch.tensor([1, 2])),
    ),
    "GaussianNLLLoss": (
        partial(nn.GaussianNLLLoss, full=True),
        VALUES,
        lambda loss, y, target: loss(y, target, y.exp()),
    ),
    "GaussianNLLLoss, fixed": (nn.GaussianNLLLoss, VALUES, lambda loss, y, target: loss(y, target, torch.ones(6, 1))),
    "PoissonNLLLoss": (nn.PoissonNLLLoss, VALUES, plain),
    "PoissonNLLLoss, full": (partial(nn.PoissonNLLLoss, full=True), VALUES + 3, plain),
    "PoissonNLLLoss, rates": (partial(nn.PoissonNLLLoss, log_input=False), VALUES, of_probabilities),
    "KLDivLoss": (nn.KLDivLoss, SHARES, of_logs),
    "KLDivLoss, logarithms": (partial(nn.KLDivLoss, log_target=True), VALUES, of_logs),
    "BCELoss": (nn.BCELoss, VALUES, of_probabilities),
    "BCELoss, weights": (weighted(nn.BCELoss), VALUES, of_probabilities),
    "BCEWithLogitsLoss": (nn.BCEWithLogitsLoss, VALUES, plain),
    "BCEWithLogitsLoss, weights": (weighted(nn.BCEWithLogitsLoss), VALUES, plain),
    "BCEWithLogitsLoss, positives": (weighted(nn.BCEWithLogitsLoss, "weight", "pos_weight"), VALUES, plain),
    "MarginRankingLoss": (
        partial(nn.MarginRankingLoss, margin=0.3),
        SIGNS,
        lambda loss, y, signs: loss(y[:, 0], y[:, 1], signs),
    ),
    "HingeEmbeddingLoss": (partial(nn.HingeEmbeddingLoss, margin=0.3), VALUES + 1, plain),
    "MultiLabelMarginLoss": (nn.MultiLabelMarginLoss, torch.zeros(6, 5, dtype=torch.long), plain),
    "MultiMarginLoss": (nn.MultiMarginLoss, CLASSES, plain),
    "MultiMarginLoss, squares": (weighted(nn.MultiMarginLoss, p=2, margin=0.5), CLASSES, plain),
    "SoftMarginLoss": (nn.SoftMarginLoss, VALUES + 1, plain),
    "MultiLabelSoftMarginLoss": (nn.MultiLabelSoftMarginLoss, VALUES, plain),
    "MultiLabelSoftMarginLoss, weights": (weighted(nn.MultiLabelSoftMarginLoss), VALUES, plain),
    "CosineEmbeddingLoss": (
        partial(nn.CosineEmbeddingLoss, margin=0.2),
        SIGNS,
        lambda loss, y, signs: loss(y, y.tanh(), signs),
    ),
    "TripletMarginLoss": (nn.TripletMarginLoss, VALUES, of_three),
    "TripletMarginLoss, swapped": (partial(nn.TripletMarginLoss, swap=True, p=1), VALUES, of_three),
    "TripletMarginWithDistanceLoss": (nn.TripletMarginWithDistanceLoss, VALUES, of_three),
    "TripletMarginWithDistanceLoss, own": (
        partial(nn.TripletMarginWithDistanceLoss, distance_function=far_apart, swap=True),
        VALUES,
        of_three,
    ),
}
# Kernels that no CPU has in bfloat16, or whose backward refuses float32 targets beside it.
MISSING = ("HuberLoss", "CTCLoss", "BCELoss", "MultiLabelMarginLoss", "MultiMarginLoss")
# Peaks in backward that are off: bytes of one vector of booleans.
KNOWN = {("CrossEntropyLoss, weights and smoothing", "mean", "bf16"): [0, 0, 0, 0, -6, 0, 0]}
# In all recipes by default; of the others one reduction and recipe each, and the rest in a run of slow tests.
QUICK = ("MSELoss", "SmoothL1Loss", "SoftMarginLoss", "BCEWithLogitsLoss, positives", "CTCLoss", "GaussianNLLLoss")


def runs(name: str, recipe: str) -> bool:
    kind = name.split(",")[0]
    return not (recipe == "bf16" and kind in MISSING) and not (recipe != "fp32" and kind == "BCELoss")


def cases() -> Iterator[Any]:
    for number, name in enumerate(LOSSES):
        found = [(name, recipe, reduction) for recipe in RECIPES for reduction in REDUCTIONS if runs(name, recipe)]
        for place, case in enumerate(found):
            quick = (name in QUICK and case[2] == "mean") or place == (2 * number) % len(found)
            yield pytest.param(*case, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("name", "recipe", "reduction"), list(cases()))
@pytest.mark.filterwarnings("ignore:reduction. 'mean' divides the total loss:UserWarning")
def test_losses_of_torch(name: str, recipe: str, reduction: str):
    """The scalar of some keeps the storage of all single losses until it dies."""
    make, target, call = LOSSES[name]

    def loss(y: Tensor, target: Tensor) -> Tensor:
        function = make(reduction=reduction)
        return call(function.bfloat16() if recipe == "bf16" else function, y, target).mean()

    found = differences(small, (ROWS, target), recipe, loss)
    assert found == KNOWN.get((name, reduction, recipe), EXACT)


class Adaptive(nn.Module):
    """The loss that sorts rows by their targets: how many go where is read from the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.head = nn.Linear(8, 16), nn.AdaptiveLogSoftmaxWithLoss(16, 20, [5, 12])

    def forward(self, x: Tensor, targets: Tensor) -> Tensor:
        return self.head(self.layer(x), targets).loss


@pytest.mark.parametrize("recipe", ["fp32", "bf16"])
def test_a_softmax_that_sorts_rows_by_their_targets(recipe):
    batch = (torch.zeros(7, 8), torch.tensor([0, 3, 6, 11, 12, 19, 1])), torch.zeros(1)
    assert differences(Adaptive, batch, recipe, lambda loss, _: loss) == EXACT


def test_lengths_of_a_ctc_loss_come_from_the_batch():
    def loss(y: Tensor, target: dict[str, Tensor]) -> Tensor:
        return F.ctc_loss(y.log_softmax(-1), target["labels"], target["steps"], target["length"], zero_infinity=True)

    labels = {
        "labels": torch.ones(3, 4, dtype=torch.long),
        "steps": torch.tensor([7, 6, 5]),
        "length": torch.tensor([4, 2, 0]),
    }
    x = torch.zeros(7, 3, 8)
    assert differences(lambda: nn.Linear(8, 5), (x, labels), "fp32", loss) == EXACT
    with pytest.raises(TraceError, match="no kernel takes torch.bfloat16"):
        trace(nn.Linear(8, 5), (x, labels), "bf16", loss=loss)
    unknown = {name: one.to("meta") for name, one in labels.items()}
    with pytest.raises(TraceError, match="lengths of a CTC loss.*a batch with values, not on meta"):
        trace(nn.Linear(8, 5).to("meta"), (x.to("meta"), unknown), loss=loss)
