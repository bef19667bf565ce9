"""The share of useful work over sizes."""

from __future__ import annotations

import pytest

from mixlab.figures import useful_shares


def test_each_line_is_drawn_with_a_colour_and_dash_of_its_own():
    figure = useful_shares([7, 8, 9], {"tiles of 8": [7 / 8, 1, 9 / 16], "a <b>": (0, 0.5, 1)}, title="Squares")
    assert [list(line.x) for line in figure.data] == [[7, 8, 9]] * 2
    assert list(figure.data[0].y) == [7 / 8, 1, 9 / 16]
    assert [line.name for line in figure.data] == ["tiles of 8", "a &lt;b&gt;"]
    assert len({(line.line.color, line.line.dash) for line in figure.data}) == 2
    assert figure.layout.title.text == "Squares"


def test_lines_that_do_not_match_are_refused():
    with pytest.raises(ValueError, match="one has 1 shares for 2 sizes"):
        useful_shares([1, 2], {"one": [1.0]}, title="")
    with pytest.raises(ValueError, match="shares is empty"):
        useful_shares([1, 2], {}, title="")
