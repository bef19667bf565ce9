"""Colours are seen on both pages, told apart without some cones, and carry text that can be read."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest

from mixlab.reports.colours import GREY, SERIES, contrast, ink_on, line_on
from mixlab.reports.kinds import _LOOKS

DARK_PAGE = "#111111"  # JupyterLab's --jp-layout-color0

# Machado, Oliveira and Fernandes, A Physiologically-based Model for Simulation of Color Vision Deficiency, 2009,
# severity 1.0, on linear RGB.
EYES = {
    "all cones": np.eye(3),
    "no long cones": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "no middle cones": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "no short cones": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
OKABE_ITO = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9")


def seen(colour: str, eyes: np.ndarray) -> np.ndarray:
    """Returns the colour in Oklab (Ottosson, 2020), as these eyes see it."""
    parts = np.array([int(colour[place : place + 2], 16) for place in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    cones = [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
    axes = [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
    return np.array(axes) @ np.cbrt(np.array(cones) @ np.clip(eyes @ linear, 0, 1))


def closest(colours: tuple[str, ...], eyes: np.ndarray) -> float:
    return min(float(np.linalg.norm(seen(a, eyes) - seen(b, eyes))) for a, b in combinations(colours, 2))


@pytest.mark.parametrize("page", ["#FFFFFF", DARK_PAGE])
@pytest.mark.parametrize("colour", [*SERIES, GREY])
def test_a_line_is_seen_on_both_pages(colour, page):
    assert contrast(colour, page) >= 3


@pytest.mark.parametrize("eyes", EYES.values(), ids=EYES)
def test_series_are_told_apart(eyes):
    hardest = min(closest(OKABE_ITO, other) for other in EYES.values())
    assert closest(SERIES, eyes) >= hardest


def test_a_faint_colour_is_noticed():
    assert contrast("#E69F00", "#FFFFFF") < 3
    assert contrast("#8C8C8C", "#FFFFFF") < 4.5


@pytest.mark.parametrize("colour", [*SERIES, GREY, "#FFFFFF", "#000000"])
def test_ink_is_read_on_a_fill_and_on_its_pattern(colour):
    assert contrast(ink_on(colour), colour) >= 4.5
    assert contrast(ink_on(colour), line_on(colour)) == pytest.approx(21)


def test_parts_of_a_stack_are_told_apart_without_colour():
    states = [look for kind, look in _LOOKS.items() if look.colour != GREY and "momentum" not in kind]
    without_colour = [(look.ink, look.pattern) for look in dict.fromkeys(states)]
    assert len(set(without_colour)) == len(without_colour)
