"""The labs that mixlab brings: where they are, and which one a name means."""

from __future__ import annotations

from pathlib import Path

_PACKAGED = Path(__file__).parent / "labs"  # a wheel has the labs here; `[tool.hatch.build]` puts them there
_BESIDE_SOURCE = Path(__file__).parents[2] / "labs"  # a checkout has them here, an editable installation too


class LabError(ValueError):
    """Raised if the folder of labs, a lab or a lab's parameter does not exist."""


def shipped_labs() -> Path:
    """Returns the folder of the labs as mixlab brings them: inside the package, or beside its source in a checkout.

    Nobody but their authors should write there; `mixlab lab` works on copies.

    Raises:
        LabError: If it is missing.
    """
    for folder in (_PACKAGED, _BESIDE_SOURCE):
        if any(folder.glob("*.ipynb")):
            return folder
    raise LabError(
        f"mixlab's labs are missing: no notebooks in {_PACKAGED}, nor in {_BESIDE_SOURCE}; "
        "install mixlab anew, or run it from a clone of its repository"
    )


def is_checkout() -> bool:
    """Returns whether the labs are those beside the package's source, which their authors edit."""
    return shipped_labs() == _BESIDE_SOURCE


def find_lab(lab: str) -> Path:
    """Returns the path of a lab's notebook. A name means the lab as mixlab brings it, a path any notebook.

    Args:
        lab: A lab's name ("02_underflow_and_loss_scaling"), the unique start of one ("02"), or a path that ends in
            .ipynb.

    Raises:
        LabError: If no lab, or more than one, matches.
    """
    if lab.endswith(".ipynb"):
        return _existing_notebook(Path(lab))
    return lab_named(lab, also=", or give a path that ends in .ipynb")


def lab_named(lab: str, *, also: str = "") -> Path:
    """Returns the path of a lab that mixlab brings.

    Args:
        lab: Its name ("02_underflow_and_loss_scaling"), or the unique start of one ("02").
        also: What else the reader may give, as the end of the refusal.

    Raises:
        LabError: If no lab, or more than one, matches.
    """
    labs = {path.stem: path for path in sorted(shipped_labs().glob("*.ipynb"))}
    matches = [lab] if lab in labs else [name for name in labs if lab and name.startswith(lab)]
    if len(matches) == 1:
        return labs[matches[0]]
    trouble = f"lab {lab!r:.60} is not unique" if matches else f"unknown lab {lab!r:.60}"
    raise LabError(f"{trouble}; choose one of: {', '.join(matches or labs)}{also}")


def names_a_lab(text: str) -> bool:
    """Returns whether a text is a lab's name or the unique start of one.

    Args:
        text: The text.
    """
    try:
        return bool(lab_named(text))
    except LabError:
        return False


def _existing_notebook(path: Path) -> Path:
    if not path.is_file():
        raise LabError(f"no notebook at {str(path)!r}; give the path of an existing .ipynb file, or a lab's name")
    return path.resolve()
