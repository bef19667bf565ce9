"""The shape of the package: what imports what, what is public, what `import mixlab` costs."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mixlab

PACKAGE = Path(mixlab.__file__).parent
SOURCES = sorted(PACKAGE.rglob("*.py"))

# A module may import only what stands before it. Every module has a place here.
ROOMS = (
    "files",
    "tables",
    "machine",
    "layers",
    "process_state",
    "random_streams",
    "tf32_switches",
    "contained",
    "formats",
    "scale_policies",
    "scaling_game",
    "scalers",
    "compiling",
    "rounding",
    "rounding_stats",
    "blocks",
    "accumulation",
    "fake_quantize",
    "explain",
    "autocast_lists",
    "autocast_kernels",
    "autocast_contexts",
    "emulation",
    "cast_trace",
    "memory_layout",
    "state_formats",
    "recipes",
    "optimizer_step",
    "optimizer_settings",
    "optimizer_states",
    "optimizers",
    "optimizer_backends",
    "stalls",
    "histograms",
    "probes",
    "tasks",
    "evaluation",
    "trainer",
    "updates",
    "track_updates",
    "microscope",
    "windows",
    "anatomy",
    "ledger",
    "memory",
    "modes",
    "first_aid",
    "records",
    "measure",
    "measure_train",
    "measure_emulation",
    "measure_optimizer",
    "measure_memory",
    "state_grid",
    "measure_states",
    "step_records",
    "runs",
    "background",
    "notebooks",
    "figures",
    "panels",
    "cli_values",
    "cli_measure",
    "cli_memory",
    "cli",
    "__main__",
)

HEAVY = ("plotly", "ipywidgets", "anywidget", "jupyter", "jupyterlab", "IPython", "ipykernel", "papermill", "nbformat")


def imported_modules(source: str) -> Iterator[str]:
    """Yields every module that the source imports anywhere, `from package import name` as package.name too."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def imported_rooms(source: str) -> set[str]:
    dotted = (name.split(".") for name in imported_modules(source))
    return {parts[1] for parts in dotted if parts[0] == "mixlab" and len(parts) > 1 and is_room(parts[1])}


def is_room(name: str) -> bool:
    return name in ROOMS or (PACKAGE / name).is_dir() or (PACKAGE / f"{name}.py").exists()


def upward_imports(room: str, source: str) -> list[str]:
    """Returns what a module of `room` imports from rooms that do not stand before it."""
    below = ROOMS[: ROOMS.index(room)]
    return sorted(name for name in imported_rooms(source) if name != room and name not in below)


def room_of(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def modules_in_fresh_python(statement: str, *, path: Path | None = None) -> set[str]:
    """Returns the top-level names in sys.modules after running `statement` in a Python of its own."""
    setup = f"import sys; sys.path.insert(0, {str(path or PACKAGE.parent)!r}); "
    program = f"{setup}{statement}; print(*{{name.partition('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_every_module_has_a_room():
    rooms = {room_of(path) for path in SOURCES} - {"__init__"}
    assert rooms <= set(ROOMS), f"give {rooms - set(ROOMS)} a place in ROOMS"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_downward(path: Path):
    if room_of(path) == "__init__":
        return
    assert upward_imports(room_of(path), path.read_text()) == []


@pytest.mark.parametrize(
    "planted",
    [
        "from mixlab.trainer import Trainer",
        "import mixlab.trainer",
        "from mixlab import trainer",
        "def later():\n    from mixlab.trainer import Trainer",
        "if TYPE_CHECKING:\n    from mixlab.trainer import Trainer",
    ],
)
def test_a_planted_upward_import_is_found(planted: str):
    assert upward_imports("formats", planted) == ["trainer"]
    assert upward_imports("runs", planted) == []


def test_scalers_stand_alone_but_for_their_policies():
    source = (PACKAGE / "scalers.py").read_text()
    outside = {name.partition(".")[0] for name in imported_modules(source)} - sys.stdlib_module_names
    assert outside <= {"torch", "mixlab"}
    assert imported_rooms(source) == {"scale_policies"}


def test_scale_policies_need_no_torch():
    source = (PACKAGE / "scale_policies.py").read_text()
    outside = {name.partition(".")[0] for name in imported_modules(source)} - sys.stdlib_module_names
    assert outside == {"numpy"}


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


def test_public_api_is_static_sorted_and_complete():
    source = (PACKAGE / "__init__.py").read_text()
    names = public_names(source)
    assert names == mixlab.__all__
    assert names == sorted(names, key=in_reading_order)
    assert set(names) == imported_names(source)
    assert all(hasattr(mixlab, name) for name in names)


def test_a_computed_public_api_is_refused():
    with pytest.raises(ValueError, match="malformed node"):
        public_names("__all__ = [name for name in dir()]")


def test_import_loads_nothing_of_the_notebooks():
    """The command imports the package and more."""
    modules = modules_in_fresh_python("import mixlab.cli")
    assert {"mixlab", "torch"} <= modules
    assert modules.isdisjoint(HEAVY), modules & set(HEAVY)


@pytest.mark.parametrize("heavy", ["plotly", "ipywidgets", "papermill"])
def test_a_planted_heavy_import_is_found(heavy: str, tmp_path: Path):
    (tmp_path / "planted.py").write_text(f"import {heavy}\n")
    assert heavy in modules_in_fresh_python("import planted", path=tmp_path)


# What the whole process has, and who alone in the package may change it.
OWNED = {
    r"\b(?:fork_rng|set_rng_state|torch\.manual_seed|default_generator\.(?:manual_seed|seed|set_state))\(": set(),
    r"\bgc\.(?:disable|enable)\b|\bset_num_threads\b|_set_mkldnn_enabled": {"process_state.py"},
    r"_set_only_lift_cpu_tensors": {"process_state.py"},
    r"\ballow_tf32 *=|set_float32_matmul_precision\(.|_set_cu\w+_allow_tf32|_set_fp32_precision": {"tf32_switches.py"},
    r"\bdup2\(|\bchdir\(|\bcatch_warnings\(|\bsimplefilter\(|\bsignal\.signal\(|\bset_default_\w+\(": set(),
    r"\bsys\.(?:stdout|stderr|excepthook) *=|\bos\.environ\.(?:setdefault|update)\(": set(),
    r"\bos\.environ\[[^]]*\] *=|\bos\.environ\.pop\(|\bdel os\.environ": {"notebooks.py"},
    r"= *torch\._C\._\w*(?:Disable\w+|Guard)\(": {"contained.py"},
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
