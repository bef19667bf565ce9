from __future__ import annotations

import os

# The tasks are small: a second thread gains nothing, and waits long where cores are shared. Kernels and other child
# processes inherit this, so that they sum in the same order as the tests that compare with them.
THREADS = os.environ.get("MIXLAB_TEST_THREADS", "1")
os.environ["OMP_NUM_THREADS"] = THREADS

import hypothesis
import pytest
import torch

from mixlab.tables import text_table

torch.set_num_threads(int(THREADS))

# How long an example takes depends on what else the machine does.
hypothesis.settings.register_profile("untimed", deadline=None)
hypothesis.settings.load_profile("untimed")

PEAK_PROPERTY = "peak memory of a lab's kernel"
TRACED_PROPERTY = "traces of models that others wrote"
ESTIMATED_PROPERTY = "estimates of modules that others wrote, against their traces"
ESTIMATED_COLUMNS = ("model", "recipe", "tokens", "attention", "checkpointing", "traced peak", "estimated", "apart")
TRACED_COLUMNS = ("model", "kind", "recipe", "parameters", "traced peak", "real peak", "bytes apart", "reason")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Prints what tests recorded: the peaks of labs, and tables of traced and estimated models."""
    reports = [report for kind in ("passed", "failed") for report in terminalreporter.getreports(kind)]
    said = [(name, value) for report in reports for name, value in report.user_properties]
    peaks = sorted(str(value) for name, value in said if name == PEAK_PROPERTY)
    tables = {TRACED_PROPERTY: TRACED_COLUMNS, ESTIMATED_PROPERTY: ESTIMATED_COLUMNS}
    if peaks:
        terminalreporter.section(PEAK_PROPERTY)
        terminalreporter.write_line("\n".join(peaks))
    for title, columns in tables.items():
        rows = sorted(value for name, value in said if name == title)
        if rows:
            terminalreporter.section(title)
            terminalreporter.write_line(text_table(columns, rows))


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leaves out what this machine cannot run, and what takes minutes unless it was asked for by its marker."""
    without_gpu = pytest.mark.skip(reason="needs a CUDA device")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(without_gpu)
    if "slow" not in config.option.markexpr:
        slow = [item for item in items if "slow" in item.keywords]
        config.hook.pytest_deselected(items=slow)
        items[:] = [item for item in items if item not in slow]
