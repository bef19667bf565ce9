"""What a batch may be, how a model is called with it, and which loss its output has."""

from __future__ import annotations

from collections import OrderedDict, UserDict, defaultdict, namedtuple
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from mixlab.batches import (
    BatchError,
    call_model,
    cross_entropy,
    is_pair,
    loss_of,
    map_batch,
    map_tensors,
    placed,
    require_batch,
    require_same_device,
    tensors_of,
)

X, Y = torch.arange(6.0).view(2, 3), torch.tensor([1, 0])


class Recorder(nn.Module):
    """Returns what it was called with."""

    def forward(self, *args: Any, **kwargs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
        return args, kwargs


@pytest.mark.parametrize(
    ("batch", "args", "kwargs"),
    [
        (X, (X,), {}),
        ((X,), (X,), {}),
        ([X, Y, 3], (X, Y, 3), {}),
        ({"x": X, "n": 3}, (), {"x": X, "n": 3}),
        (UserDict(x=X), (), {"x": X}),
        ((X, Y), (X,), {}),
        ([X, Y], (X,), {}),
        (((X, Y), Y), (X, Y), {}),
        ([[X], Y], (X,), {}),
        (({"x": X}, Y), (), {"x": X}),
        (("a text", Y), ("a text",), {}),
        (((), Y), (), {}),
    ],
)
def test_how_a_model_is_called(batch, args, kwargs):
    called = call_model(Recorder(), batch, owner="")
    assert str(called) == str((args, kwargs))
    assert is_pair(batch) == (isinstance(batch, tuple | list) and len(batch) == 2)


def test_a_packed_sequence_is_one_argument_and_its_sizes_stay():
    packed = pack_sequence([torch.ones(3, 2), torch.ones(1, 2)])
    (given,), _ = call_model(Recorder(), (packed, Y), owner="")
    assert given is packed
    moved = placed((packed, Y), "meta")
    assert isinstance(moved[0], PackedSequence)
    assert (moved[0].data.device.type, moved[0].batch_sizes.device.type, moved[1].device.type) == (
        "meta",
        "cpu",
        "meta",
    )


@dataclass(frozen=True)
class Graph:
    nodes: Tensor
    name: str


Point = namedtuple("Point", "x y z")


def test_every_tensor_is_mapped_and_nothing_else():
    class Encoding(UserDict):
        extra = "kept"

    tree = {
        "list": [X, (Y, None)],
        "graph": Graph(X, "a"),
        "point": Point(X, 1, "b"),
        "ordered": OrderedDict(a=X),
        "default": defaultdict(list, a=[X]),
        "encoding": Encoding(a=X),
        "frozen": MappingProxyType({"a": X}),
    }
    found = map_tensors(lambda tensor: tensor + 1, tree)
    assert all(torch.equal(tensor, X + 1) or torch.equal(tensor, Y + 1) for tensor in tensors_of(found))
    assert [type(part) for part in found.values()] == [
        list,
        Graph,
        Point,
        OrderedDict,
        defaultdict,
        Encoding,
        dict,
    ]
    assert (found["list"][1][1], found["graph"].name, found["point"][1:]) == (None, "a", (1, "b"))
    assert torch.equal(tree["graph"].nodes, torch.arange(6.0).view(2, 3))
    assert len(tensors_of(tree)) == 2


def test_a_tensor_in_two_places_is_mapped_once():
    found = map_tensors(torch.clone, {"input_ids": Y, "labels": Y})
    assert found["input_ids"] is found["labels"] is not Y


def test_what_the_model_is_given_is_cast_and_targets_are_not():
    inputs, targets = placed(({"x": X, "n": Y}, X), "cpu", torch.bfloat16)
    assert (inputs["x"].dtype, inputs["n"].dtype, targets.dtype) == (torch.bfloat16, torch.int64, torch.float32)
    assert placed({"x": X, "labels": X}, "cpu", torch.bfloat16)["labels"].dtype is torch.bfloat16
    assert placed(X, "cpu") is X
    assert placed(X, "cpu", new=True) is not X
    assert map_batch([X, Y], torch.clone, lambda one: one + 1)[1].tolist() == [2, 1]


@dataclass
class Answer:
    logits: Tensor
    loss: Tensor | None = None


LOGITS = torch.tensor([[0.0, 1.0, 2.0], [3.0, 0.0, 1.0]], requires_grad=True)
OWN = LOGITS.square().sum()
PLAIN = F.cross_entropy(LOGITS, Y)


@pytest.mark.parametrize(
    ("output", "batch", "loss", "expected"),
    [
        (LOGITS, (X, Y), None, PLAIN),
        (Answer(LOGITS), (X, Y), None, PLAIN),
        ({"logits": LOGITS, "loss": None}, (X, Y), None, PLAIN),
        (Answer(LOGITS, OWN), (X, Y), None, OWN),
        ({"loss": OWN}, {"x": X}, None, OWN),
        (Answer(LOGITS, OWN), X, None, OWN),
        (Answer(LOGITS, OWN), (X, Y), lambda out, y: F.cross_entropy(out.logits, y), PLAIN),
        (LOGITS, {"y": Y}, lambda out, batch: F.cross_entropy(out, batch["y"]), PLAIN),
        (LOGITS, (X, X), nn.MSELoss(), F.mse_loss(LOGITS, X)),
        (LOGITS, (X, X.softmax(-1)), None, F.cross_entropy(LOGITS, X.softmax(-1))),
        (LOGITS, (X, torch.tensor([1, -100])), None, F.cross_entropy(LOGITS[:1], Y[:1])),
        (LOGITS[None], (X, Y[None]), None, PLAIN),
        (LOGITS.T[None], (X, Y[None]), None, PLAIN),  # as images have it: classes second
    ],
)
def test_the_loss_is_the_first_that_there_is(output, batch, loss, expected):
    assert torch.equal(loss_of(output, batch, loss, owner=""), expected)


def test_of_several_meanings_the_last_dimension_has_the_classes():
    square, targets = torch.randn(2, 3, 3), torch.randint(3, (2, 3))
    assert torch.equal(cross_entropy(square, targets), F.cross_entropy(square.flatten(0, 1), targets.flatten()))


class Adds(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, a: Tensor, b: Tensor, *, scale: float = 1.0) -> Tensor:
        return self.linear(a + b) * scale


@pytest.mark.parametrize(
    ("batch", "words"),
    [
        (
            (X, X),
            r"a: model\(inputs\) failed: missing a required argument: 'b'; a batch of two is \(inputs, targets\);",
        ),
        ((X, X), r"for two arguments give \(\(a, b\), targets\) or a dict"),
        (
            {"a": X, "c": X},
            r"a: model\(\*\*batch\) failed: missing a required argument: 'b'; the model takes a, b, scale",
        ),
        (
            ({"a": X, "b": X, "c": 1}, Y),
            r"model\(\*\*inputs\) failed: got an unexpected keyword argument 'c'; the model",
        ),
        ((X, X, 1.0), r"model\(\*batch\) failed: too many positional arguments"),
        (((X, X.to("meta")), Y), "a: batch has a tensor on meta, the model is on cpu; move one of them"),
    ],
)
def test_a_model_that_does_not_take_the_batch_is_told(batch, words):
    with pytest.raises(BatchError, match=words):
        call_model(Adds(), batch, owner="a")


class Inherits(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return super().forward(*args, **kwargs)  # as a LightningModule does


@pytest.mark.parametrize("make", [nn.Module, Inherits])
def test_a_model_without_a_forward_is_told(make):
    with pytest.raises(BatchError, match=f"a: {make.__name__} has no forward, which the batch is for; write one that"):
        call_model(make(), (X, Y), owner="a")


def test_a_forward_that_is_not_implemented_yet_is_the_models_own_error():
    class Later(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise NotImplementedError("attention in fp8")

    with pytest.raises(NotImplementedError, match="^attention in fp8$"):
        call_model(Later(), X, owner="a")


def test_other_errors_of_a_model_and_a_loss_are_theirs():
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        call_model(Adds(), ((X.T, X.T), Y), owner="a")
    with pytest.raises(TypeError, match="unsupported operand") as error:
        call_model(Adds(), ((X, None), Y), owner="a")
    assert not isinstance(error.value, BatchError)
    with pytest.raises(AttributeError):
        loss_of(LOGITS, {"x": X}, nn.MSELoss(), owner="a")


@pytest.mark.parametrize(
    ("output", "batch", "loss", "words"),
    [
        (
            LOGITS,
            X,
            None,
            "a: there is no loss: the loss is the function that you give .*, or the output's own .loss, or",
        ),
        ((LOGITS,), (X, Y), None, "must return logits, .*; got an output that is a tuple of 1 for targets torch.int64"),
        ((LOGITS, None), (X, Y), None, "or to a model that takes the targets itself a dict of all its arguments"),
        ((LOGITS, PLAIN), {"x": X}, None, r"for a dict of x; give loss=lambda output, batch: output\[1\]$"),
        ({"nll": PLAIN, "n": 2}, X, None, r"give loss=lambda output, batch: output\['nll'\]$"),
        ((PLAIN, PLAIN), {"x": X}, None, "for a dict of x$"),  # which of them is the loss, nobody can say
        (LOGITS.argmax(-1), (X, Y), None, r"got an output that is torch.int64 \(2,\)"),
        (LOGITS[:, 0], (X, Y), None, r"got an output that is torch.float32 \(2,\)"),
        (LOGITS, (X, X[0]), None, r"for targets torch.float32 \(3,\): give loss, a function of \(output, targets\)"),
        (LOGITS, (X, Y > 0), None, "for targets torch.bool"),
        (LOGITS, (X, Y.int()), None, "for targets torch.int32"),
        (None, (X, Y), None, "got an output that is NoneType"),
        (
            LOGITS,
            (X, Y),
            lambda out, y: out,
            r"loss must return one floating number, .*; got torch.float32 \(2, 3\): red",
        ),
        (
            LOGITS,
            (X, Y),
            lambda out, y: out.sum().item(),
            "loss must return one floating number, as a tensor; got float",
        ),
        (LOGITS, (X, Y), lambda out, y: y.sum(), r"loss must return one floating number, .*; got torch.int64 \(\)"),
        (LOGITS, (X, Y), lambda out, y: None, "got NoneType"),
        (LOGITS, (X, Y), lambda out: out.sum(), r"a: loss\(output, targets\) failed: too many positional arguments"),
        (LOGITS, X, lambda out: out.sum(), r"a: loss\(output, batch\) failed: too many positional arguments"),
        (Answer(LOGITS, LOGITS), X, None, "the output's own .loss must be one floating number"),
        (LOGITS, (X, Y + 2), None, r"a: targets must be class numbers below 3, or -100 for those to ignore: Target 3"),
        (LOGITS, (X, X.to("meta")), F.mse_loss, "a: targets has a tensor on meta, the model's output is on cpu"),
    ],
)
def test_an_output_without_a_loss_of_one_number_is_told(output, batch, loss, words):
    with pytest.raises(BatchError, match=words):
        loss_of(output, batch, loss, owner="a")


@pytest.mark.parametrize(
    ("batch", "error", "words"),
    [
        (3, TypeError, r"a: batch must be a tensor, .*; got int; any other object is passed as a tuple of one"),
        (None, TypeError, "got NoneType"),
        ("text", TypeError, "got str"),
        ((), ValueError, "a: batch is empty: got a tuple of 0"),
        ({}, ValueError, "batch is empty: got a dict of nothing"),
        ((X[:0], Y[:0]), ValueError, r"batch is empty: got \(torch.float32 \(0, 3\), torch.int64 \(0,\)\)"),
        ({1: X}, TypeError, r"batch must have the names of the model's arguments as keys, got \[1\]"),
        (({1: X}, Y), TypeError, "batch must have the names"),
        (X.numpy(), TypeError, "a: batch holds a NumPy array; torch.as_tensor"),
        ((X, Y.numpy()), TypeError, "a: batch holds a NumPy array"),
    ],
)
def test_what_is_no_batch_is_told(batch, error, words):
    with pytest.raises(error, match=words):
        require_batch("a", batch)


def test_a_batch_with_some_empty_tensors_is_one():
    require_batch("a", {"nodes": X, "edges": X[:0]})
    require_batch("a", (("a text",), Y))


def test_a_batch_elsewhere_is_told_but_meta_is_everywhere():
    with torch._subclasses.FakeTensorMode():
        away = torch.empty(2, 3, device="cuda")
    with pytest.raises(BatchError, match="a: batch has a tensor on cuda:0, the model is on cpu; move one of them"):
        require_same_device("a", Adds(), ((X, away), Y))
    require_same_device("a", Adds(), ((X, X.to("meta")), Y))
    require_same_device("a", Adds().to("meta"), ((X, away), Y))
    require_same_device("a", nn.Identity(), (X, away))
