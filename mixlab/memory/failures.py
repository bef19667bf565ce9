"""What a trace says of a model on which it failed."""

from __future__ import annotations

from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    UnsupportedOperatorException,
)

_ADVICE: tuple[tuple[type[Exception], str], ...] = (
    (
        DataDependentOutputException,
        "it reads a value (.item(), float(), bool(), an `if` on a tensor) that the batch's integers do not decide, and "
        "fake tensors have no other: keep the value in a tensor (torch.where, a product with a mask), set the rate of "
        "a layer drop to 0, or trace the model without that part",
    ),
    (
        DynamicOutputShapeException,
        "the shape of its result depends on values (a boolean index, nonzero, unique, packed rows, lengths of a CTC "
        "loss) that the batch's integers do not decide: trace a batch with values, not on meta; where a weight does, "
        "use torch.where or a fixed number of places (topk), or trace the model without that part",
    ),
    (
        UnsupportedOperatorException,
        "it has no fake kernel: give it one with torch.library.register_fake, or trace the model without that part",
    ),
)
_OPTIMIZER = (
    "the optimizer decides by values, and fake tensors have none: switch that option off (scale_parameter=False of "
    "Adafactor), or trace with an optimizer whose states are as large"
)
_EXPERTS = (
    "which rows an expert gets depends on values: call model.set_experts_implementation('grouped_mm'), transformers' "
    "default, or 'batched_mm', whose tensors have the same size however rows are routed"
)


def explained(error: Exception, failed: tuple[str, str] | None, model: nn.Module) -> str:
    """Returns what went wrong, where, and what to do.

    Args:
        error: What the traced step raised.
        failed: (op, path of the module) of the last op that raised an error.
        model: The model.
    """
    where = f"{failed[0]} of {failed[1]}" if failed else "the model, its loss or its optimizer"
    for kind, advice in _ADVICE:
        if isinstance(error, kind):
            if failed and failed[1] == "(optimizer)":
                advice = _OPTIMIZER
            elif failed and _routes_eagerly(model, failed[1]):
                advice = _EXPERTS
            return f"trace: {where} cannot be traced: {advice}"
    if "SparseTensorImpl" in str(error):
        return (
            f"trace: {where} cannot be traced: its result is sparse, and its size depends on values: "
            "use sparse=False, or a dense tensor"
        )
    return (
        f"trace: {where} failed with {type(error).__name__}: {error}; check that the model trains on a real batch of "
        "these shapes and dtypes, and that all its tensors are parameters, buffers or inputs"
    )


def _routes_eagerly(model: nn.Module, path: str) -> bool:
    """Whether a module holds experts of transformers that it calls one by one."""
    module = dict(model.named_modules()).get(path)
    config = getattr(module, "config", None)
    return hasattr(module, "num_experts") and getattr(config, "_experts_implementation", None) == "eager"
