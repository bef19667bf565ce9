"""A training on several GPUs: the ways to divide it, and the part of a model that one GPU then holds."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from mixlab.arguments import require_whole
from mixlab.memory.categories import GRADIENTS, PARAMETERS
from mixlab.shapes import ModelShape
from mixlab.shapes.model_shapes import require_lean

Zero = Literal[0, 1, 2, 3]


@dataclass(frozen=True)
class Parallelism:
    """How a training is divided over GPUs.

    Settings with nothing to divide have no effect: with data=1 a ZeRO stage divides by one, with tensor=1 `sequence`
    has nothing to divide, and the microbatches of a single pipeline stage accumulate their gradients.

    Args:
        data: GPUs that each take other rows. Each keeps all states unless `zero` divides them.
        zero: What these GPUs divide: 0 nothing; 1 the optimizer's states; 2 also gradients; 3 also parameters
            (Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020).
            FSDP is stage 3 (Zhao et al., PyTorch FSDP, 2023).
        tensor: GPUs that share each matrix (Shoeybi et al., Megatron-LM, 2020).
        sequence: Whether these GPUs also divide the tensors between the matrices, along the sequence (Korthikanti et
            al., Reducing Activation Recomputation in Large Transformer Models, 2022).
        pipeline: GPUs that each take other layers.
        microbatches: Microbatches per step of the pipeline. With one forward, one backward in turn (Narayanan et al.,
            Efficient Large-Scale Language Model Training on GPU Clusters, 2021), the first stage holds the
            activations of as many microbatches as there are stages, or of all if they are fewer.

    Raises:
        ValueError: If a number is not whole and at least 1, or `zero` is not a stage from 0 to 3.
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
        """Number of GPUs in all."""
        return self.data * self.tensor * self.pipeline

    def __str__(self) -> str:
        sizes = [("data", self.data), ("ZeRO", self.zero), ("tensor", self.tensor), ("pipeline", self.pipeline)]
        ways = [f"{name} {size}" for name, size in sizes if size > (name != "ZeRO")]
        ways += ["sequence"] if self.sequence else []
        return f"{self.gpus} GPU{'s' if self.gpus > 1 else ''}" + (f" ({', '.join(ways)})" if ways else "")

    def shard(self, parts: Mapping[str, int]) -> dict[str, int]:
        """Returns the bytes that each of `data` GPUs keeps of states that they may divide.

        >>> Parallelism(data=64, zero=2).shard({"parameters": 128, "gradients": 128, "exp_avg": 256})
        {'parameters': 128, 'gradients': 2, 'exp_avg': 4}

        Args:
            parts: Bytes by kind, as in `model_states`.
        """
        whole = {PARAMETERS: self.zero < 3, GRADIENTS: self.zero < 2}
        return {name: size if whole.get(name, self.zero < 1) else -(-size // self.data) for name, size in parts.items()}

    def check(self, shape: ModelShape) -> None:
        """Checks that a shape can be divided like this.

        Args:
            shape: Shape of the model.

        Raises:
            ValueError: If `tensor` does not divide its heads, kv_heads and ffn, or `pipeline` its layers, or the shape
                has layers whose division is not modelled.
        """
        for name in ("tensor", "pipeline"):
            if getattr(self, name) > 1 and shape.lean is None:
                raise ValueError(
                    f"Parallelism: {name}={getattr(self, name)} is modelled for layers like GPT-2's and Llama's, not "
                    f"for those of {shape.name}; divide it by data and zero"
                )
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
    """The part of a model that one GPU holds: a stage of the pipeline, and its share of each matrix.

    Attributes:
        shape: Shape of the whole model.
        layers: Layers of this stage.
        matrices, biases, norms: Elements of each such tensor of a layer.
        embeddings: Elements of the embedding of tokens, then of positions; () if the stage has none.
        head: Elements of the output layer's matrix; 0 if the stage has none.
        final_norm: Elements of each tensor of the last norm.
        tied: Whether head and embedding are one tensor on this GPU.
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
        """Elements of one layer's parameters."""
        return sum(self.matrices) + sum(self.biases) + sum(self.norms)

    @property
    def rest(self) -> tuple[int, ...]:
        """Elements of each parameter tensor outside the layers."""
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
        """Elements of all parameters."""
        return self.layers * self.layer_parameters + sum(self.rest)


def pipeline_stages(shape: ModelShape, parallel: Parallelism) -> tuple[PipelineStage, ...]:
    """Returns the first and last stage of the pipeline, or its only one; no stage between holds more than the first.

    With tensor parallelism, the matrices of queries, keys, values and the feed-forward's first products are cut by
    rows, and so are their biases; the other matrices are cut by columns, and their biases stay whole. Embedding and
    head are cut along the vocabulary, rounded up; norms and positions are whole everywhere.

    Args:
        shape: Shape of the model.
        parallel: How it is divided.

    Raises:
        ValueError: If the shape cannot be divided like this, or has none of mixlab's own layers.
    """
    require_lean(shape)
    parallel.check(shape)
    t = parallel.tensor
    rows = [rows for rows, _ in shape.layer_matrices]
    whole = (3, len(rows) - 1)  # attention's last product and the feed-forward's
    matrices = tuple(rows * columns // t for rows, columns in shape.layer_matrices)
    biased = shape.layer_biases
    biases = tuple(row if place in whole else row // t for place, row in enumerate(rows) if biased[place])
    norm = (shape.width,) * (2 if shape.lean == "gpt2" else 1)
    tokens = -(-shape.vocabulary // t) * shape.width
    positions = (shape.context * shape.width,) if shape.lean == "gpt2" else ()

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
