"""One table over everything public: bad input ends in an error that says what came, what is allowed, or what to do."""

from __future__ import annotations

import math
import re

import pytest
import torch
from typer.testing import CliRunner

import mixlab
from mixlab import (
    E4M3FN,
    FP16,
    PRESETS,
    SGD,
    Adam,
    AdamW,
    ApexPolicy,
    BlockFormat,
    DeepSpeedPolicy,
    DynamicScaler,
    Format,
    Histogram,
    MegatronPolicy,
    NoScaler,
    Recipe,
    Run,
    StaticScaler,
    Storage,
    Task,
    TorchPolicy,
    Trainer,
    accumulate,
    arithmetic,
    autocast,
    cast_trace,
    dissect,
    dtype_ledger,
    explain,
    fake_quantize,
    final,
    first_non_finite,
    hunt,
    load_task,
    model_states,
    outcome,
    quantize_blocks,
    round_to,
    round_with_stats,
    scale_window,
    simulate,
    tensor_stats,
    track,
    track_updates,
    usable_window,
)
from mixlab.cli.commands import app

ONES = torch.ones(3)
TASK = load_task("digits-mlp")
MODEL = torch.nn.Linear(3, 3)

CALLS = [
    ("Format", lambda: Format("x", 9, 3), "exponent_bits must be a whole number from 2 to 8, got 9"),
    ("Format", lambda: Format("x", 5.0, 3), "exponent_bits must be a whole number from 2 to 8, got 5.0"),
    ("Format", lambda: Format("x", 5, 0), "mantissa_bits must be a whole number from 1 to 23, got 0"),
    (
        "Format",
        lambda: Format("x", 5, 2, "posit"),
        "one of ieee, fn, fnuz, finite, scale, got 'posit'",
    ),
    ("Format", lambda: Format("x", 8, 2, "fn"), "beyond float32 (2⁻¹⁴⁹ to 2¹²⁷); use fewer exponent bits"),
    ("Format", lambda: Format.parse("fp17"), "unknown format 'fp17': use one of fp64, fp32, tf32, fp16"),
    ("Format", lambda: FP16.encode(0.1), "fp16 has no value 0.1: its neighbours are"),
    ("BlockFormat", lambda: BlockFormat("x", FP16, FP16, 32), "scale must be the Format e8m0fnu or e4m3fn"),
    ("BlockFormat", lambda: BlockFormat("x", FP16, E4M3FN, 0), "block_size must be a whole number from 1 up, got 0"),
    ("quantize_blocks", lambda: quantize_blocks(ONES, "mxfp5"), "unknown block format 'mxfp5': use one of mxfp8_e4m3"),
    ("quantize_blocks", lambda: quantize_blocks(ONES, "mxfp4", dim=2), "has no dimension 2"),
    ("explain", lambda: explain("957", "fp16", overflow="inf"), "value must be a number, got '957'"),
    ("explain", lambda: explain(957, "e8m0fnu", overflow="saturate"), "e8m0fnu is a scale"),
    ("accumulate", lambda: accumulate("a", 3, "fp16", overflow="inf"), "value must be a finite number, got 'a'"),
    ("accumulate", lambda: accumulate(1.0, 0, "fp16", overflow="inf"), "count must be a whole number from 1 up"),
    (
        "fake_quantize",
        lambda: fake_quantize(ONES, forward="fp17", backward=None, overflow="inf"),
        "unknown format 'fp17'",
    ),
    (
        "fake_quantize",
        lambda: fake_quantize(ONES, forward=None, backward="e2m1fn", overflow="nan"),
        "e2m1fn has no NaN; use overflow='saturate'",
    ),
    ("round_with_stats", lambda: round_with_stats(ONES.long(), "fp16", overflow="inf"), "tensor, got torch.int64"),
    ("Recipe", lambda: Recipe(weights=16), "weights: a format must be a Format or its name, such as 'fp16', got 16"),
    (
        "Recipe",
        lambda: Recipe(scaler="magic"),
        "scaler='magic' is not allowed; use none, static, dynamic, apex, megatron",
    ),
    ("Recipe", lambda: Recipe(scaler="static", scale=math.nan), "positive number that float32 can hold, got nan"),
    ("Recipe", lambda: Recipe.parse("amp-fp17"), "start with one of fp32, tf32, amp-fp16, amp-bf16, fp16, bf16"),
    ("NoScaler", lambda: NoScaler().load_state_dict({"scale": 1.0}), "this scaler's state is nothing; got scale"),
    ("StaticScaler", lambda: StaticScaler(-1), "scale must be a positive number that float32 can hold, got -1"),
    ("StaticScaler", lambda: StaticScaler(on_overflow="clip"), "on_overflow must be one of skip, zero, got 'clip'"),
    ("StaticScaler", lambda: StaticScaler("1024"), "positive number that float32 can hold, got '1024'"),
    ("DynamicScaler", lambda: DynamicScaler(1024), "policy must be one of TorchPolicy, ApexPolicy"),
    ("TorchPolicy", lambda: TorchPolicy(math.inf), "init_scale must be a positive number"),
    ("TorchPolicy", lambda: TorchPolicy(1, growth_factor=1), "growth_factor must be a finite number above 1, got 1"),
    ("TorchPolicy", lambda: TorchPolicy(1, growth_factor=math.nan), "finite number above 1, got nan"),
    ("TorchPolicy", lambda: TorchPolicy(1, backoff_factor=0), "backoff_factor must be a number between 0 and 1"),
    ("TorchPolicy", lambda: TorchPolicy(1, growth_interval=2.0), "growth_interval must be a whole number from 1 up"),
    ("ApexPolicy", lambda: ApexPolicy(8, max_scale=4), "max_scale must be a finite number from init_scale=8 up, got 4"),
    ("MegatronPolicy", lambda: MegatronPolicy(hysteresis=0), "hysteresis must be a whole number from 1 up, got 0"),
    ("DeepSpeedPolicy", lambda: DeepSpeedPolicy(min_scale=-1), "min_scale must be a positive number up to init_scale"),
    (
        "simulate",
        lambda: simulate(TorchPolicy(), 3),
        "overflows must be True or False for each step, in a list; got 3",
    ),
    ("hunt", lambda: hunt(TorchPolicy(), 3), "limits must be the largest scale for each step, in a list; got 3"),
    ("hunt", lambda: hunt(TorchPolicy(), [math.nan]), "a limit must be a number from 0 up, got nan"),
    (
        "round_to",
        lambda: round_to([1.0], FP16, overflow="inf"),
        "x must be a float64, float32, float16 or bfloat16 tensor, got list",
    ),
    ("round_to", lambda: round_to(ONES, "fp17", overflow="inf"), "unknown format 'fp17'"),
    (
        "round_to",
        lambda: round_to(ONES, 16, overflow="inf"),
        "a Format or its name, such as 'fp16', got 16",
    ),
    ("round_to", lambda: round_to(ONES, FP16, overflow=None), "overflow must be one of inf, nan, saturate, got None"),
    ("autocast", lambda: autocast("cpu", Format.parse("e5m2")), "compute must be fp32, tf32, fp16 or bf16, got e5m2"),
    ("autocast", lambda: autocast("cpu", "fp8"), "unknown format 'fp8'"),
    ("autocast", lambda: autocast("tpu", FP16), "device"),
    ("arithmetic", lambda: arithmetic("tpu"), "device"),
    ("cast_trace", lambda: cast_trace(TASK, ONES, compute="fp16"), "model must be a torch.nn.Module, got Task"),
    ("cast_trace", lambda: cast_trace(MODEL, ONES, compute="e5m2"), "compute must be fp16 or bf16, got e5m2"),
    ("Histogram", lambda: Histogram.of(ONES.double()), "at most 32 bits, got torch.float64; convert with .float()"),
    ("Histogram", lambda: Histogram.of(ONES, sample=0), "sample must be a positive whole number, or None"),
    (
        "Histogram",
        lambda: Histogram.of(ONES).fractions(16),
        "a Format or its name, such as 'fp16', got 16",
    ),
    ("Histogram", lambda: Histogram.of(ONES).fractions(FP16, math.nan), "whole number from -512 to 512, got nan"),
    ("tensor_stats", lambda: tensor_stats([1.0]), "floating tensors of at most 32 bits, got list"),
    ("usable_window", lambda: usable_window(tensor_stats(ONES), FP16, tolerance=-1), "fraction from 0 to 1, got -1"),
    ("usable_window", lambda: usable_window(tensor_stats(ONES), FP16, tolerance=math.nan), "from 0 to 1, got nan"),
    ("scale_window", lambda: scale_window([], "fp16"), "no non-zero gradient; run forward and backward inside"),
    ("track", lambda: track(TASK), "model must be a torch.nn.Module, got Task"),
    ("track", lambda: track(TASK.make_model(), kinds=("grads",)), "unknown kinds grads; use activation"),
    ("model_states", lambda: model_states(32), "a recipe must be a Recipe or its text, such as 'amp-fp16', got 32"),
    ("model_states", lambda: model_states(PRESETS["fp32"], [0]), "numels must be whole numbers from 1 up"),
    ("track_updates", lambda: track_updates(TASK, None), "model must be a torch.nn.Module, got Task"),
    ("track_updates", lambda: track_updates(TASK.make_model(), None), "optimizer must be a torch.optim.Optimizer"),
    ("SGD", lambda: SGD(MODEL.parameters(), lr=-1), "lr must be a finite number from 0 up, got -1"),
    ("Adam", lambda: Adam(MODEL.parameters(), betas=(1, 0)), "betas must be two numbers from 0 to below 1, got (1, 0)"),
    ("AdamW", lambda: AdamW(MODEL.parameters(), storage="bf16"), "storage must be a Storage, got 'bf16'"),
    ("Storage", lambda: Storage(exp_avg_dtype="fp8"), "exp_avg_dtype must be one of torch.float32, torch.bfloat16"),
    ("load_task", lambda: load_task("mnist"), "unknown task 'mnist': use one of digits-mlp"),
    ("load_task", lambda: load_task("digits-mlp", loss_weight=0), "loss_weight must be a positive finite number"),
    ("Task", lambda: Task("t", TASK.make_model, TASK.draw, TASK.held_out, "lion"), "one of sgd, adam, adamw"),
    ("Task", lambda: Task("t", TASK.make_model, TASK.draw, TASK.held_out, lr=math.nan), "lr must be a positive"),
    ("Trainer", lambda: Trainer("digits-mlp", PRESETS["fp32"]), "task must be a Task, got 'digits-mlp'"),
    ("Trainer", lambda: Trainer(TASK, 32), "a recipe must be a Recipe or its text, such as 'amp-fp16', got 32"),
    (
        "Trainer",
        lambda: Trainer(TASK, PRESETS["fp32"], seed=-1),
        "seed must be a whole number from 0 to 92233720368547",
    ),
    ("Trainer", lambda: Trainer(TASK, PRESETS["fp32"], device="tpu"), "device must be cpu, cuda or cuda:<number>"),
    ("dtype_ledger", lambda: dtype_ledger("digits-mlp", PRESETS["fp32"]), "task must be a Task, got 'digits-mlp'"),
    ("dissect", lambda: dissect(TASK), "trainer must be a Trainer, got Task"),
    ("Run", lambda: Run("nowhere"), "nowhere holds no run"),
    ("outcome", lambda: outcome(3), "records must be a list of StepRecord, got int"),
    ("final", lambda: final(3), "records must be a list of StepRecord, got int"),
    ("final", lambda: final([]), "there are no steps to average over; train first"),
    ("first_non_finite", lambda: first_non_finite(3), "records must be a list of StepRecord, got int"),
]

COMMANDS = [
    (["lab", "--port", "0"], "0 is not a port; give one from 1 to 65535"),
    (["lab", "pyproject.toml"], "labs cannot be laid in 'pyproject.toml' (a file, not a folder:"),
    (["reset", "no_such_lab"], "unknown lab 'no_such_lab'; choose one of"),
    (["reset", "02", "--all"], "name the labs to reset, such as 02, or give --all, not both"),
    (["run", "no_such_lab"], "unknown lab 'no_such_lab'; choose one of"),
    (["run", "02", "-p", "loss_scal", "1"], "has no parameter 'loss_scal'; choose from: recipe, loss_scale"),
    (["run", "02", "-p", "recipe"], "has no value; write -p recipe VALUE"),
    (["train", "--recipe", "amp-fp17"], "start with one of fp32, tf32, amp-fp16, amp-bf16, fp16, bf16"),
    (["train", "--task", "mnist"], "use one of digits-mlp, digits-cnn, chars-gpt"),
    (["train", "--steps", "-1"], "steps must be a whole number from 0 up, got -1"),
    (["train", "--steps", "many"], "'many' is not a whole number such as 300"),
    (["train", "--loss-weight", "tiny"], "'tiny' is not a number such as 1e-6"),
    (["train", "--seed", "-1"], "seed must be a whole number from 0 to 9223372036854775807, got -1"),
    (["train", "--loss-weight", "nan"], "loss_weight must be a positive finite number, got nan"),
    (["train", "--device", "tpu"], "device must be cpu, cuda or cuda:<number>, got 'tpu'"),
    (["train", "--run", "pyproject.toml"], "pyproject.toml is not empty; choose another folder"),
    (["memory", "--model", "lama-3-8b"], "unknown model 'lama-3-8b': did you mean llama-3-8b"),
    (["memory", "--model", "no.json"], "no.json cannot be read: No such file or directory"),
    (["memory", "--recipe", "amp-fp17"], "start with one of fp32, tf32, amp-fp16, amp-bf16, fp16, bf16"),
    (["memory", "--batch", "0"], "batch must be a whole number from 1 up, got 0"),
    (["memory", "--batch", "many"], "'many' is not a whole number such as 300"),
    (["memory", "--seq", "4096"], "seq=4096 is longer than gpt2"),
    (["memory", "--attention", "flash"], "attention must be one of fused, materialised, got 'flash'"),
    (["memory", "--checkpointing", "some"], "checkpointing must be one of none, selective, full, got 'some'"),
    (["memory", "--optimizer", "lion"], "optimizer must be one of sgd, adam, adamw, got 'lion'"),
    (["memory", "--step", "slow"], "step must be one of foreach, fused, loop, got 'slow'"),
    (["memory", "--accumulation", "0"], "accumulation must be a whole number from 1 up, got 0"),
    (["memory", "--zero", "4"], "zero must be a stage, 0, 1, 2 or 3, got 4"),
    (["memory", "--zero", "2", "--fsdp"], "--fsdp means --zero 3, but --zero 2 was given too"),
    (["memory", "--gpus", "6", "--tensor", "4"], "--gpus must be a multiple of --tensor times --pipeline, 4,"),
    (["memory", "--gpus", "0"], "from 1 up, got 0"),
    (["memory", "--tensor", "7"], "tensor=7 must divide the 12 heads of gpt2; use 1, 2, 3, 4, 6, 12"),
    (["memory", "--pipeline", "5"], "pipeline=5 must divide the 12 layers of gpt2"),
    (["memory", "--microbatches", "0"], "microbatches must be a whole number from 1 up, got 0"),
    (["memory", "--gpu", "h300"], "unknown GPU 'h300': did you mean h200"),
    (["memory", "--check"], "--check needs --gpu NAME"),
    (["memory", "--trace", "--gpus", "2"], "a trace covers one GPU, but this training runs on 2 GPUs"),
    (["memory", "--trace", "--recipe", "bf16-sr", "--step", "fused"], "compiled step (fused) cannot be traced"),
    (["claims", "12n"], "unknown claim '12n': did you mean 12n-bytes"),
    (["claims", "--verdict", "wrong"], "unknown verdict 'wrong'; use one of holds, holds-if, does-not-hold"),
    (["hand-out", "copies", "99"], "unknown lab '99'; choose one of: 00_start_here"),
    (["hand-out", "README.md"], "README.md is not a folder; give the name of one, which need not exist"),
    (["grade"], "Missing argument 'FILES"),
    (["grade", "nobody.ipynb"], "'nobody.ipynb' does not exist; give notebooks, answers.json files or folders"),
    (["grade", "labs", "--csv", "README.md"], "holds something else than grades and is not replaced"),
    (["grade", "labs", "--minutes", "many"], "'many' is not a whole number such as 300"),
    (["doctor", "--fast"], "--fast"),
    (["labs", "99"], "unknown lab '99'; choose one of: 00_start_here"),
    (["formats", "fp17"], "unknown format 'fp17': use one of fp64, fp32"),
    (["labs", "99"], "unknown lab '99'; choose one of: 00_start_here"),
    (["explain", "many", "fp16"], "'many' is not a number"),
    (["explain", "957", "fp17"], "unknown format 'fp17'"),
    (["explain", "957", "fp16", "--overflow", "wrap"], "overflow must be one of inf, nan, saturate, got 'wrap'"),
]

# Constants, what takes no argument, and records that mixlab makes and nobody is asked to construct.
NO_INPUT = {
    "describe",
    "BF16",
    "BLOCK_FORMATS",
    "E4M3FN",
    "E5M2",
    "FORMATS",
    "FP16",
    "FP32",
    "PRESETS",
    "TASKS",
    "TF32",
}
RECORDS = {
    "BlockTensor",
    "Code",
    "Explanation",
    "Fractions",
    "ModelStates",
    "RoundingStats",
    "RunInfo",
    "ScaleWindow",
    "StepRecord",
    "TensorStats",
}


# What Python and torch say of a mistake that nobody looked for.
NOBODYS_WORDS = re.compile(
    r"'\w+' object|object of type|positional argument|unexpected keyword|not supported between|unhashable|"
    r"invalid literal|could not convert|must be real number"
)


@pytest.mark.parametrize(("name", "call", "words"), CALLS, ids=[f"{name}-{i}" for i, (name, *_) in enumerate(CALLS)])
def test_bad_input_is_answered_in_words(name, call, words):
    with pytest.raises((TypeError, ValueError, FileNotFoundError, RuntimeError)) as error:
        call()
    assert words in str(error.value)
    assert not NOBODYS_WORDS.search(str(error.value))


@pytest.mark.parametrize(("arguments", "words"), COMMANDS, ids=[" ".join(arguments) for arguments, _ in COMMANDS])
def test_bad_commands_end_with_2_and_words(arguments, words, monkeypatch):
    monkeypatch.setattr("typer.rich_utils.MAX_WIDTH", 300)
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 2
    assert words in re.sub(r"\s+", " ", result.stderr)
    assert "Traceback" not in result.stderr


def test_the_table_holds_every_public_name_and_command():
    assert {name for name, _, _ in CALLS} == set(mixlab.__all__) - NO_INPUT - RECORDS
    commands = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert {arguments[0] for arguments, _ in COMMANDS} == commands
