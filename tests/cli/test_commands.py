from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import nbformat
import pytest
from papermill.cli import _resolve_type
from typer.testing import CliRunner

from mixlab import FORMATS, __version__, explain, machine
from mixlab.cli import commands, notebooks, shipped

HEADER = "loss_scale = 0  # power of two\nrecipe: str = 'amp-fp16'"


def write_lab(folder: Path, name: str, *cells: str, parameters: str | None = HEADER) -> Path:
    """Writes a small notebook with a cell tagged `parameters`, then `cells`."""
    notebook = nbformat.v4.new_notebook()
    notebook.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    if parameters is not None:
        notebook.cells.append(nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}))
    notebook.cells += [nbformat.v4.new_code_cell(cell) for cell in cells]
    folder.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, folder / f"{name}.ipynb")
    return folder / f"{name}.ipynb"


@pytest.fixture
def labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The labs that mixlab brings, small ones, in the current folder, which is new."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(shipped, "shipped_labs", lambda: tmp_path / "labs")
    write_lab(tmp_path / "labs", "01_formats", "1 + 1")
    write_lab(tmp_path / "labs", "02_underflow", "print(loss_scale)")
    write_lab(tmp_path / "labs", "02_windows", "1")
    return tmp_path / "labs"


def mixlab(*arguments: str) -> Any:
    return CliRunner().invoke(commands.app, arguments)


def printed(path: Path) -> str:
    """Returns what the cells of an executed notebook wrote to stdout."""
    outputs = (output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", []))
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


# --- finding labs -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["01_formats", "01", "labs/01_formats.ipynb"])
def test_a_lab_is_found_by_name_prefix_and_path(labs: Path, name: str):
    assert shipped.find_lab(name) == labs / "01_formats.ipynb"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("99", ["unknown lab '99'", "01_formats, 02_underflow, 02_windows", "path that ends in .ipynb"]),
        ("", ["unknown lab ''", "01_formats"]),
        ("02", ["lab '02' is not unique", "02_underflow, 02_windows"]),
        ("missing.ipynb", ["no notebook at 'missing.ipynb'", "existing .ipynb file"]),
    ],
)
@pytest.mark.usefixtures("labs")
def test_an_unknown_lab_names_the_known_ones(name: str, words: list[str]):
    result = mixlab("run", name)
    assert result.exit_code == 2
    assert all(word in result.stderr for word in words), result.stderr


@pytest.mark.parametrize("content", ["not json", "[]", "{}", '{"cells": 3, "nbformat": 4}'])
def test_a_file_that_is_no_notebook_is_refused(tmp_path: Path, content: str):
    (tmp_path / "broken.ipynb").write_text(content)
    result = mixlab("run", str(tmp_path / "broken.ipynb"))
    assert result.exit_code == 2, result.stderr
    assert "broken.ipynb is not a notebook that Jupyter can read" in result.stderr


@pytest.fixture
def no_labs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation that lacks its labs, in a new current folder."""
    monkeypatch.chdir(tmp_path)
    for place in ("_PACKAGED", "_BESIDE_SOURCE"):
        monkeypatch.setattr(shipped, place, tmp_path / "site-packages" / "labs")


@pytest.mark.usefixtures("no_labs")
def test_an_installation_without_labs_says_what_to_do():
    for arguments in (["run", "02"], ["lab"], ["labs"]):
        result = mixlab(*arguments)
        assert result.exit_code == 2
        assert "mixlab's labs are missing: no notebooks in" in result.stderr
        assert "install mixlab anew, or run it from a clone" in result.stderr


def test_labs_in_the_current_folder_are_not_meant_by_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write_lab(tmp_path / "labs", "98_mine", "1")
    monkeypatch.chdir(tmp_path)
    assert "unknown lab '98'" in mixlab("run", "98").stderr
    assert "98_mine" not in mixlab("labs").stdout


# --- parameters -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    ["1024", "-1", "1e-6", "0.5", "inf", "nan", "True", "False", "None", "true", "amp-fp16", "", "1_000", "0x10"],
)
def test_values_are_read_as_papermill_reads_them(text: str):
    ours, theirs = notebooks.parse_value(text), _resolve_type(text)
    assert type(ours) is type(theirs)
    assert ours == theirs or text == "nan"


def test_parameters_arrive_with_their_types(tmp_path: Path):
    header = "a = 0\nb = 0\nc = 0\nd = 0\ne = 0\nf = 0"
    lab = write_lab(tmp_path, "types", "print([a, b, c, d, e, f])", parameters=header)
    pairs = ["-p", "a", "1024", "-p", "b", "1e-6", "--parameter", "c", "amp-fp16,scale=1024"]
    pairs += ["-p", "d=True", "-p", "e", "-1", "-p", "f=x"]
    result = mixlab("run", str(lab), *pairs, "--out", str(tmp_path / "out"))
    assert result.exit_code == 0, result.stderr
    assert printed(tmp_path / "out" / "types.ipynb") == "[1024, 1e-06, 'amp-fp16,scale=1024', True, -1, 'x']\n"


def test_options_may_stand_before_the_lab(labs: Path):
    result = mixlab("run", "-p", "loss_scale", "8", "--out", "out", "02_u")
    assert result.exit_code == 0, result.stderr
    assert printed(labs.parent / "out" / "02_underflow.ipynb") == "8\n"


def test_an_unknown_parameter_is_refused_with_the_allowed_ones(labs: Path):
    result = mixlab("run", "01", "-p", "loss_scal", "1024", "--out", "out")
    assert result.exit_code == 2
    assert "01_formats has no parameter 'loss_scal'; choose from: loss_scale, recipe" in result.stderr
    assert not (labs.parent / "out").exists()


def test_a_lab_without_parameters_says_so(tmp_path: Path):
    lab = write_lab(tmp_path, "plain", "1", parameters=None)
    result = mixlab("run", str(lab), "-p", "steps", "3")
    assert result.exit_code == 2
    assert "plain has no parameter 'steps'; it takes none" in result.stderr


@pytest.mark.usefixtures("labs")
def test_a_parameter_without_value_is_refused():
    result = mixlab("run", "01", "-p", "loss_scale")
    assert result.exit_code == 2
    assert "parameter 'loss_scale' has no value; write -p loss_scale VALUE" in result.stderr


# --- running ----------------------------------------------------------------------------------------------------------


def test_a_good_run_is_headless_in_the_labs_folder_and_leaves_no_trace(labs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("MIXLAB_HEADLESS", raising=False)
    scratch = labs.parent / "scratch"
    scratch.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(scratch))
    check = (
        "import os, pathlib; assert os.environ['MIXLAB_HEADLESS'] == '1'; assert pathlib.Path('here.ipynb').exists()"
    )
    before = write_lab(labs, "here", check).read_bytes()
    result = mixlab("run", "here")
    assert result.exit_code == 0, result.stderr
    assert "100%" in result.stderr
    assert (labs / "here.ipynb").read_bytes() == before
    assert sorted(path.name for path in labs.parent.iterdir()) == ["labs", "scratch"]
    assert list(scratch.iterdir()) == []
    assert "MIXLAB_HEADLESS" not in os.environ


def test_a_failing_cell_gives_its_message_in_red_and_is_kept(tmp_path: Path):
    lab = write_lab(tmp_path, "fails", "print('seen')", "raise ValueError(\"unknown recipe 'amp-fp17'\")")
    out = tmp_path / "out"
    result = CliRunner(env={"FORCE_COLOR": "1", "TERM": "xterm-256color"}).invoke(
        commands.app, ["run", str(lab), "--out", str(out)]
    )
    assert result.exit_code == 1
    assert "\x1b[31mfails, cell 3: ValueError: unknown recipe 'amp-fp17'" in result.stderr
    assert "Traceback" not in result.stderr
    assert str(out / "fails.ipynb") in result.stderr
    assert printed(out / "fails.ipynb") == "seen\n"


def test_a_dead_kernel_is_an_error(tmp_path: Path):
    lab = write_lab(tmp_path, "dies", "import os; os._exit(1)")
    result = mixlab("run", str(lab))
    assert result.exit_code == 1
    assert "dies: kernel died: it may have run out of memory" in result.stderr


def test_out_appears_in_one_piece_and_without_widgets(labs: Path, monkeypatch: pytest.MonkeyPatch):
    write_lab(labs, "widgets", "import ipywidgets; ipywidgets.IntSlider()")
    replaced: list[Any] = []
    replace = os.replace

    def spy(source: str, target: Path) -> None:
        replaced.append(nbformat.read(source, as_version=4))
        replace(source, target)

    monkeypatch.setattr(os, "replace", spy)
    result = mixlab("run", "widgets", "--out", "out/nested")
    assert result.exit_code == 0, result.stderr
    target = labs.parent / "out" / "nested" / "widgets.ipynb"
    kept = nbformat.read(target, as_version=4)
    assert replaced == [kept]
    assert "widgets" not in kept.metadata
    assert "application/vnd.jupyter.widget-view+json" in kept.cells[-1].outputs[0].data
    assert [path.name for path in target.parent.iterdir()] == ["widgets.ipynb"]
    assert "mixlab-" not in target.read_text()


def test_a_failed_write_leaves_the_old_result(labs: Path, monkeypatch: pytest.MonkeyPatch):
    out = labs.parent / "out"
    out.mkdir()
    (out / "01_formats.ipynb").write_text("old")

    def full_disk(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full_disk)
    with pytest.raises(OSError, match="No space left"):
        notebooks.run_notebook(labs / "01_formats.ipynb", {}, out=out, progress=False)
    assert [path.name for path in out.iterdir()] == ["01_formats.ipynb"]
    assert (out / "01_formats.ipynb").read_text() == "old"


def test_out_that_is_a_file_is_refused(labs: Path):
    (labs.parent / "out").write_text("")
    result = mixlab("run", "01", "--out", "out")
    assert result.exit_code == 2
    assert "cannot write to 'out'" in result.stderr
    assert "give another folder" in result.stderr


def test_braces_in_a_folder_are_no_parameters(tmp_path: Path):
    lab = write_lab(tmp_path / "a{b}", "braces", "1")
    assert mixlab("run", str(lab), "--out", str(tmp_path / "{out}")).exit_code == 0
    assert (tmp_path / "{out}" / "braces.ipynb").exists()


# --- JupyterLab -------------------------------------------------------------------------------------------------------


def test_the_users_own_configuration_comes_first():
    environment = notebooks.jupyterlab_environment({"JUPYTER_CONFIG_PATH": f"/a{os.pathsep}/b", "HOME": "/h"})
    assert environment["JUPYTER_CONFIG_PATH"].split(os.pathsep) == ["/a", "/b", str(notebooks.JUPYTER_CONFIG)]
    assert environment["HOME"] == "/h"


JUPYTER_READS = """
import json, os, sys
from jupyter_server.serverapp import ServerApp
from jupyterlab_server.config import get_static_page_config
from jupyterlab_server.settings_utils import _get_overrides
for path in sys.argv[1:]:
    os.environ["JUPYTER_CONFIG_PATH"] = path
    server = ServerApp()
    server.load_config_file(suppress_errors=False)
    page = get_static_page_config(level="all", logger=None)
    kernels = {name: server.config.MappingKernelManager.get(name) for name in ("cull_idle_timeout", "cull_connected")}
    print(json.dumps([page, _get_overrides("none")[0], kernels]))
"""


def test_jupyterlab_reads_what_mixlab_configures(tmp_path: Path):
    """No news; notebooks saved every 15 s; kernels whose page was closed end after 20 minutes, others never."""
    clean = {**os.environ, "JUPYTER_CONFIG_DIR": str(tmp_path), "JUPYTER_CONFIG_PATH": ""}
    switched = notebooks.jupyterlab_environment(clean)
    assert {name for name in switched if switched[name] != clean.get(name)} == {"JUPYTER_CONFIG_PATH"}
    command = [sys.executable, "-c", JUPYTER_READS, "", switched["JUPYTER_CONFIG_PATH"]]
    said = subprocess.run(command, env=clean, capture_output=True, text=True, check=True).stdout.splitlines()
    (page_before, settings_before, _), (page, settings, kernels) = map(json.loads, said)
    assert "announcements" not in str(page_before)
    assert page["disabledExtensions"] == {"@jupyterlab/apputils-extension:announcements": True}
    assert (settings_before, settings) == ({}, {"@jupyterlab/docmanager-extension:plugin": {"autosaveInterval": 15}})
    assert kernels == {"cull_idle_timeout": 1200, "cull_connected": False}


@pytest.mark.parametrize(
    ("port", "allowed"),
    [
        ("0", "0 is not a port; give one from 1 to 65535"),
        ("70000", "70000 is not a port; give one from 1 to 65535"),
        ("http", "'http' is not a whole number"),
    ],
)
@pytest.mark.usefixtures("labs")
def test_a_wrong_port_is_refused(port: str, allowed: str):
    result = mixlab("lab", f"--port={port}")
    assert result.exit_code == 2
    assert "--port" in result.stderr
    assert allowed in " ".join(result.stderr.split())


# --- doctor -----------------------------------------------------------------------------------------------------------


def test_doctor_shows_versions_devices_and_packages(labs: Path):
    result = mixlab("doctor")
    assert result.exit_code == 0, result.stderr
    here = machine.describe()
    for word in ("python", here.python, here.torch, here.numpy, here.cpu, "gpu", *machine.WIDGET_STACK, str(labs)):
        assert word in result.stdout


@pytest.mark.usefixtures("labs")
def test_doctor_names_the_command_for_what_is_missing(monkeypatch: pytest.MonkeyPatch):
    packages = (machine.Package("plotly", "plotly>=6.1", "7.1.0"), machine.Package("anywidget", "anywidget>=0.9", None))
    monkeypatch.setattr(machine, "widget_stack", lambda: packages)
    result = mixlab("doctor")
    assert result.exit_code == 1
    assert "anywidget missing" in result.stderr
    assert f"{sys.executable} -m pip install 'anywidget>=0.9'" in result.stderr
    assert "plotly" not in result.stderr


@pytest.mark.usefixtures("labs")
def test_doctor_misses_torch_too(monkeypatch: pytest.MonkeyPatch):
    installed = machine.installed_version
    monkeypatch.setattr(machine, "installed_version", lambda name: None if name == "torch" else installed(name))
    monkeypatch.setattr(machine, "torch_build", lambda: None)
    result = mixlab("doctor")
    assert result.exit_code == 1
    assert "torch missing" in result.stderr
    assert f"{sys.executable} -m pip install torch" in result.stderr


@pytest.mark.usefixtures("no_labs")
def test_doctor_says_when_there_are_no_labs():
    result = mixlab("doctor")
    assert result.exit_code == 0
    assert "mixlab's labs are missing" in result.stdout


# --- the command itself -----------------------------------------------------------------------------------------------


def test_python_m_mixlab_is_the_command():
    command = [sys.executable, "-m", "mixlab", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert all(name in shown for name in ("lab", "run", "doctor"))


@pytest.mark.usefixtures("labs")
def test_an_unknown_command_or_option_is_refused():
    for arguments in (["fly"], ["run", "01", "--fast"]):
        result = mixlab(*arguments)
        assert result.exit_code == 2
        assert arguments[-1] in result.stderr


def test_train_prints_what_came_out():
    result = mixlab(
        "train", "--task", "digits-cnn", "--recipe", "amp-fp16,scale=1024", "--steps", "12", "--device", "cpu"
    )
    assert result.exit_code == 0
    assert "amp-fp16,scale=1024 on digits-cnn, seed 0: loss" in result.stdout
    assert "after 12 steps" in result.stdout
    assert "held out: loss" in result.stdout
    assert f"torch {machine.describe().torch}" in result.stdout


def test_train_goes_on_with_a_run_and_refuses_another(tmp_path):
    run = ["train", "--task", "digits-cnn", "--device", "cpu", "--run", str(tmp_path / "run")]
    assert "after 5 steps" in mixlab(*run, "--steps", "5").stdout
    assert "after 9 steps" in mixlab(*run, "--steps", "9").stdout
    refused = mixlab(*run, "--steps", "9", "--recipe", "fp32")
    assert refused.exit_code == 2
    assert "holds a run with recipe=amp-fp16, not fp32" in refused.stderr


def test_train_says_that_it_diverged():
    result = mixlab("train", "--task", "digits-cnn", "--recipe", "fp16", "--steps", "5", "--device", "cpu")
    assert result.exit_code == 0
    assert "diverged: the loss is nan from step 1 on" in result.stdout


# --- formats and explain ----------------------------------------------------------------------------------------------


def test_formats_shows_all_or_the_named_ones():
    everything = mixlab("formats").stdout
    assert all(f"\n{name} " in everything for name in FORMATS)
    named = mixlab("formats", "e5m3", "bf16").stdout.splitlines()
    assert [line.split()[0] for line in named[1:]] == ["e5m3", "bf16"]
    assert "61440" in named[1]


def test_formats_as_json_holds_the_numbers_themselves():
    (row,) = json.loads(mixlab("formats", "fp16", "--json").stdout)
    assert (row["max"], row["smallest_subnormal"], row["bias"]) == (65504.0, 2.0**-24, 15)


def test_explain_tells_it_in_words_and_as_json():
    result = mixlab("explain", "-957", "e4m3fn")
    assert result.exit_code == 0
    assert result.stdout.strip() == str(explain(-957, "e4m3fn", overflow="saturate"))
    record = json.loads(mixlab("explain", "nan", "fp16", "--json").stdout)
    assert (record["value"], record["outcome"], record["result"]["kind"]) == ("nan", "nan", "nan")
    assert '"value": Infinity' not in mixlab("explain", "inf", "fp16", "--json").stdout


def test_version_is_shown():
    assert mixlab("--version").stdout.strip() == __version__
