from __future__ import annotations

import pytest

from mixlab.memory import VARIANTS, variant

# (weight, copy, gradient, m, v, least, most), with 8-bit moments' scales on top.
TABLE = {
    "fp32": (4, 0, 4, 4, 4, 16, 16),
    "torch-autocast": (4, 0, 4, 4, 4, 16, 18),
    "megatron-bf16": (2, 4, 4, 4, 4, 18, 18),
    "megatron-fp16": (2, 4, 4, 4, 4, 20, 20),
    "zero-paper": (2, 4, 2, 4, 4, 16, 16),
    "lean-bf16": (4, 0, 2, 2, 4, 12, 14),
    "pure-bf16": (2, 0, 2, 2, 2, 8, 8),
    "bf16-kahan": (2, 2, 2, 2, 2, 10, 10),
    "8-bit-adam": (4, 0, 4, 1, 1, 10 + 8 / 256, 10 + 8 / 256),
    "deepseek-v3": (2, 4, 4, 2, 2, 14, 14),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_bytes_are_those_of_the_literature(name):
    found = VARIANTS[name]
    weight, copy, gradient, m, v, least, most = TABLE[name]
    parts = found.parts
    assert parts["parameters"] == weight
    assert parts.get("master weights", 0) + parts.get("Kahan compensation", 0) == copy
    assert (parts["gradients"], parts["exp_avg"], parts["exp_avg_sq"]) == (gradient, m, v)
    assert (found.bytes_per_parameter, found.most_bytes_per_parameter) == (least, most)
    assert variant(name) is found


def test_every_row_of_the_table_is_there_with_its_source():
    assert list(VARIANTS) == list(TABLE)
    assert all(found.source for found in VARIANTS.values())


def test_what_a_recipe_cannot_say_is_said_beside_it():
    assert VARIANTS["megatron-fp16"].kept == {"fp16 gradients": 2.0}
    assert VARIANTS["torch-autocast"].passing == {"weights cast by autocast": 2.0}


def test_it_reads_as_a_table():
    lines = repr(variant("torch-autocast")).splitlines()
    assert lines[0].startswith("torch-autocast: 16 to 18 bytes per parameter (PyTorch, ")
    assert lines[-1].split("  ")[0] == "weights cast by autocast, within a step"
    assert "<td>fp16 gradients</td>" in variant("megatron-fp16")._repr_html_()


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown variant 'megatron': did you mean megatron-fp16 or megatron-bf16"):
        variant("megatron")
    with pytest.raises(ValueError, match=r"unknown variant 'xyz': There are fp32, torch-autocast"):
        variant("xyz")
