from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> Iterator[None]:
    """Every real step collects garbage, which takes long among all modules that were imported."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()
