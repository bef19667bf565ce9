from __future__ import annotations

import math
import re

import pytest

from mixlab import FP16, Recipe, Trainer, load_task
from mixlab.experiments import Card, dissect
from mixlab.reports import stage_line, stage_page
from mixlab.reports.one_step import values_svg


@pytest.fixture(scope="module")
def stages():
    return dissect(Trainer(load_task("digits-mlp"), Recipe.parse("amp-fp16"), device="cpu"))


def card(value: float, name: str = "x") -> Card:
    return Card(name, "fp16", value, abs(value), 1, int(value == 0), 0)


def test_a_line_of_words_names_the_stage(stages):
    assert stage_line(stages, 4).startswith("stage 5 of 8, unscale: Divided by 65536")


def test_every_stage_has_a_page(stages):
    for index, stage in enumerate(stages):
        page = stage_page(stages, index, FP16)
        assert page.count("<circle") == 2 * len(stage.cards)  # on the range, and beside the name
        assert page.count("<tr>") == len(stage.cards) + 1


def places(cards: list[Card]) -> list[float]:
    return [float(x) for x in re.findall(r'<circle cx="([\d.]+)"', values_svg(cards, FP16))]


def test_dots_stand_at_their_exponents_and_at_the_ends_for_zero_and_inf():
    small, one, large = places([card(2.0**-20), card(1.0), card(2.0**15)])
    assert (one - small) / (large - one) == pytest.approx(20 / 15, rel=0.01)
    zero, tiny, infinite = places([card(0.0), card(2.0**-100), card(math.inf)])
    assert zero == tiny < small
    assert infinite > large
    picture = values_svg([card(0.0, "gone"), card(math.inf, "far"), card(math.nan, "lost")], FP16)
    assert "gone: 0<" in picture
    assert "far: inf<" in picture
    assert "NaN" in picture


def test_the_picture_says_its_numbers_and_names_the_zones():
    picture = values_svg([card(0.25, "a < b")], FP16)
    assert 'aria-label="a &lt; b: 0.25"' in picture
    assert all(zone in picture for zone in ("becomes zero", "subnormal", "normal", "overflow"))
