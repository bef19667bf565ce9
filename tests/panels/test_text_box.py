from __future__ import annotations

import pytest

from mixlab.panels.text_box import TextBox, whole


def test_a_text_that_is_read_is_taken_and_written_anew():
    taken: list[int] = []
    box = TextBox("Steps", 5, read=whole("Steps", 1, 100), take=taken.append)
    box.value = " 1e1 "
    assert (taken, box.taken, box.value, box.error) == ([10], 10, "10", "")
    assert repr(box) == "Steps: 10"


def test_a_text_that_is_refused_stays():
    def refuse(value: int) -> None:
        raise RuntimeError("not today")

    box = TextBox("Steps", 5, read=whole("Steps", 1, 100), take=refuse)
    box.value = "abc"
    assert (box.value, box.taken) == ("abc", 5)
    assert box.error == "Steps must be a whole number from 1 to 100, got 'abc'. Still in use: 5"
    box.value = "7"
    assert (box.value, box.taken, box.error) == ("7", 5, "not today. Still in use: 5")
    box.show(8)
    assert (box.value, box.taken, box.error) == ("8", 8, "")


def test_keys_take_the_next_place_and_refuse_beyond_the_last():
    box = TextBox("Steps", 99, read=whole("Steps", 1, 100), places=(int, int))
    box._moved(box, {"by": 1}, None)
    assert (box.taken, box.error) == (100, "")
    box._moved(box, {"by": 1}, None)
    assert (box.taken, box.value) == (100, "101")
    assert "from 1 to 100, got 101" in box.error
    box.disabled = True
    box._moved(box, {"by": -1}, None)
    assert box.taken == 100


@pytest.mark.parametrize("text", ["", "abc", "1.5", "0", "101", "nan", "inf", "1e999", "-1", "true", "9" * 400])
def test_what_is_no_whole_number_in_bounds_is_refused(text: str):
    with pytest.raises(ValueError, match="Steps must be a whole number from 1 to 100, got"):
        whole("Steps", 1, 100)(text)
