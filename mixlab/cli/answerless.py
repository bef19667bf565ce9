"""A lab without its answers: what asks stays, and what only an answer needs goes."""

from __future__ import annotations

import ast
import copy
import hashlib
import json
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from mixlab.cli.liveness import Statement, needed, statements

GIVES_AWAY = {
    "predict": ("answer", "explanation"),
    "exercise": ("expected", "hint", "tolerance", "read"),
}
_ASKS = {"predict": "# A question. Your choice is recorded.", "exercise": "# An exercise. Your answer is recorded."}
_NEEDED = "# Later cells need this."
_THEMSELVES = " that check themselves"  # exercises; without answers they cannot
_WIDTH = 120


def without_answers(notebook: dict[str, Any], name: str) -> dict[str, Any]:
    """Returns a copy of a lab that asks and records, but holds no answer, explanation, expected value or hint.

    Cells tagged `answer` keep their question, and what it or later cells need. Cells tagged `checked` keep what later
    cells need, and imports the names that are still in use. A cell of text says where answers go.

    Args:
        notebook: The lab, as JSON holds it.
        name: The lab's name.

    Raises:
        SyntaxError: If a cell is not Python.
        ValueError: If an answer does not come last in its call.
    """
    made = copy.deepcopy(notebook)
    live = set(re.findall(r"\w+", " ".join(re.findall(r"`[^`]+`", _markdown(made)))))  # names that the text explains
    kept: list[dict[str, Any]] = []
    for cell in reversed(made["cells"]):
        source = "".join(cell["source"])
        tags = cell["metadata"].get("tags", [])
        if cell["cell_type"] != "code":
            source = source.replace(_THEMSELVES, "")
        elif "answer" in tags:
            source = _asked(statements(source), live)
        elif "checked" in tags:
            source = _with_heading(_NEEDED, needed(statements(source), live))
        else:
            source = _in_use(source, live)
        if source:
            kept.append({**cell, "source": source.splitlines(keepends=True)})
    first, *others = reversed(kept)
    made["cells"] = [first, _about(name, claims="ClaimQuiz(" in json.dumps(made)), *others]
    made["metadata"]["mixlab"] = {"handed_out": _digest(made)}
    return made


def without_checks(notebook: dict[str, Any]) -> dict[str, Any]:
    """Returns a copy of a lab that asks as the lab does, without the cells that check what its text says.

    Args:
        notebook: The lab, as JSON holds it.

    Raises:
        SyntaxError: If a cell is not Python.
    """
    made, live = copy.deepcopy(notebook), set[str]()
    kept: list[dict[str, Any]] = []
    for cell in reversed(made["cells"]):
        source = "".join(cell["source"])
        if cell["cell_type"] == "code":
            whole = statements(source)
            needs_all = "checked" not in cell["metadata"].get("tags", [])
            few = needed(whole, live, always=whole if needs_all else ())
            source = source if needs_all else _with_heading(_NEEDED, few)
        if source:
            kept.append({**cell, "source": source})
    return {**made, "cells": kept[::-1]}


def is_untouched(content: bytes) -> bool:
    """Whether a file is byte for byte a copy without answers, of this version or another, as it was handed out."""
    try:
        notebook = json.loads(content)
        digest = notebook["metadata"].pop("mixlab")["handed_out"]
        whole = digest == _digest(notebook)
        notebook["metadata"]["mixlab"] = {"handed_out": digest}
        return whole and content == as_bytes(notebook)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return False


def was_handed_out(content: bytes) -> bool:
    """Whether a file is a copy without answers, with or without what a student did in it."""
    try:
        return isinstance(json.loads(content)["metadata"]["mixlab"]["handed_out"], str)
    except (ValueError, KeyError, TypeError, RecursionError):
        return False


def as_bytes(notebook: dict[str, Any]) -> bytes:
    """Returns a notebook as its file holds it."""
    return (json.dumps(notebook, indent=1, ensure_ascii=False) + "\n").encode()


def _asked(cell: Sequence[Statement], live: set[str]) -> str:
    """Returns a cell that asks, without what its answer alone needs; "" for one that explains."""
    heading, reduced, always = _NEEDED, [], []
    for one in cell:
        call = next((node for node in ast.walk(one.tree) if _method(node) in _ASKS), None)
        if isinstance(call, ast.Call):
            heading = _ASKS[str(_method(call))]
            one = Statement.parse(_without(one.source, call))
        if isinstance(call, ast.Call) or (isinstance(one.tree, ast.Expr) and isinstance(one.tree.value, ast.Name)):
            always.append(one)  # the question, and the line that shows it
        reduced.append(one)
    return _with_heading(heading, needed(reduced, live, always=always))


def _method(node: ast.AST) -> str | None:
    """Returns the method that a call `lab.method(...)` calls."""
    match node:
        case ast.Call(func=ast.Attribute(value=ast.Name("lab"), attr=method)):
            return method
    return None


def _without(source: str, call: ast.Call) -> str:
    """Returns a statement without the arguments of a call that give its answer away; they come last."""
    secret = GIVES_AWAY[str(_method(call))]
    arguments: list[ast.expr | ast.keyword] = [*call.args, *call.keywords]
    public = [one for one in arguments if not (isinstance(one, ast.keyword) and one.arg in secret)]
    if not public or public != arguments[: len(public)]:
        raise ValueError(f"{', '.join(secret)} must come last in {source!r:.100}")
    start, end = _offset(source, public[-1]), _offset(source, call) - 1
    return source[:start] + (",\n" if source[:end].endswith("\n") else "") + source[end:]


def _offset(source: str, node: ast.expr | ast.keyword) -> int:
    """Returns where a node ends, in characters; its column counts bytes."""
    lines = source.splitlines(keepends=True)
    assert node.end_lineno is not None
    last = lines[node.end_lineno - 1].encode()[: node.end_col_offset].decode()
    return sum(map(len, lines[: node.end_lineno - 1])) + len(last)


def _in_use(source: str, live: set[str]) -> str:
    """Returns a cell with those of its imported names that are in use, and everything else of it."""
    lines = source.splitlines()
    for one in reversed(ast.parse(source).body):
        place = slice(one.lineno - 1, one.end_lineno)
        stated = Statement.parse("\n".join(lines[place]))
        if isinstance(one, ast.Import | ast.ImportFrom):
            used = [alias for alias in one.names if (alias.asname or alias.name.partition(".")[0]) in live]
            if len(used) < len(one.names):
                one.names = used
                lines[place] = [ast.unparse(one)] if used else []
        live.difference_update(stated.binds)
        live.update(stated.reads)
    return re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n")


def _with_heading(heading: str, kept: Iterable[Statement]) -> str:
    lines = [one.source for one in kept]
    return "\n".join([heading, *lines]) if lines else ""


def _markdown(notebook: dict[str, Any]) -> str:
    return "\n".join("".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "markdown")


def _about(name: str, *, claims: bool) -> dict[str, Any]:
    quiz = " A verdict in the quiz counts as soon as you choose it." if claims else ""
    words = (
        "**This copy was handed out without answers.** A prediction counts once you press *Keep my choice*; then its "
        "results show. An answer to an exercise counts once you press *Keep* or Enter, and you may change it later."
        f"{quiz}",
        "Recorded are your choices and answers, and the parameters of the lab: in this notebook whenever you save it "
        f"(Ctrl+S), and in `runs/{name}/answers.json` beside it. Nothing else is recorded, and nothing is sent "
        "anywhere. Hand in the saved notebook, or the folder in which it lies.",
    )
    source = "\n\n".join(textwrap.fill(each, _WIDTH) for each in words)
    return {"cell_type": "markdown", "id": "handed-out", "metadata": {}, "source": source.splitlines(keepends=True)}


def _digest(notebook: dict[str, Any]) -> str:
    return hashlib.sha256(as_bytes(notebook)).hexdigest()
