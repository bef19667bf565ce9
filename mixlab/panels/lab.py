"""A lab: its parameters, its task, and the folder that keeps its reader's answers and runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from html import escape
from pathlib import Path
from typing import Any

import ipywidgets as widgets
from IPython.display import display

from mixlab.answers import ANSWERS_TYPE
from mixlab.files import refuse_unwritable
from mixlab.labs import check_parameters, kept_parameters, lab_recipe
from mixlab.machine import describe, is_headless
from mixlab.panels.asking import AskingButton, number_of
from mixlab.panels.base import Panel, in_a_row
from mixlab.panels.exercises import Exercise, Prediction
from mixlab.panels.folders import kept_words, temporary_folder
from mixlab.panels.kept_answers import KeptAnswers
from mixlab.process import train_on_one_thread
from mixlab.training import Task, load_task


class Lab:
    """What the cells of a lab share. Shown, it names the machine, the versions, the task and the seed.

    From here on torch uses one thread in this process: a lab's networks are small.

    Args:
        name: The lab's name, such as "04_training_modes".
        parameters: All parameters of the lab, by name.

    Attributes:
        name: The lab's name.
        parameters: Its parameters, by name.
        recipe: The parameter `recipe`, or what "" stands for, with the scale of `loss_scale` unless that is 0.
        runs_dir: The folder that keeps the reader's answers and runs: `runs` and the lab's name, beside the notebook.
            Headless, or where that cannot be written, a folder that is deleted when the kernel ends.

    Raises:
        KeyError: If there is no such lab.
        ValueError: If a parameter is unknown, is missing, or has a value that is not allowed.
    """

    def __init__(self, name: str, **parameters: Any) -> None:
        check_parameters(name, parameters)
        train_on_one_thread()
        self.name, self.parameters = name, parameters
        self.recipe = lab_recipe(name, parameters)
        self.trouble = ""
        self.runs_dir = self._folder()
        file = None if is_headless() else self.runs_dir / "answers.json"
        self._kept = KeptAnswers(file, lab=name, parameters=kept_parameters(name, parameters))

    @cached_property
    def task(self) -> Task:
        """The task that the parameter `task` names, with its `loss_weight` where the lab has one."""
        return load_task(self.parameters["task"], loss_weight=self.parameters.get("loss_weight", 1.0))

    @property
    def answers(self) -> KeptAnswers:
        """What the reader predicted and answered."""
        return self._kept

    def predict(
        self, question: str, options: Sequence[str], *, answer: str | None = None, explanation: str = ""
    ) -> Prediction:
        """Returns a question that holds back what follows until an option was chosen; the choice is kept.

        Args:
            question: The question.
            options: The answers to choose from.
            answer: The right option; None in a copy that was handed out without answers.
            explanation: Shown with the answer.

        Raises:
            ValueError: If the answer is not one of the options, or there is an explanation of no answer.
        """
        return Prediction(question, options, answer, explanation, kept=self._kept)

    def exercise(
        self,
        name: str,
        *,
        expected: Any = None,
        hint: str = "",
        tolerance: float = 0.0,
        read: Callable[[str], Any] | None = None,
    ) -> Exercise:
        """Returns a box for the answer to an exercise; the answer is kept.

        Args:
            name: The number of the exercise.
            expected, hint, tolerance, read: As for `Exercise`; none of them in a copy without answers.

        Raises:
            ValueError: If there is a hint, a tolerance or a reader for no expected answer.
        """
        return Exercise(name, expected=expected, hint=hint, tolerance=tolerance, read=read, kept=self._kept)

    @property
    def status(self) -> str:
        """The machine, the versions, the task and the seed in words."""
        return f"{describe().summary}; task {self.parameters['task']}, seed {self.parameters['seed']}"

    def __repr__(self) -> str:
        return self.status

    def _ipython_display_(self) -> None:
        display(LabLine(self.status, self.runs_dir, self.trouble, self._kept))  # type: ignore[no-untyped-call]

    def _folder(self) -> Path:
        folder = Path("runs").absolute() / self.name
        if not is_headless():
            try:
                folder.mkdir(parents=True, exist_ok=True)
                refuse_unwritable(folder / "answers.json")
            except OSError as error:
                self.trouble = f"{folder} cannot be written ({error.strerror or error})"
            else:
                return folder
        return temporary_folder(self)


class LabLine(Panel):
    """The line of a lab, where its reader's answers are kept, and a button that forgets them.

    Saved with the notebook, its output holds the answers for programs to read, such as `mixlab grade`.
    """

    without_kernel = ""

    def __init__(self, words: str, folder: Path, trouble: str, kept: KeptAnswers) -> None:
        self._line, self._folder, self._trouble, self._kept = words, folder, trouble, kept
        super().__init__()
        self._kept_words = widgets.HTML()
        self._again = AskingButton("Start anew", "Forgets your predictions and answers in this lab")
        self._again.on_click(self.errors.guard(lambda _button: self.start_anew()))
        self.children = [widgets.HTML(escape(words)), in_a_row(self._kept_words, self._again), self.errors]
        self._show()
        kept.changed.append(self._show)

    @property
    def status(self) -> str:
        return self._line

    def recorded(self) -> dict[str, Any]:
        return {ANSWERS_TYPE: self._kept.record}

    def __repr__(self) -> str:
        return self._line

    def start_anew(self) -> None:
        """Asks, and when called again forgets the answers of this lab."""
        what = number_of(len(self._kept), "answer") if len(self._kept) else "what the file of your answers holds"
        if not self._again.confirmed(f"forget {what}"):
            return
        self._kept.forget()
        self._show()
        self._kept_words.value = "Forgotten; run all cells again (Run > Run All Cells) to begin."

    def _show(self) -> None:
        trouble = self._trouble or self._kept.trouble
        if trouble:
            words = f"Your answers and runs go when the kernel ends: {trouble}."
        else:
            words = f"Your choices, answers and runs are {kept_words(self._folder)}"
            words += "; a saved notebook holds your choices and answers too."
            words += f" {number_of(len(self._kept), 'answer')} so far." if len(self._kept) else ""
        self.keep_still()
        self._kept_words.value = "" if is_headless() else escape(words)
        self._again.layout.display = None if len(self._kept) or self._kept.trouble else "none"
