from __future__ import annotations

import math
import re
from dataclasses import replace

import pytest

from mixlab import PRESETS, load_task
from mixlab.experiments import ModeResult, dtype_ledger, measure_modes
from mixlab.figures import ledger_bars
from mixlab.measure import measure_train
from mixlab.measure.gpt_shapes import GPTShape
from mixlab.reports import ModeTable
from mixlab.reports.modes import hardware

TASK = load_task("digits-cnn")


@pytest.fixture(scope="module")
def results() -> dict[str, ModeResult]:
    names = ("fp32", "amp-bf16", "fp16")
    return measure_modes(TASK, {name: PRESETS[name] for name in names}, steps=12, seeds=(0, 1, 2), device="cpu")


def test_memory_and_stability_are_those_of_the_runs(results):
    fp32, amp, pure = results.values()
    assert (fp32.finite, amp.finite, pure.finite) == (3, 3, 0)
    assert [len(run) for run in fp32.runs] == [12] * 3
    ends = [run[-1].loss for run in fp32.runs]  # the last tenth of 12 steps is one
    assert fp32.loss[0] == pytest.approx(sum(ends) / 3)
    assert 0 < fp32.loss[1] < 0.2
    assert math.isnan(pure.loss[0])
    assert (fp32.ledger.bytes_per_parameter, pure.ledger.bytes_per_parameter) == (16, 8)
    assert fp32.skipped == 0
    assert len({len(result.step_s) for result in results.values()}) == 1
    assert 5 <= len(fp32.step_s) <= 30
    assert min(fp32.step_s) > 0


def test_skipped_steps_are_a_share():
    recipe = replace(PRESETS["amp-fp16"], scale=2.0**24)
    result = measure_modes(TASK, {"high": recipe}, steps=20, seeds=(0,), device="cpu")["high"]
    assert result.skipped == sum(record.skipped for record in result.runs[0]) / 20 > 0


def test_the_table_has_a_column_a_mode_and_no_empty_cell(results):
    table = ModeTable(results, "this machine")
    assert table.columns == ("", "fp32", "amp-bf16", "fp16")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["bytes per parameter"] == ("16", "16", "8")
    assert rows["runs that stay finite"] == ("3 of 3", "3 of 3", "0 of 3")
    assert rows["loss at the end"][2] == "NaN"
    assert rows["speed here, native"][0] == "1.00 × (1.00 to 1.00)"
    assert re.fullmatch(r"[\d.]+ \([\d.]+ to [\d.]+\)", rows["time of a step, ms"][1])
    assert rows["memory with activations"][0] == "1.00 ×"
    assert float(rows["memory with activations"][1].split()[0]) < 0.7
    assert rows["hardware, by its documents"] == ("any", "tensor cores from Ampere", "tensor cores from Volta")
    assert all(cell for row in table.rows for cell in row)
    assert table.notes[0] == "digits-cnn, 9,930 parameters, 12 steps, 3 seeds; measured on this machine"
    assert "the sum of all that is kept, not a peak" in table.notes[1]
    assert "± their standard deviation over the seeds" in table.notes[1]
    assert ">0 of 3</td>" in table._repr_html_()
    assert "0 of 3" in repr(table)


def test_a_record_gives_a_row_that_says_it_was_recorded(results):
    shape = GPTShape(width=16, layers=1, heads=2, vocabulary=128, context=8, batch=1)
    record = measure_train(shape=shape, recipes=["fp32", "amp-bf16"], modes=["eager"], steps=2)
    table = ModeTable(results, "this machine", [record])
    ratio = record["amp-bf16 eager, tokens/s"].median / record["fp32 eager, tokens/s"].median
    name, *cells = table.rows[2]
    assert name.startswith("speed, recorded on ")
    assert cells == ["1.00 ×", f"{ratio:.2f} ×", "not recorded"]
    assert "not run here" in table.notes[-1]
    assert record.summary in table.notes[-1]


def timed(result, *step_s):
    return replace(result, step_s=step_s)


def test_speeds_are_compared_step_by_step(results):
    """The machine was three times as slow for the last two steps, of both recipes."""
    fp32 = timed(results["fp32"], 0.010, 0.010, 0.030, 0.030)
    amp = timed(results["amp-bf16"], 0.020, 0.020, 0.060, 0.060)
    assert amp.times_faster_than(fp32) == (0.5, 0.5, 0.5)
    table = ModeTable({"fp32": fp32, "amp-bf16": amp}, "here")
    assert table.rows[0][1:] == ("1.00 × (1.00 to 1.00)", "0.50 × (0.50 to 0.50)")
    assert table.rows[1][2] == "40.0 (20.0 to 60.0)"
    assert "The step times of fp32, amp-bf16 scatter by more than 25 %; something may have" in table.notes[-1]
    calm = {"fp32": timed(fp32, 0.010, 0.011), "amp-bf16": timed(amp, 0.02, 0.021)}
    assert not any("scatter" in note for note in ModeTable(calm, "here").notes)


def test_one_seed_has_no_spread(results):
    one = replace(results["fp32"], runs=results["fp32"].runs[:1])
    assert one.loss == (pytest.approx(one.runs[0][-1].loss), None)
    table = ModeTable({"fp32": one}, "here")
    (cell,) = next(row[1:] for row in table.rows if row[0] == "loss at the end")
    assert "±" not in cell + table.notes[1]
    assert "12 steps, 1 seed; " in table.notes[0]


def test_a_recipe_that_skips_every_step_has_its_column():
    recipes = {"fp32": "fp32", "never": "fp16-master,scaler=static,scale=2^30"}
    table = ModeTable(measure_modes(TASK, recipes, steps=1, seeds=(3,), device="cpu"), "here")
    rows = {row[0]: row[1:] for row in table.rows}
    assert rows["bytes per parameter"] == ("16", "6: no step was taken, so nothing else is stored yet")
    assert rows["steps skipped"] == ("0.0%", "100.0%")


def test_hardware_goes_by_the_products():
    assert hardware(PRESETS["bf16-master"]) == "tensor cores from Ampere"


def test_ledgers_are_stacked_bars():
    ledgers = {name: dtype_ledger(TASK, PRESETS[name]) for name in ("amp-bf16", "lean-bf16", "bf16-master")}
    figure = ledger_bars(ledgers)
    heights = {bar.name: list(bar.x) for bar in figure.data}
    assert heights == {
        "parameters": [4, 4, 2],
        "master weights": [0, 0, 4],
        "gradients": [4, 2, 4],
        "exp_avg": [4, 2, 4],
        "exp_avg_sq": [4, 4, 4],
    }
    assert list(next(bar for bar in figure.data if bar.name == "gradients").text) == ["fp32", "bf16", "fp32"]
    assert [note.text for note in figure.layout.annotations] == ["<b>16</b>", "<b>12</b>", "<b>18</b>"]
    whole = {bar.name for bar in ledger_bars(ledgers, whole=True).data}
    assert whole - heights.keys() == {"weights cast by autocast", "activations saved for backward"}


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: measure_modes(TASK, {"a": "fp32"}, steps=0), "steps must be a whole number from 1 up, got 0"),
        (lambda: measure_modes(TASK, {"a": "fp32"}, steps=1, seeds=()), "at least one seed"),
        (lambda: measure_modes(TASK, {}, steps=1), "at least one recipe"),
        (lambda: ModeTable({}, "here"), "no results"),
        (lambda: ledger_bars({}), "no ledgers"),
    ],
)
def test_bad_input_is_named(call, words):
    with pytest.raises(ValueError, match=words):
        call()
