"""Controls for a recipe: the simple ones, all others unfolded, and a box with the recipe's text to share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from html import escape
from typing import Any

import ipywidgets as widgets

from mixlab.panels.base import MODES, ErrorBox, button, in_a_row, labelled, mode_of
from mixlab.panels.groups import group
from mixlab.panels.knobs import MORE, SIMPLE, control, named
from mixlab.panels.presence import Present
from mixlab.panels.recipe_turns import idle, turned
from mixlab.panels.text_box import LABELS, WIDTH, TextBox
from mixlab.recipes import KNOBS, PRESETS, Recipe


class RecipeControls(Present, widgets.VBox):  # type: ignore[misc]
    """Shows and changes a recipe; the controls never hold an invalid one.

    A refused change is answered at its control. A text that cannot be read stays in its box until another control
    replaces it, and `require_readable` refuses to go on meanwhile. Turning one knob moves others only where they would
    contradict it, and the controls say which.

    Args:
        recipe: The recipe at first, or its text.
        simple: Fields of `Recipe` that are always in sight.
        more: Fields that are unfolded, by the heading of their group.
        modes: Whether the presets are offered as modes.

    Attributes:
        changed: Functions without arguments to call after every change; may be appended to.
        controls: The control of each field, and of "mode" and "share".
        note: A widget for the page to place: what else a change has moved.
        optimizer: "sgd", "adam" or "adamw"; set it to show which moments it has.
    """

    def __init__(
        self,
        recipe: Recipe | str,
        *,
        simple: Sequence[str] = SIMPLE,
        more: Mapping[str, Sequence[str]] = MORE,
        modes: bool = True,
    ) -> None:
        self._recipe = Recipe.of(recipe)
        self._optimizer = "adam"
        self.changed: list[Callable[[], object]] = []
        self.controls: dict[str, Any] = {}
        self.rows: dict[str, Any] = {}
        self.note = widgets.HTML()
        self._errors: list[ErrorBox] = []  # of the controls that hold no text
        self._silent = False
        if modes:
            mode = labelled(widgets.Dropdown, "Mode", labels=LABELS, width=WIDTH, options=MODES)
            self._bind("mode", mode, lambda name: PRESETS[name] if name else self._recipe)
        for field in (*simple, *(field for names in more.values() for field in names)):
            self._bind_field(field)
        self.share = TextBox(
            "Share",
            self._recipe,
            read=Recipe.parse,
            take=self._take,
            width="100%",
        )
        self.controls["share"] = self.share
        first = ["mode"] * modes + list(simple)
        self.simple = group("Recipe", [self.rows[field] for field in first], visible=False)
        groups = [_group(title, [self.rows[field] for field in names]) for title, names in more.items()]
        self._groups = in_a_row(*groups)
        self._unfold = button("More knobs", "Shows or hides all other knobs", icon="caret-right", width="max-content")
        self._unfold.on_click(lambda _button: self._fold(self._groups.layout.display != "none"))
        self.more = widgets.VBox([self._unfold, self._groups])
        self._fold(True)
        self._show()
        super().__init__([self.simple, *[self.more] * bool(more), self.share, self.note])

    @property
    def recipe(self) -> Recipe:
        """The recipe that is shown; may be set."""
        return self._recipe

    @recipe.setter
    def recipe(self, recipe: Recipe) -> None:
        self._take(recipe)

    @property
    def optimizer(self) -> str:
        return self._optimizer

    @optimizer.setter
    def optimizer(self, optimizer: str) -> None:
        self._optimizer = optimizer
        self._enable()

    def __repr__(self) -> str:
        return f"RecipeControls: {self._recipe}"

    def require_readable(self) -> None:
        """Checks that no box holds a text that was refused.

        Raises:
            ValueError: If one does.
        """
        require_readable(self.controls.values())

    def add(self, title: str, rows: Sequence[widgets.Widget]) -> None:
        """Adds a group of other controls to those that are unfolded.

        Args:
            title: Its heading.
            rows: Its controls.
        """
        self._groups.children = [*self._groups.children, _group(title, rows)]

    def _fold(self, folded: bool) -> None:
        self._groups.layout.display = "none" if folded else None
        self._unfold.description, self._unfold.icon = (
            ("More knobs", "caret-right") if folded else ("Fewer knobs", "caret-down")
        )

    def _bind(self, field: str, shown: Any, change: Callable[[Any], Recipe]) -> None:
        errors = ErrorBox()
        self._errors.append(errors)

        def turn(event: Any) -> None:
            if not self._silent:
                try:
                    self._take(change(event["new"]), field)
                except Exception:
                    self._show()
                    raise

        self.controls[field], self.rows[field] = shown, widgets.VBox([shown, errors])
        shown.observe(errors.guard(turn), "value")

    def _bind_field(self, field: str) -> None:
        def turn(value: Any) -> Recipe:
            return turned(self._recipe, field, value)

        shown = control(field, getattr(self._recipe, field), lambda value: self._take(turn(value), field))
        if isinstance(shown, TextBox):
            self.controls[field] = self.rows[field] = shown
        else:
            self._bind(field, shown, turn)

    def _take(self, recipe: Recipe, field: str = "") -> None:
        """Takes a recipe; `field` is the knob that was turned, if it was one."""
        moved = [] if field in ("", "mode", "scaler") else _differences(self._recipe, recipe, field)
        words = f"Changed with it: {escape(', '.join(moved))}." if moved else ""
        self.note.value = f'<span style="opacity: 0.8">{words}</span>' if words else ""
        self._recipe = recipe
        for errors in self._errors:
            errors.show(None)
        self._show()
        self.keep_still()
        for told in self.changed:
            told()

    def _show(self) -> None:
        self._silent = True
        try:
            for field, shown in self.controls.items():
                if isinstance(shown, TextBox):
                    value = self._recipe if field == "share" else getattr(self._recipe, field)
                    shown.follow(value)
                else:
                    shown.value = mode_of(self._recipe) if field == "mode" else getattr(self._recipe, field)
        finally:
            self._silent = False
        self._enable()

    def _enable(self) -> None:
        """Hides the knobs that the scaler lacks, and disables those without effect."""
        for field in self.controls.keys() - {"mode", "share"}:
            why = idle(self._recipe, field, optimizer=self._optimizer)
            shown = self.controls[field]
            shown.disabled = bool(why)
            if not isinstance(shown, TextBox):
                shown.tooltip = why
            elif why:
                shown.show(getattr(self._recipe, field))  # nobody could mend a refused text here
            lacks = why and field not in SIMPLE and any(field in knobs for knobs in KNOBS.values())
            self.rows[field].layout.display = "none" if lacks else None
        for box in self._groups.children:
            box.layout.display = "none" if all(row.layout.display == "none" for row in box.children[1:]) else "flex"


def _differences(before: Recipe, after: Recipe, field: str) -> list[str]:
    """Returns what else has changed, in the words of the controls."""
    names = [one.name for one in fields(Recipe) if one.name != field]
    return [named(name, getattr(after, name)) for name in names if getattr(after, name) != getattr(before, name)]


def require_readable(controls: Any) -> None:
    """Checks that no box among these controls holds a text that was refused.

    Args:
        controls: Any widgets.

    Raises:
        ValueError: If one does.
    """
    for shown in controls:
        if isinstance(shown, TextBox) and shown.error:
            raise ValueError(f"{shown.label} holds {shown.value!r:.60}, which was refused; mend it first")


def _group(title: str, rows: Sequence[Any]) -> widgets.Box:
    box = group(title, rows)
    box.layout.margin = "0 1em 0.5em 0"
    return box
