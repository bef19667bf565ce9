from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mixlab import PRESETS, Recipe
from mixlab.figures.state_grid import moment_map, weight_map
from mixlab.records import Record, Series, shipped, this_machine
from mixlab.state_grid import Setting, moment_settings, weight_settings


def made(losses, **notes):
    """Returns a record of losses by setting; all settings that are not named end at 1 and 2."""
    settings = dict.fromkeys((*moment_settings(), *weight_settings()), (1.0, 2.0)) | losses
    series = [Series(f"{setting}, loss", "nats", values) for setting, values in settings.items() if values]
    parameters = {"task": "digits-adam", "steps": 9, "seeds": 2, "threads": 1, **notes}
    return Record("states", this_machine(), "2026-01-31T12:00:00+00:00", 0, "typed", parameters, tuple(series))


V_BF16 = Setting(Recipe.parse("fp32,exp_avg_sq=bf16"))
V_FP16 = Setting(Recipe.parse("fp32,exp_avg_sq=fp16"))


def test_cells_are_ratios_seed_by_seed():
    figure = moment_map(made({V_BF16: (3.0, 4.0)}))
    nearest, stochastic = figure.data
    assert nearest.y == nearest.x == ("fp32", "fp16", "bf16", "e4m3fn", "e5m2", "dynamic8")
    column = nearest.x.index("bf16")
    assert nearest.text[0][column] == "<b>2.5</b><br>2–3"
    assert nearest.z[0][column] == pytest.approx(math.log(2.5))
    assert nearest.z[0][0] == stochastic.z[0][column] == 0
    assert (
        "fp32,exp_avg_sq=bf16, lr 0.001, spike: loss 3.5, 2 to 3 times that of fp32, 2 seeds"
        in nearest.customdata[0][column]
    )


def test_what_diverged_says_so_and_what_was_not_recorded_is_empty():
    record = made({V_BF16: (), V_FP16: ()}, **{str(V_FP16): "diverged: 1 of 2 runs"})
    nearest = moment_map(record).data[0]
    assert nearest.text[0][nearest.x.index("fp16")] == "<b>NaN</b><br>1 of 2 runs"
    assert nearest.z[0][nearest.x.index("fp16")] == pytest.approx(math.log(30))
    assert (nearest.text[0][nearest.x.index("bf16")], nearest.z[0][nearest.x.index("bf16")]) == ("", None)


def test_the_title_says_what_and_where():
    record = made({})
    title = moment_map(record).layout.title.text
    assert title.startswith("Final loss, as a multiple of fp32's, after a gradient × 1000")
    assert f"2 seeds, 9 steps each; {record.summary}" in title
    assert "1000" not in moment_map(record, spike=False).layout.title.text.partition("<br>")[0]


def test_weights_by_rate():
    stalled = next(
        s for s in weight_settings() if s.recipe.update == "nearest" and s.recipe != Recipe() and s.lr == 1e-4
    )
    (heat,) = weight_map(made({stalled: (10.0, 20.0)})).data
    assert heat.y == ("lr 0.0001", "lr 0.001")
    assert heat.x == ("fp32", "bf16, nearest", "bf16, stochastic", "bf16, Kahan sum", "bf16, fp32 master")
    assert heat.text[0][1] == "<b>10</b><br>10–10"
    assert heat.text[1][1] == "<b>1</b><br>1–1"
    ways = [setting.recipe for setting in weight_settings()[:5]]
    assert [recipe.update for recipe in ways] == ["nearest", "nearest", "stochastic", "kahan", "nearest"]
    assert ways[4].master_weights


def test_a_record_without_the_baseline_is_refused():
    record = replace(made({}), series=(Series("x", "1", (1.0,)),))
    with pytest.raises(ValueError, match="no runs of fp32, lr 0.001, spike; mixlab measure states makes one"):
        moment_map(record)
    assert PRESETS["fp32"] == Recipe()


def test_the_shipped_record_is_whole():
    (record,) = shipped("states")
    for figure in (moment_map(record), weight_map(record)):
        assert all(text for trace in figure.data for row in trace.text for text in row)
