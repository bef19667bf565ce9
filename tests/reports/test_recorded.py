from __future__ import annotations

import pytest

from mixlab.measure import Record, Series, differences, shipped
from mixlab.measure.record import this_machine
from mixlab.reports import EmulationTable, MemoryTable, TrainingTable

TABLES = {"train": TrainingTable, "memory": MemoryTable, "emulation": EmulationTable}


@pytest.mark.parametrize("kind", TABLES)
def test_shipped_records_read_as_tables(kind):
    records = shipped(kind)
    assert records
    for record in records:
        table = TABLES[kind](record)
        assert {len(row) for row in table.rows} == {len(table.columns)}
        assert all(cell for row in table.rows for cell in row)
        assert table.notes[0].startswith(record.summary)
        assert "not run here" in repr(table)
        assert table._repr_html_().count("<tr>") == len(table.rows) + 1


@pytest.mark.parametrize("kind", TABLES)
def test_other_records_are_refused(kind):
    other = shipped("cast")[0]
    with pytest.raises(ValueError, match=f"the record must be of kind {kind}, got 'cast'"):
        TABLES[kind](other)


def test_trainings_are_compared_with_the_first_and_what_diverged_says_so():
    series = (
        Series("fp32 eager, tokens/s", "tokens/s", (100.0, 90.0, 110.0)),
        Series("fp32 eager, loss", "nats", (5.0, 4.5)),
        Series("fp16 eager, tokens/s", "tokens/s", (250.0,)),
        Series("fp16 eager, peak memory", "bytes", (2.0**30,)),
        Series("fp16 eager, MFU", "1", (0.25,)),
        Series("fp16 eager, loss", "nats", (5.0,)),
    )
    about = {"parameters": 1000, "batch": 2, "context": 8, "steps": 2, "warm-up steps": 3, "fp16 eager": "diverged: x"}
    table = TrainingTable(Record("train", this_machine(), "2026-01-31T00:00:00+00:00", 0, "none", about, series))
    assert table.columns[-1] == "last of 5 losses"
    assert table.rows == [
        ("fp32 eager", "100", "1.00", "-", "-", "4.5000"),
        ("fp16 eager", "250", "2.50", "1.00", "25.0%", "NaN"),
    ]
    assert table.notes[1:] == ["a GPT of 1,000 parameters, 2 x 8 tokens per step", "fp16 eager: x"]


def test_a_case_that_ran_out_of_memory_did_not_diverge_and_no_case_at_all_is_an_empty_table():
    about = {"parameters": 10, "batch": 1, "context": 8, "steps": 2, "warm-up steps": 3, "fp32 eager": "out of memory"}
    series = (Series("fp32 eager, tokens/s", "tokens/s", (100.0,)), Series("fp32 eager, loss", "nats", (5.0,)))
    records = [Record("train", this_machine(), "2026-01-31T00:00:00+00:00", 0, "none", about, s) for s in (series, ())]
    assert [TrainingTable(record).rows for record in records] == [
        [("fp32 eager", "100", "1.00", "-", "-", "5.0000")],
        [],
    ]
    assert all("fp32 eager: out of memory" in repr(TrainingTable(record)) for record in records)


def test_measured_peaks_are_those_without_workspaces():
    record = shipped("memory")[0]
    case, difference = next(iter(differences(record).items()))
    name, measured, predicted, off = MemoryTable(record).rows[0]
    assert name == case
    assert off == f"{difference:+.2%}"
    seen = record[f"{case}, peak"].median
    if not record.machine["gpus"]:
        assert (measured, predicted) == (f"{seen / 2**20:,.2f}",) * 2


def test_nearly_all_is_not_all():
    record = shipped("emulation")[0]
    table = EmulationTable(record)
    for row in table.rows:
        for cell, (fmt, direction) in zip(row[1:5], WAYS, strict=True):
            share = record[f"{fmt} {row[0]} {direction}, equal"].median
            assert (cell == "all") == (share == 1)
            assert cell == "all" or 0 <= 100 * share - float(cell.removesuffix(" %")) < 0.01 + 1e-9
    assert "100.00 %" not in repr(table)


WAYS = [(fmt, direction) for fmt in ("fp16", "bf16") for direction in ("forward", "backward")]
