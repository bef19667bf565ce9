"""What a probe left out and why, in words."""

from __future__ import annotations

from collections.abc import Mapping

_NAMED = 3  # of those with one reason


def left_out_lines(left_out: Mapping[str, str]) -> list[str]:
    """Returns a line for each reason, with the first names that it holds for.

    >>> left_out_lines({"": "it is compiled", "a": "no gradient", "b": "no gradient"})
    ['left out of the model: it is compiled', 'left out of a, b: no gradient']

    Args:
        left_out: The reason by layer or parameter; "" is the model.
    """
    reasons: dict[str, list[str]] = {}
    for name, why in left_out.items():
        reasons.setdefault(why, []).append(name or "the model")
    return [f"left out of {', '.join(names[:_NAMED])}{_more(names)}: {why}" for why, names in reasons.items()]


def _more(names: list[str]) -> str:
    return f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
