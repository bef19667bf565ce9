"""What the recipe of the controls will cost, worked out beside them in a thread of its own."""

from __future__ import annotations

import atexit
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from queue import SimpleQueue

import ipywidgets as widgets

from mixlab.experiments import predict_windows, static_window
from mixlab.formats import FP16
from mixlab.loss_scaling import ScaleWindow
from mixlab.machine import is_headless
from mixlab.memory import model_states, trace
from mixlab.recipes import Recipe
from mixlab.reports import Outlook, memory_words
from mixlab.training import load_task

PROBED_STEPS = 5  # the first and the last of them are probed

_EXIT_S = 5.0  # how long an ending kernel waits for what is being worked out


class _Worker:
    """Works off what panels submit, one after the other, in a thread that ends with Python."""

    def __init__(self) -> None:
        self._works: SimpleQueue[tuple[Future[None], Callable[[], None]]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self.ending = False

    def submit(self, work: Callable[[], None]) -> Future[None]:
        """Returns a handle that is done when the work is, and that has the work's error if it raised one."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="mixlab-outlook", daemon=True)
            self._thread.start()
            atexit.register(self._end, self._thread)
        done: Future[None] = Future()
        self._works.put((done, work))
        return done

    def _run(self) -> None:
        while not self.ending:
            done, work = self._works.get()
            try:
                work()
            except Exception as error:  # the thread goes on: it serves every panel
                done.set_exception(error)
            else:
                done.set_result(None)

    def _end(self, thread: threading.Thread) -> None:
        """Waits as Python exits; a thread still inside torch would crash the process."""
        self.ending = True
        self._works.put((Future(), lambda: None))
        thread.join(_EXIT_S)


_WORKER = _Worker()  # one for all panels


@dataclass(frozen=True)
class RunPlan:
    """What is about to be trained.

    Attributes:
        task: The name of a shipped task.
        recipe: The recipe.
        seed, loss_weight: As for a `mixlab.Run`.
        gpu: Whether it is trained on a GPU.
    """

    task: str
    recipe: Recipe
    seed: int = 0
    loss_weight: float = 1.0
    gpu: bool = False


class OutlookPanel(widgets.HTML):  # type: ignore[misc]
    """Shows the `Outlook` of a plan. What takes time follows from a thread: first seen as "being predicted".

    Attributes:
        outlook: What is shown; None before the first plan.
    """

    def __init__(self) -> None:
        self.outlook: Outlook | None = None
        self._plan: RunPlan | None = None
        self._pending: Future[None] | None = None
        self._lock = threading.RLock()  # held from a look at the plan until its outlook is drawn
        super().__init__(layout={"flex": "1 1 17em", "margin": "0 0 0 1.5em"})

    def show(self, plan: RunPlan) -> None:
        """Shows what is known of a plan at once, and the rest when it is.

        Args:
            plan: The plan; a newer one replaces it.
        """
        with self._lock:
            if plan == self._plan:
                return
            self._plan = plan
            optimizer = load_task(plan.task).optimizer
            assert not callable(optimizer)  # no shipped task brings its own
            self._draw(Outlook(plan.recipe, model_states(plan.recipe, optimizer=optimizer)))
            if not is_headless():
                self._pending = _WORKER.submit(partial(self._fill, plan))

    def wait(self) -> None:
        """Waits until everything is shown."""
        while self._pending is not None and not self._pending.done():
            self._pending.result()

    def __repr__(self) -> str:
        return repr(self.outlook)

    def _fill(self, plan: RunPlan) -> None:
        """Works out what takes time; the body of the thread. A plan that was replaced is left."""
        for name, work in (("memory", _memory), ("window", _window)):
            if plan != self._plan or self.outlook is None or _WORKER.ending:
                return
            found = _words_of(work, plan)
            with self._lock:
                if plan == self._plan:
                    measured = f"in fp32 at steps 0 and {PROBED_STEPS - 1}, seed {plan.seed}"
                    self._draw(replace(self.outlook, measured=measured, **{name: found}))  # type: ignore[arg-type]

    def _draw(self, outlook: Outlook) -> None:
        self.outlook = outlook
        self.value = f"<div>The next run:</div>{outlook._repr_html_()}"


def _words_of(work: Callable[[RunPlan], object], plan: RunPlan) -> object:
    """Returns what was worked out, or the words of the error."""
    try:
        return work(plan)
    except Exception as error:  # a thread has no caller to raise to
        return f"not known: {error}"


def _memory(plan: RunPlan) -> str:
    unscaled = plan.recipe.with_scaler("none")
    scaled = replace(unscaled, scaler="static", scale=1.0)  # any scaler takes as much memory
    return _peak_words(plan.task, unscaled if plan.recipe.scaler == "none" else scaled, plan.gpu)


@lru_cache(maxsize=256)
def _peak_words(task_name: str, recipe: Recipe, gpu: bool) -> str:
    task = load_task(task_name)
    as_on = "cuda" if gpu else "cpu"
    traced = trace(task.seeded_model(0), task.batch(0, 0), recipe, optimizer=task.optimizer, as_on=as_on)  # type: ignore[arg-type]
    return memory_words(traced.peak_bytes, traced.peak_phase, gpu=gpu)


def _window(plan: RunPlan) -> ScaleWindow | None:
    """Returns the usable scales; None if the recipe needs none."""
    needed = FP16 in (plan.recipe.compute, plan.recipe.gradients)
    return _measured_window(plan.task, plan.loss_weight, plan.seed) if needed else None


@lru_cache(maxsize=64)
def _measured_window(task: str, loss_weight: float, seed: int) -> ScaleWindow:
    steps = predict_windows(
        load_task(task, loss_weight=loss_weight), steps=PROBED_STEPS, seed=seed, every=PROBED_STEPS - 1
    )
    return static_window(steps)
