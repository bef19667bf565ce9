"""A reader's folder of labs: what is laid there, and that nothing the reader wrote is ever lost."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mixlab.cli import laid_files
from mixlab.cli.lab_folder import lay_labs, reset_lab, usual_folder
from mixlab.cli.laid_files import only_writer
from mixlab.cli.shipped import LabError

NAMES = ("01_formats", "02_underflow")


@pytest.fixture
def labs(tmp_path: Path) -> Path:
    return ship(tmp_path / "shipped", "v1")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "mine"


def ship(labs: Path, version: str) -> Path:
    """Writes the labs as a version of mixlab brings them."""
    labs.mkdir(exist_ok=True)
    for name in NAMES:
        (labs / f"{name}.ipynb").write_text(f"{name} as shipped by {version}")
    return labs


def tree(folder: Path) -> dict[str, tuple[bytes, int]]:
    """Returns content and time of change of each file, by its path."""
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def visible(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_the_first_start_lays_every_lab_and_the_second_changes_nothing(labs: Path, folder: Path):
    first = lay_labs(labs, folder, "1")
    assert first.new == [f"{name}.ipynb" for name in NAMES]
    before = tree(folder)
    second = lay_labs(labs, folder, "1")
    assert (second.new, second.replaced, second.beside, second.remark) == ([], [], {}, "")
    assert tree(folder) == before
    assert {name: content for name, (content, _) in before.items() if not name.startswith(".")} == {
        path.name: path.read_bytes() for path in labs.iterdir()
    }


def test_a_changed_lab_stays_and_an_unchanged_one_is_replaced(labs: Path, folder: Path):
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")
    done = lay_labs(ship(labs, "v2"), folder, "2")
    assert done.replaced == ["02_underflow.ipynb"]
    assert done.beside == {"01_formats.ipynb": "01_formats.mixlab-2.ipynb"}
    assert (folder / "01_formats.ipynb").read_text() == "my work"
    assert (folder / "01_formats.mixlab-2.ipynb").read_text() == "01_formats as shipped by v2"
    assert (folder / "02_underflow.ipynb").read_text() == "02_underflow as shipped by v2"
    before = tree(folder)
    assert lay_labs(labs, folder, "2").beside == {}
    assert tree(folder) == before


def test_a_new_version_is_laid_beside_once(labs: Path, folder: Path):
    """It does not come back when its reader deleted it; an untouched one makes room for the next."""
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")
    lay_labs(ship(labs, "v2"), folder, "2")
    (folder / "01_formats.mixlab-2.ipynb").unlink()
    assert lay_labs(labs, folder, "2").beside == {}
    lay_labs(ship(labs, "v3"), folder, "3")
    lay_labs(ship(labs, "v4"), folder, "4")
    assert visible(folder) == ["01_formats.ipynb", "01_formats.mixlab-4.ipynb", "02_underflow.ipynb"]
    lay_labs(ship(labs, "v5"), folder, "4")  # a clone changes its labs, and not its version
    assert visible(folder) == ["01_formats.ipynb", "01_formats.mixlab-4.ipynb", "02_underflow.ipynb"]
    assert (folder / "01_formats.mixlab-4.ipynb").read_text() == "01_formats as shipped by v5"
    (folder / "01_formats.mixlab-4.ipynb").write_text("more work")
    lay_labs(ship(labs, "v6"), folder, "4")
    assert (folder / "01_formats.mixlab-4.ipynb").read_text() == "more work"
    assert (folder / "01_formats.mixlab-4-2.ipynb").read_text() == "01_formats as shipped by v6"


def test_who_takes_the_new_version_has_one_copy(labs: Path, folder: Path):
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")
    lay_labs(ship(labs, "v2"), folder, "2")
    (folder / "01_formats.ipynb").rename(folder / "mine.ipynb")
    (folder / "01_formats.mixlab-2.ipynb").rename(folder / "01_formats.ipynb")
    assert lay_labs(labs, folder, "2").new == []
    assert visible(folder) == ["01_formats.ipynb", "02_underflow.ipynb", "mine.ipynb"]
    assert lay_labs(ship(labs, "v3"), folder, "3").replaced == ["01_formats.ipynb", "02_underflow.ipynb"]


def test_a_deleted_lab_is_laid_again(labs: Path, folder: Path):
    lay_labs(labs, folder, "1")
    (folder / "02_underflow.ipynb").unlink()
    assert lay_labs(labs, folder, "1").new == ["02_underflow.ipynb"]


def test_a_folder_may_hold_other_things(labs: Path, folder: Path):
    folder.mkdir()
    (folder / "thesis.ipynb").write_text("thesis")
    (folder / "02_underflow.ipynb").write_text("a notebook that happens to have a lab's name")
    done = lay_labs(labs, folder, "1")
    assert done.beside == {"02_underflow.ipynb": "02_underflow.mixlab-1.ipynb"}
    assert (folder / "thesis.ipynb").read_text() == "thesis"
    assert (folder / "02_underflow.ipynb").read_text().startswith("a notebook that happens")


def test_nothing_is_written_through_a_link(labs: Path, folder: Path, tmp_path: Path):
    lay_labs(labs, folder, "1")
    target, elsewhere = folder / "01_formats.ipynb", tmp_path / "elsewhere.ipynb"
    target.rename(elsewhere)
    target.symlink_to(elsewhere)
    (folder / "02_underflow.ipynb").unlink()
    (folder / "02_underflow.ipynb").symlink_to(tmp_path / "gone.ipynb")
    lay_labs(ship(labs, "v2"), folder, "2")
    reset_lab(labs / "01_formats.ipynb", folder)
    reset_lab(labs / "02_underflow.ipynb", folder)
    assert elsewhere.read_text() == "01_formats as shipped by v1"
    assert not (tmp_path / "gone.ipynb").exists()
    assert {(folder / f"{name}.ipynb").read_text() for name in NAMES} == {f"{name} as shipped by v2" for name in NAMES}


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"{", b"[]", b"3", b"\xff", b"[" * 100_000, b'{"kind": "other", "version": 1}'),
        b'{"kind": "mixlab labs", "version": 2, "laid": {}, "beside": {}}',
        b'{"kind": "mixlab labs", "version": 1, "laid": {"01_formats.ipynb": 3}, "beside": {}}',
        b'{"kind": "mixlab labs", "version": 1, "laid": {}, "beside": {"01_formats.ipynb": "../shipped/x"}}',
    ],
)
def test_a_damaged_memory_is_kept_and_named(labs: Path, folder: Path, content: bytes):
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")
    (folder / ".mixlab" / "laid.json").write_bytes(content)
    done = lay_labs(ship(labs, "v2"), folder, "2")
    assert "laid.json does not say what was laid" in done.remark
    assert "labs that differ from mixlab's count as changed by you" in done.remark
    assert (folder / "01_formats.ipynb").read_text() == "my work"
    assert (folder / "02_underflow.ipynb").read_text() == "02_underflow as shipped by v1"
    assert sorted(done.beside.values()) == ["01_formats.mixlab-2.ipynb", "02_underflow.mixlab-2.ipynb"]
    assert content in [path.read_bytes() for path in (folder / ".mixlab").iterdir()]
    assert lay_labs(labs, folder, "2").remark == ""


def test_a_start_that_was_cut_short_is_finished_by_the_next(labs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")
    ship(labs, "v2")
    (folder / ".mixlab-0.part").write_text("a draft that a killed process left")
    replace = os.replace

    def killed(draft: Path, path: Path) -> None:
        if Path(path).name == "02_underflow.ipynb":
            raise OSError(28, "No space left on device")
        replace(draft, path)

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(LabError, match="No space left on device"):
        lay_labs(labs, folder, "2")
    monkeypatch.undo()
    assert lay_labs(labs, folder, "2").replaced == ["02_underflow.ipynb"]
    assert visible(folder) == ["01_formats.ipynb", "01_formats.mixlab-2.ipynb", "02_underflow.ipynb"]
    assert not list(folder.glob("**/*.part"))


def test_two_starts_at_once_lay_the_labs_once(labs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    results: list[int] = []
    starts = [threading.Thread(target=lambda: results.append(len(lay_labs(labs, folder, "1").new))) for _ in range(4)]
    for start in starts:
        start.start()
    for start in starts:
        start.join()
    assert sorted(results) == [0, 0, 0, 2]
    monkeypatch.setattr(laid_files, "_LOCK_WAIT_S", 0.0)
    with only_writer(folder), pytest.raises(LabError, match="another mixlab is laying labs in .*; try again"):
        lay_labs(ship(labs, "v2"), folder, "2")


def test_a_folder_that_cannot_be_used_is_named(labs: Path, folder: Path, tmp_path: Path):
    folder.write_text("a file")
    for place in (folder, folder / "below"):
        with pytest.raises(LabError, match=r"labs cannot be laid in .*; give another folder"):
            lay_labs(labs, place, "1")
    assert folder.read_text() == "a file"
    with pytest.raises(LabError, match="is where mixlab keeps its own labs; give a folder of your own"):
        lay_labs(labs, labs / "below", "1")
    assert visible(labs) == [f"{name}.ipynb" for name in NAMES]
    (tmp_path / "odd").mkdir()
    (tmp_path / "odd" / ".mixlab").write_text("a file")
    with pytest.raises(LabError, match=r"\.mixlab.* give another folder"):
        lay_labs(labs, tmp_path / "odd", "1")
    assert visible(tmp_path / "odd") == []


def test_a_folder_that_is_read_only_can_be_opened_and_not_changed(
    labs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    lay_labs(labs, folder, "1")

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(laid_files, "locked", refuse)  # root may write where modes forbid it
    assert lay_labs(labs, folder, "1").new == []
    (labs / "03_new.ipynb").touch()
    with pytest.raises(LabError, match="Read-only file system.*give another folder"):
        lay_labs(labs, folder, "2")


# --- reset ------------------------------------------------------------------------------------------------------------


def test_reset_puts_a_lab_back_and_keeps_what_was_there(labs: Path, folder: Path):
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")
    answers = folder / "runs" / "01_formats" / "answers.json"
    answers.parent.mkdir(parents=True)
    answers.write_text("my answers")
    (answers.parent / "run-1").mkdir()
    done = reset_lab(labs / "01_formats.ipynb", folder)
    assert (done.name, done.laid) == ("01_formats", True)
    assert [old for old, _ in done.moved] == ["01_formats.ipynb", "runs/01_formats/answers.json"]
    assert [(folder / new).read_text() for _, new in done.moved] == ["my work", "my answers"]
    assert done.moved[0][1].startswith("01_formats.2")
    assert (folder / "01_formats.ipynb").read_text() == "01_formats as shipped by v1"
    assert not answers.exists()
    assert (answers.parent / "run-1").is_dir()
    again = reset_lab(labs / "01_formats.ipynb", folder)
    assert (again.laid, again.moved) == (False, ())
    (kept,) = reset_lab(labs / "01_formats.ipynb", folder, runs=True).moved
    assert kept[0] == "runs/01_formats"
    assert (folder / kept[1] / "run-1").is_dir()


def test_two_resets_within_a_second_keep_both_versions(labs: Path, folder: Path):
    lay_labs(labs, folder, "1")
    for text in ("first", "second"):
        (folder / "01_formats.ipynb").write_text(text)
        reset_lab(labs / "01_formats.ipynb", folder)
    kept = sorted(path.read_text() for path in folder.glob("01_formats.2*.ipynb"))
    assert kept == ["first", "second"]


def test_reset_takes_the_new_version_that_lay_beside(labs: Path, folder: Path):
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")
    lay_labs(ship(labs, "v2"), folder, "2")
    reset_lab(labs / "01_formats.ipynb", folder)
    assert (folder / "01_formats.ipynb").read_text() == "01_formats as shipped by v2"
    assert not (folder / "01_formats.mixlab-2.ipynb").exists()


def test_a_reset_that_cannot_write_changes_nothing(labs: Path, folder: Path, monkeypatch: pytest.MonkeyPatch):
    lay_labs(labs, folder, "1")
    (folder / "01_formats.ipynb").write_text("my work")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(LabError, match="No space left"):
        reset_lab(labs / "01_formats.ipynb", folder)
    assert (folder / "01_formats.ipynb").read_text() == "my work"
    assert visible(folder) == ["01_formats.ipynb", "02_underflow.ipynb"]


def test_reset_where_no_labs_are_is_refused(labs: Path, folder: Path):
    with pytest.raises(LabError, match=r"no labs in .*; `mixlab lab` lays them"):
        reset_lab(labs / "01_formats.ipynb", folder)
    assert not folder.exists()


def test_the_usual_folder_is_the_current_one_if_labs_were_laid_there(
    labs: Path, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    assert usual_folder() == tmp_path / "mixlab-labs"
    lay_labs(labs, folder, "1")
    monkeypatch.chdir(folder)
    assert usual_folder() == folder


# --- the law ----------------------------------------------------------------------------------------------------------

LAB = st.sampled_from(NAMES)
MOVES = st.one_of(
    st.tuples(st.just("write"), LAB),  # to the lab
    st.tuples(st.just("write beside"), LAB),  # to what was laid beside it
    st.tuples(st.just("answer"), LAB),
    st.tuples(st.just("delete"), LAB),
    st.tuples(st.sampled_from(["lay", "upgrade", "go back", "forget memory", "spoil memory"]), st.just("")),
    st.tuples(st.sampled_from(["reset", "reset with runs"]), LAB),
)


@settings(max_examples=40)
@given(moves=st.lists(MOVES, max_size=14))
def test_no_byte_that_the_reader_wrote_disappears(tmp_path_factory: pytest.TempPathFactory, moves):
    root = tmp_path_factory.mktemp("law")
    labs, folder, written, version = ship(root / "shipped", "v1"), root / "mine", set(), 1
    lay_labs(labs, folder, "1")
    for number, (move, name) in enumerate(moves):
        target = folder / f"{name}.ipynb"
        text = f"work {number}"
        match move:
            case "write" | "write beside" | "answer":
                if move == "answer":
                    target = folder / "runs" / name / "answers.json"
                    target.parent.mkdir(parents=True, exist_ok=True)
                elif move == "write beside":
                    target = next(folder.glob(f"{name}.mixlab*"), target)
                if target.exists():
                    written.discard(target.read_text())  # the reader's own doing
                target.write_text(text)
                written.add(text)
            case "delete":
                if target.exists():
                    written.discard(target.read_text())
                    target.unlink()
            case "forget memory":
                (folder / ".mixlab" / "laid.json").unlink(missing_ok=True)
            case "spoil memory":
                (folder / ".mixlab" / "laid.json").write_text("{")
            case "reset" | "reset with runs":
                if (folder / ".mixlab" / "laid.json").exists() or target.exists():
                    reset_lab(labs / f"{name}.ipynb", folder, runs=move == "reset with runs")
                    assert target.read_bytes() == (labs / f"{name}.ipynb").read_bytes()
                    assert not (folder / "runs" / name / "answers.json").exists()
            case _:
                version += {"lay": 0, "upgrade": 1, "go back": -1}[move]
                lay_labs(ship(labs, f"v{version}"), folder, str(version))
                settled = tree(folder)
                lay_labs(labs, folder, str(version))
                assert tree(folder) == settled, "a second start changes nothing"
        held = {content.decode() for content, _ in tree(folder).values()}
        assert written <= held
