from __future__ import annotations

import json
import math
from dataclasses import replace

from mixlab.panels.curves import _LENGTHS, Curves, free_place, line_style
from mixlab.reports.colours import DASHES
from tests.panels.trainings import DIVERGED, record, records


def test_it_opens_empty():
    curves = Curves()
    assert (curves.finished, curves.live, repr(curves)) == ([], {}, "Curves: no training yet")


def test_it_says_what_it_draws():
    curves = Curves()
    curves.show({"a": records([2.0, 1.0]), "b": records(DIVERGED)})
    assert curves.summary == ("a: loss 1, accuracy 50.0% after 2 steps; b: diverged: the loss is nan from step 4 on")
    assert repr(curves) == f"Curves: {curves.summary}"
    curves.show({})
    assert (curves.finished, curves.summary) == ([], "no training yet")


def test_the_chart_of_the_metric_bears_its_name():
    def titles() -> list[object]:
        return [chart["title"] for chart in curves.charts if chart["column"] == "metric"]

    curves = Curves()
    assert titles() == ["accuracy on the batch"]
    error = [replace(one, metric=3.0, metric_name="error") for one in records([1.0])]
    none = [replace(one, metric=None, metric_name="") for one in records([1.0])]
    curves.show({"a": error, "b": none})
    assert titles() == ["error on the batch"]
    assert not any("range" in chart for chart in curves.charts)
    curves.show({"b": none})
    assert titles() == []
    curves.paint("c", records([1.0]))
    assert titles() == ["accuracy on the batch"]


def test_what_is_not_finite_is_a_gap_and_a_note():
    curves = Curves()
    curves.show({"a": records(DIVERGED)})
    (run,) = curves.finished
    assert run["loss"] == [2.0, 1.0, None, 1.0, None, None]
    assert run["note"] == "NaN from step 4 on"
    assert json.dumps(curves.get_state(["finished", "live"]), allow_nan=False)


def test_a_running_one_is_drawn_beside_the_finished():
    curves = Curves()
    curves.show({"a": records([1.0])})
    curves.paint("b", records([2.0, 1.0]))
    assert len(curves.finished) == 1
    assert (curves.live["label"], curves.live["step"]) == ("b", [0, 1])
    assert curves.live["color"] != curves.finished[0]["color"]
    assert curves.summary.startswith("b: loss ")
    curves.show({"a": records([1.0]), "b": records([2.0, 1.0])})
    assert curves.live == {}


def test_a_run_keeps_its_style_when_another_goes():
    curves = Curves()
    runs = {"a": records([1.0]), "b": records([1.0])}
    curves.show(runs)
    b = curves.finished[1]
    curves.show({"b": runs["b"]}, {"a": 0, "b": 1})
    assert curves.finished == [b]
    curves.paint("c", records([1.0]), free_place([1]))
    assert curves.live["color"] == line_style(0)["color"] != b["color"]
    assert (free_place([]), free_place([0, 1, 3])) == (0, 2)


def test_painting_sends_the_running_one_and_not_the_finished():
    sent: list[set[str]] = []
    curves = Curves()
    curves.show({"a": records([1.0] * 100)})
    curves.send_state = lambda names: sent.append(set(names))
    curves.paint("b", records([1.0] * 50))
    assert sent == [{"live", "summary"}]


def test_a_long_run_is_short_on_the_wire():
    curves = Curves()
    curves.paint("b", [record(step, loss=math.pi, scale=8.0, skipped=True, a=0.123456) for step in range(9999)])
    assert len(curves.live["step"]) <= 240
    assert len(json.dumps(curves.live)) < 40_000


def test_every_dash_has_lengths():
    assert set(_LENGTHS) == set(DASHES)
