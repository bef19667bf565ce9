from __future__ import annotations

import json

import numpy as np
import pytest

from mixlab.measure import Record, Series, compare_records, shipped
from mixlab.reports import ComparedRecordsTable

MACHINE = dict.fromkeys(("cpu", "cores", "gpus", "python", "torch", "numpy", "mixlab"), "x")


def record(kind: str = "cast", cpu: str = "a", **samples: tuple[float, ...]) -> Record:
    series = tuple(Series(name, "GB/s", values) for name, values in samples.items())
    date = "2026-01-31T12:00:00+00:00"
    return Record(kind, {**MACHINE, "cpu": cpu}, date, 0, "x", {"numel": len(samples), "device": "cpu"}, series)


def test_what_both_have_is_divided_and_the_rest_is_named():
    first = record(copy_=(1.0, 2.0, 4.0), zero=(0.0,), clone=(5.0,))
    second = record(cpu="b", eager=(1.0,), copy_=(3.0, 5.0), zero=(1.0,))
    second = Record(*list(vars(second).values())[:6], (*second.series, Series("clone", "s", (1.0,))))
    compared = compare_records(first, second)
    assert [(one.name, one.ratio) for one in compared.both] == [("copy_", 2.0), ("zero", None)]
    assert compared.only_first == ("clone (GB/s)",)
    assert compared.only_second == ("eager (GB/s)", "clone (s)")
    assert compared.apart == {"cpu": ("a", "b")}
    shown = repr(ComparedRecordsTable(compared))
    assert "copy_ (GB/s)  2  1.5 to 3        4  3.5 to 4.5      2" in shown
    assert "only in A: clone (GB/s)" in shown
    assert "cpu: a | b" in shown


def test_json_has_medians_quartiles_and_ratios():
    content = json.loads(json.dumps(compare_records(record(a=(1.0, 2.0)), record(a=(3.0,))).to_dict(), allow_nan=False))
    assert content["series"] == [
        {"name": "a", "unit": "GB/s", "medians": [1.5, 3.0], "quartiles": [[1.25, 1.75], [3.0, 3.0]], "ratio": 2.0}
    ]


def test_predictions_are_not_measured_twice():
    one = record(**{"fp32 8x8x8": (1.0,), "fp32 8x8x8, predicted": (2.0,)})
    assert [series.name for series in compare_records(one, one).both] == ["fp32 8x8x8"]


def test_different_kinds_are_refused():
    with pytest.raises(ValueError, match="both records must be of one kind, got cast and train"):
        compare_records(record(), record("train"))


def test_nothing_in_common_is_said():
    assert "no series is in both" in repr(ComparedRecordsTable(compare_records(record(a=(1.0,)), record(b=(1.0,)))))


@pytest.mark.parametrize("kind", ["train", "optimizer"])
def test_shipped_records_of_two_machines_are_compared(kind: str):
    first, second = shipped(kind)[:2]
    compared = compare_records(first, second)
    assert compared.both
    for one in compared.both:
        ours, theirs = (np.median(record[one.name].samples) for record in (first, second))
        assert one.ratio == pytest.approx(theirs / ours)
    assert {"cpu", "gpus"} <= compared.apart.keys()
