"""README's lines for frameworks, run with the real packages. About 10 seconds."""

from __future__ import annotations

from importlib import import_module

import pytest
import torch
from torch import nn

import tests.models  # noqa: F401  names torchvision's ops
from tests.integrations.test_hugging_face import llama, tokens
from tests.integrations.test_lightning import loader, module
from tests.test_readme import code_under

pytestmark = [
    pytest.mark.models,
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning:lightning"),
    pytest.mark.filterwarnings("ignore:.*pin_memory.*:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*Enum subclass:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers:UserWarning"),
    pytest.mark.filterwarnings("ignore:You defined a `validation_step` but have no:UserWarning"),
    pytest.mark.filterwarnings("ignore:The number of training batches:UserWarning"),
]

LOOP, HUGGING_FACE, LIGHTNING, ACCELERATE = code_under("Your framework")


def lines(block: str) -> int:
    return len([line for line in block.splitlines() if line and not line.startswith(("from", "import"))])


def plain() -> dict[str, object]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))
    return {
        "model": model,
        "optimizer": torch.optim.AdamW(model.parameters()),
        "criterion": nn.CrossEntropyLoss(),
        "inputs": torch.randn(8, 4),
        "targets": torch.zeros(8, dtype=torch.long),
    }


def test_five_lines_for_plain_torch(capsys):
    assert lines(LOOP) == 5
    exec(LOOP, plain())
    window, lost = capsys.readouterr().out.splitlines()
    assert window.startswith("2")
    assert lost.startswith("swallowed 0.0%")


def test_three_lines_for_the_trainer_of_hugging_face(tmp_path, capsys):
    transformers = import_module("transformers")
    assert lines(HUGGING_FACE) == 3
    args = transformers.TrainingArguments(str(tmp_path), max_steps=2, use_cpu=True, report_to="none", disable_tqdm=True)
    names = {"transformers": transformers, "model": llama(), "args": args, "data": tokens(8)}
    exec(HUGGING_FACE, names)
    assert names["watch"].report() in capsys.readouterr().out
    assert len(names["watch"].to_frame()) == 1


def test_three_lines_for_the_trainer_of_lightning(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert lines(LIGHTNING) == 3
    names = {"lightning": import_module("lightning"), "module": module(), "loader": loader(600)}
    exec(LIGHTNING, names)
    assert names["watch"].report() in capsys.readouterr().out
    assert list(names["watch"].to_frame().step) == [0, 50, 100, 150]


def test_the_lines_for_accelerate(capsys):
    accelerator = import_module("accelerate").Accelerator(cpu=True, gradient_accumulation_steps=2)

    def train(accelerator, model, optimizer, loader):
        for inputs, targets in loader:
            with accelerator.accumulate(model):
                accelerator.backward(nn.functional.cross_entropy(model(inputs), targets))
                optimizer.step()
                optimizer.zero_grad()

    names = plain() | {"accelerator": accelerator, "loader": loader(), "train": train}
    exec(f"from mixlab import track_updates\n{ACCELERATE}", names)
    assert capsys.readouterr().out.startswith("swallowed 0.0%")
    assert [one.step for one in names["lost"].by_step()] == [0]
    assert names["lost"]._steps == 6
