"""Every lab, all of it shown, for people with other eyes and hands: in both themes, and on narrow pages.

A page of 1400 pixels at a zoom of 200 % is laid out as one of 700.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.browser import audit
from tests.browser.lab import Notebook, with_parameters

LABS = sorted((Path(__file__).parents[2] / "labs").glob("*.ipynb"))
SHORT = {
    "00": 10,
    "01": 20,
    "02": 40,
    "03": 10,
    "04": 10,
    "05": 20,
    "06": 20,
    "12": 6,
}  # steps, by number; else as it is


@pytest.mark.parametrize("path", LABS, ids=lambda path: path.stem)
def test_nobody_is_shut_out(path: Path, open_notebook: Callable[..., Notebook], tmp_path: Path):
    short = {"steps": SHORT[path.name[:2]]} if path.name[:2] in SHORT else {}
    lab = open_notebook(with_parameters(path, tmp_path, **short), height=audit.SCREEN)
    lab.run_all(timeout_s=300)
    audit.show_everything(lab)
    page = lab.page
    found = {"names": audit.bad_names(page), "charts": audit.chart_faults(page)}
    for theme in ("Dark", "Light"):
        lab.use_theme(theme)
        found[f"axe-core, {theme}"] = audit.violations(page)
        found[f"faint, {theme}"] = audit.faint(page)
    for pixels in (1400, 800, 700):
        with audit.width(page, pixels):
            found[f"cut off at {pixels}"] = audit.cut_off(page)
    assert {where: faults for where, faults in found.items() if faults} == {}
