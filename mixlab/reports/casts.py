"""What autocast does to each kind of op, as a table."""

from __future__ import annotations

from mixlab.emulation import CastTrace, TracedOp
from mixlab.tables import NotedTable


class CastTable(NotedTable):
    """Kinds of ops in rows, in order of first use: the formats they compute in and hand on, the rule, and how often.

    Args:
        trace: From `cast_trace`.

    Raises:
        ValueError: If the trace is empty.
    """

    def __init__(self, trace: CastTrace) -> None:
        if not len(trace):
            raise ValueError("CastTable: the trace is empty; run a model with floating tensors through cast_trace")
        calls: dict[tuple[str, str, str, str], int] = {}
        for op in trace.ops:
            calls[_kind(op)] = calls.get(_kind(op), 0) + 1
        casts = trace.weight_casts
        often = max((cast.times for cast in casts), default=0)
        note = (
            f"{len(casts)} weights are cast, each {'once' if often == 1 else f'up to {often} times'} in a forward "
            f"pass; the copies take {trace.cache_bytes:,} bytes until backward has used them."
        )
        rows = [(*kind, str(count)) for kind, count in calls.items()]
        super().__init__(("op", "computed in", "output", "rule", "calls"), rows, [note] if casts else [])


def _kind(op: TracedOp) -> tuple[str, str, str, str]:
    return op.op, op.computed, op.output or "-", op.why
