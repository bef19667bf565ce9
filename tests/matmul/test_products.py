from __future__ import annotations

import pytest

from mixlab.formats import BF16, E4M3FN, FORMATS, FP32, Format
from mixlab.matmul import Matmul
from mixlab.matmul.products import packed_bytes, stored_bits
from tests.reference.blocked_loops import BITS, packed


def test_formats_are_given_by_name_or_as_they_are():
    assert Matmul(1, 2, 3, "bf16", "e4m3fn", "fp32", "bf16") == Matmul(1, 2, 3, BF16, E4M3FN, FP32, BF16)
    assert str(Matmul(1, 2, 3, "bf16", "e4m3fn")) == "1 x 2 x 3, bf16 x e4m3fn + fp32 -> fp32"


@pytest.mark.parametrize("name", BITS)
def test_numbers_are_packed(name):
    fmt = Format.of(name)
    assert stored_bits(fmt) == BITS[name]
    assert [packed_bytes(numel, fmt) for numel in range(20)] == [packed(numel, name) for numel in range(20)]


def test_a_size_is_that_of_torch_where_torch_has_the_format():
    sizes = {fmt: fmt.dtype.itemsize * 8 for fmt in FORMATS.values() if fmt.dtype is not None}
    assert {fmt: stored_bits(fmt) for fmt in sizes} == sizes


def test_flops_and_bytes_of_a_product():
    product = Matmul(3, 5, 7, "bf16", "e4m3fn", "fp32", "e2m1fn")
    assert product.flops == sum(2 for _ in range(3) for _ in range(5) for _ in range(7))
    assert product.operand_bytes == 3 * 7 * 2 + 7 * 5
    assert product.compulsory_bytes == 3 * 7 * 2 + 7 * 5 + 8
    assert product.arithmetic_intensity == product.flops / product.compulsory_bytes


@pytest.mark.parametrize("bad", [0, -1, True, 1.0, float("nan"), "8", None, 10**400, 2**31])
@pytest.mark.parametrize("name", ["m", "n", "k"])
def test_a_bad_size_is_refused(name, bad):
    with pytest.raises(ValueError, match=f"Matmul: {name} must be a whole number from 1 to 2147483647, got"):
        Matmul(**{"m": 2, "n": 2, "k": 2, name: bad})


@pytest.mark.parametrize(
    ("bad", "error", "words"),
    [
        ("fp17", ValueError, "unknown format 'fp17'"),
        (16, TypeError, "a format must be a Format or its name"),
        ("mxfp8_e4m3", ValueError, "use its element format, e4m3fn, and add 0.25 bits per element"),
        ("nvfp4", ValueError, "use its element format, e2m1fn, and add 0.5 bits"),
        ("e8m0fnu", ValueError, "e8m0fnu holds scales"),
    ],
)
@pytest.mark.parametrize("name", ["a", "b", "accumulator", "out"])
def test_a_bad_format_is_refused(name, bad, error, words):
    with pytest.raises(error, match=words):
        Matmul(2, 2, 2, **{name: bad})
