from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mixlab.measure import Record, Series, everything, measure_all
from mixlab.measure.everything import KINDS
from mixlab.measure.optimizers import STORAGE_RECIPES
from mixlab.measure.record import record_here


@pytest.fixture
def begun(monkeypatch) -> list[str]:
    """The kinds that were measured, by stand-ins that take no time."""
    kinds: list[str] = []

    def measured(kind: str, _device: object, share_s: float, seed: int, command: str, progress: Any) -> Record:
        kinds.append(kind)
        progress(0.5)
        series = [Series("share", "s", (share_s,))]
        progress(1.0)
        return record_here(kind, series, date="2026-01-31T12:00:00+00:00", seed=seed, command=command, parameters={})

    def matmul(device: object, *, budget_s: float, seed: int, path: Path, command: str, progress: Any) -> Record:
        record = measured("matmul", device, budget_s, seed, command, progress)
        record.save(path)
        return record

    monkeypatch.setattr(everything, "_measured", measured)
    monkeypatch.setattr(everything, "measure_matmul", matmul)
    return kinds


def test_every_kind_has_its_record_and_a_second_call_has_nothing_to_do(tmp_path: Path, begun: list[str]):
    parts: list[tuple[str, float]] = []
    outcomes = measure_all(tmp_path / "new", "cpu", budget_s=700, progress=lambda *one: parts.append(one))
    assert [(one.kind, one.state) for one in outcomes] == [(kind, "measured") for kind in KINDS]
    assert begun == list(KINDS)
    assert parts[-1] == (KINDS[-1], 1.0)
    for one in outcomes:
        assert Record.load(one.path).kind == one.kind
    shares = [Record.load(one.path)["share"].median for one in outcomes]
    assert shares[0] == pytest.approx(100, rel=0.05)  # an equal share of what is left, which nobody used
    assert shares == sorted(shares)
    again = measure_all(tmp_path / "new", "cpu", budget_s=700)
    assert {one.state for one in again} == {"there already"}
    assert begun == list(KINDS)


def test_one_that_fails_is_named_and_the_others_go_on(tmp_path: Path, begun: list[str], monkeypatch):
    stand_in = everything._measured

    def failing(kind: str, *rest: Any) -> Record:
        if kind == "train":
            raise RuntimeError("no kernel\nand more")
        return stand_in(kind, *rest)

    monkeypatch.setattr(everything, "_measured", failing)
    outcomes = {one.kind: one for one in measure_all(tmp_path, "cpu")}
    assert (outcomes["train"].state, outcomes["train"].message, outcomes["train"].done) == (
        "failed",
        "no kernel",
        False,
    )
    assert {one.state for kind, one in outcomes.items() if kind != "train"} == {"measured"}
    assert not (tmp_path / "train.json").exists()
    monkeypatch.setattr(everything, "_measured", stand_in)
    assert [one.kind for one in measure_all(tmp_path, "cpu") if one.state == "measured"] == ["train"]


def test_what_others_measured_is_kept_and_named(tmp_path: Path, begun: list[str]):
    measure_all(tmp_path, "cpu")
    record = Record.load(tmp_path / "cast.json")
    Record(record.kind, {**record.machine, "cpu": "a 486"}, *list(vars(record).values())[2:]).save(
        tmp_path / "cast.json"
    )
    (tmp_path / "states.json").write_text("{")
    (tmp_path / "memory.json").write_bytes((tmp_path / "train.json").read_bytes())
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcomes = {one.kind: one for one in measure_all(tmp_path, "cpu")}
    assert "cast.json was measured otherwise: cpu was 'a 486'" in outcomes["cast"].message
    assert "states.json is not a record" in outcomes["states"].message
    assert "is a record of kind train, not memory; it is kept" in outcomes["memory"].message
    assert [one.kind for one in outcomes.values() if not one.done] == ["cast", "memory", "states"]
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_the_budget_ends_what_runs_and_what_has_not_begun(tmp_path: Path, begun: list[str], monkeypatch):
    outcomes = measure_all(tmp_path, "cpu", budget_s=1)
    assert {one.state for one in outcomes} == {"no time"}
    assert begun == []
    clock = iter(range(0, 100000, 1000))
    monkeypatch.setattr(everything.time, "monotonic", lambda: float(next(clock)))
    outcomes = measure_all(tmp_path, "cpu", budget_s=1500)
    assert {one.state for one in outcomes} == {"no time"}
    assert begun == ["matmul"]
    assert "give a larger --budget" in outcomes[0].message
    assert list(tmp_path.iterdir()) == []


def test_ctrl_c_ends_all(tmp_path: Path, begun: list[str]):
    def stop(kind: str, _part: float) -> None:
        if kind == "emulation":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_all(tmp_path, "cpu", progress=stop)
    assert sorted(path.stem for path in tmp_path.iterdir()) == ["cast", "matmul"]


@pytest.mark.parametrize("budget_s", [0, -1, float("nan"), float("inf"), True, "60", 10**400])
def test_a_budget_is_a_positive_number_of_seconds(tmp_path: Path, budget_s: Any):
    with pytest.raises(ValueError, match="measure_all: budget_s must be a number of seconds above 0, got"):
        measure_all(tmp_path, "cpu", budget_s=budget_s)


def test_a_folder_that_cannot_be_is_refused(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        measure_all(tmp_path / "no" / "such", "cpu")
    (tmp_path / "file").touch()
    with pytest.raises(FileExistsError):
        measure_all(tmp_path / "file", "cpu")


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "matmul"])
@pytest.mark.parametrize("share_s", [6.0, 120.0, 4000.0])
def test_each_kind_is_called_with_arguments_that_it_takes(kind: str, share_s: float, monkeypatch):
    from inspect import signature

    names = {"cast": "measure_cast", "emulation": "measure_emulation", "optimizer": "measure_optimizer"}
    names |= {"train": "measure_train", "memory": "measure_memory", "states": "measure_states"}
    original = getattr(everything, names[kind])
    given: dict[str, Any] = {}

    def stand_in(*args: Any, **kwargs: Any) -> str:
        given.update(signature(original).bind(*args, **kwargs).arguments)
        return "a record"

    monkeypatch.setattr(everything, names[kind], stand_in)
    assert everything._measured(kind, everything.usable_device("cpu"), share_s, 3, "x", print) == "a record"
    assert (given["seed"], given["command"]) == (3, "x")
    assert set(given.get("recipes", ())) <= set(STORAGE_RECIPES)
    if share_s == 4000.0 and kind in ("cast", "optimizer", "train", "states"):
        defaults = {name: one.default for name, one in signature(original).parameters.items()}
        numbers = {name: value for name, value in given.items() if name in ("rounds", "numel", "steps", "seeds")}
        assert numbers == {name: defaults[name] for name in numbers}  # with time enough, nothing is cut
