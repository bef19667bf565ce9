"""Arguments checked in one wording: what came, what is allowed, what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable

LARGEST_SEED = 2**63 - 1  # every generator of torch and NumPy takes a seed up to here


def require_whole(what: str, value: object, low: int, high: int | None = None) -> None:
    """Checks that an argument is a whole number within bounds.

    >>> require_whole("Trainer: probe_every", 7, 0)
    >>> require_whole("Trainer: probe_every", 1.5, 0)
    Traceback (most recent call last):
    ValueError: Trainer: probe_every must be a whole number from 0 up, got 1.5

    Args:
        what: Start of the message: the function or class, and the name of its argument.
        value: The argument. True and False are refused.
        low: The smallest value allowed.
        high: The largest value allowed; None for no limit.

    Raises:
        ValueError: If `value` is anything else.
    """
    if type(value) is not int or value < low or (high is not None and value > high):
        bounds = f"from {low} up" if high is None else f"from {low} to {high}"
        raise ValueError(f"{what} must be a whole number {bounds}, got {value!r:.60}")


def did_you_mean(name: object, known: Iterable[str]) -> str:
    """Returns "did you mean x or y? " with up to three known names that look like `name`, or "" if none does.

    >>> did_you_mean("lama-3-8b", ["llama-3-8b", "gpt2"])
    'did you mean llama-3-8b? '

    Args:
        name: The unknown name.
        known: The names that exist.
    """
    near = difflib.get_close_matches(str(name), list(known), n=3, cutoff=0.4)
    return f"did you mean {' or '.join(near)}? " if near else ""
