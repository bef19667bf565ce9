"""What the commands have in common: numbers read, JSON written, and errors in red, in words."""

from __future__ import annotations

import json
import math
import sys
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.text import Text

# What a command answers in words: wrong values, files and folders, too little memory, a package that is missing.
ANSWERED = (ValueError, TypeError, ArithmeticError, LookupError, OSError, RuntimeError, MemoryError, ImportError)


def whole_number(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a whole number such as 300") from None


def number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not a number such as 1e-6") from None


def port_number(text: str) -> int:
    port = whole_number(text)
    if not 1 <= port <= 65535:
        raise typer.BadParameter(f"{port} is no port; give one from 1 to 65535")
    return port


def print_json(content: Any) -> None:
    typer.echo(json.dumps(_finite(content), indent=2, allow_nan=False))


def _finite(content: Any) -> Any:
    """Returns the content with inf and NaN, which JSON does not have, as text."""
    if isinstance(content, dict):
        return {key: _finite(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_finite(value) for value in content]
    return str(content) if isinstance(content, float) and not math.isfinite(content) else content


def print_error(message: str) -> None:
    Console(stderr=True).print(Text(message, style="red"), soft_wrap=True)


def words(error: BaseException) -> str:
    """Returns an error's own words; its type where it has none, or where they are no sentence."""
    text = str(error)
    return text if text and not isinstance(error, KeyError | MemoryError) else f"{type(error).__name__}: {text}"


def fail(message: str, code: int) -> NoReturn:
    print_error(message)
    sys.exit(code)
