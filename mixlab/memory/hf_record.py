"""A recorded pass of a model of Hugging Face's transformers: what each part keeps, and needs while it runs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from mixlab.memory.categories import ACTIVATIONS, TEMPORARIES
from mixlab.memory.hf_model import LayerKind, Pass
from mixlab.memory.hf_parts import TapedRun
from mixlab.memory.hf_writings import writing_of
from mixlab.memory.tape import Formats, Tape
from mixlab.shapes import ModelShape

Content = Counter[str]


class Setup(NamedTuple):
    """What decides the bytes of a pass.

    Attributes:
        shape: The model.
        formats: Bytes of its numbers.
        batch, seq: Rows, and tokens of each.
        eager: Whether scores are in memory.
        checkpoints: Whether backward recomputes each layer.
        accumulates: Whether gradients of an earlier pass exist.
    """

    shape: ModelShape
    formats: Formats
    batch: int
    seq: int
    eager: bool
    checkpoints: bool
    accumulates: bool


@dataclass(frozen=True)
class Part:
    """A part of a pass: the embedding, one layer of a kind, or the head with the loss.

    Attributes:
        parameters: Elements of each of its parameters.
        forward: Bytes that it leaves at the end of the forward pass, while the model's outputs are held.
        kept: Bytes that it leaves for backward.
        made_by: The activations among them by the part of the model that made them.
        forward_peak: What is alive at the peak of its forward pass, with one layer of each kind.
        backward_peak: The same for its backward pass.
    """

    parameters: tuple[int, ...]
    forward: Content
    kept: Content
    made_by: Content
    forward_peak: Content
    backward_peak: Content


@dataclass(frozen=True)
class PassRecord:
    """The parts of a pass with one layer of each kind and the last layer, and what all layers are in order.

    Attributes:
        embedding, head: The parts outside the layers.
        layers: One layer of each kind, in the order of their first; then the last layer, if others are of its kind.
        order: For every layer of the model, its place in `layers`.
    """

    embedding: Part
    layers: tuple[Part, ...]
    head: Part
    order: tuple[int, ...]

    @property
    def tensors(self) -> tuple[int, ...]:
        """Elements of each parameter tensor of the whole model."""
        layers = (numel for place in self.order for numel in self.layers[place].parameters)
        return (*self.embedding.parameters, *layers, *self.head.parameters)

    @property
    def parameters(self) -> int:
        """Elements of all parameters."""
        layers = sum(sum(self.layers[place].parameters) for place in self.order)
        return sum(self.embedding.parameters) + layers + sum(self.head.parameters)

    @property
    def largest(self) -> int:
        """Elements of the largest parameter tensor."""
        return max(numel for part in (self.embedding, *self.layers, self.head) for numel in part.parameters)


def kinds_of(shape: ModelShape) -> list[LayerKind]:
    """Returns the kinds of a shape's layers: those without experts first, those without rotation spread evenly."""
    each = shape.unrotated
    turns = [(place + 1) * each // shape.layers == place * each // shape.layers for place in range(shape.layers)]
    return [LayerKind(place >= shape.dense_layers, turn) for place, turn in enumerate(turns)]


@lru_cache(maxsize=512)
def recorded(setup: Setup) -> PassRecord:
    """Returns the record of a pass."""
    shape = setup.shape
    writing = writing_of(shape.style)
    tape = Tape(setup.formats, accumulates=setup.accumulates)
    run = TapedRun(
        tape, shape, writing, setup.batch, setup.seq, setup.eager or writing.only_eager, not setup.checkpoints
    )
    every = kinds_of(shape)
    kinds = list(dict.fromkeys(every))
    order = [kinds.index(kind) for kind in every]
    if every.count(every[-1]) > 1:  # the last layer once more: it keeps more, if the head saves what it returns
        order[-1] = len(kinds)
        kinds.append(every[-1])
    model = Pass(run, kinds, checkpoints=setup.checkpoints)
    model.forward()
    model.backward()
    del model
    parts = _Lives(tape).parts()
    return PassRecord(parts[0], tuple(parts[1:-1]), parts[-1], tuple(order))


class _Lives:
    """The lives of a tape's storages."""

    def __init__(self, tape: Tape) -> None:
        self.tape = tape
        count = len(tape.sizes)
        self.born, self.died = [0] * count, [len(tape.events)] * count
        for place, event in enumerate(tape.events):
            if event >= 0:
                self.born[event] = place
            else:
                self.died[~event] = place
        self.names = [self._category(number) for number in range(count)]

    def _category(self, number: int) -> str:
        name = self.tape.categories[number]
        if name != TEMPORARIES:
            return name
        for began, ended in self.tape.settled:
            if began <= self.born[number] < ended <= self.died[number]:
                return ACTIVATIONS
        return TEMPORARIES

    def parts(self) -> list[Part]:
        """Returns the parts in the order of the forward pass."""
        places = [place for _, place in self.tape.marks]
        (middle,) = (place for place, (name, _) in enumerate(self.tape.marks) if name == "end of forward")
        ends, starts = places[1:], places
        settled = self.tape.settled[0][1]
        found = []
        for place in range(middle):
            backward = 2 * middle - place
            made = range(starts[place], ends[place])
            parameters = [numel for marks, numel in self.tape.parameters if marks == place + 1]
            outside = [numel for marks, numel in self.tape.parameters if marks == 0] if place == 0 else []
            found.append(
                Part(
                    (*outside, *parameters),
                    self._left(made, places[middle], self.names),
                    self._left(made, settled, self.names),
                    self._left(made, settled, self.tape.makers, only=ACTIVATIONS),
                    self._peak(starts[place], ends[place]),
                    self._peak(starts[backward], ends[backward]),
                )
            )
        return found

    def _left(self, made: range, at: int, names: Sequence[str], only: str = "") -> Content:
        """Returns the bytes by name of what was born in a stretch of the events and is alive at a place."""
        left: Content = Counter()
        for number, born in enumerate(self.born):
            if born in made and born < at <= self.died[number] and only in ("", self.names[number]):
                left[names[number]] += self.tape.sizes[number]
        return left

    def _peak(self, first: int, last: int) -> Content:
        """Returns what is alive when most is, in a stretch of the events."""
        level = peak = 0
        at = first
        for place in range(first, last):
            event = self.tape.events[place]
            level += self.tape.sizes[event] if event >= 0 else -self.tape.sizes[~event]
            if level > peak:
                level, peak, at = level, level, place + 1
        alive: Content = Counter()
        for number, born in enumerate(self.born):
            if born < at <= self.died[number]:
                alive[self.names[number]] += self.tape.sizes[number]
        return alive
