"""Each lab's parameters: declared once, equal to its cell of parameters, checked before anything runs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import pytest

from mixlab.cli.notebooks import run_notebook
from mixlab.labs import (
    ConfigPath,
    Number,
    OneOf,
    RecipeText,
    Whole,
    check_parameters,
    kept_parameters,
    lab_parameters,
    lab_recipe,
)
from mixlab.recipes import Recipe

LABS = Path(__file__).parents[2] / "labs"
NAMES = [path.stem for path in sorted(LABS.glob("*.ipynb"))]

# Values that no parameter takes.
NEVER = [None, True, "", -1, 1.5, float("nan"), float("inf"), -0.5, 10**400, "many", [], {}, 1j]


def defaults(name: str) -> dict[str, Any]:
    """Returns what the lab's cell of parameters assigns."""
    cells = json.loads((LABS / f"{name}.ipynb").read_text())["cells"]
    (source,) = ("".join(cell["source"]) for cell in cells if "parameters" in cell["metadata"].get("tags", []))
    return {ast.unparse(line.targets[0]): ast.literal_eval(line.value) for line in ast.parse(source).body}


def legal(allowed: object) -> list[Any]:
    """Returns the values at the edges of what is allowed."""
    match allowed:
        case Whole(low, high):
            return [low, high]
        case Number(low, high, zero):
            return [low, high, *([] if zero is None else [0, 0.0])]
        case OneOf(names):
            return list(names)
        case RecipeText(otherwise):
            return ["fp32", "amp-fp16,scaler=static,scale=2^30", "bf16-kahan", *([] if otherwise is None else [""])]
        case ConfigPath():
            return [""]
    raise AssertionError(allowed)


def illegal(allowed: object) -> list[Any]:
    match allowed:
        case Whole(low, high):
            return [low - 1, high + 1, float(low), str(low), *NEVER]
        case Number(low, high, zero):
            never = [value for value in NEVER if value != 1.5]
            return [low / 2, high * 1.01, "2^10", *([0] if zero is None else []), *never]
        case OneOf(names):
            return [names[0].upper(), f"{names[0]} ", names, *NEVER]
        case RecipeText(otherwise):
            never = NEVER if otherwise is None else [value for value in NEVER if value != ""]
            return ["fp17", "fp32,steps=3", "amp-fp16,scale=0", "amp-fp16;fp32", *never]
        case ConfigPath():
            never = [value for value in NEVER if value != ""]
            return ["config.json", "/nowhere/config.json", "/config\0.json", str(LABS), f"/{10**300}.json", *never]
    raise AssertionError(allowed)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_declared_is_what_the_lab_has_and_its_defaults_are_legal(name: str):
    values = defaults(name)
    assert list(lab_parameters(name)) == list(values)
    check_parameters(name, values)


@pytest.mark.parametrize("name", NAMES)
def test_values_at_the_edges_are_taken_and_those_beyond_are_refused_in_words(name: str):
    for parameter, allowed in lab_parameters(name).items():
        for value in legal(allowed):
            allowed.check("it", value)
        for value in illegal(allowed):
            with pytest.raises(ValueError, match=f"^{name}: {parameter}\\b") as refused:
                check_parameters(name, {**defaults(name), parameter: value})
            assert len(str(refused.value)) < 400


def test_an_unknown_lab_and_unknown_or_missing_parameters_are_named():
    with pytest.raises(KeyError, match="unknown lab '04_modes': did you mean 04_training_modes"):
        lab_parameters("04_modes")
    values = defaults("04_training_modes")
    with pytest.raises(ValueError, match="no parameter 'step': did you mean steps"):
        check_parameters("04_training_modes", {**values, "step": 3})
    del values["seed"], values["task"]
    with pytest.raises(ValueError, match="needs a value for seed, task; give all of recipe, loss_scale"):
        check_parameters("04_training_modes", values)


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("04_training_modes", {"recipe": "amp-fp16,scaler=apex", "loss_scale": 2.0**30}, "loss_scale .* max_scale"),
        ("07_memory", {"seq": 1025}, "seq must be at most 1024, the positions of gpt2, got 1025"),
        ("08_bf16_matmul", {"gpu": "t4"}, "gpu t4 does not multiply in bf16, .* use another recipe, or one of a10, "),
    ],
)
def test_values_that_contradict_one_another_are_refused(name: str, changes: dict[str, Any], words: str):
    with pytest.raises(ValueError, match=f"^{name}: {words}"):
        check_parameters(name, {**defaults(name), **changes})


def test_a_config_is_read_where_it_lies_and_is_not_kept_with_answers(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4}))
    values = {**defaults("07_memory"), "config": str(path)}
    check_parameters("07_memory", values)
    assert kept_parameters("07_memory", values) == defaults("07_memory")
    with pytest.raises(ValueError, match="config must be .*, got 'config.json'; write '/.*config.json'"):
        check_parameters("07_memory", {**values, "config": "config.json"})
    path.write_text(json.dumps({"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 5}))
    with pytest.raises(ValueError, match="07_memory: config: .*heads must divide width"):
        check_parameters("07_memory", values)


def test_a_gpu_without_bf16_is_taken_with_another_recipe():
    check_parameters("08_bf16_matmul", {**defaults("08_bf16_matmul"), "gpu": "t4", "recipe": "amp-fp16"})


def test_a_lab_has_one_recipe_and_an_empty_text_stands_for_what_is_declared():
    for name in NAMES:
        declared = lab_parameters(name)["recipe"]
        assert isinstance(declared, RecipeText)
        text = "" if declared.otherwise is not None else "amp-fp16"
        recipe = lab_recipe(name, {"recipe": text, "loss_scale": 0})
        assert recipe == declared.recipe(text) == Recipe.parse(declared.otherwise or text)
    assert lab_recipe("04_training_modes", {"recipe": "amp-fp16", "loss_scale": 64}).scale == 64
    with pytest.raises(ValueError, match="recipe"):
        lab_recipe("04_training_modes", {"recipe": "", "loss_scale": 0})


def test_nobody_can_change_the_declarations():
    with pytest.raises(TypeError, match="does not support item assignment"):
        lab_parameters("00_start_here")["steps"] = Whole(1, 2)  # type: ignore[index]


NEVER_STEPS = "fp16-master,scaler=static,scale=2^30"  # every step overflows and is skipped
EDGES = [
    {"recipe": NEVER_STEPS},
    {"loss_scale": 2.0**127, "seed": 2**31 - 1},
    {"recipe": "fp32", "loss_scale": 2.0**-126, "task": "digits-mlp"},
    {"recipe": "fp16", "task": "digits-cnn"},
    {"recipe": "bf16-kahan", "task": "chars-gpt"},
]


def fewest(name: str) -> int:
    steps = lab_parameters(name)["steps"]
    assert isinstance(steps, Whole)
    return steps.low


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("values", EDGES, ids=lambda values: "-".join(map(str, values)))
def test_the_lab_runs_at_the_edges_with_the_fewest_steps(name: str, values: dict[str, Any]):
    run_notebook(LABS / f"{name}.ipynb", {**values, "steps": fewest(name)}, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_lab_runs_with_a_recipe_that_never_steps(name: str):
    steps = 4 if name == "07_memory" else 20
    run_notebook(LABS / f"{name}.ipynb", {"recipe": NEVER_STEPS, "steps": steps}, progress=False)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "values"),
    [
        *(("02_underflow_and_loss_scaling", {"loss_weight": weight}) for weight in (1e-12, 1000.0)),
        *(("07_memory", {"batch": batch, "seq": seq}) for batch, seq in ((1, 1), (2**16, 1024))),
        ("07_memory", {"model": "llama-3.1-405b", "gpu": "t4", "seq": 2**20}),
        *(("08_bf16_matmul", {"m": m, "n": n, "k": k}) for m, n, k in ((1, 1, 1), (1, 2**20, 1), (2**20,) * 3)),
        *(("08_bf16_matmul", {"fast_kib": kib, "units": units}) for kib, units in ((1, 1), (2**20, 2**16))),
        *(("08_bf16_matmul", {"gpu": gpu, "recipe": "amp-fp16"}) for gpu in ("v100-16gb", "mi355x")),
    ],
)
def test_the_lab_runs_at_the_edges_of_its_own_parameters(name: str, values: dict[str, Any]):
    run_notebook(LABS / f"{name}.ipynb", {"steps": fewest(name), **values}, progress=False)
