"""What a panel does with an exception in a callback: it shows it in red, and keeps it."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from html import escape
from typing import ParamSpec

import ipywidgets as widgets

P = ParamSpec("P")


class ErrorBox(widgets.HTML):  # type: ignore[misc]
    """Empty while all is well. Jupyter swallows what a callback raises; a guarded callback says it here instead.

    Attributes:
        last_error: What the latest guarded callback raised, or None if it went well.
    """

    last_error: Exception | None = None

    def guard(self, callback: Callable[P, object]) -> Callable[P, None]:
        """Returns `callback` with its exceptions caught and shown."""

        @wraps(callback)
        def guarded(*args: P.args, **kwargs: P.kwargs) -> None:
            try:
                callback(*args, **kwargs)
            except Exception as error:
                self.show(error)
            else:
                self.show(None)

        return guarded

    def show(self, error: Exception | None) -> None:
        self.last_error = error
        self.value = (
            ""
            if error is None
            else (
                '<div role="alert" style="color: var(--jp-error-color1, #b00020); white-space: pre-wrap">'
                f"<b>{type(error).__name__}</b>: {escape(str(error))}</div>"
            )
        )
