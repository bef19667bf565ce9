from .casts import measure_cast
from .comparison import ComparedSeries, RecordComparison, compare_records
from .emulation import measure_emulation
from .everything import KindOutcome, measure_all
from .matmul import measure_matmul
from .memory import differences, measure_memory, median_and_worst
from .optimizers import measure_optimizer
from .quick_matmul import MatmulSpeed, matmul_speeds
from .record import Record, Series, shipped
from .roofs import predicted_series, roofs_here
from .states import measure_states
from .step_memory import RealStep, real_steps
from .training import measure_train

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
