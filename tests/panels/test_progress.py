"""Progress of a loop in a notebook."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from mixlab.panels import fraction_line, progress, with_progress


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a notebook would show, as plain text, in order."""
    monkeypatch.delenv("MIXLAB_HEADLESS", raising=False)
    shell = InteractiveShell.instance()
    publisher = CapturingDisplayPublisher()
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher.outputs
    InteractiveShell.clear_instance()


def texts(shown: list[dict[str, Any]]) -> list[str]:
    return [output["data"]["text/plain"] for output in shown]


def test_every_item_comes_and_every_step_is_shown(shown):
    assert list(with_progress("ab", "claims")) == ["a", "b"]
    assert texts(shown) == [
        "0 of 2 claims, 0 s",
        "0 of 2 claims, now a, 0 s",
        "1 of 2 claims, now b, 0 s",
        "2 claims in 0 s",
    ]
    assert (
        '<progress value="0.5" max="1" aria-label="progress"></progress> 1 of 2 claims' in shown[2]["data"]["text/html"]
    )
    assert [output["update"] for output in shown] == [False, True, True, True]


def test_a_generator_says_its_length_and_a_pair_its_name(shown):
    assert dict(with_progress(((name, 1) for name in ("fp32", "bf16")), "recipes", total=2)) == {"fp32": 1, "bf16": 1}
    assert "1 of 2 recipes, now bf16, 0 s" in texts(shown)


def test_a_slow_item_shows_the_time(shown, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(progress, "_TICK_S", 0.01)
    for _ in with_progress([1], "items"):
        time.sleep(0.1)
    assert texts(shown).count("0 of 1 items, 0 s") > 3


def test_a_loop_that_is_left_says_how_far_it_came(shown):
    items = with_progress([1, 2, 3], "steps")
    next(items)
    next(items)
    items.close()
    assert texts(shown)[-1] == "left after 1 of 3 steps in 0 s"


def test_a_cell_that_fails_stops_the_clock(shown):
    items = with_progress([1, 2, 3], "steps")
    next(items)
    InteractiveShell.instance().events.trigger("post_run_cell", None)
    assert texts(shown)[-1] == "left after 0 of 3 steps in 0 s"
    items.close()
    assert len(texts(shown)) == 3


def test_a_fraction_is_shown(shown):
    show = fraction_line("measuring")
    show(0.25)
    assert texts(shown) == ["measuring: 0%, 0 s", "measuring: 25%, 0 s"]


def test_headless_and_outside_a_notebook_items_come_all_the_same(shown, monkeypatch: pytest.MonkeyPatch, capsys):
    monkeypatch.setenv("MIXLAB_HEADLESS", "1")
    assert list(with_progress([1, 2], "numbers")) == [1, 2]
    fraction_line("measuring")(0.5)
    InteractiveShell.clear_instance()
    assert list(with_progress([1, 2], "numbers")) == [1, 2]
    assert (shown, capsys.readouterr().out) == ([], "")


@pytest.mark.parametrize("total", [None, -1, 1.5, True])
def test_an_unknown_length_is_refused(total: Any):
    with pytest.raises(ValueError, match="with_progress: "):
        with_progress(iter([1]), "numbers", total=total)
