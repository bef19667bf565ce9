"""Starts JupyterLab on a folder of labs, and runs a lab headless."""

from __future__ import annotations

import ast
import json
import os
import sys
import tempfile
import tokenize
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixlab.cli.lab_files import read_lab
from mixlab.cli.shipped import LabError
from mixlab.files import replacing
from mixlab.machine import HEADLESS_VARIABLE
from mixlab.powers import read_number

# JupyterLab reads this folder on its configuration path. `labconfig/page_config.json` disables the one plugin that asks
# about news, fetches them and looks for updates. `labconfig/default_setting_overrides.json` saves a changed notebook
# every 15 seconds, not 120. `jupyter_server_config.json` ends a kernel that no page is connected to and that was idle
# for 20 minutes; each keeps its memory, some 450 MB with torch 2.13 for CPUs.
JUPYTER_CONFIG = Path(__file__).parent / "jupyter_config"


class CellError(RuntimeError):
    """Raised if a cell of a lab raises.

    Attributes:
        name: The exception's type, such as "ValueError".
        message: The exception's message, which may be empty.
        cell: The number in the cell's In[ ]; None if the kernel died.
        source: The cell's code.
    """

    def __init__(self, name: str, message: str, cell: int | None, source: str) -> None:
        super().__init__(f"{name}: {message}" if message else name)
        self.name, self.message, self.cell, self.source = name, message, cell, source


def parse_value(text: str) -> bool | int | float | str | None:
    """Reads a parameter's value: True, False, None, a whole number, a number, a power such as 2^10, or else text.

    >>> [parse_value(text) for text in ("1024", "1e-6", "2^10", "True", "amp-fp16")]
    [1024, 1e-06, 1024.0, True, 'amp-fp16']
    """
    words = {"True": True, "False": False, "None": None}
    if text in words:
        return words[text]
    for number in (int, read_number):
        try:
            return number(text)
        except ValueError:
            continue
    return text


def parameter_names(notebook: Path) -> tuple[str, ...]:
    """Returns the names that a notebook's cell tagged `parameters` assigns, in order; () without such a cell.

    Raises:
        LabError: If the file is not a notebook, or that cell is not Python.
    """
    if (lab := read_lab(notebook)) is not None:
        return tuple(dict.fromkeys(one.name for one in lab.parameters))
    tagged = [cell for cell in _read(notebook).cells if "parameters" in cell.metadata.get("tags", [])]
    if not tagged or tagged[0].cell_type != "code":
        return ()
    try:
        return tuple(dict.fromkeys(_assigned_names(tagged[0].source)))
    except (SyntaxError, ValueError, RecursionError, tokenize.TokenError) as error:
        raise LabError(f"{notebook}: the cell tagged parameters is not valid Python: {error}; correct it") from None


def run_notebook(
    notebook: Path,
    parameters: Mapping[str, Any],
    *,
    out: Path | None = None,
    progress: bool = True,
    most_s: int | None = None,
) -> None:
    """Executes a notebook headless, in its own folder, with `MIXLAB_HEADLESS=1` in the kernel's environment.

    Args:
        notebook: Path of the notebook, which is not changed.
        parameters: Values by name, for names that its cell tagged `parameters` assigns.
        out: Folder for the executed notebook, created if missing. The file has the notebook's name and no widget state,
            and appears in one piece, even if a cell fails. It replaces an executed notebook of that name, never one
            that was not executed. None saves nothing.
        progress: Whether to draw a progress bar on stderr.
        most_s: How many seconds a cell may take; None for any.

    Raises:
        LabError: If the notebook has no such parameter, a notebook in `out` would be lost, or a cell takes too long.
        ValueError: If it is one of mixlab's labs, and does not take such a value.
        CellError: If a cell without the tag `raises-exception` raises, or the kernel dies.
    """
    _refuse_wrong_parameters(notebook, parameters)
    _read(notebook)
    if out is not None:
        out = _made_folder(out)
        _refuse_to_lose(out / notebook.name, notebook)
    with tempfile.TemporaryDirectory(prefix="mixlab-") as scratch:
        executed = Path(scratch) / "executed.ipynb"
        try:
            _execute(notebook, executed, parameters, progress, most_s)
        finally:
            if out is not None and executed.exists():
                _publish(executed, out / notebook.name, notebook)


def jupyterlab_command(
    labs: Path, *, port: int | None, browser: bool, root: bool = False, extra: Sequence[str] = ()
) -> list[str]:
    """Returns the command that serves the labs in JupyterLab.

    Args:
        labs: Folder of labs.
        port: Port; None takes 8888 or the next free one.
        browser: Whether to open a browser.
        root: Whether root may start it, as in a container.
        extra: Further arguments for JupyterLab.
    """
    command = [sys.executable, "-m", "jupyterlab", str(labs)]
    if port is not None:
        command += [f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    if not browser:
        command.append("--no-browser")
    if root:
        command.append("--allow-root")
    return [*command, *extra]


def jupyterlab_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """Returns an environment in which JupyterLab shows no news, saves often, and ends kernels of closed pages.

    mixlab's folder goes last on Jupyter's configuration path, so a user's own configuration wins.
    """
    paths = [path for path in environment.get("JUPYTER_CONFIG_PATH", "").split(os.pathsep) if path]
    return {**environment, "JUPYTER_CONFIG_PATH": os.pathsep.join([*paths, str(JUPYTER_CONFIG)])}


def _read(notebook: Path) -> Any:
    import nbformat

    try:
        content = nbformat.read(notebook, as_version=4)  # type: ignore[no-untyped-call]
        nbformat.validate(content)
    except OSError as error:
        raise LabError(f"cannot read {notebook}: {error.strerror}") from None
    except Exception as error:  # a broken file can raise anything in nbformat
        raise LabError(f"{notebook} is not a notebook that Jupyter can read ({error}); open it in Jupyter") from None
    return content


def _assigned_names(source: str) -> Iterator[str]:
    """Yields the names that a cell assigns. The cell may contain magics, which are not Python.

    Raises:
        SyntaxError: If the rest is not Python either.
    """
    from IPython.core.inputtransformer2 import TransformerManager

    if source.startswith("%%"):  # such as %%time, which has the assignments below it
        source = source.partition("\n")[2]
    python = TransformerManager().transform_cell(source)  # type: ignore[no-untyped-call]
    for statement in ast.parse(python).body:
        targets = statement.targets if isinstance(statement, ast.Assign) else [getattr(statement, "target", None)]
        yield from (target.id for target in targets if isinstance(target, ast.Name))


def _refuse_wrong_parameters(notebook: Path, parameters: Mapping[str, Any]) -> None:
    allowed = parameter_names(notebook) if parameters else ()
    unknown = [name for name in parameters if name not in allowed]
    if unknown:
        choice = f"choose from: {', '.join(allowed)}" if allowed else "it takes none"
        raise LabError(f"{notebook.stem} has no parameter {', '.join(map(repr, unknown))}; {choice}")
    if (lab := read_lab(notebook)) is not None:
        lab.check(parameters)


def _made_folder(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise LabError(f"cannot write to {str(folder)!r}: {error.strerror}; give another folder") from None
    return folder.resolve()


def _execute(notebook: Path, executed: Path, parameters: Mapping[str, Any], progress: bool, most_s: int | None) -> None:
    import papermill
    from nbclient.exceptions import CellTimeoutError, DeadKernelError

    # papermill formats its path arguments, so a brace in a folder's name would fail: pass the content instead.
    content = _read(notebook)
    content.metadata.pop("widgets", None)
    try:
        with _headless():
            papermill.execute_notebook(
                content,
                str(executed),
                parameters=dict(parameters),
                kernel_name="python3",
                language="python",  # a notebook may lack it
                cwd=str(notebook.parent),
                progress_bar=progress,
                execution_timeout=most_s,
                extra_arguments=["--log-level=ERROR"],  # the kernel's log would cut through the progress bar
            )
    except papermill.PapermillExecutionError:
        _raise_error_of_cells(executed)
    except DeadKernelError:
        raise CellError("kernel died", "it may have run out of memory", None, "") from None
    except CellTimeoutError:
        raise LabError(f"{notebook.name}: a cell took more than {most_s} s and was stopped") from None
    except Exception as error:  # starting a kernel can raise anything
        raise LabError(f"{notebook} cannot be executed: {type(error).__name__}: {error}") from error


def _raise_error_of_cells(executed: Path) -> None:
    """Raises the error of the first cell that failed without the tag `raises-exception`, a tag papermill ignores.

    If there is none, the run succeeded, and papermill's error marks are removed from the notebook.
    """
    from papermill.execute import remove_error_markers

    content = _read(executed)
    for cell in content.cells:
        if cell.cell_type != "code" or "raises-exception" in cell.metadata.get("tags", []):
            continue
        for output in cell.outputs:
            if output.output_type == "error" and not (output.ename == "SystemExit" and output.evalue in ("", "0")):
                raise CellError(output.ename, output.evalue, cell.execution_count, cell.source)
        if cell.metadata.get("papermill", {}).get("exception") is True and not cell.outputs:
            raise CellError("CellExecutionError", "", cell.execution_count, cell.source)
    executed.write_text(json.dumps(remove_error_markers(content)), encoding="utf-8")


@contextmanager
def _headless() -> Iterator[None]:
    before = os.environ.get(HEADLESS_VARIABLE)
    os.environ[HEADLESS_VARIABLE] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[HEADLESS_VARIABLE]
        else:
            os.environ[HEADLESS_VARIABLE] = before


def _refuse_to_lose(target: Path, notebook: Path) -> None:
    """Refuses to overwrite this lab or another one; the output of an earlier run may be replaced."""
    if target.exists() and (target.samefile(notebook) or _is_source(target)):
        raise LabError(
            f"{target} is a notebook that was not executed, and would be overwritten; give another folder with --out"
        )


def _is_source(path: Path) -> bool:
    try:
        return "papermill" not in _read(path).metadata
    except LabError:
        return False


def _publish(executed: Path, target: Path, notebook: Path) -> None:
    """Writes the executed notebook without widget state; a reader of `target` sees all of it, or the previous file."""
    import nbformat

    content = _read(executed)
    content.metadata.pop("widgets", None)
    content.metadata.papermill.update(input_path=str(notebook), output_path=str(target))
    _refuse_to_lose(target, notebook)
    with replacing(target) as file:
        file.write(nbformat.writes(content).encode() + b"\n")  # type: ignore[no-untyped-call]
