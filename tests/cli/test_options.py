"""Commands and their options stay: scripts rely on them. A new option is added here; none is renamed in passing."""

from __future__ import annotations

from typing import Any

import typer

from mixlab.cli.commands import app

OPTIONS = {
    "": "--version --help",
    "lab": "folder --port --no-browser --help",
    "reset": "labs --in --all --runs --help",
    "hand-out": "folder labs --help",
    "grade": "files --csv --questions --json --minutes --help",
    "run": "lab -p --parameter --out --help",
    "train": "--task --recipe --steps --seed --loss-weight --probe-every --device --run --help",
    "memory": (
        "--model --module --recipe --batch --seq --implementation --attention --checkpointing --optimizer "
        "--step --accumulation --gpus --zero "
        "--fsdp --tensor --sequence-parallel --pipeline --microbatches --gpu --check --trace --json --help"
    ),
    "claims": "keys --verdict --json --help",
    "labs": "lab --json --help",
    "doctor": "--help",
    "formats": "names --json --help",
    "explain": "value fmt --overflow --json --help",
    "measure": "--help",
    "measure cast": "--formats --device --numel --rounds --threads --seed --out --json --help",
    "measure matmul": "--device --formats --shapes --numel --budget --threads --seed --out --json --help",
    "measure all": "--out --device --budget --seed --help",
    "measure compare": "first second --json --help",
    "measure train": (
        "--device --recipes --modes --steps --width --layers --heads --vocabulary --context --batch "
        "--seed --out --json --help"
    ),
    "measure emulation": "--device --formats --seed --out --json --help",
    "measure optimizer": (
        "--device --numel --recipes --backends --modes --rounds --threads --seed --out --json --help"
    ),
    "measure states": "--steps --spike-at --seeds --seed --out --json --help",
    "measure memory": "--device --cases --rounds --seed --out --json --help",
}


def options(command: Any, name: str = "") -> dict[str, str]:
    """Returns the options and arguments of a command and all below it, by the words that are typed."""
    parameters = command.get_params(typer.Context(command))
    found = {name: " ".join(option for parameter in parameters for option in parameter.opts)}
    for word, below in getattr(command, "commands", {}).items():
        found |= options(below, f"{name} {word}".strip())
    return found


def test_every_command_has_these_options():
    assert options(typer.main.get_command(app)) == OPTIONS
