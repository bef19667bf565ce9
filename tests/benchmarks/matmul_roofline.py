"""Speeds that a roofline predicts against those measured in the same run, case by case, and the worst of each group.

    python tests/benchmarks/matmul_roofline.py [RECORD.json | SECONDS]

Measures for SECONDS (300), or reads a record of `mixlab measure matmul`. Goal: on a CPU within 25 %, on a GPU within
15 %, for two groups that are named before anything is measured:

- large: products whose sizes are all 1000 or more, and batches of such;
- memory-bound: copy, add and mul in every format, and the product of one row by an fp32 weight.

All others are printed too. They are bound by something that the roofline does not know: the start of a kernel, a
conversion of 16-bit numbers, the exponentials of softmax and gelu, or too few numbers for all units.
"""

from __future__ import annotations

import sys

from mixlab.measure import Record, measure_matmul
from mixlab.measure.matmul_cases import OpCase, ProductCase
from mixlab.measure.roofs import case_named


def group(case: ProductCase | OpCase) -> str:
    if isinstance(case, OpCase):
        return "memory-bound" if case.op in ("copy", "add", "mul") else "other"
    if min(case.m, case.n, case.k) >= 1000:
        return "large"
    return "memory-bound" if case.m == 1 and case.format == "fp32" and not case.batch else "other"


def main(what: str = "300") -> None:
    record = Record.load(what) if what.endswith(".json") else measure_matmul(budget_s=float(what))
    goal = 0.25 if record.parameters["device"] == "cpu" else 0.15
    print(f"{record.summary}; {record.parameters['threads']} threads; goal {goal:.0%}")
    print(", ".join(f"{name} {record[name].median:.1f} GB/s" for name in ("read", "write", "copy")))
    values = {series.name: series for series in record.series}
    rows: dict[str, list[tuple[float, str]]] = {"large": [], "memory-bound": [], "other": []}
    for name, series in values.items():
        case = case_named(name)
        if case is not None and f"{name}, predicted" in values:
            predicted = values[f"{name}, predicted"].median
            off = predicted / series.median - 1
            line = f"  {name:28} measured {series.median:10.1f} predicted {predicted:10.1f} {series.unit:8} {off:+.0%}"
            rows[group(case)].append((off, line))
    for name, found in rows.items():
        print(f"{name}:")
        print(*(line for _, line in found), sep="\n")
        if found and name != "other":
            worst = max(found, key=lambda row: abs(row[0]))
            within = sum(abs(off) <= goal for off, _ in found)
            print(f"  within {goal:.0%}: {within} of {len(found)}; worst:{worst[1].rstrip()}")


if __name__ == "__main__":
    main(*sys.argv[1:])
