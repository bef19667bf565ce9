"""What a lab asks, and what its reader predicted and answered, kept in one small file across kernels."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlab.answers import ANSWER_KINDS, no_answers, require_answers
from mixlab.files import replacing


@dataclass(frozen=True)
class Asked:
    """A question that a lab asked, and how an answer to it is judged.

    Attributes:
        kind: "predictions" or "answers".
        key: The question, or the name of the exercise, as its answer is kept.
        words: The question in words.
        expected: The right answer in words; None in a copy that was handed out without answers.
        judge: Says whether an answer is right.
    """

    kind: str
    key: str
    words: str
    expected: str | None
    judge: Callable[[str], bool]


class KeptAnswers:
    """The answers of a lab, by question or by name of the exercise; each change replaces the file as a whole.

    Kept are the lab's name, its parameters, the chosen options and the typed answers, nothing else.

    A file that is damaged or holds something else is neither used nor overwritten; `trouble` says so until `forget`.
    After any other trouble the next answer is kept together with those that were not. Two kernels may keep answers in
    one file: each change is made to what the file holds then.

    Args:
        path: The file, which need not exist; None keeps answers only as long as this object lives.
        lab: The lab's name.
        parameters: The lab's parameters, by name.

    Attributes:
        trouble: Why answers are not kept, in words; "" if they are.
        changed: Called without arguments when an answer or `trouble` changes.
        asked: What the lab asked so far, in its order, by kind and key.
    """

    def __init__(self, path: Path | None, *, lab: str = "", parameters: Mapping[str, Any] | None = None) -> None:
        self.path = path
        self._origin = {"lab": lab, "parameters": dict(parameters or {})} if lab else {}
        self.asked: dict[tuple[str, str], Asked] = {}
        self.changed: list[Callable[[], object]] = []
        self._foreign = False  # whether the file is damaged or holds something else
        self._unsaved = no_answers()  # answers that the file does not hold yet
        self._held, self.trouble = self._read()

    def __len__(self) -> int:
        return sum(len(self._held[kind]) for kind in ANSWER_KINDS)

    @property
    def record(self) -> dict[str, Any]:
        """The answers as the file holds them, with the lab's name and parameters."""
        return deepcopy(_in_order({**self._held, **self._origin}))

    def ask(self, asked: Asked) -> None:
        """Notes that a question was asked; the last one with its kind and key counts.

        Args:
            asked: The question.
        """
        self.asked[asked.kind, asked.key] = asked

    def get(self, kind: str, key: str) -> str | None:
        """Returns a kept answer, or None.

        Args:
            kind: "predictions" or "answers".
            key: The question, or the name of the exercise.
        """
        found = self._held[kind].get(key)
        return found if isinstance(found, str) else None

    def set(self, kind: str, key: str, answer: str) -> None:
        """Keeps an answer. If the file cannot be read or written, `trouble` says why.

        Args:
            kind, key: As for `get`.
            answer: The answer as text.
        """
        self._held[kind][key] = self._unsaved[kind][key] = answer
        if self.path is not None and not self._foreign:
            self.trouble = self._save()
        self._tell()

    def forget(self) -> None:
        """Forgets all answers, and replaces the file even if it is damaged or holds something else."""
        self._held, self._unsaved, self._foreign = no_answers(), no_answers(), False
        self.trouble = self._write(self._held) if self.path is not None and self.path.exists() else ""
        self._tell()

    def _save(self) -> str:
        """Adds the unsaved answers to what the file holds now; returns what prevents it, in words."""
        now, trouble = self._read()
        if trouble:
            return trouble
        for kind in ANSWER_KINDS:
            now[kind] |= self._unsaved[kind]
        self._held = now
        trouble = self._write(now)
        if not trouble:
            self._unsaved = no_answers()
        return trouble

    def _write(self, answers: dict[str, Any]) -> str:
        """Returns why the file cannot be written, in words."""
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as file:
                whole = _in_order({**answers, **self._origin})
                file.write(json.dumps(whole, indent=1, ensure_ascii=False).encode())
        except OSError as error:
            return f"{self.path} cannot be written ({error.strerror or error})"
        return ""

    def _read(self) -> tuple[dict[str, Any], str]:
        """Returns what the file holds, and why it cannot be read, in words."""
        if self.path is None:
            return no_answers(), ""
        try:
            return require_answers(json.loads(self.path.read_bytes())), ""
        except FileNotFoundError:
            return no_answers(), ""
        except OSError as error:
            return no_answers(), f"{self.path} cannot be read ({error.strerror or error})"
        except (ValueError, RecursionError) as error:
            self._foreign = True
            return no_answers(), f"{self.path} does not hold answers of a lab ({error!s:.100})"

    def _tell(self) -> None:
        for call in self.changed:
            call()


def _in_order(content: dict[str, Any]) -> dict[str, Any]:
    """Returns the content with what was answered last."""
    return {name: content[name] for name in sorted(content, key=ANSWER_KINDS.__contains__)}
