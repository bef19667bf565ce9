"""A plotly figure for every reader: a summary in words, text in the page's colour, no buttons to tab over."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import plotly.graph_objects as go

from mixlab.machine import is_headless

_MIME = "application/vnd.plotly.v1+json"
_HERE = Path(__file__).parent
_CONFIG = {
    "displaylogo": False,
    "modeBarButtons": [["toImage", "resetScale2d"]],
    "plotlyServerURL": "",  # without one, nothing can be uploaded
}


class Chart(go.Figure):  # type: ignore[misc]
    """A plotly figure that says in words what it shows; in all else as `plotly.graph_objects.Figure`.

    A notebook shows it as two outputs: an empty one with the style and the script that pages need once, and the figure.
    They give text the page's own colour, and the picture its title and summary as its name for screen readers. A page
    that runs no scripts shows all text in one grey that is readable on white.
    """

    on_page = (
        f'<div class="mixlab-figures"><style>\n{(_HERE / "chart.css").read_text(encoding="utf-8")}</style>'
        f"<script>\n{(_HERE / 'chart.js').read_text(encoding='utf-8')}</script></div>"
    )

    @property
    def summary(self) -> str:
        """What the figure shows, in a sentence or two."""
        meta = self.layout.meta
        return unescape(str(meta.get("summary", ""))) if isinstance(meta, dict) else ""

    def show(self, *args: Any, config: dict[str, Any] | None = None, **kwargs: Any) -> None:
        """Shows the figure as plotly does, without a way to upload it.

        Args:
            args: As for `plotly.graph_objects.Figure.show`.
            config: Settings of plotly.js that go before those of every chart.
            kwargs: As for `plotly.graph_objects.Figure.show`.
        """
        if not args and "renderer" not in kwargs and _MIME in self._repr_mimebundle_():
            self._bring_to_page()
        super().show(*args, config={**_CONFIG, **(config or {})}, **kwargs)

    def _bring_to_page(self) -> None:
        from IPython.display import HTML, display

        if not is_headless():
            display(HTML(self.on_page))  # type: ignore[no-untyped-call]

    def _repr_mimebundle_(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        bundle = super()._repr_mimebundle_(*args, config=_CONFIG, **kwargs)
        return {"text/plain": self.summary, **bundle}

    def _ipython_display_(self) -> None:
        bundle = self._repr_mimebundle_()
        if _MIME not in bundle:
            self.show()
            return
        from IPython.display import display

        self._bring_to_page()
        display(bundle, raw=True)  # type: ignore[no-untyped-call]
