"""Where panels keep runs: a folder beside the notebook, or one that goes with the kernel."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from pathlib import Path

_PREFIX = "mixlab-runs-"


def temporary_folder(owner: object) -> Path:
    """Makes a folder that is deleted with its owner, at the latest when the kernel ends.

    Args:
        owner: The object that uses the folder.
    """
    folder = tempfile.mkdtemp(prefix=_PREFIX)
    weakref.finalize(owner, shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def kept_words(folder: Path) -> str:
    """Returns where a folder's runs are and how long: "kept in runs/04_training_modes, beside this notebook".

    Args:
        folder: The folder.
    """
    if folder.name.startswith(_PREFIX):
        return "kept until the kernel ends"
    here = Path.cwd()
    return (
        f"kept in {folder.relative_to(here)}, beside this notebook" if here in folder.parents else f"kept in {folder}"
    )
