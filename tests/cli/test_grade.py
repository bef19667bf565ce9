"""What students hand in: read without running it, graded by the lab itself; what is broken is named."""

from __future__ import annotations

import copy
import csv
import io
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from mixlab.answers import ANSWERS_TYPE
from mixlab.cli import grades as grades_module
from mixlab.cli import handed_in as reading
from mixlab.cli import notebooks, shipped
from mixlab.cli.answerless import as_bytes, without_answers
from mixlab.cli.commands import app
from mixlab.cli.grade_tables import COLUMNS, harmless, readable
from mixlab.cli.handed_in import all_handed_in

LAB = "05_dynamic_loss_scaling"
OWN = {"recipe": "", "loss_scale": 0, "steps": 120, "seed": 0, "task": "digits-mlp"}
SHORT = {**OWN, "steps": 1}
QUESTION = "Two single overflows, far apart, with hysteresis 2. Which scalers halve their scale at both?"
RIGHT = {"predictions": {QUESTION: "torch and apex"}, "answers": {"1": "5", "2": "8"}}
WRONG = {"predictions": {QUESTION: "all four"}, "answers": {"1": "=2+3", "2": "2**10"}}
NONE: dict[str, dict[str, str]] = {"predictions": {}, "answers": {}}


def record(given: dict[str, dict[str, str]], **changed: Any) -> dict[str, Any]:
    whole = {"kind": "mixlab answers", "version": 1, "lab": LAB, "parameters": SHORT}
    return {**whole, **copy.deepcopy(given), **changed}


def notebook(held: Any = None, *, change: Callable[[dict[str, Any]], object] = lambda _copy: None) -> bytes:
    """Returns a copy without answers as it is saved after its reader answered; `change` may damage it."""
    made = without_answers(json.loads(shipped.lab_named(LAB).read_bytes()), LAB)
    if held is not None:
        cell = next(cell for cell in made["cells"] if "lab = Lab(" in "".join(cell["source"]))
        cell["outputs"] = [{"output_type": "display_data", "data": {ANSWERS_TYPE: held}, "metadata": {}}]
        cell["execution_count"] = 3
    change(made)
    return as_bytes(made)


@pytest.fixture
def put(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, bytes | dict[str, Any]], Path]:
    """Returns a function that writes a file, in the current folder of the test."""
    monkeypatch.chdir(tmp_path)

    def write(name: str, content: bytes | dict[str, Any]) -> Path:
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
        return path

    return write


@pytest.fixture
def graded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, Any], int]]:
    """Stands for the runs of labs, which take long; lists them as (lab, changed parameters, students)."""
    runs: list[tuple[str, dict[str, Any], int]] = []

    def ran(lab: str, parameters: dict[str, Any], given: list[Any], most_s: int | None) -> dict[str, Any]:
        if parameters.get("steps") == 7:
            raise notebooks.CellError("ValueError", "no", 12, "")
        runs.append((lab, parameters, len(given)))
        asked = [("predictions", QUESTION, "torch and apex"), ("answers", "1", "5"), ("answers", "2", "8")]
        readers = []
        for one in given:
            rows = [
                {"kind": kind, "question": key, "given": (got := one[kind].get(key)), "expected": right}
                | {"right": None if got is None else got == right}
                for kind, key, right in asked
            ]
            unknown = [key for kind in one for key in one[kind] if (kind, key) not in {each[:2] for each in asked}]
            readers.append({"questions": rows, "unknown": unknown})
        return {"machine": "a machine", "readers": readers}

    monkeypatch.setattr(grades_module, "_run", ran)
    return runs


def grade(*arguments: str | Path) -> tuple[int, list[dict[str, Any]], str]:
    """Returns the exit code, the grades and what went to stderr."""
    result = CliRunner().invoke(app, ["grade", "--json", *map(str, arguments)])
    return result.exit_code, json.loads(result.stdout)["grades"] if result.stdout else [], result.stderr


def scores(one: dict[str, Any]) -> tuple[Any, ...]:
    found = (one[kind] and tuple(one[kind].values()) for kind in ("predictions", "exercises"))
    return one["student"], *found


def test_untouched_right_wrong_and_broken_copies_of_a_real_lab(put, tmp_path: Path):
    """The whole way: answers that were recorded, a lab that runs, a table, and a file for spreadsheets."""
    put(f"class/anna/{LAB}.ipynb", notebook(record(RIGHT)))
    put(f"class/ben/{LAB}.ipynb", notebook(record(WRONG)))
    put(f"class/carl/{LAB}.ipynb", notebook(record(RIGHT))[:5000])
    put(f"class/dora/{LAB}.ipynb", notebook(record(NONE)))
    result = CliRunner().invoke(app, ["grade", "class", "--csv", "grades.csv", "--questions"])
    assert result.exit_code == 1, result.stderr
    assert "run 1 of 1, for 3 handed in" in result.stderr
    lines = {line.split()[0]: " ".join(line.split()) for line in reversed(result.stdout.splitlines()) if line.strip()}
    assert f"anna {LAB} 1 / 1 / 1 2 / 2 / 2 with steps 1" in lines["anna"]
    assert f"ben {LAB} 0 / 1 / 1 0 / 2 / 2" in lines["ben"]
    assert f"carl {LAB} – – is not JSON" in lines["carl"]  # a narrow terminal folds the rest
    assert f"dora {LAB} 0 / 0 / 1 0 / 0 / 2" in lines["dora"]
    assert "torch" in result.stdout.partition("Right answers: computed on ")[2]
    rows = list(csv.DictReader(io.StringIO(Path("grades.csv").read_text(encoding="utf-8-sig"))))
    assert list(rows[0]) == list(COLUMNS)
    by_student = [[row for row in rows if row["student"] == name] for name in ("anna", "ben", "carl", "dora")]
    assert [len(each) for each in by_student] == [3, 3, 1, 3]
    anna, ben, carl, dora = by_student
    assert [row["right"] for row in anna] == ["yes"] * 3
    assert [(row["answer"], row["right"], row["expected"]) for row in ben] == [
        ("all four", "no", "torch and apex"),
        ("'=2+3", "no", "5"),
        ("2**10", "no", "8"),
    ]
    assert [row["right"] for row in dora] == [""] * 3
    assert "was cut off" in carl[0]["trouble"]


def test_nothing_that_a_student_wrote_is_run(put, graded, tmp_path: Path):
    def plant(made: dict[str, Any]) -> None:
        for cell in made["cells"]:
            cell["source"] = [f"open({str(tmp_path / 'ran')!r}, 'w')\n", *cell["source"]]

    put("mallory.ipynb", notebook(record(RIGHT), change=plant))
    code, (one,), _ = grade("mallory.ipynb")
    assert (code, scores(one)) == (0, ("mallory", (1, 1, 1), (2, 2, 2)))
    assert not (tmp_path / "ran").exists()


def first_code(made: dict[str, Any], tag: str) -> dict[str, Any]:
    return next(cell for cell in made["cells"] if tag in cell["metadata"].get("tags", []))


def saved(answers: Any, **parameters: Any) -> bytes:
    """Returns a notebook with these answers to exercises, made with these parameters."""
    return notebook(record({"predictions": {}, "answers": answers}, parameters={**OWN, **parameters}))


ODD = b'{"cells": [1, null, {"cell_type": "code"}, {"cell_type": "code", "source": 3}]}'
COMPUTED = notebook(change=lambda made: first_code(made, "parameters").update(source="seed = 1 + 1"))
GONE = notebook(record(RIGHT), change=lambda made: made["cells"].remove(first_code(made, "answer")))
UNRECORDED = notebook(change=lambda made: first_code(made, "setup").update(execution_count=1))

BROKEN: list[tuple[str, bytes, str]] = [
    ("empty", b"", "is empty"),
    ("white", b" \n", "is empty"),
    ("cut", notebook(record(RIGHT))[:-900], "is not JSON, or was cut off"),
    ("binary", b"\x89PNG\r\n", "is not JSON, or was cut off"),
    ("deep", b"[" * 100_000, "is not JSON, or was cut off"),
    ("digits", b'{"cells": [' + b"9" * 10_000 + b"]}", "is not JSON, or was cut off"),
    ("list", b"[1, 2]", "holds no answers of a lab"),
    ("text", b'"hello"', "holds no answers of a lab"),
    ("nothing", b"{}", "holds no answers of a lab"),
    ("worksheets", b'{"worksheets": [], "nbformat": 3}', "is a notebook of before 2015"),
    ("other", b'{"cells": [], "metadata": {}}', "is none of mixlab's labs"),
    ("odd", ODD, "is none of mixlab's labs"),
    ("version", notebook(record(RIGHT, version=2)), "its record of answers must begin with kind"),
    ("list of answers", saved([1]), "its record of answers is damaged: predictions and answers must"),
    ("number", saved({"1": 5}), "each answer must be a text of at most 1000"),
    ("long", saved({"1": "5" * 1001}), "each answer must be a text of at most 1000"),
    ("many", saved({str(number): "5" * 999 for number in range(1100)}), "more than 1 MiB of answers"),
    ("steps", saved({}, steps=0), "steps must be a whole number from 1 to 100000, got 0"),
    ("true", saved({}, seed=True), "seed must be a whole number"),
    ("nan", saved({}, loss_scale=float("nan")), "got nan"),
    ("huge", saved({}, loss_scale=10**400), "loss_scale must be"),
    ("more", saved({}, colour="red"), "has no parameter 'colour'"),
    ("few", notebook(record(RIGHT, parameters={"seed": 1})), "needs a value for recipe, loss_scale, steps, task"),
    ("none", notebook(record(RIGHT, parameters=[])), "its parameters must be an object"),
    ("computed", COMPUTED, "does more than assign values to names, and is not executed"),
    ("gone", GONE, "lacks 1 of its questions, in cell 05-13"),
    ("unrecorded", UNRECORDED, "holds no record of answers"),
    ("unknown", saved({"9": "5"}), "answers questions that the lab does not ask with its parameters: '9'"),
    ("fails", saved({}, steps=7), "the lab fails: ValueError: no"),
]


@pytest.mark.parametrize(("name", "content", "words"), BROKEN, ids=[name for name, _, _ in BROKEN])
def test_what_is_broken_is_named_and_others_are_graded(put, graded, name: str, content: bytes, words: str):
    put(f"{name}.ipynb", content)
    put("zoe.ipynb", notebook(record(RIGHT, parameters=OWN)))
    code, (broken, good), _ = grade(f"{name}.ipynb", "zoe.ipynb")
    assert code == 1
    assert (broken["student"], scores(good), good["trouble"]) == (name, ("zoe", (1, 1, 1), (2, 2, 2)), [])
    assert words in "; ".join(broken["trouble"])
    assert len("; ".join(broken["trouble"])) < 500


def test_the_same_file_of_answers_is_as_good_as_a_notebook(put, graded):
    put("anna/answers.json", record(RIGHT))
    put(f"ben/runs/{LAB}/answers.json", {**WRONG, "kind": "mixlab answers", "version": 1})  # of an earlier mixlab
    put("carl.json", record(RIGHT, lab="99_nothing"))
    code, found, _ = grade("anna/answers.json", f"ben/runs/{LAB}/answers.json", "carl.json")
    assert [scores(one) for one in found] == [
        ("anna", (1, 1, 1), (2, 2, 2)),
        ("ben", (0, 1, 1), (0, 2, 2)),
        ("carl", None, None),
    ]
    assert code == 1
    assert "answers of '99_nothing', which is none of mixlab's labs" in found[2]["trouble"][0]
    assert graded == [(LAB, {}, 1), (LAB, {"steps": 1}, 1)]


def test_a_notebook_and_the_file_beside_it_count_together(put, graded):
    """A page that was loaded again does not record later answers; the file does."""
    put(f"anna/{LAB}.ipynb", notebook(record({**WRONG, "answers": {}})))
    put(f"anna/runs/{LAB}/answers.json", record({**RIGHT, "predictions": {}}, parameters={**OWN, "seed": 4}))
    put(f"ben/{LAB}.ipynb", notebook(change=lambda made: first_code(made, "setup").update(execution_count=1)))
    put(f"ben/runs/{LAB}/answers.json", record(RIGHT))
    code, found, _ = grade("anna", "ben")
    assert [scores(one) for one in found] == [("anna", (0, 1, 1), (2, 2, 2)), ("ben", (1, 1, 1), (2, 2, 2))]
    assert (code, [one["trouble"] for one in found]) == (0, [[], []])
    assert [one["changed_parameters"] for one in found] == [{"seed": 4}, {"steps": 1}]


def test_folders_are_searched_and_students_are_told_apart(put, graded):
    whole = notebook(record(RIGHT))
    for name in (f"group 1/anna/{LAB}", f"group 1/anna/.ipynb_checkpoints/{LAB}-checkpoint", "group 1/anna/notes"):
        put(f"{name}.ipynb", whole if "notes" not in name else b'{"cells": []}')
    put(f"group 2/anna/labs/{LAB}.ipynb", whole)
    put("group 2/ben.ipynb", whole)
    put(f"group 2/anna/labs/{LAB}.2026-11-29-140512.ipynb", whole)
    put(f"{LAB}.ipynb", whole)
    assert [one["student"] for one in grade("group 1", "group 2", "group 1/anna")[1]] == ["anna", "ben", "anna/labs"]
    assert [one["student"] for one in grade("group 1/anna", "group 2/anna/labs")[1]] == ["anna", "labs"]
    assert [one["student"] for one in grade(f"{LAB}.ipynb")[1]] == [Path.cwd().name]
    put(f"__MACOSX/group 2/._{LAB}.ipynb", b"\0\5\26\7")
    put("group 2/._ben.ipynb", b"\0\5\26\7")
    put(f"group 2/anna/{LAB}.ipynb", whole)
    told = {one["student"] for one in grade("group 1", "group 2")[1]}
    assert told == {f"group 1/anna/{LAB}", f"group 2/anna/{LAB}", "anna/labs", "ben"}
    Path("empty").mkdir()
    code, (one,), _ = grade("empty")
    assert (code, one["student"], one["trouble"]) == (1, "empty", ["holds neither notebooks nor answers of labs"])


def test_a_link_to_what_another_student_handed_in_is_not_followed(put, graded):
    put(f"ben/{LAB}.ipynb", notebook(record(RIGHT)))
    Path("anna").mkdir()
    Path(f"anna/{LAB}.ipynb").symlink_to(f"../ben/{LAB}.ipynb")
    code, (anna, ben), _ = grade("anna", "ben")
    assert (code, scores(anna), scores(ben)) == (1, ("anna", None, None), ("ben", (1, 1, 1), (2, 2, 2)))
    assert "is a link, and not followed" in anna["trouble"][0]
    Path("mine.ipynb").symlink_to(f"ben/{LAB}.ipynb")
    assert scores(grade("mine.ipynb")[1][0]) == ("mine", (1, 1, 1), (2, 2, 2)), "a teacher's own link"


def test_a_student_who_handed_in_nothing_of_a_lab_is_in_the_table(put, graded):
    put(f"class/anna/runs/{LAB}/answers.json", record(RIGHT))
    put(f"class/ben/{LAB}.ipynb", notebook(record(RIGHT)))
    put("class/ben/pictures/mine.ipynb", b'{"cells": []}')
    put("class/carl/essay.ipynb", b'{"cells": []}')
    Path("class/dora").mkdir()
    Path("class/__MACOSX").mkdir()
    code, found, _ = grade("class")
    assert [one["student"] for one in found] == ["anna", "ben", "carl", "dora"]
    assert [bool(one["trouble"]) for one in found] == [False, False, True, True]
    assert code == 1
    for alone, expected in (("class/ben", 0), ("class/anna", 0), ("class/carl", 1)):
        assert (grade(alone)[0], len(grade(alone)[1])) == (expected, 1)


def test_each_set_of_parameters_runs_once(put, graded):
    for name, parameters in (("a", OWN), ("b", SHORT), ("c", SHORT), ("d", {**OWN, "loss_scale": 0.0})):
        put(f"{name}.ipynb", notebook(record(RIGHT, parameters=parameters)))
    put("e.ipynb", notebook())
    code, found, stderr = grade(*(f"{name}.ipynb" for name in "abcde"))
    assert code == 0
    assert graded == [(LAB, {}, 3), (LAB, {"steps": 1}, 2)]
    assert scores(found[4]) == ("e", (0, 0, 1), (0, 0, 2))
    assert "run 2 of 2" in stderr


def test_a_huge_file_and_a_pipe_are_not_read(put, graded, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(reading, "MOST_BYTES", 2**20)
    with put("huge.ipynb", b"{}").open("r+b") as file:
        file.truncate(2**21)
    os.mkfifo("pipe.ipynb")
    code, found, _ = grade("huge.ipynb", "pipe.ipynb")
    assert (code, [one["trouble"] for one in found]) == (1, [["has 2 MiB; a lab has 1 at most"], ["is not a file"]])


def test_wrong_arguments_are_refused_before_anything_runs(put, graded):
    put("anna.ipynb", notebook(record(RIGHT)))
    put("mine.csv", b"student,mark\nanna,1\n")
    for arguments, words in (
        (("nobody.ipynb",), "'nobody.ipynb' does not exist; give notebooks, answers.json files or folders"),
        (("anna.ipynb", "--csv", "mine.csv"), "holds something else than grades and is not replaced"),
        (("anna.ipynb", "--csv", "anna.ipynb"), "holds something else than grades and is not replaced"),
        (("anna.ipynb", "--csv", "no/where.csv"), "there is no folder"),
        (("anna.ipynb", "--minutes", "0"), "--minutes must be a whole number from 1 to 1440, got 0"),
        ((), "Missing argument"),
    ):
        result = CliRunner().invoke(app, ["grade", *arguments])
        assert (result.exit_code, words in " ".join(result.stderr.split())) == (2, True), result.stderr
    assert graded == []
    assert Path("mine.csv").read_bytes() == b"student,mark\nanna,1\n"


def test_earlier_grades_are_replaced(put, graded):
    put("anna.ipynb", notebook(record(WRONG)))
    assert grade("anna.ipynb", "--csv", "grades.csv")[0] == 0
    first = Path("grades.csv").read_bytes()
    put("anna.ipynb", notebook(record(RIGHT)))
    assert grade("anna.ipynb", "--csv", "grades.csv")[0] == 0
    assert first != Path("grades.csv").read_bytes()
    assert sorted(path.name for path in Path().iterdir()) == ["anna.ipynb", "grades.csv"]


@pytest.mark.parametrize(
    "text", ["=1+1", "+1+1", "-1+1", "@SUM(A1)", "\t=1", "\r=1", " =1", "\uff1d1", "=HYPERLINK(1)"]
)
def test_a_cell_that_is_a_formula_to_a_spreadsheet_is_made_text(text: str):
    assert harmless(text) == f"'{text}"


@pytest.mark.parametrize("text", ["", "-24", "+1.5e-8", "8, 3", "amp-fp16", "1=1"])
def test_other_cells_stay_as_they_are(text: str):
    assert harmless(text) == text


def test_a_terminal_is_not_steered_by_an_answer():
    assert readable("\x1b[2J\u202eabc\n d") == "\N{REPLACEMENT CHARACTER}[2J\N{REPLACEMENT CHARACTER}abc d"
    assert readable("a" * 300) == f"{'a' * 200}…"


def test_what_a_reader_of_files_finds_is_ordered(put):
    for name in ("ben", "anna"):
        put(f"class/{name}/{LAB}.ipynb", notebook(record(RIGHT)))
    assert [one.student for one in all_handed_in([Path("class")])] == ["anna", "ben"]


def test_a_lab_that_takes_too_long_is_given_up(tmp_path: Path):
    slow = {"cell_type": "code", "id": "slow", "metadata": {}, "outputs": [], "execution_count": None}
    cells = [{**slow, "source": "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(600)"}]
    path = tmp_path / "slow.ipynb"
    path.write_text(json.dumps({"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}))
    with pytest.raises(shipped.LabError, match=r"slow\.ipynb: a cell took more than 2 s and was stopped"):
        notebooks.run_notebook(path, {}, progress=False, most_s=2)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)
