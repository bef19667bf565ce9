"""The glossary as a table."""

from __future__ import annotations

from html import escape

from mixlab.glossary import GLOSSARY
from mixlab.tables import folded, text_table

_CELL = "text-align: left; vertical-align: top; white-space: normal"


class GlossaryTable:
    """The words of mixed-precision training with a sentence each: text in a terminal, a folded table in a notebook."""

    columns = ("word", "what it means")

    def __init__(self) -> None:
        self.rows = list(GLOSSARY.items())

    def __repr__(self) -> str:
        return text_table(self.columns, self.rows)

    def _repr_html_(self) -> str:
        head = "".join(f'<th scope="col" style="{_CELL}">{escape(name)}</th>' for name in self.columns)
        body = "".join(
            f'<tr><th scope="row" style="{_CELL}">{escape(word)}</th><td style="{_CELL}">{escape(meaning)}</td></tr>'
            for word, meaning in self.rows
        )
        table = f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
        return folded(table, len(self.rows), "words")
