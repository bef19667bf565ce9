"""What panels share."""

from __future__ import annotations

import re
from pathlib import Path

import ipywidgets as widgets
import pytest

from mixlab.panels import base
from mixlab.panels.base import MODES, Binding, ErrorBox, NotAllowedError, mode_of, require_allowed_whole, script
from mixlab.recipes import PRESETS, Recipe
from mixlab.reports.colours import SERIES

ALONE = {"shared.js", "presence.js", "held.js", "group.js"}  # they draw nothing
SCRIPTS = sorted(path.name for path in Path(base.__file__).parent.glob("*.js") if path.name not in ALONE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_needs_no_other_file_and_says_nothing_twice(name: str):
    joined = script(name)
    assert not re.search(r"^import ", joined, re.MULTILINE)
    assert joined.count("export default") == 1
    functions = re.findall(r"^(?:export )?function (\w+)", joined, re.MULTILINE)
    assert len(functions) == len(set(functions))
    assert {"html", "svg", "live"} < set(functions)


STYLES = sorted(path.name for path in Path(base.__file__).parent.glob("*.css"))


@pytest.mark.parametrize("name", STYLES)
def test_a_stylesheet_has_the_colours_of_the_page_and_of_the_palette(name: str):
    written = (Path(base.__file__).parent / name).read_text(encoding="utf-8")
    own = re.sub(r"var\(--jp-[^()]*\)", "", written)  # what stands there for pages without JupyterLab's colours
    found = {colour.upper() for colour in re.findall(r"#[0-9a-fA-F]{3,8}\b", own)}
    assert found <= {"#FFF", "#000", *SERIES}


def test_no_panel_has_a_box_or_slider_that_changes_what_was_typed_or_has_no_name():
    """Those of ipywidgets and of the browser do; `TextBox` and `typedBox` refuse in words."""
    folder = Path(base.__file__).parent
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".py", ".js")
    }
    kinds = re.compile(r'widgets\.(Bounded)?(Int|Float)\w*|type: "number"')
    assert {name: found.group() for name, source in sources.items() if (found := kinds.search(source))} == {}


def test_every_icon_is_left_out_of_the_names_of_buttons():
    folder = Path(base.__file__).parent
    sources = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    used = re.findall(r'icon="([a-z-]+)"|\("[A-Z][a-z ]+", "([a-z-]+)"\)', sources)
    rules = (folder / "presence.css").read_text(encoding="utf-8")
    silent = re.findall(r'\.fa-([a-z-]+)::before \{ content: "[^"]+" / ""; \}', rules)
    assert {one or other for one, other in used} == set(silent) > {"play", "pause", "caret-down"}


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


def test_a_wrong_number_is_not_allowed():
    require_allowed_whole("Panel: k", 3, 1)
    with pytest.raises(NotAllowedError, match=r"Panel: k must be a whole number from 1 up, got 0"):
        require_allowed_whole("Panel: k", 0, 1)
