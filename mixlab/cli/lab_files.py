"""What a lab's file says of itself, read without Jupyter, so that a wrong argument is answered at once."""

from __future__ import annotations

import ast
import io
import json
import re
import tokenize
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mixlab.labs import Parameter, check_parameters, lab_parameters

_UNREADABLE = (OSError, ValueError, SyntaxError, LookupError, TypeError, AttributeError, RecursionError)


@dataclass(frozen=True)
class StatedParameter:
    """A line of a lab's cell of parameters.

    Attributes:
        name: The name that it assigns.
        default: The value.
        meaning: The comment behind it, or "".
    """

    name: str
    default: Any
    meaning: str


@dataclass(frozen=True)
class LabFile:
    """A lab as a list shows it.

    Attributes:
        name: The file's name, without its ending.
        title: The heading of the page, or "".
        minutes: How long the page says that it takes; None if it does not say.
        parameters: The lines of its cell of parameters.
    """

    name: str
    title: str
    minutes: int | None
    parameters: tuple[StatedParameter, ...]

    @property
    def declared(self) -> Mapping[str, Parameter]:
        """What its parameters may be; nothing for a notebook that is none of mixlab's labs."""
        try:
            declared = lab_parameters(self.name)
        except KeyError:
            return {}
        return declared if [one.name for one in self.parameters] == list(declared) else {}

    def check(self, values: Mapping[str, object]) -> None:
        """Checks values for some of the parameters, with the defaults of the others.

        Raises:
            ValueError: If the lab does not take them; a notebook that is none of mixlab's labs takes all.
        """
        if self.declared:
            check_parameters(self.name, {one.name: one.default for one in self.parameters} | dict(values))


def read_lab(notebook: Path) -> LabFile | None:
    """Returns what a notebook says of itself, or None if only Jupyter can read it: if it is damaged or old, or if its
    cell of parameters has magics or computes.

    Args:
        notebook: Path of the notebook.
    """
    try:
        cells = [(cell, _joined(cell["source"])) for cell in json.loads(notebook.read_bytes())["cells"]]
        text = "\n".join(source for cell, source in cells if cell["cell_type"] == "markdown")
        tagged = [(cell, source) for cell, source in cells if "parameters" in cell["metadata"].get("tags", [])]
        code = tagged[0][1] if tagged and tagged[0][0]["cell_type"] == "code" else ""
        stated = tuple(_stated(code))
    except (*_UNREADABLE, tokenize.TokenError):
        return None
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    minutes = re.search(r"\*Time: (\d+) minutes", text)
    return LabFile(notebook.stem, title[1].strip() if title else "", int(minutes[1]) if minutes else None, stated)


def _joined(source: Any) -> str:
    return source if isinstance(source, str) else "".join(source)


def _stated(code: str) -> Iterator[StatedParameter]:
    """Yields the lines of a cell of parameters.

    Raises:
        SyntaxError, ValueError: If it does anything but assign literals to names.
    """
    tokens = tokenize.generate_tokens(io.StringIO(code).readline)
    comments = {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}
    for statement in ast.parse(code).body:
        match statement:
            case ast.Assign(targets=[ast.Name(name)], value=value):
                pass
            case ast.AnnAssign(target=ast.Name(name), value=ast.expr() as value):
                pass
            case _:
                raise ValueError(f"not the assignment of a name: {ast.unparse(statement)}")
        yield StatedParameter(name, ast.literal_eval(value), comments.get(statement.lineno, ""))
