"""A tape of ops that have sizes and nothing else: what autograd keeps, and when it frees it, without torch.

`mixlab.memory.trace` runs a model's own code on fake tensors and takes seconds. A tape runs a few dozen ops written by
hand, in about a millisecond: tensors are byte counts, ops say what they allocate and save, backward goes through the
nodes from the last to the first and adds gradients as torch does. Python's reference counts free the storages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from mixlab.memory.categories import CASTS, GRADIENTS, TEMPORARIES

_GRANULE = 512  # bytes: sizes are multiples of it, as from CUDA's caching allocator


class TapeStorage:
    """Bytes on a tape, from its creation until nothing refers to it.

    Attributes:
        number: Its place in `Tape.sizes`.
        holders: Buffers of gradients that hold it.
    """

    __slots__ = ("_events", "holders", "number")

    def __init__(self, tape: Tape, size: int, category: str) -> None:
        self.number = len(tape.sizes)
        self.holders = 0
        self._events = tape.events
        tape.sizes.append(-(-size // _GRANULE) * _GRANULE)
        tape.categories.append(category)
        tape.makers.append(tape.maker)
        tape.events.append(self.number)

    def __del__(self) -> None:
        self._events.append(~self.number)


class Value:
    """A tensor: elements, bytes of each, the storage, and the node that made it; None if it has no gradient.

    Attributes:
        lone: Whether a gradient may be overwritten by a sum once nothing else holds its storage; views may not.
    """

    __slots__ = ("lone", "node", "numel", "size", "storage")

    def __init__(
        self, numel: int, size: int, storage: TapeStorage, node: Node | Parameter | None = None, lone: bool = True
    ) -> None:
        self.numel = numel
        self.size = size
        self.storage = storage
        self.node = node
        self.lone = lone


class Parameter:
    """A parameter: its elements, the bytes of each, and the gradient that its uses add up to.

    Attributes:
        columns: Inputs of a matrix.
    """

    __slots__ = ("buffer", "columns", "delivered", "numel", "size", "uses")

    def __init__(self, numel: int, size: int, columns: int = 1) -> None:
        self.numel = numel
        self.size = size
        self.columns = columns
        self.uses = 0
        self.delivered = 0
        self.buffer: Value | None = None


Backward = Callable[[Value], Sequence[Value | None]]


class Node:
    """An op that backward will run: where its gradients go, how it computes them, and the sum of what came in.

    Attributes:
        saved: Storages that live until the op's backward is done.
    """

    __slots__ = ("buffer", "run", "saved", "targets")

    def __init__(
        self,
        targets: Sequence[Node | Parameter | None],
        sizes: Sequence[int],
        run: Backward,
        saved: Sequence[TapeStorage | None],
    ) -> None:
        self.targets = tuple(zip(targets, sizes, strict=True))
        self.run = run
        self.saved = saved
        self.buffer: Value | None = None
        for target in targets:
            if isinstance(target, Parameter):
                target.uses += 1


def node_of(value: Value) -> Node:
    """Returns the node that made a tensor."""
    assert isinstance(value.node, Node)
    return value.node


@dataclass(frozen=True)
class Formats:
    """Bytes of a number by role.

    Attributes:
        weight: Of a stored parameter.
        compute: Of an operand of a product.
        gradient: Of a stored gradient.
        autocast: Whether products cast their operands.
    """

    weight: int
    compute: int
    gradient: int
    autocast: bool


class Tape:
    """Storages, the events of their lives, and the nodes of a step.

    Args:
        formats: Bytes of numbers.
        accumulates: Whether gradients of an earlier pass exist, to which new ones are added.

    Attributes:
        sizes, categories, makers: Of every storage, by number; a maker is the part of the model that makes it.
        events: Number for a storage's birth, ~number for its death.
        marks: (name, place in the events) of each part's beginning.
        maker: The part of the model that runs.
        parameters: Elements of every parameter, in order, beside the number of marks before it.
        settled: Stretches of the events at whose end what was made in them, and is left, is kept for backward.
        outputs: What the model's caller holds until the loss is returned.
    """

    def __init__(self, formats: Formats, *, accumulates: bool = False) -> None:
        self.formats = formats
        self.accumulates = accumulates
        self.sizes: list[int] = []
        self.categories: list[str] = []
        self.makers: list[str] = []
        self.maker = ""
        self.parameters: list[tuple[int, int]] = []
        self.settled: list[tuple[int, int]] = []
        self.events: list[int] = []
        self.marks: list[tuple[str, int]] = []
        self.outputs: list[Value] = []
        self.nodes: list[Node] = []
        self.gradients: list[Value] = []  # which live until the step is over
        self.records = True
        self._needed = 0  # storages up to the last op that saved something
        self._cached: dict[Parameter, Value] = {}

    def mark(self, name: str) -> None:
        """Begins a part."""
        self.marks.append((name, len(self.events)))

    def new(self, numel: int, size: int, category: str = TEMPORARIES) -> Value:
        """Returns a new tensor."""
        return Value(numel, size, TapeStorage(self, numel * size, category))

    def parameter(self, numel: int, columns: int = 1) -> Parameter:
        """Returns a new parameter, whose own bytes are in no tape."""
        self.parameters.append((len(self.marks), numel))
        return Parameter(numel, self.formats.weight, columns)

    def record(
        self,
        value: Value,
        inputs: Sequence[Value | Parameter | None],
        run: Backward,
        saved: Sequence[TapeStorage | None] = (),
    ) -> Value:
        """Makes `value` the result of an op on `inputs`; `run` returns a gradient for each, None for none."""
        if saved := [one for one in saved if one is not None]:
            before = all(one.number < value.storage.number for one in saved)
            self._needed = value.storage.number if before else len(self.sizes)
        targets = [one.node if isinstance(one, Value) else one for one in inputs]
        if self.records and any(target is not None for target in targets):
            node = Node(targets, [one.size if one is not None else 0 for one in inputs], run, saved)
            self.nodes.append(node)
            value.node = node
        return value

    def operand(self, parameter: Parameter) -> Value | Parameter:
        """Returns a parameter as an operand of a product: under autocast its cast, which is made once a pass."""
        if not self.formats.autocast or parameter.size == self.formats.compute:
            return parameter
        if parameter not in self._cached:
            cast = self.new(parameter.numel, self.formats.compute, CASTS)
            self.record(cast, (parameter,), lambda _g: (self.new(parameter.numel, parameter.size),))
            self._cached[parameter] = cast
        return self._cached[parameter]

    def end_forward(self, began: int = 0) -> None:
        """Frees what only the model's outputs and autocast's cache hold; what is left is kept for backward.

        Args:
            began: Place in the events at which the forward pass began.
        """
        self.outputs.clear()
        self._cached.clear()
        self.settled.append((began, len(self.events)))

    def end_recomputation(self, began: int) -> None:
        """Ends a layer's recomputation: it stopped once the last op had saved something, before that op's result.

        Args:
            began: Place in the events at which it began.
        """
        for number in range(self._needed, len(self.sizes)):
            self.sizes[number] = 0
        self.end_forward(began)

    def start_backward(self, loss: Value) -> None:
        """Puts a gradient at the loss."""
        self.give(node_of(loss), self.new(1, loss.size))

    def taken(self, node: Node) -> Value:
        """Returns the gradient that came to a node."""
        gradient, node.buffer = node.buffer, None
        assert gradient is not None
        gradient.storage.holders -= 1
        return gradient

    def backward(self, down_to: int, *, unpacks: bool = False) -> None:
        """Runs backward of the nodes from the last one down to number `down_to`.

        Args:
            down_to: Number of nodes that stay.
            unpacks: Whether saved tensors come from a recomputation, which lets them go as soon as the op has run.
        """
        while len(self.nodes) > down_to:
            node = self.nodes.pop()
            gradient, node.buffer = node.buffer, None
            if gradient is None:
                continue
            gradient.storage.holders -= 1
            found, targets = list(node.run(gradient)), node.targets
            if unpacks:
                node.saved = ()
            for place, (target, size) in enumerate(targets):
                found[place] = self._converted(target, size, found[place])
            del gradient, node  # with what it saved
            for place, (target, _) in enumerate(targets):
                one, found[place] = found[place], None
                if target is not None and one is not None:
                    self.give(target, one)
                del one

    def _converted(self, target: Node | Parameter | None, size: int, gradient: Value | None) -> Value | None:
        """Returns a gradient in the format of the input, and of a parameter's stored gradient."""
        if target is None or gradient is None:
            return None
        if isinstance(target, Parameter):
            size = self.formats.gradient
        return gradient if gradient.size == size else self.new(gradient.numel, size)

    def give(self, target: Node | Parameter, gradient: Value) -> None:
        """Adds a gradient to what came to a node or parameter."""
        held = target.buffer
        if held is None:
            target.buffer = gradient
            gradient.storage.holders += 1
        elif not (held.lone and held.storage.holders == 1 and held.size == gradient.size):
            held.storage.holders -= 1
            target.buffer = self.new(held.numel, held.size)
            target.buffer.storage.holders += 1
        if isinstance(target, Parameter):
            target.delivered += 1
            if target.delivered == target.uses:
                self._finish(target)

    def _finish(self, parameter: Parameter) -> None:
        gradient, parameter.buffer = parameter.buffer, None
        assert gradient is not None
        if not self.accumulates:
            self.categories[gradient.storage.number] = GRADIENTS
            self.gradients.append(gradient)
