"""What computes nothing answers without torch and without Jupyter's packages, which take seconds to import."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from mixlab import __version__

ROOT = Path(__file__).parents[2]
SLOW = {
    *("torch", "sklearn", "scipy", "pandas", "nbformat", "nbclient", "papermill", "IPython", "jupyterlab"),
    *("plotly", "ipywidgets"),
}

# Runs one command after the other, and says of each what it printed and which packages were imported until then.
PROGRAM = """
import json, sys
from typer.testing import CliRunner
from mixlab.cli.commands import app
for line in sys.stdin:
    result = CliRunner().invoke(app, json.loads(line), env={"COLUMNS": "200"})
    imported = sorted({name.partition(".")[0] for name in sys.modules})
    print(json.dumps([result.exit_code, result.stdout, result.stderr, imported]))
"""


def answers(commands: Sequence[str]) -> dict[str, tuple[int, str, str, set[str]]]:
    """Returns (exit code, stdout, stderr, imported packages) of commands that run in one fresh Python."""
    typed = "\n".join(json.dumps(command.split()) for command in commands)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, input=typed, capture_output=True, text=True, check=True
    )
    said = [json.loads(line) for line in done.stdout.splitlines()]
    return {
        command: (code, stdout, stderr, set(imported))
        for command, (code, stdout, stderr, imported) in zip(commands, said, strict=True)
    }


SHOWN = (
    ("--version", __version__),
    ("--help", "A lab on mixed-precision training"),
    ("run --help", "Run a lab headless"),
    ("hand-out --help", "Lay copies of the labs in a folder"),
    ("grade --help", "Grade what students handed in"),
    ("lab --help", "What you changed is never"),
    ("reset --help", "Nothing is deleted"),
    ("measure --help", "Measure this machine"),
    ("formats", "e4m3fn"),
    ("labs", "Underflow and loss scaling"),
    ("labs 07 --json", '"choices"'),
    ("doctor", "usable cores"),
    ("memory --model llama-3-8b --gpu h200", "does not fit"),
)

# Every measurement that draws random numbers.
SEEDED = ("cast", "matmul", "emulation", "optimizer", "train", "memory", "states", "all --out x")
NO_SEED = f"seed must be a whole number from 0 to {2**63 - 1}, got -1"

REFUSED = (
    ("fly", "No such command 'fly'"),
    ("train --task nosuch", "unknown task 'nosuch': use one of digits-mlp"),
    ("train --recipe fp17", "unknown recipe 'fp17'"),
    ("train --steps -1", "--steps must be a whole number from 0 up, got -1"),
    ("train --seed -1", "seed must be a whole number from 0 to 9223372036854775807, got -1"),
    ("train --loss-weight nan", "loss_weight must be a positive finite number, got nan"),
    ("train --device tpu", "device must be cpu, cuda or cuda:<number>, got 'tpu'"),
    ("memory --model gtp2", "unknown model 'gtp2': did you mean gpt2"),
    ("memory --gpu h300", "unknown GPU 'h300': did you mean h200"),
    ("memory --recipe fp17", "unknown recipe 'fp17'"),
    ("memory --batch 0", "batch must be a whole number from 1 up, got 0"),
    ("memory --implementation nosuch", "implementation must be one of mixlab, transformers, or None, got 'nosuch'"),
    ("memory --module train", "module must be package.module:function"),
    ("memory --module nosuch:make", "module nosuch not found"),
    ("memory --module json:make", "has no function 'make'"),
    ("memory --module json:dumps", "json:dumps must take no arguments, but needs obj"),
    ("memory --module json:load --recipe fp17", "unknown recipe 'fp17'"),
    ("memory --module json:load --gpu h300", "unknown GPU 'h300'"),
    ("memory --module json:load --batch 2 --fsdp", "--batch, --fsdp are for --model; the function of --module says"),
    ("memory --module json:load --optimizer lion", "optimizer must be one of sgd, adam, adamw, got 'lion'"),
    ("memory --module json:load --accumulation 0", "--accumulation must be a whole number from 1 up, got 0"),
    ("claims nosuch", "unknown claim 'nosuch'"),
    ("claims --verdict maybe", "unknown verdict 'maybe'; use one of holds"),
    ("formats e99m99", "exponent_bits must be a whole number from 2 to 8, got 99"),
    ("explain 957 fp17", "unknown format 'fp17'"),
    ("explain 957 fp16 --overflow wrap", "--overflow must be one of inf, nan, saturate, got 'wrap'"),
    ("labs 99", "unknown lab '99'"),
    ("reset 99", "unknown lab '99'"),
    ("reset 02 --in nowhere", "no labs in 'nowhere'"),
    ("lab 02", "'02' is a lab, and `mixlab lab` takes a folder"),
    ("lab README.md", "labs cannot be laid in 'README.md'"),
    ("measure cast --formats fp17", "unknown format 'fp17'"),
    ("measure cast --rounds 0", "rounds must be a whole number from 1 up, got 0"),
    ("measure matmul --shapes 3x4", "a shape must be MxNxK"),
    ("measure train --recipes fp17", "unknown recipe 'fp17'"),
    ("measure train --modes lazy", "modes must be eager, compiled or both, and recipes not empty; got ['lazy']"),
    ("measure train --device cpu --heads 7", "heads must divide width, got 7 heads"),
    ("measure optimizer --backends nosuch", "unknown optimizer backend 'nosuch'"),
    ("measure memory --device cpu --cases nosuch", "unknown case 'nosuch'"),
    ("measure states --seeds 0", "seeds must be a whole number from 1 up, got 0"),
    ("measure emulation --formats e5m2", "formats must be fp16 or bf16, got e5m2"),
    *((f"measure {what} --seed -1", NO_SEED) for what in SEEDED),
    (f"measure cast --seed {2**63}", f"{NO_SEED[:-3]} {2**63}"),
    (f"train --seed {2**63}", f"{NO_SEED[:-3]} {2**63}"),
    ("measure all --out x --budget 0", "budget_s must be a number of seconds above 0, got 0.0"),
)

REFUSED_LABS = (
    ("hand-out copies 99", "unknown lab '99'"),
    ("hand-out README.md 00", "README.md is not a folder"),
    ("grade nobody.ipynb", "'nobody.ipynb' does not exist; give notebooks, answers.json files or folders"),
    ("grade labs --csv README.md", "holds something else than grades and is not replaced"),
    ("grade labs --minutes 0", "--minutes must be a whole number from 1 to 1440, got 0"),
    ("run 99", "unknown lab '99'"),
    ("run 04 -p stepz 3", "04_training_modes has no parameter 'stepz'; choose from: recipe, loss_scale"),
    ("run 04 -p steps many", "04_training_modes: steps must be a whole number from 1 to 100000, got 'many'"),
    ("run 04 -p steps 1.5", "steps must be a whole number from 1 to 100000, got 1.5"),
    ("run 04 -p steps True", "steps must be a whole number from 1 to 100000, got True"),
    ("run 02 -p steps 0", "steps must be a whole number from 1 to 100000, got 0"),
    ("run 07 -p steps -1", "07_memory: steps must be a whole number from 1 to 4, got -1"),
    (f"run 00 -p seed {10**20}", "00_start_here: seed must be a whole number from 0 to 2147483647, got 100000"),
    ("run 00 -p recipe nosuch", "00_start_here: recipe: unknown recipe 'nosuch'"),
    (
        "run 03 -p task digit-mlp",
        "one of digits-mlp, digits-cnn, chars-gpt, got 'digit-mlp'; did you mean digits-mlp",
    ),
    ("run 07 -p gpu nosuch", "07_memory: gpu must be one of v100-16gb"),
    ("run 07 -p model nosuch", "07_memory: model must be one of gpt2"),
    ("run 07 -p seq 2048", "seq must be at most 1024, the positions of gpt2, got 2048"),
    ("run 08 -p gpu t4", "gpu t4 does not multiply in bf16"),
    ("run 02 -p loss_weight 0", "loss_weight must be a number from 1e-12 to 1000, got 0"),
    (
        "run 05 -p loss_scale nan",
        "0 for the recipe's own, or a number from 2^-126 to 2^127, got nan",
    ),
    ("run labs/04_training_modes.ipynb -p steps 0", "steps must be a whole number from 1 to 100000, got 0"),
)


@pytest.fixture(scope="module")
def said() -> dict[str, tuple[int, str, str, set[str]]]:
    return answers([command for command, _ in (*SHOWN, *REFUSED, *REFUSED_LABS)])


@pytest.mark.parametrize(("command", "words"), SHOWN)
def test_what_computes_nothing_needs_no_torch(said, command: str, words: str):
    code, stdout, stderr, imported = said[command]
    assert code == 0, stderr
    assert words in stdout
    assert imported.isdisjoint(SLOW)


@pytest.mark.parametrize(("command", "words"), REFUSED)
def test_a_wrong_argument_is_refused_without_torch(said, command: str, words: str):
    code, _, stderr, imported = said[command]
    assert code == 2
    assert words in " ".join(stderr.replace("│", " ").split())
    assert imported.isdisjoint(SLOW)


@pytest.mark.parametrize(("command", "words"), REFUSED_LABS)
def test_a_wrong_parameter_of_a_lab_is_refused_before_a_kernel_starts(said, command: str, words: str):
    code, _, stderr, imported = said[command]
    assert code == 2
    assert words in stderr
    assert len(stderr.strip().splitlines()) == 1
    assert imported.isdisjoint(SLOW)


def test_what_is_imported_is_seen():
    _, _, _, imported = answers(["explain 957 fp16"])["explain 957 fp16"]
    assert "torch" in imported
