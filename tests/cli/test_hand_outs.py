"""Copies without answers: nothing of an answer is left, what is needed stays, and nobody's work is overwritten."""

from __future__ import annotations

import ast
import hashlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from typer.testing import CliRunner

from mixlab.cli import shipped
from mixlab.cli.answerless import as_bytes, is_untouched, without_answers, without_checks
from mixlab.cli.commands import app
from mixlab.cli.liveness import Statement, needed, statements
from mixlab.cli.notebooks import run_notebook
from mixlab.labs import Whole, lab_parameters

LABS = sorted(shipped.shipped_labs().glob("*.ipynb"))
SECRETS = {"answer", "explanation", "expected", "hint"}
Cells = list[dict[str, Any]]


@pytest.fixture(params=LABS, ids=lambda path: path.stem)
def pair(request: pytest.FixtureRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """A lab and its copy without answers."""
    lab = json.loads(request.param.read_bytes())
    return lab, without_answers(lab, request.param.stem)


def code(notebook: dict[str, Any]) -> Cells:
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def trees(cells: Cells) -> Iterator[ast.AST]:
    return (node for cell in cells for node in ast.walk(ast.parse(source(cell))))


def names(cells: Cells) -> set[str]:
    """Returns every name that the cells use, the imported ones too."""
    found = set()
    for node in trees(cells):
        match node:
            case ast.Name(name):
                found.add(name)
            case ast.Import(aliases) | ast.ImportFrom(names=aliases):
                found.update(alias.asname or alias.name for alias in aliases)
    return found


def tagged(cells: Cells, *tags: str) -> Cells:
    return [cell for cell in cells if set(tags) & set(cell["metadata"].get("tags", []))]


def test_no_cell_holds_an_answer_an_explanation_an_expected_value_or_a_hint(pair):
    lab, copy = pair
    assert not SECRETS & {node.arg for node in trees(code(copy)) if isinstance(node, ast.keyword)}
    assert not SECRETS & names(code(copy))
    asked = [
        [source(cell) for cell in code(one) if re.search(r"lab\.(predict|exercise)\(", source(cell))]
        for one in (lab, copy)
    ]
    assert len(asked[0]) == len(asked[1]) >= 3, "every question is asked"
    assert not any("assert" in source(cell) for cell in tagged(code(copy), "answer", "checked"))


def test_no_name_is_left_that_only_an_answer_used(pair):
    """Names that other cells use or the text explains may stay, and those that make the question itself."""
    lab, copy = pair
    others = [cell for cell in code(lab) if cell not in tagged(code(lab), "answer", "checked", "setup")]
    explained = set(re.findall(r"\w+", " ".join(re.findall("`[^`]+`", "\n".join(map(source, lab["cells"]))))))
    asking = names([cell for cell in code(copy) if "lab." in source(cell)])
    assert names(code(copy)) <= names(others) | explained | asking
    for cell in code(copy):
        later = code(copy)[code(copy).index(cell) + 1 :]
        for one in statements(source(cell)):
            if "answer" in cell["metadata"].get("tags", []) and not (
                "lab." in one.source or ast.Expr is type(one.tree)
            ):
                following = statements(source(cell))
                rest = following[[each.source for each in following].index(one.source) + 1 :]
                read = set().union(*(each.reads for each in rest), names(later))
                assert one.writes & read, f"{one.source} serves nothing"


def test_every_name_is_there_and_every_import_is_used(tmp_path: Path):
    for path in LABS:
        copy = without_answers(json.loads(path.read_bytes()), path.stem)
        (tmp_path / path.name).write_bytes(as_bytes(copy))
        nbformat.validate(nbformat.read(tmp_path / path.name, as_version=4))
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F401,F811,F821,E9", str(tmp_path)]
    found = subprocess.run([*command, "--output-format=json"], capture_output=True, text=True, check=False)
    explained = {"BF16", "FP32"}  # the text of lab 01 says to compute with them
    missed = [one["message"] for one in json.loads(found.stdout)]
    assert [words for words in missed if not any(f".{name}`" in words for name in explained)] == []


def test_the_text_says_where_answers_go_and_promises_no_verdict(pair):
    lab, copy = pair
    texts = [source(cell) for cell in copy["cells"] if cell["cell_type"] == "markdown"]
    assert texts[0].startswith("# ")
    assert "handed out without answers" in texts[1]
    name = re.search(r'Lab\(\s*"(\w+)"', "\n".join(map(source, code(lab))))[1]  # type: ignore[index]
    assert f"`runs/{name}/answers.json`" in " ".join(texts[1].split())
    assert ("verdict in the quiz" in texts[1]) == ("12" in name)
    assert not re.search(r"check themselves|\bReveal\b|✓", "\n".join(texts))
    assert [cell["id"] for cell in copy["cells"] if cell["id"] != "handed-out"] == [
        cell["id"] for cell in lab["cells"] if cell["id"] in {one["id"] for one in copy["cells"]}
    ]


def test_no_right_answer_rests_on_a_measured_time(pair):
    """Else a student's machine would decide what is right."""
    lab, _ = pair
    timed = {"measure_matmul", "matmul_speeds", "measure_modes", "real_steps", "speeds", "measure_training"}
    live: set[str] = set()
    used: set[str] = set()
    for cell in reversed(code(without_checks(lab))):
        asks = "answer" in cell["metadata"].get("tags", [])
        whole = statements(source(cell))
        for one in needed(whole, live, always=whole if asks else ()):
            used |= {node.attr for node in ast.walk(one.tree) if isinstance(node, ast.Attribute)} | one.reads
    assert used & timed == set()


def test_without_checks_the_questions_are_the_same(pair):
    lab, _ = pair
    few = without_checks(lab)
    assert tagged(code(few), "checked") == []
    assert [source(cell) for cell in tagged(code(few), "answer")] == [
        source(cell) for cell in tagged(code(lab), "answer")
    ]


@pytest.mark.parametrize(
    ("line", "reads", "writes", "binds"),
    [
        ("x = f(y)", {"f", "y"}, {"x"}, {"x"}),
        ("x, (y, *z) = w", {"w"}, {"x", "y", "z"}, {"x", "y", "z"}),
        ("x += y", {"x", "y"}, {"x"}, set()),
        ("x[i].y = z", {"x", "i", "z"}, {"x"}, set()),
        ("x.append(y)", {"x", "y"}, {"x"}, set()),
        ("x.then(y)", {"x", "y"}, set(), set()),
        ("x: int = y", {"int", "y"}, {"x"}, {"x"}),
        ("for x in y:\n    z = x", {"x", "y"}, {"x", "z"}, set()),
        ("if x:\n    y = 1", {"x"}, {"y"}, set()),
        ("x = [y * w for y in z if (v := y)]", {"w", "z", "v"}, {"x", "v"}, {"x"}),
        ("x = lambda y: y + z", {"z"}, {"x"}, {"x"}),
        ("import a.b, c as d", set(), {"a", "d"}, {"a", "d"}),
        ("from a import b as c", set(), {"c"}, {"c"}),
    ],
)
def test_what_a_statement_reads_and_writes(line: str, reads: set[str], writes: set[str], binds: set[str]):
    one = Statement.parse(line)
    assert (one.reads, one.writes, one.binds) == (reads, writes, binds)


def test_a_slice_keeps_what_is_read_later_and_no_more():
    cell = statements("a = 1\nb = a\na = 2\nc = [a]\nc.append(b)\nd = a\nif d:\n    e = 1\nprint(b)")
    live = {"c", "e"}
    kept = [one.source for one in needed(cell, live)]
    assert kept == ["a = 1", "b = a", "a = 2", "c = [a]", "c.append(b)", "d = a", "if d:\n    e = 1"]
    assert live == {"e"}, "e is bound only if d is true"


def a_lab(answer: str) -> dict[str, Any]:
    cells = [
        {"cell_type": "markdown", "metadata": {}, "id": "a", "source": "# A"},
        {"cell_type": "code", "metadata": {"tags": ["answer"]}, "id": "b", "source": answer},
    ]
    return {"cells": cells, "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def test_an_answer_that_does_not_come_last_is_refused():
    with pytest.raises(ValueError, match="answer, explanation must come last in "):
        without_answers(a_lab('x = lab.predict("?", answer="a", options=["a"])'), "lab")


def test_arguments_are_counted_in_characters():
    copy = without_answers(a_lab('x = lab.predict("2⁻²⁴ × 2?", ["ä"], answer="ä", explanation="ö")\nx'), "lab")
    assert source(code(copy)[0]).splitlines()[1:] == ['x = lab.predict("2⁻²⁴ × 2?", ["ä"])', "x"]


def run(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["hand-out", *arguments])


def test_it_lays_all_labs_or_those_named_and_the_same_bytes_each_time(tmp_path: Path):
    result = run(str(tmp_path / "new" / "all"))
    assert (result.exit_code, result.stderr) == (0, "")
    assert "10 labs without answers" in result.stdout
    laid = {path.name: path.read_bytes() for path in (tmp_path / "new" / "all").iterdir()}
    assert sorted(laid) == [path.name for path in LABS]
    assert all(map(is_untouched, laid.values()))
    assert run(str(tmp_path / "few"), "05", "00_start_here", "05").exit_code == 0
    few = {path.name: path.read_bytes() for path in (tmp_path / "few").iterdir()}
    assert sorted(few) == ["00_start_here.ipynb", "05_dynamic_loss_scaling.ipynb"]
    assert few.items() <= laid.items()


def test_a_copy_that_nobody_changed_is_replaced_and_everything_else_stays(tmp_path: Path):
    path = tmp_path / "00_start_here.ipynb"
    run(str(tmp_path), "00")
    laid = path.read_bytes()
    older = json.loads(laid)
    del older["metadata"]["mixlab"]
    older["cells"][0]["source"] = ["# Another version"]
    older["metadata"]["mixlab"] = {"handed_out": hashlib.sha256(as_bytes(older)).hexdigest()}
    path.write_bytes(as_bytes(older))
    assert run(str(tmp_path), "00").exit_code == 0
    assert path.read_bytes() == laid

    changed = laid.replace(b'"outputs": []', b'"outputs": [ ]', 1)
    half = b'{"metadata": {"mixlab": {"handed_out": ""}}, "cells": "\\ud800"}'  # half a character: not UTF-8
    own = as_bytes(json.loads(LABS[0].read_bytes()))
    for mine in (changed, own, b"", b"mine", laid + b"\n", b"[]", b"\xff", half):
        path.write_bytes(mine)
        result = run(str(tmp_path), "05", "00")
        assert result.exit_code == 2
        assert "holds 00_start_here.ipynb, changed since it was handed out or never handed out" in result.stderr
        assert [one.name for one in tmp_path.iterdir()] == [path.name], "nothing was written"
        assert path.read_bytes() == mine


def test_what_is_no_folder_or_cannot_be_written_is_refused(tmp_path: Path):
    (tmp_path / "file").write_text("mine")
    (tmp_path / "05_dynamic_loss_scaling.ipynb").symlink_to(tmp_path / "nowhere")
    for folder, lab, words in (
        (tmp_path / "file", "00", "is not a folder"),
        (tmp_path / "file" / "below", "00", "Not a directory"),
        (tmp_path, "05", "holds 05_dynamic_loss_scaling.ipynb"),
        (tmp_path / "new", "99", "unknown lab '99'"),
        (tmp_path / "new", "0", "is not unique"),
        (tmp_path / "new", str(LABS[0]), "unknown lab"),
    ):
        result = run(str(folder), lab)
        assert (result.exit_code, words in result.stderr) == (2, True), result.stderr
    assert (tmp_path / "file").read_text() == "mine"
    assert not (tmp_path / "new").exists()
    assert run().exit_code == 2


# tests/test_wheel.py runs one of them in `make test`.
@pytest.mark.slow
@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_a_copy_runs_from_the_first_cell_to_the_last(path: Path, tmp_path: Path):
    run(str(tmp_path), path.stem)
    steps = lab_parameters(path.stem)["steps"]
    assert isinstance(steps, Whole)
    run_notebook(tmp_path / path.name, {"steps": max(1, steps.low)}, progress=False)
