from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mixlab import (
    BF16,
    E4M3FN,
    E5M2,
    FP16,
    FP32,
    PRESETS,
    TF32,
    ApexPolicy,
    DeepSpeedPolicy,
    DynamicScaler,
    MegatronPolicy,
    NoScaler,
    Recipe,
    StaticScaler,
    TorchPolicy,
)

FORMATTED = ("weights", "compute", "gradients", "exp_avg", "exp_avg_sq")

sixteen = st.sampled_from([FP16, BF16])
any_of = st.sampled_from([FP32, FP16, BF16])
scales = st.floats(min_value=2.0**-100, max_value=2.0**100, width=32)
factors = {"growth_factor": st.floats(1, 1e6, exclude_min=True), "backoff_factor": st.floats(2.0**-20, 0.99)}
interval = {"growth_interval": st.integers(1, 10**6)}
bounds = {"scale": st.floats(16.0, 2.0**20), "min_scale": st.floats(0.5, 16.0)}
hysteresis = {"hysteresis": st.integers(1, 9)}
on_overflow = {"on_overflow": st.sampled_from(["skip", "zero"])}
scaling = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"scaler": st.just("static"), "scale": scales, **on_overflow}),
    st.fixed_dictionaries({"scaler": st.just("dynamic"), "scale": scales, **factors, **interval, **on_overflow}),
    st.fixed_dictionaries(
        {"scaler": st.just("apex"), **bounds, **interval, "max_scale": st.floats(2.0**20, 2.0**90), **on_overflow}
    ),
    st.fixed_dictionaries(
        {"scaler": st.just("megatron"), **bounds, **factors, **interval, **hysteresis, **on_overflow}
    ),
    st.fixed_dictionaries(
        {
            "scaler": st.just("deepspeed"),
            **bounds,
            **interval,
            **hysteresis,
            "consecutive_hysteresis": st.booleans(),
            **on_overflow,
        }
    ),
)
any_state = st.sampled_from([FP32, FP16, BF16, E4M3FN, E5M2, "dynamic8"])


def rounded(stored: dict) -> st.SearchStrategy[dict]:
    """Adds how states are rounded, and the size of their blocks, where that has an effect."""
    states = {stored["exp_avg"], stored["exp_avg_sq"]}
    more = {} if states == {FP32} else {"state_rounding": st.sampled_from(["nearest_even", "stochastic"])}
    more |= {"block_size": st.integers(1, 9999)} if states & {E4M3FN, E5M2, "dynamic8"} else {}
    return st.fixed_dictionaries(more).map(lambda more: stored | more)


states = {"exp_avg": any_state, "exp_avg_sq": any_state}
storage = st.one_of(
    st.fixed_dictionaries(
        {"compute": st.sampled_from([FP32, TF32, FP16, BF16]), "gradients": any_of, **states}
    ).flatmap(rounded),
    sixteen.flatmap(
        lambda fmt: st.fixed_dictionaries(
            {
                "weights": st.just(fmt),
                "compute": st.just(fmt),
                "gradients": st.sampled_from([fmt, FP32]),
                **states,
                "update": st.sampled_from(["nearest_even", "stochastic", "kahan"]),
            }
        ).flatmap(rounded)
    ),
    sixteen.flatmap(
        lambda fmt: st.fixed_dictionaries(
            {"weights": st.just(fmt), "compute": st.just(fmt), "master_weights": st.booleans(), **states}
        ).flatmap(rounded)
    ),
    sixteen.map(lambda fmt: dict.fromkeys(FORMATTED, fmt) | {"update": "per_op"}),
)
recipes = st.builds(lambda stored, scaled: Recipe(**stored, **scaled), storage, scaling)


@given(recipes)
def test_the_text_form_prints_back_as_itself(recipe):
    assert Recipe.parse(str(recipe)) == recipe
    assert str(Recipe.parse(str(recipe))) == str(recipe)


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_prints_as_its_name(name):
    assert str(PRESETS[name]) == name
    assert Recipe.parse(name) == PRESETS[name]


def test_presets_are_what_their_names_say():
    """In the order of FORMATTED: weights, compute, gradients, exp_avg, exp_avg_sq."""
    stored = {name: " ".join(str(getattr(recipe, field)) for field in FORMATTED) for name, recipe in PRESETS.items()}
    assert stored == {
        "fp32": "fp32 fp32 fp32 fp32 fp32",
        "tf32": "fp32 tf32 fp32 fp32 fp32",
        "amp-fp16": "fp32 fp16 fp32 fp32 fp32",
        "amp-bf16": "fp32 bf16 fp32 fp32 fp32",
        "fp16": "fp16 fp16 fp16 fp16 fp16",
        "bf16": "bf16 bf16 bf16 bf16 bf16",
        "bf16-sr": "bf16 bf16 bf16 bf16 bf16",
        "bf16-kahan": "bf16 bf16 bf16 bf16 bf16",
        "fp16-master": "fp16 fp16 fp32 fp32 fp32",
        "bf16-master": "bf16 bf16 fp32 fp32 fp32",
        "lean-bf16": "fp32 bf16 bf16 bf16 fp32",
    }
    updates = {name: recipe.update for name, recipe in PRESETS.items() if recipe.update != "nearest_even"}
    assert updates == {"fp16": "per_op", "bf16": "per_op", "bf16-sr": "stochastic", "bf16-kahan": "kahan"}
    assert [name for name, recipe in PRESETS.items() if recipe.master_weights] == ["fp16-master", "bf16-master"]
    assert [name for name, recipe in PRESETS.items() if recipe.autocast] == ["amp-fp16", "amp-bf16", "lean-bf16"]
    scalers = {name: type(recipe.make_scaler()) for name, recipe in PRESETS.items()}
    dynamic = dict.fromkeys(["amp-fp16", "fp16-master"], DynamicScaler)
    assert scalers == dict.fromkeys(PRESETS, NoScaler) | dynamic


def test_text_may_use_powers_of_two_and_spaces():
    assert Recipe.parse(" amp-fp16 , scale = 2^10 ") == Recipe.parse("amp-fp16,scale=1024")
    assert str(Recipe.parse("amp-fp16,scaler=static,scale=2^10")) == "amp-fp16,scaler=static,scale=1024"


@pytest.mark.parametrize("exponent", [-30, -2, -1, 0, 1, 13, 14, 30, 100])
def test_a_power_of_two_is_written_as_one_where_that_is_shorter(exponent: int):
    recipe = PRESETS["fp16"].with_loss_scale(2.0**exponent)
    text = str(recipe).rpartition("=")[2]
    assert Recipe.parse(str(recipe)) == recipe
    assert text == (f"2^{exponent}" if exponent > 13 or exponent < -2 else f"{2.0**exponent:g}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("amp-fp17", "unknown recipe 'amp-fp17'.*fp32, tf32, amp-fp16, amp-bf16, fp16, bf16, bf16-sr"),
        ("", "unknown recipe '': start with"),
        ("amp-fp17,scale=4", "unknown recipe 'amp-fp17' in 'amp-fp17,scale=4': start with"),
        ("scale=1024", "unknown recipe 'scale=1024'"),
        ("amp-fp16,sclae=1024", "'sclae=1024'.*the fields are weights, compute, gradients, exp_avg"),
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
        (
            "amp-fp16,scaler=magic",
            "scaler='magic' is not allowed; use none, static, dynamic, apex, megatron, deepspeed",
        ),
        ("amp-fp16,compute=fp17", "unknown format 'fp17'"),
        ("amp-fp16,compute=e5m2", "compute=e5m2 is not allowed; use fp32, tf32, fp16, bf16"),
        ("fp16,compute=bf16", "weights=fp16 needs compute=fp16, got compute=bf16"),
        ("fp32,scale=1024", "scale=1024 has no effect with scaler=none; use scaler=static, dynamic, apex, megatron"),
        ("amp-fp16,hysteresis=3", "hysteresis=3 has no effect with scaler=dynamic; use scaler=megatron, deepspeed"),
        ("fp32,on_overflow=zero", "on_overflow=zero has no effect with scaler=none"),
        ("amp-fp16,on_overflow=clip", "on_overflow must be one of skip, zero, got 'clip'"),
        ("amp-fp16,scaler=apex,max_scale=2", "max_scale must be a finite number from init_scale=65536 up, got 2"),
        ("amp-bf16,exp_avg=int8", "unknown format 'int8'"),
        ("amp-bf16,exp_avg=tf32", "exp_avg=tf32 is not allowed; use fp32, fp16, bf16, e4m3fn, e5m2, dynamic8"),
        ("amp-bf16,gradients=dynamic8", "unknown format 'dynamic8'"),
        ("fp32,state_rounding=stochastic", "state_rounding=stochastic needs exp_avg or exp_avg_sq in less than fp32"),
        ("bf16,state_rounding=stochastic", "state_rounding=stochastic needs .* not update=per_op"),
        ("lean-bf16,state_rounding=up", "state_rounding='up' is not allowed; use nearest_even, stochastic"),
        ("lean-bf16,block_size=64", "block_size=64 has no effect without a state in e4m3fn, e5m2, dynamic8"),
        ("fp32,exp_avg=e5m2,block_size=0", "block_size must be a whole number from 1 up, got 0"),
        ("fp32,weights=tf32", "weights=tf32 is not allowed; use fp32, fp16, bf16"),
        ("bf16,gradients=fp16", "weights=bf16 needs gradients=bf16 or gradients=fp32, got gradients=fp16"),
        ("bf16,gradients=fp32", "update=per_op needs gradients, exp_avg and exp_avg_sq .* bf16, got fp32, bf16, bf16"),
        ("fp32,master_weights=true", "master_weights=true needs 16-bit weights"),
        ("fp32,master_weights=1", "'1' is neither true nor false"),
        ("fp32,update=kahan", "update=kahan needs 16-bit weights without master weights"),
        ("bf16-master,update=stochastic", "update=stochastic needs 16-bit weights without master weights"),
        ("bf16,update=truncate", "update='truncate' is not allowed; use nearest_even, stochastic, kahan, per_op"),
        ("amp-fp16,scaler=static,growth_interval=5", "growth_interval=5 has no effect with scaler=static"),
    ],
)
def test_a_wrong_word_names_itself_and_the_allowed_ones(text, message):
    with pytest.raises(ValueError, match=message.replace("2^", r"2\^").replace("...", r"\.\.\.")):
        Recipe.parse(text)


@pytest.mark.parametrize("arguments", [{"compute": None}, {"weights": 16}])
def test_a_format_must_be_a_format_or_its_name(arguments):
    with pytest.raises(TypeError, match=f"{next(iter(arguments))}: a format must be a Format or its name"):
        Recipe(**arguments)


def test_formats_may_be_given_by_name():
    assert Recipe("bf16", "bf16", gradients="bf16", exp_avg="dynamic8").gradients is BF16
    with pytest.raises(ValueError, match="weights: unknown format 'fp17'"):
        Recipe(weights="fp17")


def test_equal_recipes_print_the_same_whatever_their_formats_are_called():
    by_fields = Recipe.parse("amp-fp16,compute=e8m7,gradients=e8m7,exp_avg=e4m3fn,exp_avg_sq=e5m2")
    assert by_fields == Recipe(compute=BF16, gradients=BF16, exp_avg=E4M3FN, exp_avg_sq=E5M2, scaler="dynamic")
    assert "e8m7" not in str(by_fields)
    assert by_fields.compute is BF16


def test_text_says_nearest_for_nearest_even():
    recipe = Recipe.parse("bf16,update=nearest")
    assert recipe.update == "nearest_even"
    assert recipe == Recipe.parse("bf16,update=nearest_even")
    assert str(recipe) == "bf16,update=nearest"


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
    with pytest.raises(
        ValueError, match="scaler='magic' is not allowed; use none, static, dynamic, apex, megatron, deepspeed"
    ):
        recipe.with_scaler("magic")


def test_a_storage_without_a_preset_is_named_by_the_nearest():
    assert str(Recipe.parse("amp-bf16,exp_avg=bf16,exp_avg_sq=fp32")) == "amp-bf16,exp_avg=bf16"
    assert str(Recipe.parse("bf16-master,gradients=bf16")) == "bf16-master,gradients=bf16"
    assert Recipe.parse("bf16,update=nearest,exp_avg_sq=fp32").exp_avg_sq == FP32


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("growth_factor=3,backoff_factor=0.25", TorchPolicy(8, 3, 0.25, 7)),
        ("scaler=apex,min_scale=2,max_scale=16", ApexPolicy(8, 7, 2, 16)),
        (
            "scaler=megatron,growth_factor=3,backoff_factor=0.25,min_scale=2,hysteresis=3",
            MegatronPolicy(8, 3, 0.25, 7, 2, 3),
        ),
        ("scaler=deepspeed,min_scale=2,hysteresis=3,consecutive_hysteresis=true", DeepSpeedPolicy(8, 7, 2, 3, True)),
    ],
)
def test_make_scaler_hands_over_every_knob(text, policy):
    recipe = Recipe.parse(f"amp-fp16,scale=8,growth_interval=7,on_overflow=zero,{text}")
    assert recipe.make_scaler().policy == recipe.scale_policy() == policy
    assert not recipe.make_scaler().skips
    assert Recipe.parse(str(recipe)) == recipe


def test_a_static_scaler_has_no_policy():
    recipe = Recipe.parse("amp-fp16,scaler=static,scale=8")
    assert recipe.make_scaler().get_scale() == StaticScaler(8).get_scale()
    with pytest.raises(ValueError, match="scaler=static has no policy; use scaler=dynamic, apex, megatron, deepspeed"):
        recipe.scale_policy()


def test_which_recipes_step_with_torch_optim():
    ours = {name for name, recipe in PRESETS.items() if not recipe.uses_torch_optim}
    assert ours == {"bf16-sr", "bf16-kahan", "fp16-master", "bf16-master", "lean-bf16"}
    assert not Recipe.parse("amp-fp16,exp_avg_sq=bf16").uses_torch_optim
