"""Known designs of mixed precision: a recipe each, and the bytes that they keep beyond it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mixlab.arguments import did_you_mean
from mixlab.memory.states import model_states
from mixlab.tables import html_table, text_table


@dataclass(frozen=True)
class Variant:
    """A design of mixed precision: the recipe with the same storage, and the bytes that the design keeps beyond it.

    Attributes:
        name: A name of `VARIANTS`.
        recipe: Text of the recipe.
        source: Author, title, year, section.
        kept: Further bytes per parameter by kind that are there as the optimizer steps.
        passing: Further bytes per parameter by kind that live only within a step, at most.
    """

    name: str
    recipe: str
    source: str
    kept: Mapping[str, float] = field(default_factory=dict)
    passing: Mapping[str, float] = field(default_factory=dict)

    @property
    def parts(self) -> dict[str, float]:
        """Bytes per parameter by kind as the optimizer steps, with Adam; kinds as in `model_states`."""
        states = model_states(self.recipe)
        return {name: size / states.numel for name, size in states.parts.items()} | dict(self.kept)

    @property
    def bytes_per_parameter(self) -> float:
        """Bytes per parameter as the optimizer steps, with Adam and without activations."""
        return sum(self.parts.values())

    @property
    def most_bytes_per_parameter(self) -> float:
        """Bytes per parameter at most, including those that live only within a step."""
        return self.bytes_per_parameter + sum(self.passing.values())

    def __repr__(self) -> str:
        return f"{self._title()}\n{text_table(_COLUMNS, self._rows())}"

    def _repr_html_(self) -> str:
        return html_table(_COLUMNS, self._rows(), caption=self._title())

    def _title(self) -> str:
        least, most = self.bytes_per_parameter, self.most_bytes_per_parameter
        span = f"{least:.4g}" if least == most else f"{least:.4g} to {most:.4g}"
        return f"{self.name}: {span} bytes per parameter ({self.source})"

    def _rows(self) -> list[tuple[str, str]]:
        passing = [(f"{name}, within a step", f"{size:.4g}") for name, size in self.passing.items()]
        return [*((name, f"{size:.4g}") for name, size in self.parts.items()), *passing]


_COLUMNS = ("what", "bytes per parameter")
_CASTS = {"weights cast by autocast": 2.0}

VARIANTS: dict[str, Variant] = {
    variant.name: variant
    for variant in (
        Variant("fp32", "fp32", "Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015, algorithm 1"),
        Variant(
            "torch-autocast",
            "amp-bf16",
            "PyTorch, Automatic Mixed Precision package, torch.amp, 2025: weights stay fp32, casts live until backward",
            passing=_CASTS,
        ),
        Variant(
            "megatron-bf16",
            "bf16-master",
            "NVIDIA, Megatron-LM, docs of the distributed optimizer, 2024: fp32 main gradients, 18 bytes",
        ),
        Variant(
            "megatron-fp16",
            "fp16-master",
            "NVIDIA, Megatron-LM, docs of the distributed optimizer, 2024: fp16 gradients and fp32 copies, 20 bytes",
            kept={"fp16 gradients": 2.0},
        ),
        Variant(
            "zero-paper",
            "fp16-master,gradients=fp16",
            "Rajbhandari et al., ZeRO: Memory Optimizations Toward Training Trillion Parameter Models, 2020, 3.1",
        ),
        Variant(
            "lean-bf16",
            "lean-bf16",
            "the introduction that mixlab follows (lab 12): gradient and first moment in bf16, 14 with a bf16 copy",
            passing=_CASTS,
        ),
        Variant(
            "pure-bf16",
            "bf16",
            "Kalamkar et al., A Study of BFLOAT16 for Deep Learning Training, 2019, without its fp32 master weights",
        ),
        Variant("bf16-kahan", "bf16-kahan", "Zamirai et al., Revisiting BFloat16 Training, 2020"),
        Variant(
            "8-bit-adam",
            "fp32,exp_avg=dynamic8,exp_avg_sq=dynamic8",
            "Dettmers et al., 8-bit Optimizers via Block-wise Quantization, 2022, section 2",
        ),
        Variant(
            "deepseek-v3",
            "bf16-master,exp_avg=bf16,exp_avg_sq=bf16",
            "DeepSeek-AI, DeepSeek-V3 Technical Report, 2024; without its fp8 copies for products",
        ),
    )
}


def variant(name: str) -> Variant:
    """Returns a design by its name.

    >>> variant("megatron-fp16").bytes_per_parameter
    20.0

    Args:
        name: A name of `VARIANTS`.

    Raises:
        ValueError: If the name is unknown; the message offers similar ones.
    """
    if name in VARIANTS:
        return VARIANTS[name]
    raise ValueError(f"unknown variant {name!r}: {did_you_mean(name, VARIANTS)}There are {', '.join(VARIANTS)}")
