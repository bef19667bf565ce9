"""Small tables of results, as aligned text and as HTML."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

Row = Sequence[str]


class NotedTable:
    """A table with notes below it: text in a terminal, HTML in a notebook.

    Args:
        columns: The column heads.
        rows: The cells of each row; the first is the row's heading.
        notes: Lines below the table.
    """

    def __init__(self, columns: Row, rows: Iterable[Row], notes: Iterable[str]) -> None:
        self.columns, self.rows, self.notes = columns, list(rows), list(notes)

    def __repr__(self) -> str:
        return "\n".join([text_table(self.columns, self.rows), *self.notes])

    def _repr_html_(self) -> str:
        notes = "".join(f"<div><small>{escape(note)}</small></div>" for note in self.notes)
        return html_table(self.columns, self.rows, row_heads=True) + notes


def gib(size_bytes: int) -> str:
    """Returns a size in GiB, as text with two decimals.

    >>> gib(3 * 2**29), gib(1000)
    ('1.50', '<0.01')

    Args:
        size_bytes: The size, from 0 up.
    """
    return "<0.01" if 0 < size_bytes < 0.005 * 2**30 else f"{size_bytes / 2**30:,.2f}"


def text_table(columns: Row, rows: Iterable[Row]) -> str:
    """Returns a table as text: left-aligned columns, two spaces apart, under a line of heads.

    >>> print(text_table(("what", "bytes"), [("weights", "4"), ("m", "2")]))
    what     bytes
    weights  4
    m        2

    Args:
        columns: The column heads.
        rows: The cells of each row.
    """
    lines = [columns, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    padded = ("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    return "\n".join(line.rstrip() for line in padded)


def html_table(columns: Row, rows: Iterable[Row], *, caption: str = "", row_heads: bool = False) -> str:
    """Returns a table as HTML.

    Args:
        columns: The column heads, in plain text; they are escaped here.
        rows: The cells of each row, in plain text; they are escaped here.
        caption: A line above the table; "" for none.
        row_heads: Whether the first cell of a row is its heading.
    """
    head = "".join(f"<th>{escape(cell)}</th>" for cell in columns)
    body = "".join(f"<tr>{''.join(_cells(row, row_heads))}</tr>" for row in rows)
    above = f'<caption style="text-align: left">{escape(caption)}</caption>' if caption else ""
    return f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _cells(row: Row, row_heads: bool) -> Iterable[str]:
    for place, cell in enumerate(row):
        if row_heads and place == 0:
            yield f"<th style='text-align: left'>{escape(cell)}</th>"
        else:
            yield f"<td>{escape(cell)}</td>"
