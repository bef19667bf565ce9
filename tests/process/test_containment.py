"""Nothing of torch's, and nothing of the process's, is left switched by an error or an interrupt, wherever it lands."""

from __future__ import annotations

import gc
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any

import pytest
import torch
from torch import nn

import mixlab
import mixlab.memory
from mixlab.memory.fakes import Results
from mixlab.process import contained, settings

MODEL = nn.Sequential(nn.Linear(4, 4), nn.Dropout())


def state() -> dict[str, object]:
    """What a thread and the process have, as far as mixlab or torch's own contexts change it."""
    return {
        "settings": [setting._read() for setting in settings.SETTINGS],
        "holds": [setting._holds for setting in settings.SETTINGS],
        "locks": [setting._lock._is_owned() for setting in settings.SETTINGS],
        "collector": gc.isenabled(),
        "threads": torch.get_num_threads(),
        "dispatch modes": torch._C._len_torch_dispatch_stack(),
        "fake mode": torch._C._get_dispatch_mode(torch._C._TorchDispatchModeKey.FAKE),
        "function modes": torch._C._len_torch_function_stack(),
        "functions": torch._C._is_torch_function_enabled(),
        "included": str(torch._C._dispatch_tls_local_include_set()),
        "excluded": str(torch._C._dispatch_tls_local_exclude_set()),
        "gradients": torch.is_grad_enabled(),
        "autocast": [torch.is_autocast_enabled(kind) for kind in ("cpu", "cuda")],
        "autocast dtypes": [torch.get_autocast_dtype(kind) for kind in ("cpu", "cuda")],
        "random numbers": torch.get_rng_state().tolist(),
        "backward": (nn.Linear(1, 1, device="meta").weight * 2).requires_grad,
        "patched": (nn.Module.__call__, torch.Tensor.backward, vars(torch.random)["default_generator"]),
    }


class Interrupt:
    """Raises KeyboardInterrupt at the n-th line that is run in any of some files; counts lines if n is 0."""

    def __init__(self, files: tuple[str, ...], n: int) -> None:
        self.files, self.n, self.seen = files, n, 0

    def __call__(self, frame: FrameType, event: str, _arg: Any) -> Any:
        if frame.f_locals.get("func") is torch.ops.prim.device.default:
            return None  # asked by torch's C++ where no error may pass: it ends the process
        return self.line if frame.f_code.co_filename.endswith(self.files) else None

    def line(self, _frame: FrameType, event: str, _arg: Any) -> Any:
        if event == "line":
            self.seen += 1
            if self.seen == self.n:
                sys.settrace(None)
                raise KeyboardInterrupt
        return self.line


FILES = (
    "mixlab/emulation/contexts.py",
    "mixlab/process/settings.py",
    "mixlab/process/random_streams.py",
    "mixlab/training/trainer.py",
    "memory/fakes.py",
    "memory/tracing.py",
    "memory/allocation_log.py",
    "torch/amp/autocast_mode.py",
)
# Not while fake tensors are at work: the process then ends within torch, which cannot begin a mode of theirs twice.
MODES = "torch/utils/_python_dispatch.py", "torch/overrides.py"


def interrupted(run: Callable[[], object], n: int) -> int:
    """Runs until the n-th line; returns how many lines there were."""
    interrupt = Interrupt(FILES if run is traced else FILES + MODES, n)
    tracing = sys.gettrace()
    sys.settrace(interrupt)
    try:
        run()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(tracing)
    return interrupt.seen


def traced() -> None:
    mixlab.memory.trace(
        MODEL,
        (torch.ones(2, 4), torch.zeros(2).long()),
        "amp-fp16",
        optimizer="sgd",
    )


class Once:
    """A step of a training with dropout in emulated fp16."""

    def __init__(self) -> None:
        model = lambda: nn.Sequential(nn.Linear(4, 4), nn.Dropout(), nn.Linear(4, 2))  # noqa: E731
        batch = torch.ones(2, 4), torch.zeros(2).long()
        task = mixlab.Task("tiny", model, lambda _generator: batch, batch)
        self.trainer = mixlab.Trainer(task, mixlab.Recipe.parse("amp-fp16"), device="cpu")

    def __call__(self) -> None:
        self.trainer.backward()
        self.trainer.held_out()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # where a tensor dies
@pytest.mark.parametrize(
    ("name", "points"),
    [
        ("trace", 30),
        ("step", 100),
        pytest.param("trace", 300, marks=pytest.mark.slow),
        pytest.param("step", 600, marks=pytest.mark.slow),
    ],
)
def test_an_interrupt_at_any_line_leaves_nothing_behind(name: str, points: int):
    run = traced if name == "trace" else Once()
    run()  # what is made once
    before = state()
    lines = interrupted(run, 0)
    assert lines > 200
    assert state() == before
    stride = max(1, lines // points)
    for n in range(1, lines + 1, stride):
        interrupted(run, n)
        assert state() == before, f"line {n} of {lines}"


def test_an_error_within_a_fake_result_does_not_end_autograd(monkeypatch: pytest.MonkeyPatch):
    """A guard in a name of a frame ends when the traceback does, and then puts back a state from within the trace."""

    def interrupt(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    traced()
    before = state()
    real = torch.empty_strided
    made = Results._made

    def within(self: Results, part: Any, args: Any) -> Any:
        monkeypatch.setattr(torch, "empty_strided", interrupt)
        try:
            return made(self, part, args)
        finally:
            monkeypatch.setattr(torch, "empty_strided", real)

    monkeypatch.setattr(Results, "_made", within)
    with pytest.raises(KeyboardInterrupt):
        traced()
    monkeypatch.undo()
    gc.collect()  # with the traceback's frames, whose names would end late what they hold
    assert state() == before


def test_a_compiled_model_that_fails_does_not_end_autograd():
    model = torch.compile(nn.Linear(4, 4), backend="aot_eager")
    with pytest.raises(mixlab.memory.TraceError, match="compile"):
        mixlab.memory.trace(model, (torch.ones(2, 4), torch.zeros(2).long()))
    gc.collect()
    assert (torch.ones(1, requires_grad=True) * 2).requires_grad


def test_real_steps_write_nothing_to_stderr(capfd: pytest.CaptureFixture[str]):
    from mixlab.measure import real_steps

    real_steps(
        lambda: nn.Linear(4, 4),
        (torch.ones(2, 4), torch.zeros(2).long()),
        mixlab.Recipe.parse("fp32"),
        device=torch.device("cpu"),
    )
    assert capfd.readouterr().err == ""


def test_contained_keeps_results_names_and_errors():
    @contained
    def twice(x: int) -> int:
        """Doubles."""
        return 2 * x

    assert (twice(3), twice.__name__, twice.__doc__) == (6, "twice", "Doubles.")
    with pytest.raises(TypeError):
        twice("a" - 1)


def test_a_setting_that_begins_to_be_within_is_released():
    """As the functions of a library that a model imports when it is first traced."""
    values = ["before"]

    @contained
    def run() -> None:
        setting = settings.Setting("a new one", lambda: values[0], lambda value: values.__setitem__(0, value))
        setting.held("within").__enter__()
        assert values == ["within"]

    known = len(settings.SETTINGS)
    try:
        run()
    finally:
        del settings.SETTINGS[known:]
    assert values == ["before"]
