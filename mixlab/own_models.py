"""Reads a model of the user's own by its place, "package.module:function": model, batch and loss for any tool."""

from __future__ import annotations

import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mixlab.arguments import did_you_mean

if TYPE_CHECKING:
    from torch import nn

    from mixlab.batches import Batch, Loss

_PLACE = "package.module:function, such as train:make for the function make in train.py"
_RETURNS = "it must return (model, batch) or (model, batch, loss); see mixlab.batches for what a batch may be"


class OwnModelError(ValueError):
    """Raised if there is no model at a place; the message says why, in words."""


class OwnModel(NamedTuple):
    """A model of the user's own with what one training step needs.

    Attributes:
        model: The model, real or on "meta".
        batch: What one call of it takes, or (inputs, targets).
        loss: Function of (output, targets) or of (output, batch); None takes the output's own loss, or cross-entropy.
    """

    model: nn.Module
    batch: Batch
    loss: Loss | None = None


def own_model(place: str) -> OwnModel:
    """Imports a module, calls a function in it, and returns the model, batch and loss that the function returns.

    The current directory is searched first, as `python -m` does. What the module and the function print goes to
    stderr.

    Args:
        place: "package.module:function". The function takes no arguments, and returns (model, batch) or (model, batch,
            loss).

    Raises:
        OwnModelError: If there is no such module or function, one of them fails, or the function needs arguments or
            returns something else.
    """
    module, name = _parted(place)
    with from_here(), redirect_stdout(sys.stderr):
        made = _called(_function(_imported(module), name, place), place)
    return _checked(made, place)


@contextmanager
def from_here() -> Iterator[None]:
    """Lets modules be imported from the current directory within the block."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        if here in sys.path:
            sys.path.remove(here)


def _parted(place: str) -> tuple[str, str]:
    module, colon, name = place.partition(":") if isinstance(place, str) else ("", "", "")
    if colon and not module.endswith(".py") and all(_is_dotted(part) for part in (module, name)):
        return module, name
    hint = ""
    path, _, rest = str(place).partition(".py")
    if path and str(place).startswith(f"{path}.py") and _is_dotted(dotted := path.strip("./").replace(os.sep, ".")):
        hint = f"; of a file, write its module: {dotted}:{rest.strip(':') or 'function'}"
    raise OwnModelError(f"module must be {_PLACE}; got {place!r:.100}{hint}")


def _is_dotted(text: str) -> bool:
    return all(part.isidentifier() for part in text.split("."))


def _imported(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(f"{error.name}.")):
            raise OwnModelError(
                f"module {name} not found: {error.name!r} is neither in the current directory, {os.getcwd()}, nor "
                "installed"
            ) from None
        raise OwnModelError(f"module {name} cannot be imported: {_said(error)}") from error
    except (Exception, SystemExit) as error:
        raise OwnModelError(f"module {name} cannot be imported: {_said(error)}") from error


def _function(module: Any, name: str, place: str) -> Callable[[], Any]:
    found = module
    for part in name.split("."):
        if not hasattr(found, part):
            where = getattr(module, "__file__", None) or "built in"
            functions = [each for each, value in vars(module).items() if callable(value) and not each.startswith("_")]
            raise OwnModelError(
                f"module {module.__name__} ({where}) has no function {name!r}{_alternatives(name, functions)}"
            )
        found = getattr(found, part)
    if not callable(found):
        raise OwnModelError(f"{place} must be a function that returns (model, batch), got {type(found).__name__}")
    needed = _needed(found)
    if needed:
        raise OwnModelError(
            f"{place} must take no arguments, but needs {', '.join(needed)}; write a function that calls it with them"
        )
    return found  # type: ignore[no-any-return]


def _alternatives(name: str, functions: list[str]) -> str:
    return f": {hint.rstrip(' .;')}" if (hint := did_you_mean(name, functions)) else ""


def _needed(function: Callable[..., Any]) -> list[str]:
    """Returns the arguments without which a function cannot be called."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some functions in C have no signature
        return []
    optional = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return [one.name for one in parameters if one.default is one.empty and one.kind not in optional]


def _called(function: Callable[[], Any], place: str) -> Any:
    try:
        return function()
    except (Exception, SystemExit) as error:
        raise OwnModelError(f"{place} raised {_said(error)}") from error


def _said(error: BaseException) -> str:
    """Returns an error's type and message, the line of the user's code that led to it, and its cause."""
    words = _words(error)
    frames = [one for one in traceback.extract_tb(error.__traceback__) if one.filename not in _NOT_OF_THE_USER]
    own = [one for one in frames if Path(one.filename).is_relative_to(Path.cwd())] or frames
    if own and not isinstance(error, SyntaxError):  # whose message has file and line
        words += f", at {own[-1].filename}:{own[-1].lineno}"
    return f"{words}; its cause: {_words(error.__cause__)}" if error.__cause__ else words


def _words(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


_NOT_OF_THE_USER = (
    __file__,
    importlib.__file__,
    "<frozen importlib._bootstrap>",
    "<frozen importlib._bootstrap_external>",
)


def _checked(made: Any, place: str) -> OwnModel:
    if not isinstance(made, tuple | list) or len(made) not in (2, 3):
        came = f"{type(made).__name__} of {len(made)}" if isinstance(made, tuple | list) else type(made).__name__
        raise OwnModelError(f"{place} returned {came}: {_RETURNS}")
    from torch import nn

    from mixlab.batches import require_batch, require_loss

    if not isinstance(made[0], nn.Module):
        raise OwnModelError(
            f"{place} returned {type(made[0]).__name__} as the model, not a torch.nn.Module: {_RETURNS}"
        )
    try:
        require_batch(place, made[1])
        require_loss(place, made[2] if len(made) == 3 else None)
    except (TypeError, ValueError) as error:
        raise OwnModelError(str(error)) from None
    return OwnModel(*made)
