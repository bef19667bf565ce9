"""A run on disk: its description, a record of every step, and a checkpoint to resume from. It survives a kill.

runs/digits/
  run.json         task, recipe, seed and machine; written once
  steps.jsonl      one line for each step, in order; appended to
  checkpoint.pt    the trainer's state, and which run it belongs to; replaced as a whole
  lock             held by the process or thread that trains the run
"""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

import torch

from mixlab.arguments import did_you_mean, require_whole
from mixlab.files import locked, remove_drafts, replacing, sync_folder
from mixlab.machine import describe
from mixlab.recipes import Recipe
from mixlab.training.choices import TASKS
from mixlab.training.run_infos import RunInfo, read_info
from mixlab.training.step_records import StepRecord, decode, encode
from mixlab.training.tasks import Task, load_task
from mixlab.training.trainer import Trainer


class Run:
    """A folder that holds one training. It survives `kill -9` at any moment, and resumes bit for bit.

    Only one process or thread at a time can train it; any number can read it meanwhile.

    >>> from tempfile import TemporaryDirectory
    >>> folder = TemporaryDirectory()
    >>> run = Run.create(f"{folder.name}/digits", task="digits-mlp", recipe="amp-fp16", seed=1)
    >>> run.info.label
    'amp-fp16 on digits-mlp, seed 1'
    >>> for record in run.train(until=20, device="cpu"):  # stopped after its third step
    ...     if record.step == 2:
    ...         break
    >>> [record.step for record in Run(run.path).train(until=5, device="cpu")]
    [3, 4]
    >>> len(run.records())
    5
    >>> folder.cleanup()

    A folder holds a task's name alone, so a task of your own is given whenever its run is to be trained:
    `Run(path, task=task)`. It must make the same model, batches and loss as before.

    Args:
        path: The folder of an existing run; `Run.create` makes a new one.
        task: The run's task, if it is none of the shipped ones. Records can be read without it.

    Attributes:
        path: The folder.
        info: The run's description.

    Raises:
        FileNotFoundError: If there is no run in the folder.
        TypeError: If `task` is not a task.
        ValueError: If its description is damaged, or is that of another task.
    """

    def __init__(self, path: str | Path, *, task: Task | None = None) -> None:
        self.path = Path(path)
        if not (self.path / "run.json").is_file():
            raise FileNotFoundError(
                f"{self.path} holds no run, because there is no run.json in it; Run.create starts a new one"
            )
        self.info = read_info(self.path / "run.json")
        self._task = task
        if task is not None and (_own(task).name, task.loss_weight) != (self.info.task, self.info.loss_weight):
            raise ValueError(
                f"{path} holds a run of task {self.info.task} with loss weight {self.info.loss_weight:g}, not of "
                f"{task.name} with {task.loss_weight:g}"
            )

    @classmethod
    def create(
        cls,
        path: str | Path,
        *,
        task: Task | str,
        recipe: Recipe | str,
        seed: int = 0,
        loss_weight: float = 1.0,
        probe_every: int = 0,
        wanted_steps: int = 0,
    ) -> Run:
        """Starts a run in a folder that does not exist yet or is empty.

        Args:
            path: The folder.
            task: The name of a shipped task, see `load_task`; or a task of your own, under a name of its own.
            recipe: How to train, as a recipe or its text.
            seed, probe_every: As for `Trainer`.
            loss_weight: As for `load_task`; a task of your own has it already.
            wanted_steps: How many steps it is for, from 0 up; kept to tell a run that was cut short.

        Raises:
            FileExistsError: If the folder is not empty.
            OSError: If the folder cannot be made or written.
            TypeError, ValueError: If no such training is possible.
        """
        started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        recipe = str(Recipe.of(recipe))
        require_whole("Run: wanted_steps", wanted_steps, 0)
        own, name, loss_weight = _named(task, loss_weight)
        info = RunInfo(name, recipe, seed, loss_weight, probe_every, describe().summary, started, wanted_steps)
        _new_trainer(info, own, "cpu")
        path = Path(path)
        _refuse_taken(path)
        path.mkdir(parents=True, exist_ok=True)
        sync_folder(path.parent)
        with _one_writer(path):
            _refuse_taken(path)
            with replacing(path / "run.json") as file:
                file.write(json.dumps(asdict(info), indent=1).encode())
        return cls(path, task=own)

    @classmethod
    def resume_or_create(
        cls,
        path: str | Path,
        *,
        task: Task | str,
        recipe: Recipe | str,
        seed: int = 0,
        loss_weight: float = 1.0,
        probe_every: int = 0,
    ) -> Run:
        """Returns the run in `path`, or a new one if there is none.

        Args:
            path: The folder.
            task, recipe, seed, loss_weight, probe_every: As for `create`. An existing run must have the same.

        Raises:
            ValueError: If the run in `path` has other settings, or is damaged.
            FileExistsError, OSError, TypeError: As for `create`.
        """
        recipe = Recipe.of(recipe)
        if not (Path(path) / "run.json").is_file():
            return cls.create(
                path, task=task, recipe=recipe, seed=seed, loss_weight=loss_weight, probe_every=probe_every
            )
        own, task_name, loss_weight = _named(task, loss_weight)
        run = cls(path)
        for name, wanted in RunInfo(task_name, str(recipe), seed, loss_weight, probe_every).decisive.items():
            there = getattr(run.info, name)
            if there != wanted:
                raise ValueError(
                    f"{path} holds a run with {name}={there}, not {wanted}; "
                    f"choose another folder, or continue with {name}={there}"
                )
        return cls(path, task=own)

    def delete(self) -> None:
        """Deletes the run's folder with everything in it.

        Raises:
            BlockingIOError: If another process or thread is training the run; nothing is deleted then.
            OSError: If something in the folder cannot be deleted.
        """
        with _one_writer(self.path):
            (self.path / "run.json").unlink()  # first: what an interrupt leaves behind is no run
            for entry in self.path.iterdir():
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                elif entry.name != "lock":
                    entry.unlink()
        (self.path / "lock").unlink(missing_ok=True)
        self.path.rmdir()

    def records(self) -> list[StepRecord]:
        """Returns every record, in order, without a last line that was cut off by a kill.

        Raises:
            ValueError: If a line is not a record, or is the record of another step. The message names file and line.
        """
        try:
            content = (self.path / "steps.jsonl").read_bytes()
        except FileNotFoundError:
            return []
        return self._decoded(content.split(b"\n")[:-1])

    def _decoded(self, lines: Sequence[bytes]) -> list[StepRecord]:
        records = []
        for step, line in enumerate(lines):
            try:
                record = decode(line)
                if record.step != step:
                    raise ValueError(f"it is the record of step {record.step}, but step {step} was expected")
            except ValueError as error:
                raise ValueError(
                    f"{self.path / 'steps.jsonl'}, line {step + 1}, is damaged: {error}; "
                    "delete checkpoint.pt beside it, if there is one, and train again from the first step"
                ) from None
            records.append(record)
        return records

    def trainer(self, *, device: torch.device | str | None = None) -> Trainer:
        """Returns a trainer at this run's last checkpoint, or at the start if there is none.

        Args:
            device: As for `Trainer`.

        Raises:
            ValueError: If the checkpoint is damaged or belongs to another run, if run.json names a recipe that does not
                exist, or a task that is neither shipped nor given.
        """
        try:
            trainer = _new_trainer(self.info, self._task, device)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{self.path / 'run.json'}: {error}") from error
        checkpoint = self.path / "checkpoint.pt"
        if not checkpoint.exists():
            return trainer
        again = "delete it to train again from the first step"
        try:
            state = torch.load(checkpoint, map_location=trainer.device, weights_only=True)
        except Exception as error:  # torch raises many kinds of errors for damaged files
            raise ValueError(f"{checkpoint} is damaged; {again} ({type(error).__name__})") from error
        try:
            _load(trainer, state, self.info)
        except Exception as error:  # models and optimizers raise many kinds of errors for foreign states
            reason = next(iter(str(error).splitlines()), "").strip()
            raise ValueError(
                f"{checkpoint} is not a checkpoint of this run; {again} ({type(error).__name__}: {reason})"
            ) from error
        return trainer

    def train(
        self, *, until: int, checkpoint_every: int = 100, device: torch.device | str | None = None
    ) -> Iterator[StepRecord]:
        """Trains until the run has `until` steps in all, and yields a record of each step it takes.

        Records go to disk as they are made, checkpoints every `checkpoint_every` steps and at the end. To stop, stop
        iterating. Steps recorded after the last checkpoint are trained and recorded again, with the same result.

        Args:
            until: How many steps the run will have in all, including those already taken.
            checkpoint_every: Steps between two checkpoints, at least 1.
            device: As for `Trainer`.

        Raises:
            ValueError: If a number is out of range. Raised by the first step if the checkpoint or the records are
                damaged.
            BlockingIOError: Raised by the first step if another process or thread is training this run.
        """
        require_whole("Run.train: until", until, 0)
        require_whole("Run.train: checkpoint_every", checkpoint_every, 1)
        return self._train(until, checkpoint_every, device)

    def _train(self, until: int, checkpoint_every: int, device: torch.device | str | None) -> Iterator[StepRecord]:
        with _one_writer(self.path):
            trainer = self.trainer(device=device)
            with self._appending(trainer.step) as file:
                yield from self._recorded(trainer, max(0, until - trainer.step), checkpoint_every, file)

    def _recorded(self, trainer: Trainer, count: int, checkpoint_every: int, file: IO[bytes]) -> Iterator[StepRecord]:
        try:
            for record in trainer.steps(count):
                _append(file, encode(record))
                if trainer.step % checkpoint_every == 0:
                    self._save(trainer, file)
                yield record
        except GeneratorExit:  # the caller stopped iterating between two steps; an error may come within one
            self._save(trainer, file)
            raise
        self._save(trainer, file)

    def _save(self, trainer: Trainer, records: IO[bytes]) -> None:
        """Saves a checkpoint once all records up to it are on disk."""
        os.fsync(records.fileno())
        with replacing(self.path / "checkpoint.pt") as file:
            torch.save({**trainer.state_dict(), "run": self.info.decisive}, file)

    @contextmanager
    def _appending(self, step: int) -> Iterator[IO[bytes]]:
        """Opens the records for appending, unbuffered, and drops those made after the checkpoint at `step`."""
        with (self.path / "steps.jsonl").open("a+b", buffering=0) as file:
            file.seek(0)
            whole = file.read().split(b"\n")[:-1]
            if len(whole) < step:
                raise ValueError(
                    f"{self.path}: the checkpoint is at step {step}, but only {len(whole)} steps are recorded; "
                    "delete checkpoint.pt to train again from the first step"
                )
            self._decoded(whole[:step])
            file.truncate(sum(len(line) + 1 for line in whole[:step]))
            yield file


@contextmanager
def _one_writer(folder: Path) -> Iterator[None]:
    """Keeps other processes and threads from writing to a run's folder."""
    with ExitStack() as stack:
        try:
            stack.enter_context(locked(folder / "lock"))
        except BlockingIOError as error:
            raise BlockingIOError(
                f"{folder} is being trained by another process or thread; wait until it ends, stop it, "
                "or choose another folder"
            ) from error
        remove_drafts(folder)
        yield


def _refuse_taken(path: Path) -> None:
    if path.exists() and (not path.is_dir() or any(entry.name != "lock" for entry in path.iterdir())):
        raise FileExistsError(f"{path} is not empty; choose another folder, or open the run in it with Run(path)")


def _append(file: IO[bytes], line: bytes) -> None:
    """Writes the whole line; an unbuffered file may accept only part of it when the disk is nearly full."""
    while line:
        line = line[file.write(line) :]


def _own(task: object) -> Task:
    if not isinstance(task, Task):
        raise TypeError(f"Run: task must be a Task of your own, or the name of a shipped one, got {task!r:.60}")
    if task.name in TASKS:
        raise ValueError(
            f"Run: task {task.name} has the name of a shipped task; give yours another, as "
            'dataclasses.replace(task, name="mine") does'
        )
    return task


def _named(task: Task | str, loss_weight: float) -> tuple[Task | None, str, float]:
    """Returns a task of one's own or None, the task's name, and its loss weight."""
    if isinstance(task, str):
        return None, task, loss_weight
    own = _own(task)
    if loss_weight not in (1.0, own.loss_weight):
        raise ValueError(f"Run: task {own.name} has loss_weight={own.loss_weight:g}, so {loss_weight:g} is not allowed")
    return own, own.name, own.loss_weight


def _new_trainer(info: RunInfo, task: Task | None, device: torch.device | str | None) -> Trainer:
    if task is None and info.task not in TASKS:
        raise ValueError(
            f"unknown task {info.task!r:.60}: {did_you_mean(info.task, TASKS)}use one of {', '.join(TASKS)}; a task of "
            "your own is given itself, as task=..."
        )
    task = task or load_task(info.task, loss_weight=info.loss_weight)
    return Trainer(task, Recipe.parse(info.recipe), seed=info.seed, device=device, probe_every=info.probe_every)


def _load(trainer: Trainer, state: Any, info: RunInfo) -> None:
    if not isinstance(state, dict) or not {"step", "model", "optimizer", "scaler"} <= state.keys():
        raise ValueError("it must hold step, model, optimizer and scaler")
    if (run := state.get("run", info.decisive)) != info.decisive:
        raise ValueError(f"it belongs to {run}")
    require_whole("step", state["step"], 0)
    trainer.load_state_dict(state)
