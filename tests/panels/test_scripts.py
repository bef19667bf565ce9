"""Scripts and stylesheets of the panels, as they are written."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mixlab.panels import scripts
from mixlab.panels.scripts import script
from mixlab.reports.colours import SERIES

ALONE = {"shared.js", "presence.js", "held.js", "group.js"}  # they draw nothing
SCRIPTS = sorted(path.name for path in Path(scripts.__file__).parent.glob("*.js") if path.name not in ALONE)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_needs_no_other_file_and_says_nothing_twice(name: str):
    joined = script(name)
    assert not re.search(r"^import ", joined, re.MULTILINE)
    assert joined.count("export default") == 1
    functions = re.findall(r"^(?:export )?function (\w+)", joined, re.MULTILINE)
    assert len(functions) == len(set(functions))
    assert {"html", "svg", "live"} < set(functions)


STYLES = sorted(path.name for path in Path(scripts.__file__).parent.glob("*.css"))


@pytest.mark.parametrize("name", STYLES)
def test_a_stylesheet_has_the_colours_of_the_page_and_of_the_palette(name: str):
    written = (Path(scripts.__file__).parent / name).read_text(encoding="utf-8")
    own = re.sub(r"var\(--jp-[^()]*\)", "", written)  # what stands there for pages without JupyterLab's colours
    found = {colour.upper() for colour in re.findall(r"#[0-9a-fA-F]{3,8}\b", own)}
    assert found <= {"#FFF", "#000", *SERIES}


def test_no_panel_has_a_box_or_slider_that_changes_what_was_typed_or_has_no_name():
    """Those of ipywidgets and of the browser do; `TextBox` and `typedBox` refuse in words."""
    folder = Path(scripts.__file__).parent
    sources = {
        path.name: path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".py", ".js")
    }
    kinds = re.compile(r'widgets\.(Bounded)?(Int|Float)\w*|type: "number"')
    assert {name: found.group() for name, source in sources.items() if (found := kinds.search(source))} == {}


def test_every_icon_is_left_out_of_the_names_of_buttons():
    folder = Path(scripts.__file__).parent
    sources = "\n".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    used = re.findall(r'icon="([a-z-]+)"|\("[A-Z][a-z ]+", "([a-z-]+)"\)', sources)
    rules = (folder / "presence.css").read_text(encoding="utf-8")
    silent = re.findall(r'\.fa-([a-z-]+)::before \{ content: "[^"]+" / ""; \}', rules)
    assert {one or other for one, other in used} == set(silent) > {"play", "pause", "caret-down"}
