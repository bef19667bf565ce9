"""A training pass of a causal language model as Hugging Face's transformers writes it, on a tape."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from mixlab.memory import tape_ops as ops
from mixlab.memory.hf_attention import attend
from mixlab.memory.hf_experts import mixture
from mixlab.memory.hf_parts import TapedRun, feed_forward, made_by
from mixlab.memory.tape import Node, Tape, Value, node_of


class LayerKind(NamedTuple):
    """A kind of layer.

    Attributes:
        sparse: Whether it has experts.
        rotates: Whether its queries and keys are rotated.
    """

    sparse: bool
    rotates: bool


@made_by("sums of a layer")
def layer(run: TapedRun, x: Value, kind: LayerKind, tables: tuple[Value, Value] | None) -> Value:
    """Returns a layer's output."""
    tape, shape, design = run.tape, run.shape, run.shape.design

    def mix(x: Value) -> Value:
        return attend(run, x, tables, kind.rotates)

    def feed(x: Value) -> Value:
        return run.dropout(mixture(run, x) if kind.sparse else feed_forward(run, x, shape.ffn_matrices), "residual")

    def norm(x: Value) -> Value:
        return run.norm(x, shape.width)

    def add(x: Value, y: Value) -> Value:
        return ops.add(tape, x, ops.scale(tape, y) if "residual" in run.writing.scaled else y)

    if design.parallel:
        normed = norm(x)
        mixed = mix(normed)
        fed = feed(normed if design.norms == "shared" else norm(x))
        return add(add(x, mixed), fed)
    if design.norms == "residual":
        x = norm(add(x, mix(x)))
        return norm(add(x, feed(x)))
    before, after = design.norms in ("before", "around"), design.norms in ("after", "around")
    held = list[Value]()
    for part in (mix, feed):
        normed = norm(x) if before else x
        y = part(normed)
        if run.writing.holds_parts:
            held += [normed, y]
        del normed
        y = norm(y) if after else y
        x = add(x, y)
        del y
    return x


def mailbox(x: Value) -> Value:
    """Returns the same tensor as the result of a node that only receives its gradient."""
    return Value(x.numel, x.size, x.storage, Node((), (), lambda _g: (), ()))


class Pass:
    """A forward and a backward pass with one layer of each kind; its parts are marked on the tape.

    Args:
        run: The run.
        kinds: Kinds of layers, in order.
        checkpoints: Whether backward recomputes each layer.
    """

    def __init__(self, run: TapedRun, kinds: Sequence[LayerKind], *, checkpoints: bool) -> None:
        self.run = run
        self.kinds = kinds
        self.checkpoints = checkpoints
        self.tape: Tape = run.tape
        shape, tape = run.shape, run.tape
        narrow = shape.embedding_width or shape.width
        self.embedding = tape.parameter(shape.vocabulary * narrow, narrow)
        self.head = self.embedding if shape.tied else tape.parameter(shape.vocabulary * narrow, narrow)

    def forward(self) -> None:
        """Runs the forward pass up to the loss."""
        tape, run = self.tape, self.run
        self.starts: list[int] = []
        self.inputs: list[Value] = []  # of checkpointed layers
        self.mailboxes: list[Node] = []  # of their outputs
        self.locals: list[Value] = []  # what the model's own variables hold until its last layer
        tape.mark("embedding")
        x = self._embedded()
        self.tables = self._tables(x)
        run.masks[:] = self._masks(x)
        for kind in self.kinds:
            tape.mark("layer")
            self.starts.append(len(tape.nodes))
            x = self._checkpointed(x, kind) if self.checkpoints else layer(run, x, kind, self.tables)
        tape.mark("head")
        self.starts.append(len(tape.nodes))
        self.locals.clear()
        if not self.checkpoints:  # which hold what they pass to a layer
            run.masks.clear()
        self.last = [x]
        del x
        self.loss = [self._loss()]

    def backward(self) -> None:
        """Runs the backward pass."""
        tape = self.tape
        tape.mark("end of forward")
        tape.end_forward()
        tape.mark("head")
        tape.start_backward(self.loss.pop())
        *layers, head = self.starts
        tape.backward(head)
        for kind, start in reversed(list(zip(self.kinds, layers, strict=True))):
            tape.mark("layer")
            if self.checkpoints:
                self._recompute(kind)
            else:
                tape.backward(start)
        self.tables = None
        self.run.masks.clear()
        tape.mark("embedding")
        tape.backward(0)
        tape.mark("end")

    @made_by("embedding")
    def _embedded(self) -> Value:
        tape, run, shape = self.tape, self.run, self.run.shape
        design = shape.design
        x = ops.embedding(tape, self.embedding, run.tokens)
        if "embedding" in run.writing.scaled:
            x = ops.scale(tape, x)
        if shape.embedding_width not in (None, shape.width):
            x = ops.linear(tape, x, tape.parameter(shape.width * self.embedding.columns, self.embedding.columns))
        if design.positions == "learned":
            rows = tape.parameter((shape.context + design.more_positions) * shape.width, shape.width)
            places = ops.embedding(tape, rows, run.seq)
            self.locals += [x, places]
            x = ops.add(tape, x, places)
        if design.embedding_norm:
            self.locals.append(x)
            x = run.norm(x, shape.width)
        return run.dropout(x, "embedding")

    def _tables(self, x: Value) -> tuple[Value, Value] | None:
        run, shape = self.run, self.run.shape
        if shape.design.positions != "rotary":
            return None
        width = shape.latent.rotary if shape.latent else shape.rotary_width or shape.head_width
        size = 4 if run.writing.rotary in ("wide", "complex") else x.size
        numel = run.seq * width // (2 if run.writing.rotary in ("chunks", "complex") else 1)
        return self.tape.new(numel, size), self.tape.new(numel, size)

    def _masks(self, x: Value) -> list[Value]:
        """Returns the masks of attention: of all that came before, and of windows if there are any."""
        run = self.run
        if not (run.eager or run.writing.masks):
            return []
        if run.shape.design.positions == "alibi" and run.writing.masks:  # distances are in the mask
            return [self.tape.new(run.scores, x.size)]
        size = x.size if run.eager else 1
        return [self.tape.new(run.batch * run.seq**2, size) for _ in range(2 if run.shape.window else 1)]

    def _checkpointed(self, x: Value, kind: LayerKind) -> Value:
        """Returns a layer's output; its input is all that is kept."""
        tape = self.tape
        tape.records = False
        out = mailbox(layer(self.run, x, kind, self.tables))
        tape.records = True
        self.inputs.append(x)
        self.mailboxes.append(node_of(out))
        return out

    def _recompute(self, kind: LayerKind) -> None:
        """Runs a layer again, and its backward."""
        tape, given = self.tape, self.inputs.pop()
        gradient = tape.taken(self.mailboxes.pop())
        start, inner, began = len(tape.nodes), mailbox(given), len(tape.events)
        result = layer(self.run, inner, kind, self.tables)
        tape.end_recomputation(began)
        tape.give(node_of(result), gradient)
        del gradient, result
        tape.backward(start, unpacks=True)
        tape.give(node_of(given), tape.taken(node_of(inner)))

    @made_by("head and loss")
    def _loss(self) -> Value:
        tape, run, shape = self.tape, self.run, self.run.shape
        x = self.last.pop()
        if shape.design.final_norm:
            x = run.norm(x, shape.width)
        narrow = self.embedding.columns
        if narrow != shape.width:
            x = ops.linear(tape, x, tape.parameter(narrow * shape.width, shape.width))
        bias = tape.parameter(shape.vocabulary) if shape.design.head_bias else None
        logits = ops.linear(tape, x, self.head, bias)
        if shape.design.logit_softcap:
            logits = ops.scale(tape, logits)
            logits = ops.of_result(tape, logits)
            logits = ops.scale(tape, logits)
        if "logits" in run.writing.scaled:
            logits = ops.scale(tape, logits)
        tape.outputs.append(logits)
        wide = ops.to(tape, logits, 4)
        labels = tape.new(run.tokens, 8)
        likelihoods = ops.softmax(tape, wide)
        numel = likelihoods.numel
        return tape.record(
            tape.new(1, 4), (likelihoods,), lambda _g: (tape.new(numel, 4),), (likelihoods.storage, labels.storage)
        )
