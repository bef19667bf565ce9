"""Tables of results, as aligned text and as HTML, where a long one shows its first rows and unfolds the rest."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from html import escape

from mixlab.glossary import marked

Row = Sequence[str]

LONGEST = 10  # rows of a table that is shown whole
FIRST = 5  # rows of a longer one that show before it is unfolded

_NUMBER = re.compile(r"[-\u2212+<≈]?[\d.,]+( to [\d.,]+)?( [×%])?$")
_LONG = 14  # letters of a row's heading from which on its column is not narrowed further
_COMMA = re.compile(r",(?=[a-z])")  # behind which a recipe may go on in the next line
_BREAK = "\u200b"  # holds the place of a tag while glossary words are marked

# The rule hides rows only where the page has a summary to unfold them, and nothing on paper. A page that drops the
# style, or does not know :has, shows all rows. The attribute on the summary keeps JupyterLab's shortcuts from its keys.
_FOLDING = f"""<style>
@media screen {{
  .mixlab-folded:has(> details:not([open])) > table > tbody > tr:nth-child(n + {FIRST + 1}) {{ display: none; }}
}}
.mixlab-folded > details {{ margin: 2px 0 8px; }}
.mixlab-folded > details > summary {{ cursor: pointer; display: list-item; width: fit-content; padding: 2px 4px; }}
.mixlab-folded > details > summary:focus-visible {{ outline: 2px solid var(--jp-brand-color1, #1976d2); }}
.mixlab-folded > details[open] > summary > :first-child,
.mixlab-folded > details:not([open]) > summary > :last-child {{ display: none; }}
</style>"""


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
    """Returns a table as HTML; one of more than 10 rows shows 5 and a line that unfolds the rest.

    Words of the glossary in the heads and in the first cells of the rows are explained where each comes first.

    Args:
        columns: The column heads, in plain text; they are escaped here. One that is "" is no heading.
        rows: The cells of each row, in plain text; they are escaped here.
        caption: A line above the table; "" for none.
        row_heads: Whether the first cell of a row is its heading.
    """
    seen: set[str] = set()
    head = "".join(_heads(columns, row_heads, seen))
    rows = list(rows)
    body = "".join(f"<tr>{''.join(_cells(row, row_heads, seen))}</tr>" for row in rows)
    above = f'<caption style="text-align: left">{escape(caption)}</caption>' if caption else ""
    return folded(f"<table>{above}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>", len(rows))


def folded(table: str, rows: int, noun: str = "rows") -> str:
    """Folds a long table in HTML to its first 5 rows, with a line below it that shows the rest and hides it again.

    It works without scripts, with the keyboard, on both themes and in a saved notebook. A table of at most 10 rows is
    returned as it is.

    Args:
        table: A `<table>` with its rows in a `<tbody>`.
        rows: How many rows it has.
        noun: What the rows are called.
    """
    if rows <= LONGEST:
        return table
    words = f"<span>Show all {rows} {noun}</span><span>Show only the first {FIRST}</span>"
    unfold = f'<details><summary data-lm-suppress-shortcuts="true">{words}</summary></details>'
    return f'{_FOLDING}<div class="mixlab-folded">{table}{unfold}</div>'


def _heads(columns: Row, row_heads: bool, seen: set[str]) -> Iterable[str]:
    for place, cell in enumerate(columns):
        over_heads = " style='text-align: left'" if row_heads and not place else ""
        yield f"<th{over_heads}>{marked(escape(cell), seen)}</th>" if cell else "<td></td>"


def _cells(row: Row, row_heads: bool, seen: set[str]) -> Iterable[str]:
    for place, cell in enumerate(row):
        text = escape(cell)
        if place:
            # "3.32 ×" and "3.30 to 3.38" stay on one line; sentences that begin with a number do not.
            yield f"<td style='white-space: nowrap'>{text}</td>" if _NUMBER.match(cell) else f"<td>{text}</td>"
        else:
            text = marked(_COMMA.sub(f",{_BREAK}", text), seen).replace(_BREAK, "<wbr>")
            wide = "; min-width: 9em" if len(cell) > _LONG else ""
            yield f"<th style='text-align: left{wide}'>{text}</th>" if row_heads else f"<td>{text}</td>"
