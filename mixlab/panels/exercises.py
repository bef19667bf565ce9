"""Predictions to make before the answer is revealed, and exercises that check themselves."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

import ipywidgets as widgets

_COLOURS = {True: "#009E73", False: "#D55E00", None: "#8C8C8C"}
_MARKS = {True: "✓", False: "✗", None: "…"}


class Prediction(widgets.VBox):  # type: ignore[misc]
    """A question with options; the answer shows only when the reader asks for it.

    Args:
        question: The question.
        options: The answers to choose from.
        answer: The right option.
        explanation: Shown with the answer.

    Raises:
        ValueError: If the answer is not one of the options.
    """

    def __init__(self, question: str, options: Sequence[str], answer: str, explanation: str = "") -> None:
        if answer not in options:
            raise ValueError(f"Prediction: the answer {answer!r} is not one of the options {', '.join(options)}")
        self.question, self.answer, self.explanation = question, answer, explanation
        self._choice = widgets.RadioButtons(options=options, value=None, layout={"width": "auto"})
        self._button = widgets.Button(description="Reveal", tooltip="Shows the answer", disabled=True)
        self._verdict = widgets.HTML()
        self._choice.observe(self._chosen, "value")
        self._button.on_click(self._clicked)
        super().__init__(
            [widgets.HTML(f"<b>Predict:</b> {escape(question)}"), self._choice, self._button, self._verdict]
        )

    @property
    def revealed(self) -> bool:
        return bool(self._verdict.value)

    def reveal(self) -> None:
        """Shows the answer, and whether the prediction was right, if one was made."""
        right = None if self._choice.value is None else self._choice.value == self.answer
        verdict = {True: "Right", False: "Not so", None: "The answer"}[right]
        self._verdict.value = _line(right, f"{verdict}: {self.answer}. {self.explanation}")
        self._choice.disabled = True
        self._button.disabled = True

    def __repr__(self) -> str:
        return f"Prediction: {self.question}" + (f" {self.answer}. {self.explanation}" if self.revealed else "")

    def _chosen(self, _change: object) -> None:
        self._button.disabled = False

    def _clicked(self, _button: object) -> None:
        self.reveal()


@dataclass(frozen=True)
class Check:
    """The verdict on an answer.

    Attributes:
        name: The number of the exercise.
        passed: Whether the answer is right; None while there is no answer.
        message: The verdict in words.
    """

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        return f"Exercise {self.name}: {self.message}"

    __repr__ = __str__

    def _repr_html_(self) -> str:
        return _line(self.passed, str(self))


def check(
    name: str,
    answer: Any,
    *,
    expected: Any,
    hint: str,
    tolerance: float = 0.0,
    read: Callable[[Any], Any] | None = None,
) -> Check:
    """Compares a reader's answer with the expected one; None means no answer yet, neither right nor wrong.

    Args:
        name: The number of the exercise.
        answer: The reader's answer.
        expected: The right answer: a number, a text, or the result of `read`.
        hint: Shown with a wrong answer.
        tolerance: The relative difference allowed between numbers.
        read: Converts the answer before it is compared; if it raises ValueError or TypeError, the message is shown.
            None compares the answer itself.

    Returns:
        A verdict that shows itself in a notebook.
    """
    if answer is None:
        return Check(name, None, "not answered yet; put your answer in place of None and run the cell again")
    try:
        given = answer if read is None else read(answer)
        right = _close(given, expected, tolerance) if _is_number(expected) else bool(given == expected)
    except (TypeError, ValueError) as error:
        return Check(name, False, f"{error}. Hint: {hint}")
    return Check(name, right, f"{answer} is right" if right else f"{answer} is not right. Hint: {hint}")


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _close(given: Any, expected: float, tolerance: float) -> bool:
    if not _is_number(given):
        raise TypeError(f"{given!r} is not a number")
    return math.isclose(given, expected, rel_tol=tolerance)


def _line(passed: bool | None, text: str) -> str:
    return (
        f'<div role="status" style="border-left: 4px solid {_COLOURS[passed]}; padding: 0.3em 0.8em">'
        f"<b>{_MARKS[passed]}</b> {escape(text)}</div>"
    )
