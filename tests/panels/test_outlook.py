from __future__ import annotations

import threading
from dataclasses import replace
from typing import Any

import pytest

from mixlab.panels import outlook as module
from mixlab.panels.outlook import OutlookPanel, RunPlan
from mixlab.recipes import Recipe


def test_it_says_at_once_what_it_knows_and_the_rest_later():
    panel = OutlookPanel()
    panel.show(RunPlan("digits-cnn", Recipe.parse("amp-fp16")))
    assert panel.outlook.rows["Bytes per parameter"].startswith("16: weights 4 (fp32)")
    panel.wait()
    assert "at its peak, in backward; predicted" in panel.outlook.rows["Memory of a step"]
    assert "✓ It starts at 2¹⁶, in the usable window" in panel.outlook.rows["Loss scale"]
    assert "seed 0" in panel.value


def test_the_window_follows_the_loss_weight():
    panel = OutlookPanel()
    panel.show(RunPlan("digits-cnn", Recipe.parse("amp-fp16"), loss_weight=1e-6))
    panel.wait()
    low = panel.outlook.window.low
    panel.show(RunPlan("digits-cnn", Recipe.parse("amp-fp16"), loss_weight=1.0))
    panel.wait()
    assert 18 <= low - panel.outlook.window.low <= 22  # 10^6 is 2^19.9


def test_the_same_plan_is_worked_out_once(monkeypatch: pytest.MonkeyPatch):
    measured: list[RunPlan] = []
    monkeypatch.setattr(module, "_window", lambda plan: measured.append(plan))
    panel, plan = OutlookPanel(), RunPlan("digits-cnn", Recipe())
    for _ in range(3):
        panel.show(plan)
        panel.wait()
    assert measured == [plan]


def test_a_plan_that_was_replaced_is_not_shown(monkeypatch: pytest.MonkeyPatch):
    panel = OutlookPanel()
    first, second = (RunPlan("digits-cnn", Recipe.parse(text)) for text in ("fp32", "fp16"))

    def memory(plan: RunPlan) -> str:
        if plan == first:
            panel.show(second)
        return f"memory of {plan.recipe}"

    monkeypatch.setattr(module, "_memory", memory)
    panel.show(first)
    panel.wait()
    panel.wait()
    assert panel.outlook.recipe == second.recipe
    assert panel.outlook.memory == "memory of fp16"


def test_a_plan_that_comes_while_an_older_one_is_drawn_is_what_stays(monkeypatch: pytest.MonkeyPatch):
    panel = OutlookPanel()
    first, second = (RunPlan("digits-cnn", Recipe.parse(text)) for text in ("fp32", "fp16"))
    turned = threading.Thread(target=panel.show, args=(second,))

    def replace_slowly(outlook: object, **changes: Any) -> object:
        if turned.ident is None:  # the first plan's first words
            turned.start()
            turned.join(0.5)
        return replace(outlook, **changes)

    monkeypatch.setattr(module, "_memory", lambda plan: f"memory of {plan.recipe}")
    monkeypatch.setattr(module, "replace", replace_slowly)
    panel.show(first)
    panel.wait()
    turned.join()
    panel.wait()
    assert panel.outlook.recipe == second.recipe
    assert panel.outlook.memory == "memory of fp16"


def test_an_error_reaches_whoever_waits_and_the_thread_goes_on():
    worker, done = module._Worker(), threading.Event()

    def fail() -> None:
        raise ValueError("no ink")

    failed = worker.submit(fail)
    worker.submit(done.set)
    assert done.wait(20)
    with pytest.raises(ValueError, match="no ink"):
        failed.result()


def test_an_error_is_words(monkeypatch: pytest.MonkeyPatch):
    def fail(plan: RunPlan) -> str:
        raise ValueError("no <batch>")

    monkeypatch.setattr(module, "_memory", fail)
    panel = OutlookPanel()
    panel.show(RunPlan("digits-cnn", Recipe()))
    panel.wait()
    assert panel.outlook.memory == "not known: no <batch>"
    assert "no &lt;batch&gt;" in panel.value


def test_headless_nothing_runs_in_the_background(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MIXLAB_HEADLESS", "1")
    panel = OutlookPanel()
    panel.show(RunPlan("digits-cnn", Recipe()))
    assert panel._pending is None
    assert "being predicted" in repr(panel)
