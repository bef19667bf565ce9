"""What panels share."""

from __future__ import annotations

from functools import partial

import ipywidgets as widgets
import pytest

from mixlab import panels
from mixlab.panels.base import MODES, Binding, ErrorBox, mode_of
from mixlab.panels.presence import Present
from mixlab.recipes import PRESETS, Recipe


def test_every_widget_of_the_room_keeps_its_keys_and_says_when_its_kernel_is_gone():
    kinds = [kind for kind in map(partial(getattr, panels), panels.__all__) if isinstance(kind, type)]
    shown = [kind for kind in kinds if issubclass(kind, widgets.Widget)]
    assert len(shown) > 10
    assert [kind.__name__ for kind in shown if not issubclass(kind, Present)] == []


@pytest.mark.parametrize("name", PRESETS)
def test_a_mode_is_a_preset_whatever_its_scaler(name: str):
    assert mode_of(PRESETS[name]) == mode_of(PRESETS[name].with_scaler("static")) == name
    assert name in MODES.values()


def test_any_other_recipe_is_no_mode():
    assert mode_of(Recipe.parse("fp32,exp_avg=bf16")) == ""


def test_a_bound_control_answers_the_reader_and_not_the_panel():
    errors, box, taken = ErrorBox(), widgets.BoundedIntText(value=1, max=9), []
    binding = Binding(errors, lambda: None)
    binding.on_change(box, taken.append)
    with binding.silent():
        box.value = 2
    assert taken == []
    box.value = 3
    assert taken == [3]


def test_a_bound_control_can_set_an_attribute():
    owner, box = widgets.IntText(), widgets.BoundedIntText(value=1, max=9)
    Binding(ErrorBox(), lambda: None).on_change_set(owner, "value", box, lambda value: 10 * value)
    box.value = 3
    assert owner.value == 30


def test_a_refused_change_is_taken_back_and_shown():
    errors, box = ErrorBox(), widgets.BoundedIntText(value=1, max=9)

    def restore() -> None:
        with binding.silent():
            box.value = 1

    def refuse(value: int) -> None:
        raise ValueError(f"not {value}")

    binding = Binding(errors, restore)
    binding.on_change(box, refuse)
    box.value = 3
    assert box.value == 1
    assert str(errors.last_error) == "not 3"
