"""Grades of what students handed in: each lab is run as mixlab ships it, never a student's code."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from mixlab.cli import notebooks, shipped
from mixlab.cli.answerless import without_checks
from mixlab.cli.handed_in import HandedIn
from mixlab.cli.lab_files import read_lab

_LAST_CELL = "from mixlab.panels.grading import grade_file\n\ngrade_file(lab, 'given.json', 'graded.json')"


@dataclass(frozen=True)
class Question:
    """A question of a lab, and what became of it.

    Attributes:
        kind: "prediction" or "exercise".
        question: The question.
        answer: What the student chose or typed; None if nothing.
        right: Whether that is right; None if there is no answer.
        expected: The right answer.
    """

    kind: str
    question: str
    answer: str | None
    right: bool | None
    expected: str


@dataclass(frozen=True)
class Tally:
    """How many questions were asked, answered, and answered right."""

    right: int
    answered: int
    asked: int

    @classmethod
    def of(cls, questions: Iterable[Question]) -> Tally:
        """Counts questions."""
        verdicts = [one.right for one in questions]
        return cls(verdicts.count(True), len(verdicts) - verdicts.count(None), len(verdicts))

    def __str__(self) -> str:
        return f"{self.right} / {self.answered} / {self.asked}"


@dataclass(frozen=True)
class Grade:
    """A lab of one student, graded.

    Attributes:
        handed_in: What the student handed in.
        questions: The questions of the lab; none if it could not be graded.
        trouble: What is wrong, in words.
        changed: The parameters that are not the lab's own.
    """

    handed_in: HandedIn
    questions: tuple[Question, ...]
    trouble: tuple[str, ...]
    changed: Mapping[str, Any]

    @property
    def predictions(self) -> Tally | None:
        """The score of the predictions; None if the lab could not be graded."""
        return self._score("prediction")

    @property
    def exercises(self) -> Tally | None:
        """The score of the exercises; None if the lab could not be graded."""
        return self._score("exercise")

    def _score(self, kind: str) -> Tally | None:
        return Tally.of(one for one in self.questions if one.kind == kind) if self.questions else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the grade for JSON."""
        scores = {"predictions": self.predictions, "exercises": self.exercises}
        return {
            "student": self.handed_in.student,
            "file": str(self.handed_in.path),
            "lab": self.handed_in.lab,
            "changed_parameters": dict(self.changed),
            **{name: None if score is None else asdict(score) for name, score in scores.items()},
            "trouble": list(self.trouble),
            "questions": [asdict(one) for one in self.questions],
        }


@dataclass(frozen=True)
class Grades:
    """The grades of several students.

    Attributes:
        machine: The machine and versions that computed the right answers; "" if no lab could be run.
        grades: The grades, in the order in which labs were handed in.
    """

    machine: str
    grades: tuple[Grade, ...]


def grade_all(
    found: Sequence[HandedIn], *, most_s: int | None = None, tell: Callable[[str], object] = lambda _words: None
) -> Grades:
    """Grades what was handed in. Each lab is run once for each set of parameters, headless.

    Args:
        found: What was handed in.
        most_s: How many seconds a cell of a lab may take; None for any.
        tell: Called with a line before each run.
    """
    groups: dict[tuple[str, str], list[int]] = {}
    for place, one in enumerate(found):
        if one.lab and one.parameters is not None:
            groups.setdefault((one.lab, _key(one)), []).append(place)
    graded: dict[int, dict[str, Any]] = {}
    failed: dict[int, str] = {}
    machine = ""
    for number, ((lab, key), places) in enumerate(sorted(groups.items(), key=_defaults_first), 1):
        changed = "".join(f", {name} {value}" for name, value in json.loads(key).items())
        tell(f"{lab}{changed}: run {number} of {len(groups)}, for {len(places)} handed in")
        try:
            ran = _run(lab, json.loads(key), [found[place].given for place in places], most_s)
        except (notebooks.CellError, ValueError, OSError) as error:
            failed |= dict.fromkeys(places, f"cannot be graded with its parameters, the lab fails: {error}")
            continue
        machine = ran["machine"]
        graded |= dict(zip(places, ran["readers"], strict=True))
    return Grades(machine, tuple(_grade(one, graded.get(i), failed.get(i)) for i, one in enumerate(found)))


def _defaults_first(group: tuple[tuple[str, str], object]) -> tuple[str, bool, str]:
    (lab, key), _ = group
    return lab, key != "{}", key


def _key(one: HandedIn) -> str:
    """Returns the parameters that differ from the lab's own, as JSON."""
    return json.dumps(_changed(one), sort_keys=True)


def _changed(one: HandedIn) -> dict[str, Any]:
    lab = read_lab(shipped.lab_named(one.lab)) if one.lab and one.parameters else None
    own = {stated.name: stated.default for stated in lab.parameters} if lab else {}
    return {name: value for name, value in (one.parameters or {}).items() if value != own[name]}


def _run(
    lab: str, parameters: Mapping[str, Any], given: Sequence[Mapping[str, Mapping[str, str]]], most_s: int | None
) -> dict[str, Any]:
    """Runs a lab as mixlab ships it, and returns what became of the answers of each student."""
    content = without_checks(json.loads(shipped.lab_named(lab).read_bytes()))
    last = {"cell_type": "code", "id": "grading", "metadata": {}, "source": _LAST_CELL}
    content["cells"].append({**last, "outputs": [], "execution_count": None})
    with TemporaryDirectory(prefix="mixlab-") as scratch:
        folder = Path(scratch)
        (folder / f"{lab}.ipynb").write_text(json.dumps(content), encoding="utf-8")
        (folder / "given.json").write_text(json.dumps(given), encoding="utf-8")
        notebooks.run_notebook(folder / f"{lab}.ipynb", parameters, most_s=most_s)
        ran: dict[str, Any] = json.loads((folder / "graded.json").read_bytes())
    return ran


def _grade(one: HandedIn, ran: Mapping[str, Any] | None, failed: str | None) -> Grade:
    trouble = [*one.trouble, *([failed] if failed else [])]
    questions = [
        Question("prediction" if each["kind"] == "predictions" else "exercise", each["question"], *_verdict(each))
        for each in (ran["questions"] if ran else [])
    ]
    if ran and (unknown := ran["unknown"]):
        some = ", ".join(f"{key!r:.60}" for key in unknown[:2]) + (
            f" and {len(unknown) - 2} more" if unknown[2:] else ""
        )
        trouble.append(f"answers questions that the lab does not ask with its parameters: {some}")
    return Grade(one, tuple(questions), tuple(trouble), _changed(one))


def _verdict(each: Mapping[str, Any]) -> tuple[str | None, bool | None, str]:
    return each["given"], each["right"], each["expected"]
