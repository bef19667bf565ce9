"""The shape of the package: what imports what, what is public, how long files are, what `import mixlab` costs."""

from __future__ import annotations

import ast
import json
import re
import statistics
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from tests.house import PACKAGE, ROOMS, drawing, imported_modules, imported_places, upward_imports

SOURCES = sorted(PACKAGE.rglob("*.py"))
# What a face has stands in `__init__.pyi` where a room is imported name by name, else in `__init__.py`.
FACES = {path.parent.name: path for path in [*PACKAGE.glob("*/__init__.py"), *PACKAGE.glob("*/__init__.pyi")]}
FACE = PACKAGE / "__init__.pyi"
LABS = sorted((PACKAGE.parent / "labs").glob("*.ipynb"))
LONGEST = 400  # lines of a file

HEAVY = (
    *("plotly", "ipywidgets", "anywidget", "jupyter", "jupyterlab", "IPython", "ipykernel", "papermill", "nbformat"),
    "pandas",
)


def place_of(path: Path) -> tuple[str, str]:
    """Returns the room and the file in it; a room that is one file has "" for it."""
    room, *file = path.relative_to(PACKAGE).with_suffix("").parts
    return room, "".join(file)


def modules_in_fresh_python(statement: str, *, path: Path | None = None) -> set[str]:
    """Returns the top-level names in sys.modules after running `statement` in a Python of its own."""
    setup = f"import sys; sys.path.insert(0, {str(path or PACKAGE.parent)!r}); "
    program = f"{setup}{statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def name_of(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_file_has_a_place_and_imports_only_from_places_before_it(path: Path):
    room, file = place_of(path)
    if room == "__init__":
        return
    assert file in (*ROOMS[room], "__init__", ""), f"give {file} a place in ROOMS"
    assert upward_imports(room, file, path.read_text()) == []


def test_every_place_has_a_file():
    places = {place_of(path) for path in SOURCES}
    assert places >= {(room, file) for room, files in ROOMS.items() for file in files or ("",)}


@pytest.mark.parametrize(
    "planted",
    [
        "from mixlab.training import Trainer",
        "from mixlab.training.trainer import Trainer",
        "import mixlab.training.trainer",
        "from mixlab import training",
        "def later():\n    from mixlab.training import Trainer",
        "if TYPE_CHECKING:\n    from mixlab.training import Trainer",
    ],
)
def test_a_planted_upward_import_is_found(planted: str):
    assert upward_imports("formats", "rounding", planted) == ["training"]
    assert upward_imports("experiments", "ledger", planted) == []


@pytest.mark.parametrize(
    ("room", "file", "above"),
    [("memory", "states", "estimates"), ("panels", "base", "cockpit"), ("formats", "format", "rounding")],
)
def test_a_planted_upward_import_within_a_room_is_found(room: str, file: str, above: str):
    planted = f"from mixlab.{room}.{above} import anything"
    assert upward_imports(room, file, planted) == [f"{room}.{above}"]
    assert upward_imports(room, above, f"from mixlab.{room}.{file} import anything") == []


def test_the_drawing_has_every_room_and_no_circle():
    drawn = {line.split()[1] for line in drawing().splitlines()[:-1]}
    assert drawn == set(ROOMS)


def rooms_on_the_map(text: str) -> list[str]:
    """Returns the rooms that the map in a docstring draws, from the top down."""
    lines = text.partition("## The map")[2].partition("How a recipe flows")[0].splitlines()
    drawn = [line.partition("--")[0] for line in lines if line.startswith("    ")]
    return re.findall(r"\w+", " ".join(drawn))


def test_the_map_for_engineers_has_every_room_in_its_order():
    assert rooms_on_the_map(import_module("mixlab").__doc__) == [room for room in ROOMS if room != "__main__"]


def test_files_are_short():
    lengths = {name_of(path): len(path.read_text().splitlines()) for path in SOURCES}
    assert {name: length for name, length in lengths.items() if length > LONGEST} == {}
    assert statistics.median(lengths.values()) < LONGEST / 2


@pytest.mark.parametrize("file", ["scalers", "checked_steps"])
def test_scalers_stand_alone_but_for_their_policies(file: str):
    source = (PACKAGE / "loss_scaling" / f"{file}.py").read_text()
    outside = {name.partition(".")[0] for name in imported_modules(source)} - sys.stdlib_module_names
    assert outside <= {"torch", "mixlab"}
    own = {("loss_scaling",), ("loss_scaling", "policies"), ("loss_scaling", "checked_steps"), ("wrappers",)}
    assert imported_places(source) <= own


def test_scale_policies_need_no_torch():
    source = (PACKAGE / "loss_scaling" / "policies.py").read_text()
    outside = {name.partition(".")[0] for name in imported_modules(source)} - sys.stdlib_module_names
    assert outside == {"mixlab"}
    assert imported_places(source) == {("arguments",)}


def public_names(source: str) -> list[str]:
    """Returns `__all__` as written; it must be a plain list of strings."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign) and ast.unparse(statement.targets[0]) == "__all__":
            return list(ast.literal_eval(statement.value))
    raise AssertionError("no __all__")


def imported_names(source: str) -> set[str]:
    froms = (node for node in ast.parse(source).body if isinstance(node, ast.ImportFrom))
    return {alias.asname or alias.name for node in froms if node.module != "__future__" for alias in node.names}


def in_reading_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by alphabet: the order that ruff's RUF022 keeps."""
    if name.isupper():
        return 0, name
    return (1 if name[0].isupper() else 2), name


@pytest.mark.parametrize("path", [FACE, *FACES.values()], ids=name_of)
def test_a_face_is_static_sorted_and_complete(path: Path):
    source = path.read_text()
    names = public_names(source)
    module = import_module(".".join(["mixlab", *path.parent.relative_to(PACKAGE).parts]))
    # A face that imports on first use has a stub, whose names lazy_loader sorts by alphabet.
    assert (names if path.suffix == ".py" else sorted(names)) == module.__all__
    assert names == sorted(names, key=in_reading_order)
    assert set(names) == imported_names(source) - set(ROOMS)
    assert module.__doc__
    assert all(hasattr(module, name) for name in names)


def past_faces(source: str, room: str = "") -> list[str]:
    """Returns what a source takes out of the files of other rooms although their faces have it."""
    froms = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom))
    dotted = ((str(node.module).split("."), node.names) for node in froms)
    inside = ((parts[1], aliases) for parts, aliases in dotted if len(parts) > 2 and parts[0] == "mixlab")
    return [
        f"{other}: {alias.name}"
        for other, aliases in inside
        for alias in aliases
        if other != room and alias.name in public_names(FACES[other].read_text())
    ]


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_what_a_face_has_is_taken_from_it(path: Path):
    assert past_faces(path.read_text(), place_of(path)[0]) == []


def test_a_planted_way_past_a_face_is_found():
    planted = "from mixlab.formats.rounding import round_to"
    assert past_faces(planted, "probes") == ["formats: round_to"]
    assert past_faces(planted, "formats") == []


def cells_of(lab: Path) -> list[str]:
    cells = json.loads(lab.read_text())["cells"]
    return ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("lab", LABS, ids=lambda lab: lab.stem)
def test_a_lab_imports_from_rooms_in_one_short_cell(lab: Path):
    importing = [cell for cell in cells_of(lab) if re.search(r"^(?:from|import) ", cell, re.M)]
    assert len(importing) == 1
    assert len([line for line in importing[0].splitlines() if line]) <= 5
    assert [place for place in imported_places(importing[0]) if len(place) > 1] in ([], [("experiments", "mistakes")])


def test_a_public_name_means_one_thing():
    places: dict[str, list[str]] = {}
    for path in SOURCES:
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
                places.setdefault(node.name, []).append(name_of(path))
    commands = {"train"}  # `mixlab train` and `mixlab measure train`
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in commands} == {}


def test_no_module_bears_the_name_of_a_function():
    """`mixlab.trace` would be a module or a function, by what was imported first."""
    for path in SOURCES:
        defined = {node.name for node in ast.parse(path.read_text()).body if isinstance(node, ast.FunctionDef)}
        assert path.stem not in defined, name_of(path)
    for room, face in {"": FACE, **FACES}.items():
        files = {path.stem for path in (PACKAGE / room).iterdir()} - {"mistakes"}
        assert files.isdisjoint(public_names(face.read_text())), room


def test_a_computed_public_api_is_refused():
    with pytest.raises(ValueError, match="malformed node"):
        public_names("__all__ = [name for name in dir()]")


def test_import_loads_nothing_of_the_notebooks():
    """The command imports the package and more; all names together import torch too."""
    modules = modules_in_fresh_python("import mixlab.cli.commands; from mixlab import *")
    assert {"mixlab", "torch"} <= modules
    assert modules.isdisjoint(HEAVY), modules & set(HEAVY)


def test_every_room_that_needs_no_notebook_is_an_attribute_of_the_package():
    """As `mixlab.formats.round_to`, after `import mixlab` alone."""
    rooms = set(ROOMS) - {"reports", "figures", "panels", "cli", "claims", "__main__"}
    listed = imported_names(FACE.read_text()) - set(public_names(FACE.read_text()))
    assert listed == rooms, "`from . import ...` in mixlab/__init__.pyi lists the rooms"
    assert "torch" not in modules_in_fresh_python("import mixlab; mixlab.recipes.Recipe.parse('amp-fp16,scale=8')")
    assert "torch" in modules_in_fresh_python("import mixlab; mixlab.formats.round_to")


@pytest.mark.parametrize("heavy", ["plotly", "ipywidgets", "papermill"])
def test_a_planted_heavy_import_is_found(heavy: str, tmp_path: Path):
    (tmp_path / "planted.py").write_text(f"import {heavy}\n")
    assert heavy in modules_in_fresh_python("import planted", path=tmp_path)


# What the whole process has, and who alone in the package may change it.
OWNED = {
    r"\b(?:fork_rng|set_rng_state|torch\.manual_seed|default_generator\.(?:manual_seed|seed|set_state))\(": set(),
    r"\bgc\.(?:disable|enable)\b|\bset_num_threads\b|_set_mkldnn_enabled": {"settings.py"},
    r"_set_only_lift_cpu_tensors": {"settings.py"},
    r"\ballow_tf32 *=|set_float32_matmul_precision\(.|_set_cu\w+_allow_tf32|_set_fp32_precision": {"tf32.py"},
    r"\bdup2\(|\bchdir\(|\bcatch_warnings\(|\bsimplefilter\(|\bsignal\.signal\(|\bset_default_\w+\(": set(),
    r"\bsys\.(?:stdout|stderr|excepthook) *=|\bos\.environ\.(?:setdefault|update)\(": set(),
    r"\bos\.environ\[[^]]*\] *=|\bos\.environ\.pop\(|\bdel os\.environ": {"notebooks.py"},
    r"= *torch\._C\._\w*(?:Disable\w+|Guard)\(": {"containment.py"},
}


def changes_of_the_process(name: str, source: str) -> list[str]:
    """Returns the lines of code, without comments and docstrings, that change what another module owns."""
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            node.value = ast.Constant(...)  # a docstring
    lines = ast.unparse(tree).splitlines()  # without comments
    return [
        line.strip()
        for pattern, owners in OWNED.items()
        if name not in owners
        for line in lines
        if re.search(pattern, line)
    ]


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_its_owner_changes_what_the_process_has(path: Path):
    assert changes_of_the_process(path.name, path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "torch.manual_seed(seed)",
        "with torch.random.fork_rng(devices=[]):\n    pass",
        "gc.disable()",
        "torch.set_num_threads(2)",
        "torch.backends.cuda.matmul.allow_tf32 = True",
        "os.dup2(a, 2)",
        "off = torch._C._DisableTorchDispatch()",
        "with warnings.catch_warnings():\n    pass",
        "os.environ['X'] = '1'",
    ],
)
def test_a_planted_change_of_the_process_is_found(planted: str):
    assert len(changes_of_the_process("trainer.py", planted)) == 1
