"""Every figure is a chart: it says what it shows, uploads nothing, and can be read on a light and on a dark page."""

from __future__ import annotations

import copy
import pickle
import re

import plotly.colors
import plotly.io
import pytest

from mixlab import figures
from mixlab.figures.chart import Chart
from mixlab.machine import HEADLESS_VARIABLE
from mixlab.reports.colours import contrast
from tests.figures.examples import EXAMPLES

BOTH = ("#FFFFFF", "#111111")  # JupyterLab's pages
ON_FILLS = {"colorscale", "textfont", "insidetextfont", "pattern", "fillpattern"}  # tested with their fills
PLOTLY = "application/vnd.plotly.v1+json"


@pytest.fixture(scope="module")
def drawn():
    return {name: make() for name, make in EXAMPLES.items()}


def test_every_figure_has_an_example():
    assert sorted(EXAMPLES) == figures.__all__


@pytest.mark.parametrize("name", EXAMPLES)
def test_it_says_what_it_shows(drawn, name):
    figure = drawn[name]
    assert isinstance(figure, Chart)
    assert re.search(r"\d", figure.summary), "computed from the data"
    assert figure.summary.endswith(".")
    assert not re.search(r"<|&\w+;|nan\b", figure.summary)


@pytest.mark.parametrize("name", EXAMPLES)
def test_lines_and_marks_stand_out_on_both_pages(drawn, name):
    spec = drawn[name].to_plotly_json()
    spec["layout"] = {key: value for key, value in spec["layout"].items() if key not in ("template", "hoverlabel")}
    found = {colour for colour, path in colours_in(spec) if not ON_FILLS & set(path)}
    faint = {(colour, page) for colour in found for page in BOTH if contrast(colour, page) < 3}
    assert not faint


def colours_in(part, path=()):
    """Yields each opaque colour in a figure, with the keys that lead to it."""
    if isinstance(part, dict):
        for key, value in part.items():
            yield from colours_in(value, (*path, key))
    elif isinstance(part, (list, tuple)):
        for value in part:
            yield from colours_in(value, path)
    elif isinstance(part, str) and re.fullmatch(r"#[0-9A-Fa-f]{6}|white|black", part):
        yield part, path


@pytest.mark.parametrize("name", EXAMPLES)
def test_text_on_bars_and_cells_is_read_on_their_colour_and_their_pattern(drawn, name):
    for trace in drawn[name].data:
        if trace.type == "bar" and trace.textposition == "inside":
            ink = trace.insidetextfont.color
            assert min(contrast(ink, trace.marker.color), contrast(ink, trace.marker.pattern.fgcolor)) >= 4.5
        if trace.type == "heatmap" and trace.texttemplate:
            assert not list(faint_cells(trace))


def faint_cells(heat):
    """Yields the cells whose text is not read on their colour."""
    for shades, texts in zip(heat.z, heat.text, strict=True):
        for shade, text in zip(shades, texts, strict=True):
            if text:
                (fill,) = plotly.colors.sample_colorscale(list(map(list, heat.colorscale)), [shade / heat.zmax])
                fill = "#" + "".join(f"{int(part):02X}" for part in re.findall(r"\d+", fill)[:3])
                own = re.search(r"color:(\w+)", text)
                if contrast(own[1] if own else heat.textfont.color, fill) < 4.5:
                    yield text, fill


def test_a_faint_cell_is_found(drawn):
    heat = copy.deepcopy(drawn["weight_map"].data[0])
    heat.text = [[text.replace("white", "black") for text in row] for row in heat.text]
    assert list(faint_cells(heat))


@pytest.mark.parametrize("name", EXAMPLES)
def test_its_title_fits_into_a_narrow_page(drawn, name):
    for line in drawn[name].layout.title.text.split("<br>"):
        assert len(line.removeprefix("<sub>").removesuffix("</sub>")) <= (88 if "<sub>" in line else 66)


def test_a_long_title_is_broken_between_words():
    shown = figures.useful_shares([1], {"a": [0.5]}, title="word " * 30)
    assert [len(line) <= 66 for line in shown.layout.title.text.split("<br>")] == [True] * 3


def test_a_chart_stays_one_when_it_is_changed_copied_and_pickled(drawn):
    figure = copy.deepcopy(drawn["number_line"]).update_layout(title="Mine", height=200)
    for other in (figure, copy.copy(figure), pickle.loads(pickle.dumps(figure))):
        assert isinstance(other, Chart)
        assert (other.layout.title.text, other.summary) == ("Mine", drawn["number_line"].summary)
    assert copy.deepcopy(figure).update_layout(meta="a note").summary == "", "meta is the user's to set"


def test_names_are_kept_as_they_are_in_a_summary():
    shown = figures.useful_shares([1], {"a <b> & %{y}": [0.5]}, title="Shares")
    assert "a <b> & %{y} from 50% to 50%" in shown.summary


@pytest.fixture
def outputs(monkeypatch):
    """What a notebook publishes: HTML objects, and the data of other outputs."""
    monkeypatch.setattr(plotly.io.renderers, "default", "plotly_mimetype")
    found = []
    monkeypatch.setattr("IPython.display.display", lambda shown, **_raw: found.append(shown))
    return found


def test_a_notebook_gets_the_page_and_a_figure_that_nobody_can_upload(drawn, outputs, monkeypatch):
    monkeypatch.delenv(HEADLESS_VARIABLE, raising=False)
    drawn["number_line"]._ipython_display_()
    page, shown = outputs
    assert page.data == Chart.on_page
    config = shown[PLOTLY]["config"]
    assert (config["displaylogo"], config["plotlyServerURL"]) == (False, "")
    assert config["modeBarButtons"] == [["toImage", "resetScale2d"]]
    assert shown["text/plain"] == drawn["number_line"].summary


def test_headless_there_is_the_figure_alone(drawn, outputs, monkeypatch):
    monkeypatch.setenv(HEADLESS_VARIABLE, "1")
    drawn["number_line"]._ipython_display_()
    assert [set(data) for data in outputs] == [{"text/plain", PLOTLY}]


def test_shown_by_hand_it_comes_with_the_page_and_nothing_can_be_uploaded_either(drawn, outputs, monkeypatch):
    monkeypatch.delenv(HEADLESS_VARIABLE, raising=False)
    drawn["number_line"].show(config={"scrollZoom": True})
    page, shown = outputs
    assert page.data == Chart.on_page
    assert shown[PLOTLY]["config"]["plotlyServerURL"] == ""
    assert shown[PLOTLY]["config"]["scrollZoom"] is True
