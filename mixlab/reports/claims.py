"""Claims with their verdicts: as a table, one in full, and as the table of README."""

from __future__ import annotations

from collections.abc import Iterable
from html import escape

from mixlab.claims import Claim, Settled, Verdict
from mixlab.machine import describe
from mixlab.reports.colours import GREEN, ORANGE, VERMILLION
from mixlab.tables import folded

MARKS = {Verdict.HOLDS: "✓", Verdict.HOLDS_IF: "◐", Verdict.DOES_NOT_HOLD: "✗"}
_COLOURS = {Verdict.HOLDS: GREEN, Verdict.HOLDS_IF: ORANGE, Verdict.DOES_NOT_HOLD: VERMILLION}
_CELL = "text-align: left; vertical-align: top; white-space: normal; overflow-wrap: anywhere"


class ClaimsTable:
    """Claims with verdict, right value, measurement and record: blocks of text in a terminal, a table in a notebook.

    Args:
        settled: The claims, measured here, in the order of the rows.

    Attributes:
        settled: The claims as given.
    """

    def __init__(self, settled: Iterable[Settled]) -> None:
        self.settled = tuple(settled)

    @property
    def summary(self) -> str:
        """How many claims have each verdict, and how many measurements differ from it."""
        counts = [(verdict, sum(one.claim.verdict is verdict for one in self.settled)) for verdict in Verdict]
        verdicts = ", ".join(f"{count} {MARKS[verdict]} {words}" for verdict, count, words in _plural(counts))
        differing = [one.claim.key for one in self.settled if not one.agrees]
        differ = f"; measured otherwise here: {', '.join(differing)}" if differing else ""
        return f"{verdicts}{differ}"

    def __repr__(self) -> str:
        return "\n".join([*("\n".join(_block(one)) for one in self.settled), self.summary, _measured_on()])

    def _repr_html_(self) -> str:
        heads = ("claim", "verdict", "measured here", "recorded on a GPU")
        head = "".join(f'<th scope="col" style="{_CELL}">{name}</th>' for name in heads)
        body = "".join(_html_row(one) for one in self.settled)
        notes = "".join(f"<div><small>{escape(note)}</small></div>" for note in (self.summary, _measured_on()))
        table = f'<table style="width: 100%"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'
        return folded(table, len(self.settled), "claims") + notes


def verdict_line(claim: Claim) -> str:
    """Returns the verdict of a claim with its mark, and its condition or the right value.

    Args:
        claim: The claim.
    """
    mark = f"{MARKS[claim.verdict]} "
    if claim.verdict is Verdict.HOLDS:
        return f"{mark}holds"
    if claim.verdict is Verdict.HOLDS_IF:
        return f"{mark}holds {claim.correct}"
    return f"{mark}does not hold; right: {claim.correct}"


def claim_lines(settled: Settled) -> list[tuple[str, str]]:
    """Returns all that is known of a claim, as (what, sentence).

    Args:
        settled: The claim, measured here.
    """
    claim = settled.claim
    lines = [("verdict", verdict_line(claim)), ("measured here", settled.finding.shown), ("theory", claim.theory)]
    if not settled.agrees:
        lines.insert(2, ("the measurement says", f"{MARKS[settled.finding.verdict]} {settled.finding.verdict}"))
    return [*lines, *_recorded(settled)]


def claim_html(settled: Settled) -> str:
    """Returns all that is known of a claim as HTML.

    Args:
        settled: The claim, measured here.
    """
    rows = "".join(
        f'<div style="margin: 0.3em 0"><b>{escape(what.capitalize())}:</b> {escape(sentence)}</div>'
        for what, sentence in claim_lines(settled)
    )
    edge = _COLOURS[settled.claim.verdict]
    return f'<div style="border-left: 4px solid {edge}; padding: 0.1em 0.8em; white-space: normal">{rows}</div>'


def claims_markdown(claims: Iterable[Claim]) -> str:
    """Returns claims with verdict and right value as a table in Markdown.

    Args:
        claims: The claims, in the order of the rows.
    """
    rows = [f"| {_markdown(claim.words)} | {_markdown(verdict_line(claim))} |" for claim in claims]
    return "\n".join(["| claim | verdict |", "|---|---|", *rows])


def _plural(counts: Iterable[tuple[Verdict, int]]) -> list[tuple[Verdict, int, str]]:
    several = {Verdict.HOLDS: "hold", Verdict.HOLDS_IF: "hold if", Verdict.DOES_NOT_HOLD: "do not hold"}
    return [(verdict, count, str(verdict) if count == 1 else several[verdict]) for verdict, count in counts if count]


def recorded_words(settled: Settled) -> str:
    """Returns what the records of GPUs say of a claim, and which one is still missing; "" if nothing is to be recorded.

    Args:
        settled: The claim, measured here.
    """
    return "; ".join(sentence if what == "recorded" else f"{what}: {sentence}" for what, sentence in _recorded(settled))


def _recorded(settled: Settled) -> list[tuple[str, str]]:
    told = [("recorded", settled.recorded)] if settled.recorded else []
    return [*told, *([("not recorded yet", settled.claim.owed)] if settled.claim.owed else [])]


def _block(settled: Settled) -> list[str]:
    """Returns a claim as lines of text, without its theory."""
    lines = [f"    {what}: {sentence}" for what, sentence in claim_lines(settled) if what != "theory"]
    return [f"{settled.claim.words} ({settled.claim.key})", *lines, ""]


def _html_row(settled: Settled) -> str:
    claim = settled.claim
    words = f"{escape(claim.words)}<br><small><code>{escape(claim.key)}</code></small>"
    edge = f"border-left: 4px solid {_COLOURS[claim.verdict]}; padding-left: 0.5em"
    verdict = f'<div style="{edge}">{escape(verdict_line(claim))}</div>'
    here = escape(settled.finding.shown)
    if not settled.agrees:
        here += f"<br><b>Measured here: {MARKS[settled.finding.verdict]} {escape(settled.finding.verdict)}</b>"
    cells = (verdict, here, escape(recorded_words(settled)) or "–")
    return (
        f'<tr><th scope="row" style="{_CELL}; width: 26%; font-weight: normal">{words}</th>'
        + "".join(f'<td style="{_CELL}">{cell}</td>' for cell in cells)
        + "</tr>"
    )


def _measured_on() -> str:
    return f"measured on {describe().summary}"


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("*", "\\*").replace("_", "\\_").replace("<", "&lt;")
