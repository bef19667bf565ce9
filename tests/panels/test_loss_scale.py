"""The loss-scale panel without a browser: what it sends, takes, refuses, and how it fails."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from mixlab.formats import FORMATS, FP16
from mixlab.panels import LossScalePanel
from mixlab.panels.loss_scale import FORMAT_NAMES, SCALE_EXPONENTS
from mixlab.panels.presence import bundle_of
from mixlab.probes import TensorStats, tensor_stats, track
from mixlab.reports import status_line
from mixlab.training import load_task


@pytest.fixture(scope="module")
def probe() -> track:
    task = load_task("digits-mlp", loss_weight=1e-6)
    model = task.seeded_model(0)
    with track(model) as probe:
        (task.loss_and_metric(model, task.batch(0, 0))[0] * task.loss_weight).backward()
    return probe


@pytest.fixture
def panel(probe: track) -> LossScalePanel:
    return LossScalePanel(probe, scale_exponent=10)


def test_it_opens_on_all_gradients(panel: LossScalePanel, probe: track):
    assert (panel.scale_exponent, panel.format, panel.layer, panel.kind) == (10, "fp16", "all", "gradient")
    assert panel.status == status_line(probe.total("gradient"), FP16, 10)
    assert panel.last_error is None


def test_it_prints_as_its_sentence(panel: LossScalePanel):
    assert repr(panel) == panel.status
    bundle, _ = panel._repr_mimebundle_()
    assert bundle["text/plain"] == panel.status
    assert bundle_of(panel)[0]["text/plain"] == panel.status


@pytest.mark.parametrize("fmt", FORMAT_NAMES)
@pytest.mark.parametrize(
    ("layer", "kind"), [("all", "gradient"), ("output", "weight_gradient"), ("hidden1", "activation")]
)
def test_every_sentence_sent_is_the_status(panel: LossScalePanel, fmt: str, layer: str, kind: str):
    panel.format, panel.layer, panel.kind = fmt, layer, kind
    assert panel.last_error is None
    for k, sentence in zip(SCALE_EXPONENTS, panel._drawing["sentences"], strict=True):
        panel.scale_exponent = k
        assert panel.status == sentence
    assert len(json.dumps([panel._drawing, panel._choices])) < 100_000


def test_a_scale_move_sends_nothing_but_the_scale(panel: LossScalePanel):
    drawn: list[Any] = []
    panel.observe(drawn.append, "_drawing")
    panel.set_state({"scale_exponent": 12})
    assert panel.scale_exponent == 12
    assert drawn == []


def test_the_browser_changes_what_is_shown(panel: LossScalePanel, probe: track):
    panel.set_state({"format": "e5m2"})
    panel.set_state({"layer": "hidden3"})
    assert panel.status == status_line(probe["hidden3", "gradient"], FORMATS["e5m2"], 10)
    assert panel._drawing["sentences"][10 - SCALE_EXPONENTS[0]] == panel.status


def test_a_drawing_is_made_once(panel: LossScalePanel):
    for fmt in ("bf16", "fp16", "bf16", "fp16"):
        panel.format = fmt
    assert panel._draw.cache_info().misses == 2


def test_a_layer_cannot_be_called_like_the_total_by_accident(probe: track):
    panel = LossScalePanel([probe["hidden1", "gradient"], probe["hidden2", "gradient"]])
    assert panel._choices["layers"] == [("all", "all layers"), ("hidden1", "hidden1"), ("hidden2", "hidden2")]
    with pytest.raises(ValueError, match="a layer called 'all'"):
        LossScalePanel([tensor_stats(torch.ones(1), layer="all")])


def test_the_totals_of_track_are_taken_for_what_they_are(probe: track):
    assert LossScalePanel([probe["hidden1", "gradient"]]).kind == "gradient"
    assert LossScalePanel([probe["hidden1", "activation"]]).kind == "activation"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("scale_exponent", 65, "scale_exponent must be a whole number from -24 to 64, got 65"),
        ("scale_exponent", -25, "scale_exponent must be a whole number from -24 to 64, got -25"),
        ("scale_exponent", 1.0, "scale_exponent must be a whole number from -24 to 64, got 1.0"),
        ("scale_exponent", float("nan"), "scale_exponent must be a whole number from -24 to 64, got nan"),
        ("scale_exponent", True, "scale_exponent must be a whole number from -24 to 64, got True"),
        ("scale_exponent", "10", "scale_exponent must be a whole number from -24 to 64, got '10'"),
        ("format", "fp17", "format must be one of fp16, bf16, e5m2, e4m3fn, fp32, got 'fp17'"),
        ("format", None, "format must be one of fp16, bf16, e5m2, e4m3fn, fp32, got None"),
        ("layer", "hidden9", "layer must be one of all, hidden1, "),
        ("layer", ["all"], "layer must be one of all, hidden1, "),
        ("kind", "weight", "kind must be one of gradient, weight_gradient, activation, got 'weight'"),
    ],
)
def test_a_wrong_choice_is_refused_and_leaves_all_as_it_was(panel: LossScalePanel, name: str, value: Any, says: str):
    before = panel.status
    with pytest.raises(ValueError, match=r"^LossScalePanel: ") as refused:
        setattr(panel, name, value)
    assert says in str(refused.value)
    assert panel.status == before

    panel.set_state({name: value})
    assert says in str(panel.last_error)
    assert says in panel._error
    assert panel.status == before
    panel.set_state({"format": "bf16"})
    assert (panel.last_error, panel._error) == (None, "")


@pytest.mark.parametrize(("arguments", "says"), [({"fmt": "fp17"}, "got 'fp17'"), ({"scale_exponent": 99}, "got 99")])
def test_the_constructor_refuses_the_same(probe: track, arguments: dict[str, Any], says: str):
    with pytest.raises(ValueError, match=says):
        LossScalePanel(probe, **arguments)


@pytest.mark.parametrize(
    ("stats", "error", "says"),
    [
        ([], ValueError, "stats is empty; run forward and backward"),
        ([1], TypeError, "stats must hold TensorStats, got int"),
        (None, TypeError, "stats must be what track saw, or a list of TensorStats, got NoneType"),
        (torch.ones(2), TypeError, "stats must hold TensorStats, got Tensor"),
    ],
)
def test_wrong_stats_are_refused(stats: Any, error: type[Exception], says: str):
    with pytest.raises(error, match=says):
        LossScalePanel(stats)


def test_a_kind_that_a_layer_lacks_is_refused():
    stats = [tensor_stats(torch.ones(2), layer="a"), tensor_stats(torch.ones(2), layer="b", kind="activation")]
    panel = LossScalePanel(stats)
    with pytest.raises(ValueError, match="layer 'b' has no 'gradient'; it has activation"):
        panel.layer = "b"
    panel.kind = "activation"
    panel.layer = "b"
    with pytest.raises(ValueError, match="layer 'b' has no 'gradient'; it has activation"):
        panel.kind = "gradient"


def test_entries_of_one_layer_add_up():
    once = tensor_stats(torch.ones(3), layer="a")
    assert LossScalePanel([once, once])._drawing["details"].startswith("Gradients of all layers: 6 non-zero")


def test_an_error_while_drawing_shows_and_goes_again(panel: LossScalePanel):
    def fail(*_: object) -> dict[str, Any]:
        raise RuntimeError("no such luck")

    working, panel._draw = panel._draw, fail
    panel.format = "bf16"
    assert isinstance(panel.last_error, RuntimeError)
    assert panel._error == "RuntimeError: no such luck"
    panel._draw = working
    panel.format = "e5m2"
    assert (panel.last_error, panel._error) == (None, "")


def test_formats_may_be_given_as_data(probe: track):
    assert LossScalePanel(probe, fmt=FORMATS["e4m3fn"]).format == "e4m3fn"


def test_a_layer_without_any_value_can_be_shown():
    empty: TensorStats = tensor_stats(torch.zeros(4), layer="dead")
    assert repr(LossScalePanel([empty])).startswith("At scale 2⁰: there are no non-zero finite gradients to count")
