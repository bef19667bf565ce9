"""Progress of a loop in a notebook."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from IPython.core.displaypub import CapturingDisplayPublisher
from IPython.core.interactiveshell import InteractiveShell

from mixlab.panels import with_progress


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    """What a notebook would show, as plain text, in order."""
    shell = InteractiveShell.instance()
    publisher = CapturingDisplayPublisher()
    monkeypatch.setattr(shell, "display_pub", publisher)
    yield publisher.outputs
    InteractiveShell.clear_instance()


def test_every_item_comes_and_every_step_is_shown(shown):
    assert list(with_progress("ab", "claims")) == ["a", "b"]
    texts = [output["data"]["text/plain"] for output in shown]
    assert texts == ["0 of 2 claims", "1 of 2 claims", "2 of 2 claims", "2 claims in 0 s"]
    assert '<progress value="1" max="2" aria-label="1 of 2 claims">' in shown[1]["data"]["text/html"]
    assert [output["update"] for output in shown] == [False, True, True, True]


def test_outside_a_notebook_items_come_all_the_same(capsys):
    assert list(with_progress([1, 2], "numbers")) == [1, 2]
    assert capsys.readouterr().out == ""
