"""Predictions that hold back what follows, and exercises that check themselves."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from numbers import Real
from typing import Any

import ipywidgets as widgets

from mixlab.machine import is_headless
from mixlab.panels.base import button, in_a_row
from mixlab.panels.groups import GroupName
from mixlab.panels.held import SOON, Held
from mixlab.panels.kept_answers import Asked, KeptAnswers
from mixlab.panels.presence import Present
from mixlab.powers import read_number
from mixlab.reports.colours import GREEN, GREY, VERMILLION

_COLOURS = {True: GREEN, False: VERMILLION, None: GREY}
_MARKS = {True: "✓", False: "✗", None: "…"}
_DONE = {"Check": "checked", "Keep": "kept"}
_LATER = "is kept. It is graded once you hand it in."
_TO_KEEP = "Press Keep my choice above; the result appears here."


class Prediction(Present, widgets.VBox):  # type: ignore[misc]
    """A question with options. Until one is chosen, results handed to `then` are held back.

    The answer and its explanation show when the reader asks for them. A choice is kept with the lab's answers.

    In a copy that was handed out without answers, the reader presses a button to keep a choice, for good, and then
    sees what was held back.

    Args:
        question: The question.
        options: The answers to choose from.
        answer: The right option; None if it was taken out.
        explanation: Shown with the answer.
        kept: The lab's answers; None keeps none.

    Raises:
        ValueError: If the answer is not one of the options, or there is an explanation of no answer.
    """

    def __init__(
        self,
        question: str,
        options: Sequence[str],
        answer: str | None = None,
        explanation: str = "",
        *,
        kept: KeptAnswers | None = None,
    ) -> None:
        if answer is None and explanation:
            raise ValueError("Prediction: an explanation without an answer; give both, or neither")
        if answer is not None and answer not in options:
            raise ValueError(f"Prediction: the answer {answer!r} is not one of the options {', '.join(options)}")
        self.question, self.answer, self.explanation = question, answer, explanation
        self._kept = KeptAnswers(None) if kept is None else kept
        self._kept.ask(Asked("predictions", question, question, answer, lambda option: option == answer))
        self._held: list[Held] = []
        before = self._kept.get("predictions", question)
        self._choice = widgets.RadioButtons(
            options=options, value=before if before in options else None, layout={"width": "auto"}
        )
        if answer is None:
            self._button = button("Keep my choice", "Keeps your choice for good, and shows what follows", width="11em")
        else:
            self._button = button("Reveal", "Shows the answer")
        self._button.disabled = self.choice is None
        self._verdict = widgets.HTML()
        self._choice.observe(self._chosen, "value")
        self._button.on_click(self._clicked)
        words = widgets.HTML(f"<b>Predict:</b> {escape(question)}")
        super().__init__(
            [GroupName.unseen(f"Prediction: {question}"), words, self._choice, self._button, self._verdict]
        )
        if self.choice is not None:  # chosen in an earlier kernel: what follows is shown, so the answer may be too
            self._clicked(self._button)

    @property
    def choice(self) -> str | None:
        """The option that the reader chose, in this kernel or before; None if there is none yet."""
        chosen: str | None = self._choice.value
        return chosen

    @property
    def revealed(self) -> bool:
        """Whether the answer shows, or the choice was kept where there is none."""
        return bool(self._verdict.value)

    def choose(self, option: str) -> None:
        """Chooses an option, as the reader does; without an answer, also keeps it.

        Args:
            option: One of the options.

        Raises:
            ValueError: If it is not one of them, or another one was kept for good.
        """
        if option not in self._choice.options:
            raise ValueError(f"Prediction: {option!r} is not one of the options {', '.join(self._choice.options)}")
        if self.answer is None and self.revealed and option != self.choice:
            raise ValueError(f"Prediction: {self.choice!r} was chosen for good; what it held back is shown")
        self._choice.value = option
        if self.answer is None:
            self.keep()

    def keep(self) -> None:
        """Keeps the choice for good, and shows what was held back: what the button does where there is no answer.

        Raises:
            ValueError: If nothing was chosen.
        """
        if self.choice is None:
            raise ValueError("Prediction: nothing was chosen; choose an option first")
        self._kept.set("predictions", self.question, self.choice)
        self._settle(_line(None, f"Your choice, {self.choice}, {_LATER}"))
        self._release()

    def reveal(self) -> None:
        """Shows the answer, and whether the prediction was right, if one was made.

        Raises:
            ValueError: If the answer was taken out.
        """
        if self.answer is None:
            raise ValueError("Prediction: this copy was handed out without answers")
        right = None if self.choice is None else self.choice == self.answer
        verdict = {True: "Right", False: f"You chose {self.choice}; right is", None: "The answer"}[right]
        self._settle(_line(right, f"{verdict}: {_sentence(self.answer)} {self.explanation}"))

    def then(self, shown: object) -> Held:
        """Returns a place that shows `shown`: at once if an option was chosen, else as soon as one is.

        With nobody there to choose (`MIXLAB_HEADLESS=1`) it shows at once too. Several results may wait for one
        prediction.

        Args:
            shown: Anything that a notebook can show: a figure, a table, a panel, or a sentence.
        """
        held = Held(shown, self._choice, once_chosen=_TO_KEEP if self.answer is None else SOON)
        if is_headless() or (self.choice is not None if self.answer is not None else self.revealed):
            held.release()
        else:
            self._held.append(held)
        return held

    def still(self) -> str:
        chosen = f" Your choice: <b>{escape(self.choice)}</b>." if self.choice is not None else ""
        return f"<div><b>Predict:</b> {escape(self.question)}{chosen}</div>{self._verdict.value}"

    def __repr__(self) -> str:
        told = f" {_sentence(self.answer)} {self.explanation}" if self.answer is not None and self.revealed else ""
        return f"Prediction: {self.question}{told}"

    def _chosen(self, change: Any) -> None:
        self._button.disabled = False
        if self.answer is None:
            return
        self._kept.set("predictions", self.question, change["new"])
        self.keep_still()
        self._release()

    def _clicked(self, _button: object) -> None:
        (self.keep if self.answer is None else self.reveal)()

    def _settle(self, verdict: str) -> None:
        self._verdict.value = verdict
        self._choice.disabled = self._button.disabled = True
        self.keep_still()

    def _release(self) -> None:
        while self._held:
            self._held.pop(0).release()


@dataclass(frozen=True)
class Check:
    """The verdict on an answer.

    Attributes:
        name: The number of the exercise.
        passed: Whether the answer is right; None while there is no answer, or if it is judged elsewhere.
        message: The verdict in words.
    """

    name: str
    passed: bool | None
    message: str

    def __str__(self) -> str:
        return f"Exercise {self.name}: {self.message}"

    __repr__ = __str__


class Exercise(Present, widgets.VBox):  # type: ignore[misc]
    """A box for an answer, with a button that checks it; Enter checks too. The answer is kept with the lab's answers.

    Args:
        name: The number of the exercise.
        expected: The right answer. It decides what the box takes: a number such as 12, 1e-8 or 2^-24; a set of
            numbers, separated by commas; or a text. None in a copy that was handed out without answers: the box then
            takes any text and keeps it unchecked.
        hint: Shown with a wrong answer.
        tolerance: The relative difference allowed between numbers.
        read: Converts the text before it is compared; if it raises ValueError or TypeError, the message is shown.
            None reads what `expected` is.
        kept: The lab's answers; None keeps none.

    Raises:
        ValueError: If there is a hint, a tolerance or a reader for no expected answer.
    """

    def __init__(
        self,
        name: str,
        *,
        expected: Any = None,
        hint: str = "",
        tolerance: float = 0.0,
        read: Callable[[str], Any] | None = None,
        kept: KeptAnswers | None = None,
    ) -> None:
        if expected is None and (hint or tolerance or read is not None):
            raise ValueError(f"Exercise {name}: hint, tolerance and read belong to an expected answer; give that too")
        self.name = name
        self._expected, self._hint, self._tolerance = expected, hint, tolerance
        self._read = _reader(expected) if read is None else read
        self._kept = KeptAnswers(None) if kept is None else kept
        right = None if expected is None else _written(expected)
        self._kept.ask(
            Asked("answers", name, f"Exercise {name}", right, lambda text: self._judged(text).passed is True)
        )
        self._press = "Check" if expected is not None else "Keep"
        self._box = widgets.Text(description=f"Exercise {name}", placeholder="your answer", layout={"width": "23em"})
        self._button = button(self._press, f"{self._press}s your answer to exercise {name}")
        self._shown = widgets.HTML()
        self._box.value = self._kept.get("answers", name) or ""
        self._show(self.verdict)
        self._box.observe(self._typed, "value")
        self._box.on_msg(self._heard)
        self._button.on_click(self._pressed)
        super().__init__([GroupName.unseen(f"Exercise {name}"), in_a_row(self._box, self._button), self._shown])

    @property
    def verdict(self) -> Check:
        """The verdict on the answer in the box."""
        return self._judged(self._box.value)

    def _judged(self, answer: str) -> Check:
        text = answer.strip()
        if not text:
            return Check(self.name, None, f"type your answer, then press {self._press} or Enter")
        if self._expected is None:
            return Check(self.name, None, f"{text} {_LATER}{_said_of_digits(text)}")
        try:
            given = self._read(text)
            right = _same(given, self._expected, self._tolerance)
        except (TypeError, ValueError) as error:
            return Check(self.name, False, f"{error}. Hint: {self._hint}")
        if right:
            return Check(self.name, True, f"{text} is right")
        hint = "give the exponent alone" if _is_power_of(text, given, self._expected) else self._hint
        return Check(self.name, False, f"{text} is not right. Hint: {hint}")

    def answer(self, text: str) -> Check:
        """Types an answer and checks it, as the reader does; returns the verdict.

        Args:
            text: The answer.
        """
        self._box.value = text
        self._check()
        return self.verdict

    def __repr__(self) -> str:
        return str(self.verdict)

    def _check(self) -> None:
        if self._box.value.strip():
            self._kept.set("answers", self.name, self._box.value)
        self._show(self.verdict)
        self.keep_still()

    def _typed(self, _change: object) -> None:
        self._show(Check(self.name, None, f"not {_DONE[self._press]} yet; press {self._press} or Enter"))

    def _pressed(self, _button: object) -> None:
        self._check()

    def _heard(self, _box: object, content: Any, _buffers: object) -> None:
        if isinstance(content, dict) and content.get("event") == "submit":  # the Enter key
            self._check()

    def _show(self, verdict: Check) -> None:
        self._shown.value = _line(verdict.passed, str(verdict))


def _reader(expected: Any) -> Callable[[str], Any]:
    """Returns how to read an answer of the same kind as the expected one."""
    if _is_number(expected):
        return _number
    if isinstance(expected, set | frozenset):
        return lambda text: {_number(part) for part in text.strip(" {}").replace(";", ",").split(",")}
    return str


def _number(text: str) -> float:
    """Reads 1668608, 1,668,608, 0.5, 1/256, 1e-8 or 2^-24."""
    plain = re.sub(r"(?<=\d)[, _](?=\d{3}(?!\d))", "", text.strip())
    above, slash, below = plain.partition("/")
    try:
        return read_number(above) / read_number(below) if slash else read_number(plain)
    except (ValueError, ArithmeticError):
        raise ValueError(f"{text!r} is not a number; type one such as 12, 0.5, 1e-8 or 2^-24") from None


def _said_of_digits(text: str) -> str:
    """Returns a word of advice on an answer that begins as a number does and is none, such as "12 bytes"."""
    try:
        _reader({0})(text)
    except ValueError:
        return " If a number is asked, type it alone, such as 12, 1e-8 or 2^-24." if re.match(r"[-+.]?\d", text) else ""
    return ""


def _is_power_of(text: str, given: Any, expected: Any) -> bool:
    """Whether the answer was written as the power of two whose exponent is wanted."""
    written = "**" in text or re.search("[\\^⁰¹²³⁴⁵⁶⁷⁸⁹]", text) is not None
    return written and _is_number(expected) and abs(expected) < 1000 and given == 2.0**expected


def _written(expected: Any) -> str:
    """Returns a right answer in words: 1668608, -24, 0.995; the numbers of a set; a recipe's text."""
    if isinstance(expected, set | frozenset):
        return ", ".join(map(_written, sorted(expected)))
    if not _is_number(expected):
        return str(expected)
    return str(int(expected)) if math.isfinite(expected) and expected == int(expected) else f"{float(expected):.10g}"


def _same(given: Any, expected: Any, tolerance: float) -> bool:
    return _close(given, expected, tolerance) if _is_number(expected) else bool(given == expected)


def _is_number(value: object) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool)


def _close(given: Any, expected: float, tolerance: float) -> bool:
    if not _is_number(given):
        raise TypeError(f"{given!r} is not a number")
    return math.isclose(given, expected, rel_tol=tolerance)


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _line(passed: bool | None, text: str) -> str:
    return (
        f'<div role="status" style="border-left: 4px solid {_COLOURS[passed]}; padding: 0.3em 0.8em">'
        f"<b>{_MARKS[passed]}</b> {escape(text)}</div>"
    )
