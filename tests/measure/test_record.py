from __future__ import annotations

import json
from pathlib import Path

import pytest

import mixlab
from mixlab.measure import Record, Series, shipped
from mixlab.measure.record import now, this_machine


@pytest.fixture
def record() -> Record:
    series = (Series("copy_", "GB/s", (3.0, 1.0, 2.0, 5.0, 4.0)), Series("clone", "GB/s", (0.5,)))
    return Record("cast", this_machine(), now(), 7, "mixlab measure cast", {"numel": 8, "device": "cpu"}, series)


def test_a_record_comes_back_as_it_was(record, tmp_path):
    record.save(tmp_path / "r.json")
    assert Record.load(tmp_path / "r.json") == record
    assert json.loads(record.to_json())["series"][0]["samples"] == [3.0, 1.0, 2.0, 5.0, 4.0]


def test_the_numbers_and_the_summary(record):
    assert record["copy_"].median == 3.0
    assert record["copy_"].quartiles == (2.0, 4.0)
    assert record.summary.startswith("recorded on ")
    assert all(fact in record.summary for fact in (record.machine["cpu"], record.date[:10], "seed 7", "torch"))
    with pytest.raises(KeyError, match="no series 'copy'; there are copy_, clone"):
        record["copy"]


def test_saving_leaves_the_old_file_when_it_fails(record, tmp_path, monkeypatch):
    path = tmp_path / "r.json"
    record.save(path)
    before = path.read_bytes()

    def broken(_self: Record) -> str:
        raise RuntimeError("disk full")

    monkeypatch.setattr(Record, "to_json", broken)
    with pytest.raises(RuntimeError, match="disk full"):
        record.save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["r.json"]


def test_shipped_records_are_records():
    files = sorted((Path(mixlab.__file__).parent / "measure" / "records").glob("*.json"))
    assert files
    for path in files:
        shown = Record.load(path)
        assert shown in shipped(shown.kind)
        assert all(series.median >= 0 for series in shown.series)
    assert shipped("no such kind") == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"kind": ""}, "kind must be text, got ''"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"date": "yesterday"}, "date must be an ISO 8601 time such as 2026-01-31T12:00:00"),
        ({"date": "2026-01-31"}, "date must be an ISO 8601 time"),
        ({"schema": 2}, "schema must be 1, got 2"),
        ({"machine": {"cpu": "x"}}, "machine must be an object with the texts cores, cpu, gpus"),
        ({"parameters": {"a": [1]}}, "parameters must be an object of texts and numbers"),
        ({"series": {}}, "series must be a list"),
        ({"series": [{"name": "a"}]}, r"series\[0\] must be an object with name, unit, samples"),
        ({"series": [{"name": "a", "unit": 1, "samples": [1]}]}, r"series\[0\].unit must be text, got 1"),
        (
            {"series": [{"name": "a", "unit": "s", "samples": []}]},
            r"series\[0\].samples must be a list of at least one",
        ),
        (
            {"series": [{"name": "a", "unit": "s", "samples": ["1"]}]},
            r"series\[0\].samples must be a list .* finite number",
        ),
        ({"more": 1}, "the file must be an object with command, date"),
    ],
)
def test_what_is_no_record_is_named(record, tmp_path, change, words):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({**json.loads(record.to_json()), **change}))
    with pytest.raises(ValueError, match=f"r.json is not a record: {words}"):
        Record.load(path)


def test_what_is_no_json_is_named(tmp_path):
    (tmp_path / "r.json").write_text("{")
    with pytest.raises(ValueError, match="r.json is not a record: Expecting property name"):
        Record.load(tmp_path / "r.json")
