"""What the README says is true: its code runs, its commands exist, its links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import nn

from mixlab import PRESETS, Recipe, dtype_ledger, load_task
from mixlab.cli import measure
from mixlab.cli.commands import app
from mixlab.cli.notebooks import parameter_names
from mixlab.cli.shipped import find_lab
from tests.claims_in_readme import with_claims

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def code_under(heading: str) -> list[str]:
    """Returns the blocks of Python under a heading of README."""
    section = README.split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", section, re.DOTALL)


def test_the_five_lines_show_a_gradient_underflow(capsys):
    assert len([line for line in code_under("A gradient that underflows, in five lines")[0].splitlines() if line]) == 5
    exec(code_under("A gradient that underflows, in five lines")[0], {})
    assert capsys.readouterr().out == "tensor([2.9981e-05, 0.0000e+00])\ntensor([2.9996e-05, 1.0012e-08])\n"


def test_the_lines_about_formats_run(capsys):
    names = {"torch": torch}
    exec(code_under("Number formats")[0], names)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0].startswith("957 in e4m3fn")
    assert shown[-1] == "448.0 32.0 320.0"
    assert names["stats"].numel == 1000


def test_the_lines_for_ones_own_model_run(capsys):
    names = {
        "model": nn.Sequential(nn.Linear(4, 3)),
        "criterion": nn.CrossEntropyLoss(),
        "inputs": torch.randn(8, 4),
        "targets": torch.zeros(8, dtype=torch.long),
    }
    exec(code_under("Your own model")[0], names)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(" 2")[0] for line in lines] == ["0 gradient", "0 weight_gradient"]
    exec(code_under("Your own model")[1], names)
    window, *trace = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"2⁻?[⁰¹²³⁴-⁹]+ to 2[⁰¹²³⁴-⁹]+", window)
    assert trace[1].split()[:2] == ["0", "linear"]


def test_the_lines_for_ones_own_task_train(capsys):
    exec(code_under("Your own model")[2], {})
    assert re.fullmatch(r"loss 0\.\d+, error 0\.\d+ after 100 steps\n", capsys.readouterr().out)


def test_the_lines_about_scalers_print_what_they_say(capsys):
    exec(code_under("Loss scalers")[0], {})
    shown = capsys.readouterr().out.strip()
    assert shown in code_under("Loss scalers")[0]


def test_the_lines_about_optimizers_train(capsys):
    model = nn.Sequential(nn.Linear(4, 3))

    def train(model, optimizer):
        model(torch.randn(8, 4)).sum().backward()
        optimizer.step()

    exec(code_under("Optimizers")[0], {"model": model, "train": train})
    assert capsys.readouterr().out.startswith("swallowed ")


def test_the_lines_about_memory_print_what_they_say(capsys):
    names = {"model": nn.Linear(8, 3), "inputs": torch.randn(4, 8), "targets": torch.zeros(4, dtype=torch.long)}
    exec(code_under("Memory")[0], names)
    shown = capsys.readouterr().out.splitlines()
    assert shown[0] == "lean-bf16: 12 bytes per parameter"
    fits = next(line for line in shown if line.startswith("does not fit"))
    assert f"  # {fits}" in code_under("Memory")[0]
    assert any(line.startswith("amp-bf16 as on a GPU: 27 parameters") for line in shown)


def test_the_bytes_of_the_presets_are_counted():
    task = load_task("digits-cnn")
    rows = re.findall(r"^\| (`.*`) \|.*\| ([\d, ]+) \|$", README, re.MULTILINE)
    said = {}
    for names, numbers in rows:
        presets, counts = re.findall(r"`([\w-]+)`", names), [int(number) for number in numbers.split(",")]
        said |= dict(zip(presets, counts * len(presets) if len(counts) == 1 else counts, strict=False))
    assert said == {name: dtype_ledger(task, recipe).bytes_per_parameter for name, recipe in PRESETS.items()}


def test_links_and_pictures_lead_to_files():
    targets = re.findall(r"\]\(((?!http)[^)]+)\)", README)
    assert len(targets) >= 6
    assert [target for target in targets if not (ROOT / target).exists()] == []


def test_every_picture_has_words():
    assert all(len(words) > 60 for words in re.findall(r"!\[([^\]]*)\]\(labs", README))


def test_every_lab_is_listed():
    assert re.findall(r"\]\(labs/(\w+)\.ipynb\)", README) == [
        path.stem for path in sorted((ROOT / "labs").glob("*.ipynb"))
    ]


def test_the_commands_exist():
    commands = set(re.findall(r"^    mixlab ([\w-]+)", README, re.MULTILINE))
    single = {command.name or command.callback.__name__ for command in app.registered_commands}
    assert commands == single | {group.name for group in app.registered_groups}
    measured = set(re.findall(r"^    mixlab measure (\w+)", README, re.MULTILINE))
    assert measured == {command.name or command.callback.__name__ for command in measure.app.registered_commands}
    for lab, parameter in re.findall(r"mixlab run (\S+) -p (\w+)", README):
        assert parameter in parameter_names(find_lab(lab))
    assert set(re.findall(r"^    make (\w+)", README, re.MULTILINE)) == {"lab", "test", "docs", "lowest", "dist"}


def test_the_recipes_parse():
    shown = re.findall(r"^    (amp-\S+)$", README, re.MULTILINE)
    assert len(shown) == 4
    for text in shown:
        assert Recipe.parse(text).compute.name == "fp16"
    assert all(f"`{name}`" in README for name in PRESETS)


def test_the_table_of_claims_is_that_of_the_package():
    assert README == with_claims(README), "write it anew: python -m tests.claims_in_readme"
