"""The glossary's words in the labs; `python -m tests.glossary_in_labs [LAB ...]` marks them, in all labs or in some.

A lab's text explains each word of the glossary where it first comes: either itself, with the word in *emphasis*, or by
`<abbr title="...">word</abbr>`, which shows the glossary's sentence to who points at it. Headings, code, formulas and
the words of links do not count.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from html import escape
from pathlib import Path

from mixlab.glossary import GLOSSARY, WORD, term_of

LABS = Path(__file__).parents[1] / "labs"
LIST = "00_start_here.ipynb#Words"  # where who has no pointer finds them all

_ABBR = re.compile(r"<abbr\b[^>]*>(.*?)</abbr>", re.DOTALL)
_OTHER = r"```.*?```|\$\$.*?\$\$|\$[^$\n]+\$|^\#[^\n]*|!?\[[^\]]*\]\([^)]*\)|<[^>]*>"
_PIECES = re.compile(
    rf"""
      (?P<abbr>{_ABBR.pattern})
    | (?P<other>{_OTHER})
    | (?P<code>`[^`\n]+`)
    | (?P<emphasis>(?<!\*)\*{{1,3}}(?![\s*])[^*\n]+\*{{1,3}})
    | (?P<word>{WORD.pattern})
    """,
    re.DOTALL | re.MULTILINE | re.VERBOSE,
)


def explained(words: str) -> str:
    """Returns a word as it stands in a lab's text, with the glossary's sentence; another word comes back as it is."""
    term = term_of(words.strip("`"))
    return words if term is None else f'<abbr title="{escape(GLOSSARY[term])}">{words}</abbr>'


def marked_cells(cells: Sequence[str]) -> list[str]:
    """Returns the Markdown cells of a lab with every first use marked and every title as in the glossary."""
    seen: set[str] = set()

    def piece(found: re.Match[str]) -> str:
        text = found[0]
        if found["abbr"]:
            inside = _ABBR.fullmatch(text)
            assert inside is not None
            term = term_of(inside[1].strip("`"))
            assert term is not None, f"the glossary has no {inside[1]!r}"
            seen.add(term)
            return explained(inside[1])
        if found["emphasis"]:
            seen.update(term for word in WORD.finditer(text) if (term := term_of(word[0])))
            return text
        term = None if found["other"] else term_of(text.strip("`"))
        if term is None or term in seen:
            return text
        seen.add(term)
        return explained(text)

    return [_PIECES.sub(piece, cell) for cell in cells]


def marked_lab(text: str) -> str:
    """Returns a notebook, as text, with its words marked."""
    lab = json.loads(text)
    cells = [cell for cell in lab["cells"] if cell["cell_type"] == "markdown"]
    for cell, source in zip(cells, marked_cells(["".join(cell["source"]) for cell in cells]), strict=True):
        cell["source"] = source.splitlines(keepends=True)
    return json.dumps(lab, indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    for path in [Path(name) for name in sys.argv[1:]] or sorted(LABS.glob("*.ipynb")):
        path.write_text(marked_lab(path.read_text()))
