from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab import BF16, FP16, FP32, PRESETS, DynamicScaler, NoScaler, Recipe, StaticScaler

scales = st.floats(min_value=2.0**-100, max_value=2.0**100, width=32)
pairs = st.sampled_from([(FP32, FP32), (FP32, FP16), (FP32, BF16), (FP16, FP16), (BF16, BF16)])
recipes = st.one_of(
    st.builds(lambda pair: Recipe(*pair), pairs),
    st.builds(lambda pair, scale: Recipe(*pair, scaler="static", scale=scale), pairs, scales),
    st.builds(
        lambda pair, scale, growth, backoff, interval: Recipe(*pair, "dynamic", scale, growth, backoff, interval),
        pairs,
        scales,
        st.floats(1, 1e6, exclude_min=True),
        st.floats(0, 1, exclude_min=True, exclude_max=True),
        st.integers(1, 10**6),
    ),
)


@given(recipes)
def test_the_text_form_prints_back_as_itself(recipe):
    assert Recipe.parse(str(recipe)) == recipe
    assert str(Recipe.parse(str(recipe))) == str(recipe)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_prints_as_its_name(name):
    assert str(PRESETS[name]) == name
    assert Recipe.parse(name) == PRESETS[name]


def test_presets_are_what_their_names_say():
    assert list(PRESETS) == ["fp32", "amp-fp16", "amp-bf16", "fp16", "bf16"]
    stored = {name: (recipe.weights, recipe.compute, recipe.autocast) for name, recipe in PRESETS.items()}
    assert stored == {
        "fp32": (FP32, FP32, False),
        "amp-fp16": (FP32, FP16, True),
        "amp-bf16": (FP32, BF16, True),
        "fp16": (FP16, FP16, False),
        "bf16": (BF16, BF16, False),
    }
    scalers = {name: type(recipe.make_scaler()) for name, recipe in PRESETS.items()}
    assert scalers == dict.fromkeys(PRESETS, NoScaler) | {"amp-fp16": DynamicScaler}


def test_text_may_use_powers_of_two_and_spaces():
    assert Recipe.parse(" amp-fp16 , scale = 2^10 ") == Recipe.parse("amp-fp16,scale=1024")
    assert str(Recipe.parse("amp-fp16,scaler=static,scale=2^10")) == "amp-fp16,scaler=static,scale=1024"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amp-fp17", "unknown recipe 'amp-fp17'.*fp32, amp-fp16, amp-bf16, fp16, bf16"),
        ("", "unknown recipe ''"),
        ("scale=1024", "unknown recipe 'scale=1024'"),
        ("amp-fp16,sclae=1024", "'sclae=1024'.*the fields are weights, compute, scaler, scale, growth_factor"),
        ("amp-fp16,scale", "'scale' .* is not field=value"),
        ("amp-fp16,scale=big", "'big' is not a number such as 1024"),
        ("amp-fp16,scale=nan", "must be a positive number that float32 can hold, got nan"),
        ("amp-fp16,scale=-1", "positive number that float32 can hold, got -1"),
        ("amp-fp16,scale=2^999", "positive number that float32 can hold"),
        ("amp-fp16,scale=2^99999", "is not a number such as"),
        ("amp-fp16,scale=1,scale=2", "sets scale twice"),
        ("amp-fp16,growth_interval=2.5", "'2.5' is not a whole number"),
        ("amp-fp16,growth_interval=0", "from 1 up, got 0"),
        ("amp-fp16,growth_factor=1", "growth_factor must be a finite number above 1, got 1"),
        ("amp-fp16,backoff_factor=1", "backoff_factor must be a number between 0 and 1, got 1"),
        ("amp-fp16,scaler=magic", "scaler='magic' is not allowed; use none, static, dynamic"),
        ("amp-fp16,compute=fp17", "unknown format 'fp17'"),
        ("amp-fp16,compute=e5m2", "compute=e5m2 is not allowed; use fp32, fp16, bf16"),
        ("fp16,compute=bf16", "weights=fp16 needs compute=fp16, got compute=bf16"),
        ("fp32,scale=1024", "scale=1024.0 has no effect with scaler=none; use scaler=static, dynamic"),
        ("amp-fp16,scaler=static,growth_interval=5", "growth_interval=5 has no effect with scaler=static"),
    ],
)
def test_a_wrong_word_names_itself_and_the_allowed_ones(text, message):
    with pytest.raises(ValueError, match=message.replace("2^", r"2\^").replace("...", r"\.\.\.")):
        Recipe.parse(text)


@pytest.mark.parametrize("arguments", [{"weights": "fp16"}, {"compute": None}, {"weights": 16}])
def test_a_format_must_be_a_format(arguments):
    with pytest.raises(TypeError, match="must be a Format such as mixlab.FP16"):
        Recipe(**arguments)


def test_parse_takes_only_text():
    with pytest.raises(TypeError, match="must be a string"):
        Recipe.parse(PRESETS["fp32"])


def test_with_loss_scale():
    assert PRESETS["amp-fp16"].with_loss_scale(0) is PRESETS["amp-fp16"]
    assert str(PRESETS["amp-fp16"].with_loss_scale(1024)) == "amp-fp16,scale=1024"
    assert str(PRESETS["fp16"].with_loss_scale(1024)) == "fp16,scaler=static,scale=1024"
    for bad in (-1, math.nan, math.inf, True, "8"):
        with pytest.raises(ValueError, match="must be a number|positive number"):
            PRESETS["amp-fp16"].with_loss_scale(bad)


def test_with_scaler_keeps_the_knobs_that_both_have():
    recipe = Recipe.parse("amp-fp16,scale=8,growth_interval=7")
    assert str(recipe.with_scaler("static")) == "amp-fp16,scaler=static,scale=8"
    assert str(recipe.with_scaler("none")) == "amp-fp16,scaler=none"
    assert recipe.with_scaler("dynamic") == recipe
    with pytest.raises(ValueError, match="scaler='magic' is not allowed; use none, static, dynamic"):
        recipe.with_scaler("magic")


def test_make_scaler_hands_over_every_knob():
    recipe = Recipe.parse("amp-fp16,scale=8,growth_factor=3,backoff_factor=0.25,growth_interval=7")
    assert recipe.make_scaler().state_dict() == DynamicScaler(8, 3, 0.25, 7).state_dict()
    assert Recipe.parse("amp-fp16,scaler=static,scale=8").make_scaler().get_scale() == StaticScaler(8).get_scale()
