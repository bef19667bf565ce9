"""What a reader predicted and answered, kept in one small file of a lab across kernels."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from mixlab.files import replacing

_KINDS = ("predictions", "answers")
_EMPTY: dict[str, Any] = {"kind": "mixlab answers", "version": 1, "predictions": {}, "answers": {}}


class KeptAnswers:
    """The answers of a lab, by question or by name of the exercise; each change replaces the file as a whole.

    A file that is damaged or holds something else is neither used nor overwritten; `trouble` says so. Two kernels may
    keep answers in one file: each change is made to what the file holds then.

    Args:
        path: The file, which need not exist; None keeps answers only as long as this object lives.

    Attributes:
        trouble: Why answers are not kept, in words; "" if they are.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.trouble = ""
        self._held = self._read()

    def __len__(self) -> int:
        return sum(len(self._held[kind]) for kind in _KINDS)

    def get(self, kind: str, key: str) -> str | None:
        """Returns a kept answer, or None.

        Args:
            kind: "predictions" or "answers".
            key: The question, or the name of the exercise.
        """
        found = self._held[kind].get(key)
        return found if isinstance(found, str) else None

    def set(self, kind: str, key: str, answer: str) -> None:
        """Keeps an answer. If the file cannot be written, `trouble` says why.

        Args:
            kind, key: As for `get`.
            answer: The answer as text.
        """
        self._held[kind][key] = answer
        if self.path is None or self.trouble:
            return
        now = self._read()
        if self.trouble:
            return
        now[kind][key] = answer
        self._held = now
        self._write()

    def forget(self) -> None:
        """Forgets all answers, and replaces the file even if it is damaged or holds something else."""
        self._held = _empty()
        self.trouble = ""
        if self.path is not None and self.path.exists():
            self._write()

    def _write(self) -> None:
        assert self.path is not None
        try:
            with replacing(self.path) as file:
                file.write(json.dumps(self._held, indent=1, ensure_ascii=False).encode())
        except OSError as error:
            self.trouble = f"{self.path} cannot be written ({error.strerror or error})"

    def _read(self) -> dict[str, Any]:
        if self.path is None:
            return _empty()
        try:
            return _checked(json.loads(self.path.read_bytes()))
        except FileNotFoundError:
            return _empty()
        except (OSError, ValueError, RecursionError) as error:
            words = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            self.trouble = f"{self.path} does not hold answers of a lab ({words:.100})"
            return _empty()


def _empty() -> dict[str, Any]:
    return {**_EMPTY, **{kind: {} for kind in _KINDS}}


def _checked(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict) or any(content.get(name) != _EMPTY[name] for name in ("kind", "version")):
        raise ValueError(f"it must begin with kind {_EMPTY['kind']!r}, version {_EMPTY['version']}")
    if not all(isinstance(content.get(kind), dict) for kind in _KINDS):
        raise ValueError(f"{' and '.join(_KINDS)} must be objects")
    return content
