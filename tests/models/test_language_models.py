"""Traces of language models as on a CPU, against real steps, to the byte."""

from __future__ import annotations

import pytest

from tests.models.exactness import Say, assert_exact
from tests.models.language_models import CAUSAL, causal

pytestmark = pytest.mark.models


@pytest.mark.parametrize("recipe", ["fp32", "amp-bf16"])
@pytest.mark.parametrize("name", CAUSAL)
def test_causal_models(name: str, recipe: str, record_property: Say):
    assert_exact(record_property, name, causal(name, CAUSAL[name], {"use_cache": False}), recipe)
