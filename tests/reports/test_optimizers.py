from __future__ import annotations

import pytest

from mixlab.measure import Record, Series, shipped
from mixlab.measure.record import this_machine
from mixlab.reports import OptimizerTable


def made(**parameters):
    series = [Series("copy_", "GB/s", (10.0,))]
    for case, ratio, kept in (("torchao 8-bit", 50.0, 2.03125), ("fp32 eager", 2.5, 8.0)):
        series += [
            Series(f"{case}, step", "s", (0.01 * ratio,)),
            Series(f"{case}, ratio", "1", (ratio, ratio, ratio + 1)),
            Series(f"{case}, states", "bytes/parameter", (kept,)),
            Series(f"{case}, speed", "GB/s", (3.0,)),
        ]
    fixed = {"device": "cpu", "numel": 25_000_000, "rounds": 1, "threads": 1}
    machine = {**this_machine(), "cpu": "A <CPU>", "gpus": ""}
    return Record("optimizer", machine, "2026-01-31T12:00:00+00:00", 0, "typed", {**fixed, **parameters}, tuple(series))


def test_ours_first_then_the_others_with_what_they_store():
    table = OptimizerTable(made())
    assert table.rows == [
        ("fp32 eager", "8", "2.50 ×", "2.50 to 3.00", "3"),
        (
            "torchao 8-bit: 8-bit dynamic, blocks of 256; parameters under 4096 elements in fp32",
            "2.031",
            "50.00 ×",
            "50.00 to 50.50",
            "3",
        ),
    ]


def test_it_says_where_it_was_recorded_and_what_did_not_run():
    table = OptimizerTable(made(optimi="does not run here: no kernel"))
    assert table.notes[0].startswith("recorded on A <CPU>, no GPU; Python")
    assert table.notes[0].endswith("not run here")
    assert table.notes[1:] == [
        "25,000,000 parameters, 1 threads on cpu; a copy runs at 10 GB/s",
        "optimi: does not run here: no kernel",
    ]
    assert "A &lt;CPU&gt;" in table._repr_html_()
    assert "2.50 ×" in repr(table)


def test_some_of_ours_are_chosen():
    assert OptimizerTable(made(), ["fp32"]).rows == OptimizerTable(made()).rows
    assert [row[0][:7] for row in OptimizerTable(made(), []).rows] == ["torchao"]
    with pytest.raises(ValueError, match="the record has no bf16-sr"):
        OptimizerTable(made(), ["bf16-sr"])


def test_another_record_is_refused():
    (other, *_) = shipped("cast")
    with pytest.raises(ValueError, match="must be of kind optimizer, got 'cast'"):
        OptimizerTable(other)
