"""README's table of claims; `python -m tests.claims_in_readme` writes it anew."""

from __future__ import annotations

from pathlib import Path

from mixlab.claims import CLAIMS
from mixlab.reports import claims_markdown

README = Path(__file__).parents[1] / "README.md"
BEGIN = "<!-- claims: written by python -m tests.claims_in_readme -->\n\n"
END = "\n\n<!-- end of claims -->"


def with_claims(text: str) -> str:
    """Returns README's text with the table of claims between its two marks."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    assert begin, f"README has no line {BEGIN.strip()}"
    assert end, f"README has no line {END.strip()}"
    return f"{before}{begin}{claims_markdown(CLAIMS)}{end}{after}"


if __name__ == "__main__":
    README.write_text(with_claims(README.read_text()))
