"""The tile walk without a browser: what it sends, takes and refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest

from mixlab.formats import BF16
from mixlab.matmul import Block, Matmul, bytes_moved, lower_bound_bytes
from mixlab.panels import TileWalk


@pytest.fixture
def panel() -> TileWalk:
    return TileWalk(10, 9, 8, a=BF16, b="bf16", out="bf16", fast_bytes=512, block=(4, 4, 4))


def moved(panel: TileWalk) -> int:
    return sum(size for kind, *_, size in panel._drawing["moves"] if kind in ("load", "store"))


def test_the_moves_that_are_sent_add_up_to_the_formula(panel: TileWalk):
    for block in ((4, 4, 4), "square", "slices"):
        panel.block = block
        found = Block(*panel._drawing["block"])
        assert moved(panel) == panel._drawing["total"] == bytes_moved(panel.matmul, found).total_bytes
        assert f"{moved(panel):,} bytes" in panel.status
        assert panel._drawing["goesOn"] is False


def test_lower_bound_and_fp32_stand_beside_it(panel: TileWalk):
    panel.block = "square"
    (_, _, in_fp32, words), (_, _, bound, _) = panel._drawing["bars"]
    assert bound == lower_bound_bytes(panel.matmul, 512) <= panel._drawing["total"]
    panel.set_state({"a": "fp32", "b": "fp32", "out": "fp32"})
    assert panel._drawing["total"] == in_fp32
    assert "× as many" in words
    assert panel.matmul == Matmul(10, 9, 8)


def test_it_opens_on_bf16_with_sums_in_fp32():
    panel = TileWalk()
    assert panel.matmul == Matmul(96, 96, 96, "bf16", "bf16", "fp32", "bf16")
    assert (panel.fast_bytes, panel.block, panel.position, panel._drawing["block"]) == (8192, "square", 0, [32] * 3)
    assert repr(panel) == panel.status == panel._repr_mimebundle_()[0]["text/plain"]
    assert "2.57 times as many (in the limit of large matrices 2.45)" in panel.status


def test_several_formats_at_once_are_one_change(panel: TileWalk):
    drawings: list[object] = []
    panel.observe(drawings.append, "_drawing")
    panel.set_state({"a": "fp16", "b": "fp16", "accumulator": "fp16", "out": "fp16"})
    assert len(drawings) == 1
    assert panel.status.startswith("10 x 9 x 8, fp16 x fp16 + fp16 -> fp16")


def test_the_position_stays_at_the_same_share_of_the_walk(panel: TileWalk):
    panel.position = len(panel._drawing["moves"]) // 2
    panel.k = 16
    assert panel.position == pytest.approx(len(panel._drawing["moves"]) / 2, abs=2)
    panel.position = 10**9
    assert panel.position == len(panel._drawing["moves"])
    panel.k = 8
    assert panel.position == len(panel._drawing["moves"])


def test_a_long_walk_is_cut_and_says_so():
    panel = TileWalk(128, 128, 128, fast_bytes=256, block=(1, 1, 1))
    assert panel._drawing["goesOn"] is True
    assert len(panel._drawing["moves"]) == 2500
    assert panel._drawing["total"] == bytes_moved(panel.matmul, Block(1, 1, 1)).total_bytes
    assert len(json.dumps(panel._drawing, allow_nan=False)) < 120_000


def test_a_block_larger_than_the_product_is_cut(panel: TileWalk):
    panel.fast_bytes = 4096
    panel.block = Block(100, 100, 100)
    assert panel._drawing["block"] == [10, 9, 8]
    assert panel.block == [100, 100, 100]


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("m", 0, "m must be a whole number from 1 to 128, got 0"),
        ("n", 129, "n must be a whole number from 1 to 128, got 129"),
        ("k", 1.5, "k must be a whole number from 1 to 128, got 1.5"),
        ("k", True, "k must be a whole number from 1 to 128, got True"),
        ("m", 10**400, "m must be a whole number from 1 to 128"),
        ("a", "bf17", "unknown format 'bf17'"),
        ("out", "e8m0fnu", "out must be a format for matrices"),
        ("accumulator", None, "Format"),
        ("fast_bytes", 255, "fast_bytes must be a whole number from 256 to 262144, got 255"),
        ("fast_bytes", float("nan"), "fast_bytes must be a whole number"),
        ("block", "round", "block must be 'square', 'slices' or three sizes"),
        ("block", [4, 4], "block must be 'square', 'slices' or three sizes"),
        ("block", [4, 4, 0], "block k must be a whole number from 1 to 128, got 0"),
        ("block", None, "block must be 'square', 'slices' or three sizes"),
        ("block", [10, 9, 8], "a block of 10 x 9 x 8 needs 664 bytes of fast memory, which has 512; "),
        ("position", -1, "position must be a whole number from 0 up, got -1"),
        ("position", "3", "position must be a whole number from 0 up, got '3'"),
    ],
)
def test_a_wrong_value_is_refused_and_leaves_all_as_it_was(panel: TileWalk, name: str, value: Any, says: str):
    before = panel.get_state()
    with pytest.raises(ValueError, match=f"TileWalk: .*{says}"):
        setattr(panel, name, value)
    assert panel.get_state() == before
    panel.set_state({name: value})
    assert isinstance(panel.last_error, ValueError)
    assert {**panel.get_state(), "_error": ""} == before
    panel.set_state({"m": 11})
    assert (panel.last_error, panel._error, panel.m) == (None, "", 11)


def test_a_smaller_fast_memory_that_the_block_does_not_fit_in_is_refused(panel: TileWalk):
    panel.fast_bytes, panel.block = 1024, [8, 8, 8]
    panel.set_state({"fast_bytes": 256})
    assert "a block of 8 x 8 x 8 needs 512 bytes of fast memory, which has 256" in panel._error
    assert panel.fast_bytes == 1024
