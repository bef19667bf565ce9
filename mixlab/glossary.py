"""The field's words, one true sentence each; tables and labs show it where a word comes first."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from types import MappingProxyType

# Plain text, which stands in an attribute of HTML and in a cell of a Markdown table: no quotes, bars, stars, backticks.
GLOSSARY: Mapping[str, str] = MappingProxyType(
    {
        "activation checkpointing": (
            "Activations are dropped in the forward pass and computed again in backward: less memory, more time."
        ),
        "amax": "The largest magnitude in a tensor, or in a block of one.",
        "AMP": "Automatic mixed precision: autocast, and a loss scaler if the 16-bit format is fp16.",
        "AMX": "Units of Intel server CPUs, from 2023 on, that multiply small matrices in bf16 or int8.",
        "arithmetic intensity": "The FLOPs of a computation divided by the bytes that it moves.",
        "autocast": "A context of PyTorch that runs each op in 16 bits or in fp32, by lists of ops.",
        "binade": "The numbers from one power of two up to the next.",
        "block format": "A number format in which the values of a block share one scale, such as MXFP8 or NVFP4.",
        "dynamic8": (
            "8 bits for optimizer states, after Dettmers et al. (2022): values over seven decades, and a scale a block."
        ),
        "eager": "Each op runs as Python reaches it; the opposite is compiled, where several become one.",
        "exp_avg": "PyTorch's name for m, Adam's first moment: a running mean of the gradient.",
        "exp_avg_sq": "PyTorch's name for v, Adam's second moment: a running mean of the squared gradient.",
        "FLOP": "A floating-point operation: an addition or a multiplication of two numbers.",
        "foreach": "PyTorch's optimizers, op by op on many tensors at once, with temporary copies of them.",
        "FSDP": "PyTorch's fully sharded data parallel: as ZeRO 3, each GPU keeps a part of all states.",
        "fused": (
            "In one kernel instead of one for each op: a fused attention never stores its scores, a fused optimizer "
            "updates 16-bit tensors in fp32."
        ),
        "gradient accumulation": (
            "Several batches go forward and backward before one step of the optimizer; their gradients add up."
        ),
        "growth interval": "How many steps without overflow a loss scaler waits before it raises its scale.",
        "hysteresis": "How many overflows it takes to lower a loss scale (Megatron, DeepSpeed).",
        "Kahan sum": "A sum with a second number that keeps what rounding took away, and adds it later.",
        "logits": "The outputs of a classifier before softmax, one for each class.",
        "loss scale": (
            "A factor on the loss, and so on every gradient, that keeps small gradients from becoming zero in fp16; it "
            "is divided out before the update."
        ),
        "loss scaler": "What chooses the loss scale, divides it out, and skips steps whose gradients overflow.",
        "machine epsilon": "The gap from 1 to the next larger number of a format, eps; some authors mean half of it.",
        "mantissa": "The digits after the leading 1, as stored; with the 1 they are the significand.",
        "master weights": "fp32 copies of 16-bit weights; updates are added to them.",
        "MFU": "Model FLOPs utilisation: the FLOP/s that the model itself needs, as a share of the hardware's peak.",
        "nats": "The unit of a loss with natural logarithms; one nat is 1.44 bits.",
        "NVFP4": "NVIDIA's 4-bit block format: e2m1 values, 16 of which share a scale in e4m3.",
        "oneDNN": "A library of kernels, begun at Intel, which PyTorch calls on CPUs for products and convolutions.",
        "overflow": "A number is too large for a format and becomes inf, or the largest value if the cast saturates.",
        "roofline": "The speed that hardware allows: its peak, or bandwidth times arithmetic intensity if less.",
        "saturate": "To turn a number that is too large into the largest value instead of inf.",
        "stochastic rounding": "Rounding up or down at random, the nearer value more often, so that the mean is exact.",
        "subnormal": "A number below the smallest normal value of its format; the smaller, the fewer digits it has.",
        "swallowed": "An update that rounding takes away: the stored weight stays as it was.",
        "tensor core": "A unit of NVIDIA's GPUs that multiplies small matrices in few bits, mostly with sums in fp32.",
        "tf32": "fp32's range with the 10 mantissa bits of fp16, for products on NVIDIA's GPUs from Ampere on.",
        "ulp": "Unit in the last place: the gap between neighbouring numbers of a format at a given size.",
        "underflow": "A number that is not zero becomes zero when it is rounded to a format.",
        "unit roundoff": "Half of eps: no normal number is off by more, relative to itself, when rounded to nearest.",
        "unscale": "To divide the loss scale out of the gradients, before they are clipped and before the update.",
        "ZeRO": "Each GPU keeps a part of the optimizer's states (stage 1), of gradients too (2), of weights too (3).",
    }
)

_ENDING = r"(?:s|d|ed)?"


def _pattern(term: str) -> str:
    """A term begins a sentence with a capital; one that has capitals is written so everywhere."""
    word = re.escape(term)
    return f"[{word[0]}{word[0].upper()}]{word[1:]}" if term.islower() else word


# The longest first, so that "loss scaler" is not read as "loss scale".
_TERMS = "|".join(_pattern(term) for term in sorted(GLOSSARY, key=len, reverse=True))
WORD = re.compile(rf"(?<![\w/-])({_TERMS}){_ENDING}(?![\w-])")


def term_of(words: str) -> str | None:
    """Returns the glossary's term for words in a text, such as its plural; None if there is none.

    >>> term_of("subnormals"), term_of("Loss scale"), term_of("gradient")
    ('subnormal', 'loss scale', None)

    Args:
        words: One term as it stands in the text.
    """
    found = WORD.fullmatch(words)
    if found is None:
        return None
    return next(term for term in GLOSSARY if term.lower() == found[1].lower())


def marked(html: str, seen: set[str]) -> str:
    """Marks the first use of each term with `<abbr>`, whose title is the glossary's sentence.

    Args:
        html: Text without tags, escaped for HTML.
        seen: The terms that are marked already; those marked here are added.
    """

    def mark(found: re.Match[str]) -> str:
        term = term_of(found[0])
        assert term is not None
        if term in seen:
            return found[0]
        seen.add(term)
        return f'<abbr title="{escape(GLOSSARY[term])}">{found[0]}</abbr>'

    return WORD.sub(mark, html)
