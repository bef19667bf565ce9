"""A training step of a model of Hugging Face's transformers: the instants at which memory may peak."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from mixlab.formats import FP32
from mixlab.memory.categories import BATCH, GRADIENTS, TEMPORARIES, Phase
from mixlab.memory.hf_record import Content, PassRecord
from mixlab.memory.instants import GATHERED, Instant, StepKind, instants_of
from mixlab.memory.parallel import Parallelism
from mixlab.memory.states import states_of
from mixlab.memory.temporaries import step_temporaries
from mixlab.optimizers import OptimizerName
from mixlab.recipes import Recipe


@dataclass(frozen=True)
class RecordedStep:
    """A step on one GPU, put together from one recorded layer of each kind.

    Args:
        record: The recorded pass.
        recipe: Recipe of the training.
        tokens: Tokens of a microbatch.
        optimizer, step: As for `estimate`.
        accumulates: Whether gradients of earlier microbatches exist.
        parallel: GPUs that share states.
    """

    record: PassRecord
    recipe: Recipe
    tokens: int
    optimizer: OptimizerName
    step: StepKind
    accumulates: bool
    parallel: Parallelism

    def instants(self) -> tuple[Instant, ...]:
        """Returns the instants in order."""
        return instants_of([*self._forward(), *self._backward(), self._optimizer()])

    @cached_property
    def states(self) -> dict[str, int]:
        """Bytes by kind of weights, gradients and optimizer states that the GPU holds as the optimizer steps."""
        return self.parallel.shard(states_of(self.record, self.recipe, self.optimizer))

    @property
    def _gradient(self) -> int:
        return 4 if self.recipe.gradients == FP32 else 2

    def _content(self, peak: Mapping[str, int], more: Mapping[str, int]) -> Content:
        """Returns states, the batch, what is alive at a peak of the record, and what the other layers add."""
        content: Content = Counter({name: size for name, size in self.states.items() if name != GRADIENTS})
        content[BATCH] = 16 * self.tokens  # inputs and targets in int64
        content.update(peak)
        content.update(more)
        if self.accumulates:
            content[GRADIENTS] += self.states[GRADIENTS]
        return self._divided(content)

    def _divided(self, content: Content) -> Content:
        """Returns the content with what data-parallel GPUs divide, and what they gather."""
        zero, data = self.parallel.zero if self.parallel.data > 1 else 0, self.parallel.data
        layer = max(sum(part.parameters) for part in self.record.layers)
        stored = 2 if self.recipe.compute != FP32 and self.recipe.compute.bits == 16 else 4
        if zero >= 2:
            if not self.accumulates:
                content[GRADIENTS] = -(-content[GRADIENTS] // data)
            content[TEMPORARIES] += stored * layer
        if zero == 3:
            outside = sum(self.record.embedding.parameters) + sum(self.record.head.parameters)
            content[GATHERED] = stored * (outside + min(2, len(self.record.order)) * layer)
        return content

    def _forward(self) -> Iterator[tuple[str, Phase, Content]]:
        layers = self.record.layers
        yield "embedding", "forward", self._content(self.record.embedding.forward_peak, {})
        for kind, part in enumerate(layers):
            place = max(i for i, one in enumerate(self.record.order) if one == kind)
            more = self._missing("forward", place, kind)
            yield f"forward of layer {place + 1}", "forward", self._content(part.forward_peak, more)
        more = self._missing("forward", len(self.record.order), len(layers))
        yield "loss", "forward", self._content(self.record.head.forward_peak, more)

    def _backward(self) -> Iterator[tuple[str, Phase, Content]]:
        order, layers = self.record.order, self.record.layers
        more = self._missing("kept", len(order), len(layers))
        yield "gradient of the logits", "backward", self._content(self.record.head.backward_peak, more)
        for kind, part in reversed(list(enumerate(layers))):
            places = [i for i, one in enumerate(order) if one == kind]
            for place in dict.fromkeys((places[-1], places[0])):
                more = self._missing("kept", place, kind)
                more[GRADIENTS] += self._later_gradients(place, kind)
                yield f"backward of layer {place + 1}", "backward", self._content(part.backward_peak, more)
        more = Counter({GRADIENTS: self._later_gradients(-1, -1)})
        yield "gradient of the embedding", "backward", self._content(self.record.embedding.backward_peak, more)

    def _missing(self, what: str, place: int, kind: int) -> Content:
        """Returns what the layers before `place` keep, without those that the record has before that kind."""
        keeps = [getattr(part, what) for part in self.record.layers]
        more: Content = Counter()
        for one, count in Counter(self.record.order[:place]).items():
            for name, size in keeps[one].items():
                more[name] += count * size
        for one in range(kind):
            more.subtract(keeps[one])
        return more

    def _later_gradients(self, place: int, kind: int) -> int:
        """Returns the bytes of gradients of the layers after `place`, without those that the record has."""
        if self.accumulates:
            return 0
        numels = [sum(part.parameters) for part in self.record.layers]
        later = sum(numels[one] for one in self.record.order[place + 1 :]) - sum(numels[kind + 1 :])
        return self._gradient * later

    def _optimizer(self) -> tuple[str, Phase, Content]:
        content: Content = Counter(self.states)
        content[BATCH] = 16 * self.tokens
        divided = self.parallel.data if self.parallel.zero else 1
        content[TEMPORARIES] = step_temporaries(
            self.recipe,
            self.record.parameters // divided,
            self.record.largest // divided,
            optimizer=self.optimizer,
            step=self.step,
        )
        return "optimizer", "step", content
