"""Helpers for all commands: read numbers, write JSON, print errors in red."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

# Errors that a command reports as a message: wrong values, files and folders, too little memory, a missing package.
ANSWERED = (ValueError, TypeError, ArithmeticError, LookupError, OSError, RuntimeError, MemoryError, ImportError)


def whole_number(text: str) -> int:
    """Reads an option that is a whole number."""
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number such as 300") from None


def number(text: str) -> float:
    """Reads an option that is a number."""
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number such as 1e-6") from None


def port_number(text: str) -> int:
    """Reads an option that is a TCP port."""
    port = whole_number(text)
    if not 1 <= port <= 65535:
        raise typer.BadParameter(f"{port} is not a port; give one from 1 to 65535")
    return port


def print_json(content: Any) -> None:
    """Prints JSON; infinities and NaN become text."""
    typer.echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(content: Any) -> Any:
    """Returns the content with infinities and NaN, which JSON lacks, as text."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def print_error(message: str) -> None:
    """Prints a message in red on stderr."""
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)


def words(error: BaseException) -> str:
    """Returns an error's message, with its type in front if the message is empty or not a sentence."""
    text = str(error)
    return text if text and not isinstance(error, KeyError | MemoryError) else f"{type(error).__name__}: {text}"


def fail(message: str, code: int) -> NoReturn:
    """Prints a message in red and exits with a code."""
    print_error(message)
    sys.exit(code)
