"""The room costs nothing until a callback is made, and says which package is missing."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest

from mixlab.integrations import HFCallback, LightningCallback
from tests.test_structure import modules_in_fresh_python

FRAMEWORKS = {"transformers", "lightning", "pytorch_lightning", "accelerate", "timm", "diffusers", "peft"}


def test_nothing_of_a_framework_is_imported_before_a_callback_is_made():
    loaded = modules_in_fresh_python(
        "import mixlab; mixlab.integrations.HFCallback, mixlab.integrations.LightningCallback"
    )
    assert {"mixlab", "torch"} <= loaded
    assert loaded.isdisjoint(FRAMEWORKS)


def test_a_missing_framework_is_named(monkeypatch):
    for name in FRAMEWORKS:
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    with pytest.raises(ImportError, match="HFCallback needs transformers; install it with pip install transformers"):
        HFCallback()
    with pytest.raises(ImportError, match="LightningCallback needs Lightning; install it with pip install lightning"):
        LightningCallback()


PACKAGES = ("lightning.pytorch", "pytorch_lightning")


@pytest.mark.parametrize("imported", [PACKAGES[:1], PACKAGES[1:], PACKAGES])
def test_the_callback_is_one_of_whichever_lightning_is_imported(imported, monkeypatch):
    made = {}
    for name in PACKAGES:
        monkeypatch.delitem(sys.modules, name, raising=False)
        if name in imported:
            module = ModuleType(name)
            made[name] = module.Callback = type("Callback", (), {})
            monkeypatch.setitem(sys.modules, name, module)
    watch = LightningCallback(every=3)
    assert all(isinstance(watch, made[name]) for name in imported)
    assert isinstance(watch, LightningCallback)
    assert type(watch).__mro__[1] is LightningCallback
