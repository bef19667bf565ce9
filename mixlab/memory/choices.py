"""What a training of a shape chooses: attention, checkpointing, and whose module."""

from __future__ import annotations

from typing import Literal, get_args

from mixlab.shapes import ModelShape

AttentionKind = Literal["fused", "materialised"]
Checkpointing = Literal["none", "selective", "full"]
Implementation = Literal["mixlab", "transformers"]


def implementation_of(shape: ModelShape, asked: Implementation | None) -> Implementation:
    """Returns the implementation that is asked for; None takes mixlab's own if it has the shape's layers.

    Args:
        shape: Shape of the model.
        asked: The implementation, or None.

    Raises:
        ValueError: If there is no such implementation of the shape.
    """
    if asked is None:
        return "mixlab" if shape.lean else "transformers"
    if not isinstance(asked, str) or asked not in get_args(Implementation):
        names = ", ".join(get_args(Implementation))
        raise ValueError(f"implementation must be one of {names}, or None, got {asked!r:.60}")
    if asked == "mixlab" and shape.lean is None:
        raise ValueError(
            f"implementation=mixlab has no layers like those of {shape.name}, whose style is {shape.style}; "
            "use transformers"
        )
    return asked
