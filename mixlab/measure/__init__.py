"""Measurements of this machine, and the records that keep them.

>>> from mixlab.measure import shipped
>>> cpu, h100 = shipped("train")
>>> h100.machine["gpus"][:11], round(h100["fp32 eager, MFU"].median, 3)
('NVIDIA H100', 0.615)
"""

from mixlab.measure.casts import measure_cast
from mixlab.measure.comparison import ComparedSeries, RecordComparison, compare_records
from mixlab.measure.emulation import measure_emulation
from mixlab.measure.everything import KindOutcome, measure_all
from mixlab.measure.matmul import measure_matmul
from mixlab.measure.memory import differences, measure_memory, median_and_worst
from mixlab.measure.optimizers import measure_optimizer
from mixlab.measure.quick_matmul import MatmulSpeed, matmul_speeds
from mixlab.measure.record import Record, Series, shipped
from mixlab.measure.roofs import predicted_series, roofs_here
from mixlab.measure.states import measure_states
from mixlab.measure.step_memory import RealStep, real_steps
from mixlab.measure.training import measure_train

__all__ = [
    "ComparedSeries",
    "KindOutcome",
    "MatmulSpeed",
    "RealStep",
    "Record",
    "RecordComparison",
    "Series",
    "compare_records",
    "differences",
    "matmul_speeds",
    "measure_all",
    "measure_cast",
    "measure_emulation",
    "measure_matmul",
    "measure_memory",
    "measure_optimizer",
    "measure_states",
    "measure_train",
    "median_and_worst",
    "predicted_series",
    "real_steps",
    "roofs_here",
    "shipped",
]
