"""A quiz on claims: predict a verdict, then see the claim measured."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from functools import partial
from html import escape

import ipywidgets as widgets

from mixlab.arguments import did_you_mean
from mixlab.claims import CLAIMS, Claim, Settled, Verdict, settle
from mixlab.panels.base import Binding, Panel, button, in_a_row, status_html
from mixlab.panels.kept_answers import Asked, KeptAnswers
from mixlab.reports import claim_html, verdict_line


class ClaimQuiz(Panel):
    """Shows one claim at a time. The reader predicts its verdict; then it is measured, and its verdict appears.

    Args:
        claims: The claims, in order; at least one. Default: all.
        kept: Where the chosen verdicts are kept, such as `Lab.answers`; None keeps none.

    Attributes:
        claim: The claim that is shown.
        predictions: The predicted verdict of each claim that was revealed, by key; None if it was revealed without.

    Raises:
        ValueError: If there are no claims.
    """

    def __init__(self, claims: Sequence[Claim] = CLAIMS, *, kept: KeptAnswers | None = None) -> None:
        if not claims:
            raise ValueError("ClaimQuiz: no claims; give at least one, such as CLAIMS[:5]")
        self._claims = {claim.key: claim for claim in claims}
        self.claim = claims[0]
        self.predictions: dict[str, Verdict | None] = {}
        self._kept = KeptAnswers(None) if kept is None else kept
        for claim in claims:
            right = str(claim.verdict)
            self._kept.ask(Asked("predictions", claim.key, claim.words, right, partial(operator.eq, right)))
        super().__init__()
        self._binding = Binding(self.errors, self._show)
        layout = {"width": "auto"}
        self._words, self._result, self._score = widgets.HTML(), widgets.HTML(), widgets.HTML()
        self._choice = widgets.RadioButtons(options=[(str(v), v) for v in Verdict], value=None, layout=layout)
        self._choice.description, self._choice.style = "Your prediction", {"description_width": "8em"}
        self._before = button("Previous", "The claim before", icon="arrow-left")
        self._reveal = button("Measure and reveal", "Measures the claim here and shows its verdict", width="13em")
        self._reveal.button_style = "primary"
        self._after = button("Next", "The claim after", icon="arrow-right")
        choice = self._binding.on_change(self._choice, self._chosen)
        for pressed, act in ((self._before, self.back), (self._reveal, self.reveal), (self._after, self.go_on)):
            pressed.on_click(self.errors.guard(lambda _button, act=act: act()))
        buttons = in_a_row(self._before, self._reveal, self._after)
        self.children = [self._words, choice, buttons, self.errors, self._result, self._score]
        self._show()

    @property
    def revealed(self) -> Settled | None:
        """The claim that is shown, measured; None before it was revealed."""
        return settle(self.claim) if self.claim.key in self.predictions else None

    @property
    def score(self) -> tuple[int, int]:
        """How many predictions were right, and how many were made."""
        made = {key: verdict for key, verdict in self.predictions.items() if verdict is not None}
        return sum(verdict is self._claims[key].verdict for key, verdict in made.items()), len(made)

    @property
    def status(self) -> str:
        """The claim that is shown, its verdict once it was revealed, and the score, in words."""
        shown = self.revealed
        verdict = f"{verdict_line(shown.claim)}. Measured here: {shown.finding.shown}" if shown else "not revealed yet"
        return f"claim {self._place + 1} of {len(self._claims)}: {self.claim.words} {verdict} {self._score_words()}"

    def choose(self, key: str) -> None:
        """Shows a claim.

        Args:
            key: Its key, such as "bytes-per-number".

        Raises:
            ValueError: If the quiz has no such claim.
        """
        if key not in self._claims:
            near = did_you_mean(key, self._claims)
            raise ValueError(f"ClaimQuiz: unknown claim {key!r}: {near}choose from {', '.join(self._claims)}")
        self.claim = self._claims[key]
        self._show()

    def back(self) -> None:
        """Shows the claim before; the last one if this is the first."""
        self._move(-1)

    def go_on(self) -> None:
        """Shows the claim after; the first one if this is the last."""
        self._move(1)

    def predict(self, verdict: Verdict | str) -> None:
        """Chooses a verdict as the prediction, as the reader does; after the claim was revealed it stays as it was.

        Args:
            verdict: The verdict, or its words, such as "holds if".

        Raises:
            ValueError: If there is no such verdict.
        """
        chosen = Verdict(verdict)
        if self.revealed is None:
            self._choice.value = chosen

    def reveal(self) -> None:
        """Measures the claim, which takes up to a few seconds, and shows its verdict."""
        if self.revealed is None:
            self._reveal.disabled = True
            self._result.value = status_html("measuring ...")
            try:
                settle(self.claim)
            except Exception:
                self._result.value = ""
                self._enable()
                raise
            self.predictions[self.claim.key] = self._choice.value
            self._show()

    def _chosen(self, verdict: Verdict | None) -> None:
        if verdict is not None:
            self._kept.set("predictions", self.claim.key, str(verdict))
        self._enable()

    def _choice_of(self, key: str) -> Verdict | None:
        """Returns the verdict that was chosen for a claim, in this kernel or before."""
        if key in self.predictions:
            return self.predictions[key]
        kept = self._kept.get("predictions", key)
        return next((verdict for verdict in Verdict if verdict.value == kept), None)

    @property
    def _place(self) -> int:
        return list(self._claims).index(self.claim.key)

    def _move(self, by: int) -> None:
        keys = list(self._claims)
        self.choose(keys[(self._place + by) % len(keys)])

    def _show(self) -> None:
        claim, shown = self.claim, self.revealed
        place = f"Claim {self._place + 1} of {len(self._claims)}, from “{claim.place}”"
        words = f'<b style="font-size: 1.2em; white-space: normal">“{escape(claim.words)}”</b>'
        self._words.value = status_html(f'<div style="opacity: 0.8">{escape(place)}</div>{words}')
        with self._binding.silent():
            self._choice.value = self._choice_of(claim.key)
        self._choice.disabled = shown is not None
        self._result.value = status_html(self._answer(shown) if shown else "")
        any_choice = self.predictions or self._choice.value is not None
        hint = "" if any_choice else "Choose a verdict; then the claim can be measured."
        self._score.value = escape(hint or self._score_words())
        self._enable()

    def _answer(self, shown: Settled) -> str:
        predicted = self.predictions[shown.claim.key]
        if predicted is None:
            return claim_html(shown)
        right = predicted is shown.claim.verdict
        return f"<b>{'Your prediction is right.' if right else 'Not so.'}</b>{claim_html(shown)}"

    def _score_words(self) -> str:
        right, made = self.score
        return f"{right} of {made} predictions right; {len(self._claims) - len(self.predictions)} claims left."

    def _enable(self) -> None:
        self._reveal.disabled = self._choice.value is None or self.revealed is not None
