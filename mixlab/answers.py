"""The record of what a lab's reader answered, as a file and a saved notebook hold it."""

from __future__ import annotations

from typing import Any

ANSWERS_TYPE = "application/vnd.mixlab.answers+json"  # MIME type of the output that holds it in a saved notebook
ANSWER_KINDS = ("predictions", "answers")  # the options chosen, by question; the texts typed, by name of the exercise
_HEADER: dict[str, Any] = {"kind": "mixlab answers", "version": 1}


def no_answers() -> dict[str, Any]:
    """Returns a record without answers."""
    return {**_HEADER, **{kind: {} for kind in ANSWER_KINDS}}


def require_answers(content: Any, what: str = "it") -> dict[str, Any]:
    """Returns a record that was read as JSON.

    Args:
        content: What was read.
        what: What the message calls it.

    Raises:
        ValueError: If it is something else.
    """
    if not isinstance(content, dict) or any(content.get(name) != value for name, value in _HEADER.items()):
        raise ValueError(f"{what} must begin with kind {_HEADER['kind']!r}, version {_HEADER['version']}")
    if not all(isinstance(content.get(kind), dict) for kind in ANSWER_KINDS):
        raise ValueError(f"{what} is damaged: {' and '.join(ANSWER_KINDS)} must be objects")
    return content
