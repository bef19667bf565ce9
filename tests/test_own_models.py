from __future__ import annotations

import sys
from pathlib import Path

import pytest
from torch import nn

from mixlab.own_models import OwnModelError, own_model

SOURCE = """
import torch
from torch import nn


def make():
    print("made")
    return nn.Linear(3, 2), (torch.ones(4, 3), torch.zeros(4, dtype=torch.long))


class Models:
    @staticmethod
    def with_loss(width=3):
        return nn.Linear(width, 2), {"input": torch.ones(4, width)}, lambda output, batch: output.sum()


def needs(width, depth): ...


def optional(*args, width=3, **more):
    return make()


def raises():
    width = 0
    return 1 // width


def leaves():
    raise SystemExit("no data")


def deeper():
    return nn.Linear(3, 2)(torch.ones(4, 7))


def caused():
    try:
        raises()
    except ZeroDivisionError as error:
        raise RuntimeError("no width") from error


def only_a_model(): return nn.Linear(3, 2)
def four(): return 1, 2, 3, 4
def no_model(): return "linear", torch.ones(2)
def no_batch(): return nn.Linear(3, 2), "text"
def empty(): return nn.Linear(3, 2), torch.ones(0, 3)
def no_loss(): return nn.Linear(3, 2), torch.ones(2, 3), "mse"


number = 3
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    package = tmp_path / "own"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "models.py").write_text(SOURCE)
    (package / "broken.py").write_text("def make(:\n")
    (package / "poor.py").write_text("import nosuchpackage.part\n")
    (package / "failing.py").write_text("\nvalue = {}['width']\n")
    monkeypatch.chdir(tmp_path)
    for name in [name for name in sys.modules if name.partition(".")[0] == "own"]:
        monkeypatch.delitem(sys.modules, name)
    return tmp_path


def test_the_current_directory_is_searched_and_left_again(capsys):
    path = list(sys.path)
    own = own_model("own.models:make")
    assert isinstance(own.model, nn.Linear)
    assert (own.batch[0].shape, own.loss) == ((4, 3), None)
    assert capsys.readouterr() == ("", "made\n")  # stdout is for JSON
    assert sys.path == path
    assert own_model("own.models:optional").model.out_features == 2


def test_a_loss_may_come_and_the_function_may_be_an_attribute():
    own = own_model("own.models:Models.with_loss")
    assert own.loss is not None
    assert own.loss(own.model(**own.batch), own.batch).dim() == 0


@pytest.mark.parametrize(
    "place", ["", "own.models", "own/models.py", ":make", "own.models:", "own models:make", 3, None]
)
def test_a_place_is_a_module_and_a_function(place):
    with pytest.raises(OwnModelError, match=r"module must be package\.module:function, such as train:make"):
        own_model(place)


@pytest.mark.parametrize("place", ["own/models.py:make", "./own/models.py:make"])
def test_a_file_is_told_its_module(place: str):
    with pytest.raises(OwnModelError, match=r"of a file, write its module: own\.models:make$"):
        own_model(place)


@pytest.mark.parametrize(
    ("place", "words"),
    [
        ("nosuch:make", r"module nosuch not found: 'nosuch' is neither in the current directory, .*, nor installed"),
        ("own.nosuch:make", r"module own.nosuch not found: 'own.nosuch' is neither"),
        ("own.models.x:make", r"module own.models.x not found: 'own.models.x' is neither"),
        (
            "own.poor:make",
            r"own.poor cannot be imported: ModuleNotFoundError: No module named 'nosuchpackage', at .*poor",
        ),
        ("own.broken:make", r"own.broken cannot be imported: SyntaxError: invalid syntax \(broken.py, line 1\)"),
        ("own.failing:make", r"own.failing cannot be imported: KeyError: 'width', at .*failing.py:2"),
        ("own.models:mak", r"module own.models \(.*models.py\) has no function 'mak': did you mean make"),
        ("sys:make", r"module sys \(built in\) has no function 'make'"),
        ("own.models:number", "own.models:number must be a function that returns .*, got int"),
        ("own.models:needs", "own.models:needs must take no arguments, but needs width, depth; write a function"),
        ("own.models:raises", r"own.models:raises raised ZeroDivisionError: .*, at .*models.py:26$"),
        ("own.models:leaves", r"own.models:leaves raised SystemExit: no data, at .*models.py:30$"),
        ("own.models:deeper", r"own.models:deeper raised RuntimeError: mat1 and mat2 .*, at .*models.py:34$"),
        ("own.models:caused", r"raised RuntimeError: no width, at .*models.py:41; its cause: ZeroDivisionError: "),
        ("own.models:only_a_model", r"returned Linear: it must return \(model, batch\) or \(model, batch, loss\)"),
        ("own.models:four", "returned tuple of 4: it must return"),
        ("own.models:no_model", "returned str as the model, not a torch.nn.Module: it must return"),
        ("own.models:no_batch", "own.models:no_batch: batch must be a tensor, a tuple or list .*; got str"),
        ("own.models:empty", "own.models:empty: batch is empty"),
        ("own.models:no_loss", r"own.models:no_loss: loss must be a function of \(output, targets\).*; got str"),
    ],
)
def test_what_is_wrong_is_said_in_words(place: str, words: str):
    with pytest.raises(OwnModelError, match=words) as told:
        own_model(place)
    assert "\n" not in str(told.value)
