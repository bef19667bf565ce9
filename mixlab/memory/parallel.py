"""A training on several GPUs: what each way of dividing it divides, and what one GPU then holds of a model."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mixlab.arguments import require_whole
from mixlab.memory.categories import GRADIENTS, PARAMETERS
from mixlab.memory.shapes import ModelShape

Zero = Literal[0, 1, 2, 3]


@dataclass(frozen=True)
class Parallelism:
    """How many GPUs do what.

    What has nothing to divide is harmless: with data=1 a ZeRO stage divides by one, with tensor=1 there is nothing
    that `sequence` could divide, and microbatches of a single stage accumulate their gradients.

    Args:
        data: GPUs that have other rows each. Each keeps all states, unless `zero` says otherwise.
        zero: What they divide among them: 0 nothing; 1 the optimizer's states; 2 also gradients; 3 also parameters
            (Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, section 5).
            FSDP is stage 3 (Zhao et al., PyTorch FSDP, 2023).
        tensor: GPUs that share each matrix (Shoeybi et al., Megatron-LM, 2020, section 3).
        sequence: Whether those also divide along the sequence what lies between the matrices (Korthikanti et al.,
            Reducing Activation Recomputation in Large Transformer Models, 2022, section 4.2.2).
        pipeline: GPUs that have other layers each.
        microbatches: That a step of the pipeline consists of. With one forward, one backward in turn (Narayanan et
            al., Efficient Large-Scale Language Model Training on GPU Clusters, 2021, section 2.2), the first stage
            holds the activations of as many as there are stages, or of all if they are fewer.

    Raises:
        ValueError: A number that is not whole and positive, or another ZeRO stage.
    """

    data: int = 1
    zero: Zero = 0
    tensor: int = 1
    sequence: bool = False
    pipeline: int = 1
    microbatches: int = 1

    def __post_init__(self) -> None:
        for name in ("data", "tensor", "pipeline", "microbatches"):
            require_whole(f"Parallelism: {name}", getattr(self, name), 1)
        if type(self.zero) is not int or self.zero not in (0, 1, 2, 3):
            raise ValueError(f"Parallelism: zero must be a stage, 0, 1, 2 or 3, got {self.zero!r}")
        if type(self.sequence) is not bool:
            raise ValueError(f"Parallelism: sequence must be True or False, got {self.sequence!r}")

    @property
    def gpus(self) -> int:
        return self.data * self.tensor * self.pipeline

    def __str__(self) -> str:
        sizes = [("data", self.data), ("ZeRO", self.zero), ("tensor", self.tensor), ("pipeline", self.pipeline)]
        ways = [f"{name} {size}" for name, size in sizes if size > (name != "ZeRO")]
        ways += ["sequence"] if self.sequence else []
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" + (f" ({', '.join(ways)})" if ways else "")

    def shard(self, parts: Mapping[str, int]) -> dict[str, int]:
        """Returns what one GPU keeps of states that `data` GPUs have in common: by kind, as in `model_states`.

        >>> Parallelism(data=64, zero=2).shard({"parameters": 128, "gradients": 128, "exp_avg": 256})
        {'parameters': 128, 'gradients': 2, 'exp_avg': 4}
        """
        whole = {PARAMETERS: self.zero < 3, GRADIENTS: self.zero < 2}
        return {name: size if whole.get(name, self.zero < 1) else -(-size // self.data) for name, size in parts.items()}

    def check(self, shape: ModelShape) -> None:
        """Raises ValueError where this does not divide the shape: its heads, kv_heads and ffn, or its layers."""
        for field in ("heads", "kv_heads", "ffn"):
            _require_divisor("tensor", self.tensor, field, getattr(shape, field), shape.name)
        _require_divisor("pipeline", self.pipeline, "layers", shape.layers, shape.name)


ONE_GPU = Parallelism()


def _require_divisor(name: str, number: int, field: str, value: int, owner: str) -> None:
    if value % number:
        divisors = ", ".join(str(n) for n in range(1, min(value, 1024) + 1) if value % n == 0)
        raise ValueError(f"Parallelism: {name}={number} must divide the {value} {field} of {owner}; use {divisors}")


@dataclass(frozen=True)
class PipelineStage:
    """What one GPU holds of a model: of a stage of the pipeline, its part of each matrix.

    Attributes:
        shape: The whole model.
        layers: That this stage has.
        matrices, biases, norms: Elements of each such tensor of a layer.
        embeddings: Of tokens, then of positions; () where there are none.
        head: Elements of the output layer's matrix, 0 where there is none.
        final_norm: Elements of each tensor of the last normalisation.
        tied: Whether head and embedding are one tensor here.
        in_flight: Microbatches whose activations live at the same time.
    """

    shape: ModelShape
    layers: int
    matrices: tuple[int, ...]
    biases: tuple[int, ...]
    norms: tuple[int, ...]
    embeddings: tuple[int, ...]
    head: int
    final_norm: tuple[int, ...]
    tied: bool
    in_flight: int

    @property
    def layer_parameters(self) -> int:
        return sum(self.matrices) + sum(self.biases) + sum(self.norms)

    @property
    def rest(self) -> tuple[int, ...]:
        """Elements of each parameter tensor outside of the layers."""
        return self.embeddings + self.final_norm + (() if self.tied or not self.head else (self.head,))

    @property
    def tensors(self) -> tuple[int, ...]:
        """Elements of each parameter tensor."""
        return (self.matrices + self.biases + self.norms) * self.layers + self.rest

    @property
    def largest(self) -> int:
        """Elements of the largest parameter tensor."""
        return max(*self.matrices, *self.rest)

    @property
    def parameters(self) -> int:
        return self.layers * self.layer_parameters + sum(self.rest)


def pipeline_stages(shape: ModelShape, parallel: Parallelism) -> tuple[PipelineStage, ...]:
    """Returns the first and the last stage, between which no stage holds more than the first; one if there is one.

    With tensor parallelism, matrices of queries, keys, values and of the feed-forward's first products are cut by rows
    (biases too), the others by columns (their biases not), the embedding and the head along the vocabulary, rounded
    up; normalisations and positions are whole everywhere.

    Raises:
        ValueError: What does not divide the shape.
    """
    parallel.check(shape)
    t = parallel.tensor
    rows = [rows for rows, _ in shape.layer_matrices]
    whole = (3, len(rows) - 1)  # attention's last product and the feed-forward's
    matrices = tuple(rows * columns // t for rows, columns in shape.layer_matrices)
    biased = shape.layer_biases
    biases = tuple(row if place in whole else row // t for place, row in enumerate(rows) if biased[place])
    norm = (shape.width,) * (2 if shape.style == "gpt2" else 1)
    tokens = -(-shape.vocabulary // t) * shape.width
    positions = (shape.context * shape.width,) if shape.style == "gpt2" else ()

    def stage(first: bool, last: bool) -> PipelineStage:
        return PipelineStage(
            shape,
            shape.layers // parallel.pipeline,
            matrices,
            biases,
            2 * norm,
            (tokens, *positions) if first else (),
            tokens if last else 0,
            norm if last else (),
            shape.tied and first and last,
            min(parallel.pipeline, parallel.microbatches) if first else 1,
        )

    return (stage(True, True),) if parallel.pipeline == 1 else (stage(True, False), stage(False, True))
