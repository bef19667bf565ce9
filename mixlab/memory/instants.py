"""The instants of a training step at which memory may peak, each with its bytes by category, in closed form.

The peak is one of a few instants: the loss, the gradient of the logits, the head's gradient, a layer's backward, the
embedding's gradient, the optimizer's step. Which one depends on batch, recipe and model, so all are computed;
`mixlab.memory.estimate` takes the largest.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Literal, NamedTuple

from mixlab.formats import FP32
from mixlab.memory.activation_formulas import Activations
from mixlab.memory.categories import ACTIVATIONS, BATCH, CASTS, GRADIENTS, TEMPORARIES, Phase
from mixlab.memory.parallel import PipelineStage
from mixlab.memory.states import states_of
from mixlab.memory.temporaries import step_temporaries
from mixlab.optimizers import OptimizerName
from mixlab.recipes import Recipe

StepKind = Literal["foreach", "fused", "loop"]

GATHERED = "gathered parameters"


class Instant(NamedTuple):
    """One instant of a step.

    Attributes:
        name: The work in progress, such as "gradient of the logits".
        phase: "forward", "backward" or "step".
        content: Bytes by category; categories without bytes are left out.
    """

    name: str
    phase: Phase
    content: dict[str, int]

    @property
    def bytes(self) -> int:
        """Bytes of all categories."""
        return sum(self.content.values())


def instants_of(found: Iterable[tuple[str, Phase, Mapping[str, int]]]) -> tuple[Instant, ...]:
    """Returns instants from (name, phase, content), whose categories may have no bytes.

    Args:
        found: The instants, in order.
    """
    return tuple(
        Instant(name, phase, {what: size for what, size in content.items() if size}) for name, phase, content in found
    )


@dataclass(frozen=True)
class Step:
    """A step on one GPU.

    Args:
        acts: Activations of a microbatch.
        stage: The part of the model on the GPU.
        optimizer, step: As for `estimate`.
        accumulates: Whether gradients of earlier microbatches exist.
    """

    acts: Activations
    stage: PipelineStage
    optimizer: OptimizerName
    step: StepKind
    accumulates: bool

    def instants(self) -> tuple[Instant, ...]:
        """Returns the instants in order."""
        return instants_of([*self._forward(), *self._backward(), self._optimizer()])

    # Parts of the instants.

    @cached_property
    def states(self) -> dict[str, int]:
        """Bytes by kind of weights, gradients and optimizer states that the GPU holds as the optimizer steps."""
        return self.acts.parallel.shard(states_of(self.stage, self.recipe, self.optimizer))

    @property
    def recipe(self) -> Recipe:
        return self.acts.recipe

    @property
    def zero(self) -> int:
        return self.acts.parallel.zero if self.acts.parallel.data > 1 else 0

    @property
    def _weight(self) -> int:
        """Bytes of a parameter in a product."""
        return self.acts.compute_bytes

    @property
    def _gradient(self) -> int:
        """Bytes of a parameter's stored gradient."""
        return 4 if self.recipe.gradients == FP32 else 2

    @property
    def _stored(self) -> int:
        """Bytes of a stored parameter."""
        return self.acts.residual_bytes

    @cached_property
    def _base(self) -> Counter[str]:
        """Bytes that live through all of forward and backward, without gradients."""
        base = Counter({name: size for name, size in self.states.items() if name != GRADIENTS})
        base[BATCH] = 16 * self.acts.tokens  # inputs and targets in int64
        base[ACTIVATIONS] = sum(self.acts.shared.values())
        if self.zero == 3:  # parameters outside the layers, this layer and the next
            units = sum(self.stage.rest) + min(2, self.stage.layers) * self.stage.layer_parameters
            base[GATHERED] = self._weight * units
        return base

    def _with(
        self, layers: int, gradients: int = 0, *, activations: int = 0, temporaries: int = 0, casts: int = 0
    ) -> Counter[str]:
        """Returns the base, activations of `layers` layers, gradients of `gradients` parameters, and other bytes."""
        content = Counter(self._base)
        content[ACTIVATIONS] += layers * self.acts.layer_bytes + activations
        content[GRADIENTS] += self.states[GRADIENTS] if self.accumulates else self._new(gradients)
        content[TEMPORARIES] += temporaries
        content[CASTS] += casts
        return content

    def _new(self, parameters: int) -> int:
        """Returns the bytes of new gradients of that many parameters on this GPU; 0 if they accumulate."""
        whole = 0 if self.accumulates else self._gradient * parameters
        return whole // self.acts.parallel.data if self.zero >= 2 else whole

    @property
    def _casts(self) -> int:
        """Bytes of the casts of a layer's matrices."""
        return 2 * sum(self.stage.matrices) if self.recipe.autocast and self.zero < 3 else 0

    @property
    def _cached(self) -> int:
        """Bytes of a layer's casts that autocast keeps in its cache until it ends."""
        return self._casts + (2 * sum(self.stage.biases) if self._casts else 0)

    @property
    def _head_cast(self) -> int:
        return 2 * self.stage.head if self._casts else 0

    @property
    def _kept_casts(self) -> int:
        """Bytes of a layer's casts that live until its backward."""
        return 0 if self.acts.checkpointing == "full" else self._casts

    @property
    def _before_last(self) -> int:
        """Number of layers of other microbatches whose activations are alive."""
        return (self.stage.in_flight - 1) * self.stage.layers

    # The instants.

    def _forward(self) -> Iterator[tuple[str, Phase, Mapping[str, int]]]:
        acts, stage = self.acts, self.stage
        layers = stage.layers + self._before_last
        cached = stage.layers * self._cached
        if acts.attention == "materialised":
            content = self._with(layers - 1)
            content.update(self._scores())
            content[CASTS] += cached - 2 * sum(stage.matrices[3:]) if cached else 0
            yield "scores of the last layer", "forward", content
        if not stage.head:
            transient = acts.residual_bytes * acts.between
            yield "end of the stage", "forward", self._with(layers, temporaries=transient, casts=cached)
            return
        transient = acts.compute_bytes * acts.logits
        saved = sum(acts.head.values()) + acts.log_softmax
        casts = cached + self._head_cast
        yield "loss", "forward", self._with(layers, activations=saved, temporaries=transient, casts=casts)

    def _scores(self) -> Counter[str]:
        """Returns a layer in forward while scores and softmax are alive; autocast adds a softmax in 16 bits."""
        acts, c = self.acts, self.acts.compute_bytes
        kept = sum(size for name, size in acts.layer.items() if name in _BEFORE_SCORES)
        every = sum(size for name, size in acts.whole_layer.items() if name in _BEFORE_SCORES)
        queries = c * acts.queries  # before they are scaled
        more = c * acts.scores + acts.residual_bytes * acts.between if self.recipe.autocast else c * acts.queries
        content = Counter({ACTIVATIONS: kept, TEMPORARIES: every - kept + queries + c * acts.scores + more})
        content[ACTIVATIONS if "probabilities" in acts.layer else TEMPORARIES] += acts.probability_bytes * acts.scores
        return content

    def _backward(self) -> Iterator[tuple[str, Phase, Mapping[str, int]]]:
        stage = self.stage
        layers = stage.layers + self._before_last
        kept = stage.layers * self._kept_casts
        if stage.head:
            yield from self._head(layers, kept)
        for name, done in (("last layer", 0), ("first layer", stage.layers - 1)):
            gradients = done * stage.layer_parameters + sum(stage.final_norm)
            content = self._with(layers - done, gradients, casts=kept - done * self._kept_casts)
            if not self.accumulates:
                content[GRADIENTS] += self._head_gradient
            elif stage.tied:
                content[TEMPORARIES] += self._head_gradient
            content.update(max(self._within_layer(), key=lambda change: sum(change.values())))
            yield f"backward of the {name}", "backward", content

        name = "gradient of the embedding" if stage.embeddings else "end of backward"
        yield name, "backward", self._embedding_gradient()

    def _head(self, layers: int, casts: int) -> Iterator[tuple[str, Phase, Mapping[str, int]]]:
        """Yields the instants of loss and head, while the activations of `layers` layers are still alive."""
        acts, head = self.acts, self.stage.head
        saved = sum(acts.head.values())
        cast = casts + self._head_cast
        # Gradients of log-softmax and logits; under autocast the gradient of the fp32 copy comes before both.
        both = (4 if self.recipe.autocast else 2 * acts.compute_bytes) * acts.logits
        content = self._with(layers, activations=saved + acts.log_softmax, temporaries=both, casts=cast)
        yield "gradient of the logits", "backward", content

        product = acts.compute_bytes * (acts.logits + acts.between) + self._weight * head
        content = self._with(layers, activations=saved, temporaries=product, casts=cast)
        yield "gradient of the head", "backward", content

        if self._passing:
            saved -= acts.head["operand of the head"]
            converted = (self._gradient + self._passing) * head + acts.residual_bytes * acts.between
            content = self._with(layers, activations=saved, temporaries=converted, casts=casts)
            yield "conversion of the head's gradient", "backward", content

    @property
    def _passing(self) -> int:
        """Bytes per element that a gradient takes before its conversion to the stored format; 0 without conversion."""
        forms = [self._weight, self._stored, self._gradient]
        return sum(one for one, following in pairwise(forms) if one != following)

    @property
    def _head_gradient(self) -> int:
        """Bytes of the head's gradient during the layers' backward; a tied one stays whole until the embedding's."""
        share = 1 if self.stage.tied or self.zero < 2 else self.acts.parallel.data
        return self._gradient * self.stage.head // share

    def _within_layer(self) -> Iterator[Counter[str]]:
        """Yields the changes to a layer's content at the largest instants of its backward."""
        yield self._contraction()
        yield self._inner_gradient()
        if self.acts.attention == "materialised":
            yield self._scores_backward()
        yield self._layer_end()

    def _layer_start(self) -> Counter[str]:
        """Returns the change when a layer's backward begins: the incoming gradient, and recomputed activations."""
        acts = self.acts
        start: Counter[str] = Counter({TEMPORARIES: acts.residual_bytes * acts.between})
        if acts.checkpointing == "full":
            start[ACTIVATIONS] += sum(acts.whole_layer.values()) - acts.layer_bytes
            start[CASTS] += self._casts
        if self.zero >= 2:
            start[TEMPORARIES] += self._weight * self.stage.layer_parameters
        return start

    def _contraction(self) -> Counter[str]:
        """Returns the change at the product that contracts the feed-forward layer."""
        acts, change = self.acts, self._layer_start()
        cast = acts.compute_bytes * acts.between if self.recipe.autocast else 0
        change[TEMPORARIES] += cast + acts.compute_bytes * acts.hidden + self._weight * self.stage.matrices[-1]
        return change

    def _inner_gradient(self) -> Counter[str]:
        """Returns the change at the gradients within the feed-forward layer."""
        acts, change, last = self.acts, self._layer_start(), self.stage.matrices[-1]
        hidden = 2 if acts.shape.lean == "llama" else 1
        change[TEMPORARIES] += acts.compute_bytes * acts.hidden * hidden
        change[GRADIENTS] += self._new(last)
        change[CASTS] -= 2 * last if self._casts else 0
        return change

    def _scores_backward(self) -> Counter[str]:
        """Returns the change at the softmax of materialised scores: its result, and the gradients of both sides."""
        acts, change, c = self.acts, self._layer_start(), self.acts.compute_bytes
        done = sum(self.stage.matrices[3:])
        change[ACTIVATIONS] -= sum(size for name, size in acts.whole_layer.items() if name not in _BEFORE_SCORES)
        change[ACTIVATIONS] -= 0 if acts.checkpointing == "selective" else acts.whole_layer["values"]
        change[ACTIVATIONS] += acts.probability_bytes * acts.scores
        again = 2 if acts.checkpointing == "selective" else 1  # queries are scaled again
        change[TEMPORARIES] += (acts.probability_bytes + c) * acts.scores + again * c * acts.queries
        change[GRADIENTS] += self._new(done)
        change[CASTS] -= 2 * done if self._casts else 0
        return change

    def _layer_end(self) -> Counter[str]:
        """Returns the change at the end of a layer's backward, when only its input and first norm are left."""
        acts, change = self.acts, self._layer_start()
        left = acts.whole_layer["input"] + acts.whole_layer["statistics of its norm"]
        change[ACTIVATIONS] -= sum(acts.whole_layer.values()) - left
        computed = self._passing + (self._gradient if self.accumulates else 0)
        change[TEMPORARIES] += 2 * acts.residual_bytes * acts.between + computed * self.stage.matrices[0]
        change[GRADIENTS] += self._new(self.stage.layer_parameters)
        change[CASTS] -= self._casts
        return change

    def _embedding_gradient(self) -> Counter[str]:
        """Returns the end of backward: the embedding's gradient, added to the head's if they are tied."""
        stage, acts = self.stage, self.acts
        content = self._with(self._before_last, stage.parameters)
        content[ACTIVATIONS] -= sum(acts.shared.values())
        if not stage.embeddings:
            return content
        tokens = stage.embeddings[0]
        own = self._gradient * tokens
        converting = acts.residual_bytes * acts.between
        if self._stored != self._gradient:
            converting += self._stored * tokens
        if self.accumulates or self.zero >= 2:  # it is not the stored gradient yet
            content[TEMPORARIES] += own
        if not stage.tied:
            content[TEMPORARIES] += converting
        elif self._passing:  # converted beside the head's gradient, then added to it in place
            content[TEMPORARIES] += own + converting
        else:  # the head's is a transposed view, so their sum is a third tensor
            content[TEMPORARIES] += max(own + converting, 2 * own)
        return content

    def _optimizer(self) -> tuple[str, Phase, Mapping[str, int]]:
        content = Counter(self.states)
        content[BATCH] = 16 * self.acts.tokens
        divided = self.acts.parallel.data if self.zero else 1
        total = self.stage.parameters // divided
        largest = self.stage.largest // divided
        content[TEMPORARIES] = step_temporaries(self.recipe, total, largest, optimizer=self.optimizer, step=self.step)
        return "optimizer", "step", content


_BEFORE_SCORES = ("input", "statistics of its norm", "operands of queries, keys, values", "queries", "keys", "values")
