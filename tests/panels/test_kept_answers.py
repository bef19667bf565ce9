"""Answers in a file: kept, replaced as a whole, and never written over something else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mixlab.panels import kept_answers as module
from mixlab.panels.kept_answers import KeptAnswers


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "answers.json"


def test_what_is_kept_is_found_by_the_next_kernel(path: Path):
    kept = KeptAnswers(path)
    assert (len(kept), kept.get("predictions", "Which?"), path.exists()) == (0, None, False)
    kept.set("predictions", "Which?", "that")
    kept.set("answers", "1", "2^-24")
    kept.set("answers", "1", "2⁻²⁴ ✓")
    later = KeptAnswers(path)
    assert (len(later), later.get("predictions", "Which?"), later.get("answers", "1")) == (2, "that", "2⁻²⁴ ✓")
    assert later.get("answers", "2") is None
    assert [file.name for file in path.parent.iterdir()] == ["answers.json"]


def test_two_kernels_keep_both_answers(path: Path):
    one, other = KeptAnswers(path), KeptAnswers(path)
    one.set("answers", "1", "a")
    other.set("answers", "2", "b")
    assert len(KeptAnswers(path)) == 2


def test_forgetting_empties_the_file(path: Path):
    kept = KeptAnswers(path)
    kept.set("answers", "1", "a")
    kept.forget()
    assert (len(kept), len(KeptAnswers(path))) == (0, 0)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[" * 100_000,
        b"null",
        b"{}",
        b'{"cells": []}',
        b'{"kind": "mixlab answers", "version": 2, "predictions": {}, "answers": {}}',
        b'{"kind": "mixlab answers", "version": 1, "predictions": [], "answers": {}}',
    ],
)
def test_a_damaged_or_foreign_file_is_named_and_left_alone(path: Path, content: bytes):
    path.write_bytes(content)
    kept = KeptAnswers(path)
    kept.set("answers", "1", "a")
    assert f"{path} does not hold answers of a lab" in kept.trouble
    assert (kept.get("answers", "1"), path.read_bytes()) == ("a", content)
    kept.forget()
    assert kept.trouble == ""
    kept.set("answers", "1", "b")
    assert KeptAnswers(path).get("answers", "1") == "b"


def test_a_file_damaged_meanwhile_is_left_alone(path: Path):
    kept = KeptAnswers(path)
    kept.set("answers", "1", "a")
    path.write_text("mine now")
    kept.set("answers", "2", "b")
    assert "does not hold answers" in kept.trouble
    assert path.read_text() == "mine now"


def test_an_answer_that_is_no_text_counts_as_none(path: Path):
    path.write_text(json.dumps({"kind": "mixlab answers", "version": 1, "predictions": {"a": 3}, "answers": {}}))
    assert KeptAnswers(path).get("predictions", "a") is None


def test_a_folder_that_is_gone_is_made_again(tmp_path: Path):
    path = tmp_path / "gone" / "too" / "answers.json"
    kept = KeptAnswers(path)
    kept.set("answers", "1", "a")
    assert (kept.trouble, KeptAnswers(path).get("answers", "1")) == ("", "a")


def test_where_no_folder_can_be_the_file_is_named_and_the_answer_stays_in_this_kernel(tmp_path: Path):
    (tmp_path / "taken").write_text("a file")
    path = tmp_path / "taken" / "answers.json"
    kept = KeptAnswers(path)
    kept.set("answers", "1", "a")
    assert f"{path} cannot be" in kept.trouble
    assert kept.get("answers", "1") == "a"


@pytest.mark.parametrize(("method", "says"), [("write", "cannot be written"), ("read", "cannot be read")])
def test_after_a_passing_trouble_the_next_answer_takes_the_others_along(
    path: Path, monkeypatch: pytest.MonkeyPatch, method: str, says: str
):
    kept, other, told = KeptAnswers(path), KeptAnswers(path), list[str]()
    kept.changed.append(lambda: told.append(kept.trouble))

    def fail(*_: object) -> None:
        raise OSError(5, "the disk is away")

    with monkeypatch.context() as patched:
        if method == "write":
            patched.setattr(module, "replacing", fail)
        else:
            patched.setattr(Path, "read_bytes", fail)
        kept.set("answers", "1", "a")
        kept.set("predictions", "Which?", "that")
    assert told == 2 * [f"{path} {says} (the disk is away)"], "told at every answer"
    other.set("answers", "3", "c")
    kept.set("answers", "2", "b")
    assert told[2:] == [kept.trouble] == [""]
    later = KeptAnswers(path)
    assert [later.get("answers", name) for name in "123"] == ["a", "b", "c"]
    assert later.get("predictions", "Which?") == "that"


def test_a_file_that_could_not_be_read_at_first_is_read_later(path: Path, monkeypatch: pytest.MonkeyPatch):
    KeptAnswers(path).set("answers", "1", "a")

    def fail(_path: Path) -> bytes:
        raise OSError(5, "the disk is away")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "read_bytes", fail)
        kept = KeptAnswers(path)
    assert "cannot be read" in kept.trouble
    kept.set("answers", "2", "b")
    assert (kept.trouble, len(kept), len(KeptAnswers(path))) == ("", 2, 2)


def test_without_a_file_answers_last_as_long_as_the_object():
    kept = KeptAnswers(None)
    kept.set("answers", "1", "a")
    assert (kept.get("answers", "1"), kept.trouble) == ("a", "")


def test_the_file_and_the_record_name_the_lab_and_its_parameters(path: Path):
    kept = KeptAnswers(path, lab="04_training_modes", parameters={"seed": 1})
    kept.set("answers", "1", "a")
    whole = {
        "kind": "mixlab answers",
        "version": 1,
        "lab": "04_training_modes",
        "parameters": {"seed": 1},
        "predictions": {},
        "answers": {"1": "a"},
    }
    assert json.loads(path.read_text()) == kept.record == whole
    again = KeptAnswers(path, lab="04_training_modes", parameters={"seed": 2})
    assert again.record == {**whole, "parameters": {"seed": 2}}
    assert again.record is not again.record
