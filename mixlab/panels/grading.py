"""Judges what readers handed in by the questions that a lab asked, in the kernel that ran the lab."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixlab.files import replacing
from mixlab.machine import describe
from mixlab.panels.kept_answers import Asked
from mixlab.panels.lab import Lab

_NUMBER = re.compile(r"\d[\d.,]*(?:e[-+]?\d+)?")


def graded(asked: Iterable[Asked], given: Mapping[str, Mapping[str, str]]) -> dict[str, Any]:
    """Returns what became of each question: the answer that was given, whether it is right, and the right one.

    A question may hold numbers that differ in their last digits from machine to machine. So an answer whose question
    is none of the lab's counts for the one that differs from it in numbers only, if nothing else does.

    >>> graded([Asked("answers", "1", "Exercise 1", "4", "4".__eq__)], {"answers": {"1": "5"}})["questions"]
    [{'kind': 'answers', 'question': 'Exercise 1', 'given': '5', 'right': False, 'expected': '4'}]

    Args:
        asked: The questions, in order.
        given: Answers by kind ("predictions", "answers") and key.

    Returns:
        A dict: `questions` has one dict for each; `given` and `right` are None where there is no answer. `unknown`
        lists the keys of answers to questions that the lab does not ask.
    """
    left = {(kind, key): text for kind, answers in given.items() for key, text in answers.items()}
    questions = list(asked)
    found = {(one.kind, one.key): left.pop((one.kind, one.key), None) for one in questions}
    for one in questions:
        if found[one.kind, one.key] is None:
            near = [place for place in left if place[0] == one.kind and _shape(place[1]) == _shape(one.key)]
            if near:
                found[one.kind, one.key] = [left.pop(place) for place in near][-1]  # the latest
    rows = [_row(one, found[one.kind, one.key]) for one in questions]
    return {"questions": rows, "unknown": [key for _, key in left]}


def grade_file(lab: Lab, given: Path | str, judged: Path | str) -> None:
    """Reads the answers of several readers from a JSON file, and writes what became of them to another.

    Args:
        lab: The lab, once its last cell ran.
        given: A file with a list of answers, as `graded` takes them.
        judged: The file to write: `machine`, and under `readers` what `graded` returns for each.
    """
    readers: Sequence[Mapping[str, Mapping[str, str]]] = json.loads(Path(given).read_text(encoding="utf-8"))
    asked = list(lab.answers.asked.values())
    content = {"machine": describe().summary, "readers": [graded(asked, one) for one in readers]}
    with replacing(Path(judged)) as file:
        file.write(json.dumps(content).encode())


def _shape(key: str) -> str:
    """Returns a question with each of its numbers replaced by one sign; exercises are told apart by their numbers."""
    return _NUMBER.sub("#", key) if _NUMBER.sub("", key).strip() else key


def _row(one: Asked, given: str | None) -> dict[str, Any]:
    right = None if given is None else one.judge(given)
    return {"kind": one.kind, "question": one.words, "given": given, "right": right, "expected": one.expected}
