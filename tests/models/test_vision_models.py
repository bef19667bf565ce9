"""Traces of models of images as on a CPU, against real steps, to the byte."""

from __future__ import annotations

import pytest

from tests.models.exactness import Say, assert_exact
from tests.models.vision_models import DIFFUSION, IMAGES, SLOW_IMAGES, diffusion_model, image_model

pytestmark = pytest.mark.models
RECIPES = ("fp32", "amp-bf16")


@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in SLOW_IMAGES else ()) for name in IMAGES]
)
def test_image_models(name: str, recipe: str, record_property: Say):
    assert_exact(record_property, name, image_model(name), recipe)


@pytest.mark.filterwarnings("ignore:`Transformer2DModelOutput` is deprecated:FutureWarning")
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.parametrize("name", DIFFUSION)
def test_diffusion_models(name: str, recipe: str, record_property: Say):
    assert_exact(record_property, name, diffusion_model(name), recipe)
