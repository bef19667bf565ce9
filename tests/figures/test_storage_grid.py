from __future__ import annotations

import math
from dataclasses import replace

import pytest

from mixlab import PRESETS, Recipe
from mixlab.experiments import GridSetting, moment_settings, weight_settings
from mixlab.figures import moment_map, weight_map
from mixlab.measure import Record, Series, shipped
from mixlab.measure.record import this_machine


def made(losses, **notes):
    """Returns a record of losses by setting; all settings that are not named end at 1 and 2."""
    settings = dict.fromkeys((*moment_settings(), *weight_settings()), (1.0, 2.0)) | losses
    series = [Series(f"{setting}, loss", "nats", values) for setting, values in settings.items() if values]
    parameters = {"task": "digits-adam", "steps": 9, "spike at step": 5, "seeds": 2, "threads": 1, **notes}
    return Record("states", this_machine(), "2026-01-31T12:00:00+00:00", 0, "typed", parameters, tuple(series))


def _cell(middle, below, ink="black"):
    return f'<span style="color:{ink}"><b>{middle}</b><br><span style="font-size:11px">{below}</span></span>'


V_BF16 = GridSetting(Recipe.parse("fp32,exp_avg_sq=bf16"))
V_FP16 = GridSetting(Recipe.parse("fp32,exp_avg_sq=fp16"))


def test_cells_are_ratios_seed_by_seed():
    figure = moment_map(made({V_BF16: (3.0, 4.0)}))
    nearest, stochastic = figure.data
    assert nearest.y == nearest.x == ("fp32", "fp16", "bf16", "e4m3fn", "e5m2", "dynamic8")
    column = nearest.x.index("bf16")
    assert nearest.text[0][column] == _cell("2.50", "2.00–3.00")
    assert nearest.z[0][column] == pytest.approx(math.log(2.5))
    assert nearest.z[0][0] == stochastic.z[0][column] == 0
    assert (
        "fp32,exp_avg_sq=bf16, lr 0.001, spike: loss 3.5, 2.00 to 3.00 times fp32's, 2 seeds"
        in nearest.customdata[0][column]
    )


def test_what_diverged_says_so_and_what_was_not_recorded_is_empty():
    record = made({V_BF16: (), V_FP16: ()}, **{str(V_FP16): "diverged: 1 of 2 runs"})
    nearest = moment_map(record).data[0]
    assert nearest.text[0][nearest.x.index("fp16")] == _cell("NaN", "1 of 2", "white")
    assert nearest.z[0][nearest.x.index("fp16")] == pytest.approx(nearest.zmax)
    assert (nearest.text[0][nearest.x.index("bf16")], nearest.z[0][nearest.x.index("bf16")]) == ("", None)


def test_the_title_says_what_and_where():
    record = made({})
    spiked, calm = moment_map(record), moment_map(record, spike=False)
    assert spiked.layout.title.text == "Training loss as a multiple of fp32's, after a gradient spike"
    assert calm.layout.title.text == "Training loss as a multiple of fp32's, without a gradient spike"
    notes = [figure.layout.annotations[-1].text for figure in (spiked, calm, weight_map(record))]
    assert all("2 seeds, 9 steps each" in note and note.endswith(record.summary) for note in notes)
    assert ["gradients × 1000 at step 5" in note for note in notes] == [True, False, False]


def test_both_halves_name_their_columns():
    figure = moment_map(made({}))
    for axis in (figure.layout.xaxis, figure.layout.xaxis2):
        assert axis.showticklabels
        assert axis.title.text == "second moment v"


def test_formats_without_a_record_have_no_row_and_no_column():
    nearest, stochastic = moment_map(made({}), spike=False).data
    assert nearest.x == nearest.y == stochastic.x == ("fp32", "fp16", "bf16")


def test_a_few_percent_more_show_and_what_is_not_worse_looks_as_fp32():
    nearest, stochastic = moment_map(made({V_BF16: (0.8, 1.6), V_FP16: (1.06, 2.12)})).data
    assert nearest.z[0][nearest.x.index("bf16")] == nearest.z[0][0] == 0
    assert nearest.text[0][nearest.x.index("bf16")] == _cell("0.80", "0.80–0.80")
    assert nearest.z[0][nearest.x.index("fp16")] == pytest.approx(math.log(1.06))
    assert (nearest.zmin, nearest.zmax) == (stochastic.zmin, stochastic.zmax)


def test_very_different_seeds_fit_into_a_cell():
    nearest = moment_map(made({V_BF16: (0.9, 123456.0)})).data[0]
    assert nearest.text[0][nearest.x.index("bf16")] == _cell("3e4", "0.90–6e4", "white")


def test_weights_by_rate():
    stalled = next(
        s for s in weight_settings() if s.recipe.update == "nearest_even" and s.recipe != Recipe() and s.lr == 1e-4
    )
    (heat,) = weight_map(made({stalled: (10.0, 20.0)})).data
    assert heat.y == ("lr 0.0001", "lr 0.001")
    assert heat.x == ("fp32", "bf16,<br>nearest", "bf16,<br>stochastic", "bf16,<br>Kahan sum", "bf16,<br>fp32 master")
    assert heat.text[0][1] == _cell("10", "10–10", "white")
    assert heat.text[1][1] == _cell("1.00", "1.00–1.00")
    ways = [setting.recipe for setting in weight_settings()[:5]]
    assert [recipe.update for recipe in ways] == ["nearest_even", "nearest_even", "stochastic", "kahan", "nearest_even"]
    assert ways[4].master_weights


def test_a_record_without_the_baseline_is_refused():
    record = replace(made({}), series=(Series("x", "1", (1.0,)),))
    with pytest.raises(ValueError, match="no loss of fp32, lr 0.001, spike in every seed"):
        moment_map(record)
    with pytest.raises(ValueError, match="no loss of fp32, lr 0.001, spike in every seed"):
        moment_map(made({GridSetting(Recipe()): (1.0,)}, **{str(GridSetting(Recipe())): "diverged: 1 of 2 runs"}))
    assert PRESETS["fp32"] == Recipe()


def test_the_shipped_record_is_whole():
    (record,) = shipped("states")
    for figure in (moment_map(record), weight_map(record)):
        assert all(text for trace in figure.data for row in trace.text for text in row)


@pytest.mark.parametrize("spike", [True, False])
def test_the_name_of_the_lower_map_stands_below_the_axis_of_the_upper_one(spike):
    layout = moment_map(made({}), spike=spike).layout
    gap = layout.yaxis.domain[0] - layout.yaxis2.domain[1]
    assert gap * (layout.height - layout.margin.t - layout.margin.b) > 75  # pixels: ticks, title, name
