from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mixlab import Recipe, load_task
from mixlab.experiments import Recording, follow_weight, record_gradients
from mixlab.formats import BF16
from mixlab.panels import Microscope, StateControls


@pytest.fixture(scope="module")
def recording() -> Recording:
    return record_gradients(replace(load_task("digits-cnn"), lr=1e-4), steps=60)


def test_it_draws_exact_and_stored(recording):
    panel = Microscope(recording, StateControls("fp32,exp_avg_sq=bf16"))
    exact, stored = panel.charts.finished
    assert (exact["label"], stored["label"]) == ("exact (fp32)", "as stored: fp32,exp_avg_sq=bf16")
    assert exact["color"] != stored["color"]
    for chart in panel.charts.charts:
        assert len(stored[chart["column"]]) == len(stored["step"]) == 60
    assert json.dumps(panel.charts.get_state(["finished", "charts"]), allow_nan=False)
    assert panel.exact == follow_weight(recording, Recipe())
    assert panel.charts.summary == panel.status


def test_it_follows_the_controls(recording):
    controls = StateControls()
    panel = Microscope(recording, controls)
    assert panel.stored == panel.exact
    assert panel.exact.moved == 60
    knobs = controls.recipe_controls.controls
    knobs["weights"].value = BF16
    assert panel.stored.moved == 0
    assert "60 steps at lr 0.0001. Exact: the weight goes from" in repr(panel)
    assert "it moves in 0 steps, by +0. Half the gap to its next bf16 value is" in repr(panel)
    controls._lr.value = 1e-2
    assert panel.stored.moved > 20
    knobs["exp_avg_sq"].value = BF16
    assert "v in bf16 cannot fall: 0.1% of it is less than half a gap." in panel.status
    knobs["state_rounding"].value = "stochastic"
    assert "v in bf16 falls by chance, but correctly on average" in panel.status


def test_a_spike_comes_after_a_third(recording):
    controls = StateControls(spike=True)
    panel = Microscope(recording, controls)
    assert panel.exact.exp_avg_sq[20] > 1000 * panel.exact.exp_avg_sq[19]
    controls._spike.value = False
    assert panel.exact.exp_avg_sq[20] < 10 * panel.exact.exp_avg_sq[19]


def test_what_becomes_nan_is_a_gap(recording):
    panel = Microscope(recording, StateControls("fp16", spike=True))
    assert None in panel.charts.finished[1]["change"]
