"""The bit explorer without a browser: what it sends, takes and refuses. What the browser decodes: tests/browser."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch

from mixlab.formats import FORMATS, FP16, Format, round_to
from mixlab.panels import BitExplorer
from mixlab.panels.bit_explorer import number_text, typed_number


@pytest.fixture
def panel() -> BitExplorer:
    return BitExplorer("fp16", 0.1)


def row(panel: BitExplorer, fmt: str) -> list[str]:
    return next(cells for name, *cells in panel._answer["rows"] if name == fmt)


def test_it_opens_on_the_value_rounded(panel: BitExplorer):
    assert (panel.format, panel.bits, panel.value) == ("fp16", f"{0x2E66:016b}", 0.1)
    assert repr(panel) == panel.status == panel._answer["status"]
    assert panel.status == (
        "In fp16, 0 01011 1001100110 is 0.0999755859375, a normal value; 0.1 was rounded to it: 0.024 % off. Its "
        "neighbours are 0.09991455078125 and 0.10003662109375; the gap above is 2⁻¹⁴."
    )
    assert panel._repr_mimebundle_()[0]["text/plain"] == panel.status


@pytest.mark.parametrize("fmt", [fmt for fmt in FORMATS.values() if fmt.signed], ids=str)
@pytest.mark.parametrize("value", [0.1, 957.0, -1e-9, 0.0, 1e300, math.inf])
def test_the_table_has_every_format_rounded(panel: BitExplorer, fmt: Format, value: float):
    panel.value = value
    overflow = "inf" if fmt.has_inf else "saturate"
    rounded = round_to(torch.tensor(value, dtype=torch.float64), fmt, overflow=overflow).item()
    stored, error, code = row(panel, fmt.name)
    assert stored == number_text(rounded)
    assert int(code, 16) == fmt.encode(rounded)
    assert (error == "exact") == (rounded == value)


@pytest.mark.parametrize(
    ("value", "fmt", "error"),
    [
        (0.1, "fp16", "0.024 % off"),
        (957.0, "e4m3fn", "overflow, 53 % off"),
        (70000.0, "fp16", "overflow"),
        (1e-9, "fp16", "100 % off, underflow"),
        (0.5, "fp16", "exact"),
        (math.nan, "e2m1fn", "has no NaN"),
        (math.nan, "fp16", "NaN"),
    ],
)
def test_errors_are_said_in_words(panel: BitExplorer, value: float, fmt: str, error: str):
    panel.value = value
    assert row(panel, fmt)[1] == error


def test_bits_from_the_browser_become_the_value(panel: BitExplorer):
    panel.set_state({"bits": "0000000000000001"})
    assert panel.value == 2.0**-24
    assert panel._answer["of"] == "fp16 0000000000000001"
    assert (panel._answer["asked"], panel._answer["typed"]) == ("2⁻²⁴", "2^-24")
    assert "a subnormal value" in panel.status


def test_a_format_from_the_browser_keeps_the_value_that_was_asked_for(panel: BitExplorer):
    panel._handle_custom_msg({"format": "e4m3fn"}, [])
    panel._handle_custom_msg({"format": "fp32"}, [])
    assert (panel.format, panel.value) == ("fp32", 0.1)
    assert int(panel.bits, 2) == FORMATS["fp32"].encode(torch.tensor(0.1).item())


def test_a_typed_number_is_rounded_and_a_wrong_one_stays_with_its_reason(panel: BitExplorer):
    panel._handle_custom_msg({"typed": "value", "text": " 2^-24 "}, [])
    assert panel.bits == f"{1:016b}"
    panel._handle_custom_msg({"typed": "value", "text": "a lot"}, [])
    text, why = panel._refused["value"]
    assert (text, panel.bits, panel._error) == ("a lot", f"{1:016b}", "")
    assert why.startswith("type a number such as 0.1, 1e-8, 2^-24, inf or nan; got 'a lot'")
    assert why.endswith("Still in use: 2^-24")
    panel._handle_custom_msg({"typed": "value", "text": "-1"}, [])
    assert (panel.value, panel.last_error, panel._refused) == (-1.0, None, {})
    panel._handle_custom_msg({"typed": "value", "text": "2"}, [])
    panel._handle_custom_msg({"typed": "value", "text": "two"}, [])
    panel.bits = f"{2:016b}"
    assert panel._refused == {}


@pytest.mark.parametrize(
    ("text", "value"), [("1e-8", 1e-8), ("2**3", 8.0), ("-2^-1", -0.5), ("-inf", -math.inf), ("2^-1080", 0.0)]
)
def test_numbers_are_read(text: str, value: float):
    assert typed_number(text) == value


@pytest.mark.parametrize(("value", "side"), [(1.0, "above"), (-1.0, "below")])
def test_the_gap_is_the_one_away_from_zero(panel: BitExplorer, value: float, side: str):
    """At a power of two the gap towards zero is half of it."""
    panel.value = value
    assert f"; the gap {side} is 0.0009765625." in panel.status


@pytest.mark.parametrize("value", [0.1, 2.0**-24, -(2.0**-24), 2.0**70, 3e-8, 65504.0])
def test_the_box_keeps_what_can_be_typed_again(panel: BitExplorer, value: float):
    panel.value = value
    assert typed_number(panel._answer["typed"]) == value


@pytest.mark.parametrize("text", ["", "2^", "2^9999", "1,5", "0x10"])
def test_what_is_no_number_is_refused(text: str):
    with pytest.raises(ValueError, match="type a number such as"):
        typed_number(text)


@pytest.mark.parametrize(("fmt", "value"), [("e8m0fnu", 0.1), ("e2m1fn", math.nan)])
def test_a_format_without_a_code_for_the_value_starts_at_1(panel: BitExplorer, fmt: str, value: float):
    panel.value = value
    panel.format = fmt
    assert panel.value == 1.0
    assert FORMATS[fmt].decode(int(panel.bits, 2)).value == 1.0


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("bits", "01", "bits must be 16 characters 0 or 1 for fp16, got '01'"),
        ("bits", "2" * 16, "bits must be 16 characters 0 or 1 for fp16"),
        ("bits", None, "bits must be 16 characters 0 or 1 for fp16, got None"),
        ("format", "fp17", "unknown format 'fp17'"),
        ("value", "x", "could not convert"),
    ],
)
def test_a_wrong_choice_is_refused_and_leaves_all_as_it_was(panel: BitExplorer, name: str, value: Any, says: str):
    before = panel.status
    with pytest.raises(ValueError, match=says):
        setattr(panel, name, value)
    assert panel.status == before
    if name == "bits":
        panel.set_state({"bits": value})
        assert says in panel._error
        panel.set_state({"bits": "0" * 16})
        assert (panel.last_error, panel._error) == (None, "")


def test_a_scale_takes_its_own_values_only():
    panel = BitExplorer("e8m0fnu", 4.0)
    with pytest.raises(ValueError, match="e8m0fnu has no value 3.0: its neighbours are 2.0 and 4.0"):
        panel.value = 3.0
    assert panel.value == 4.0


def test_a_format_of_ones_own_joins_the_others():
    panel = BitExplorer("e5m3", 957.0)
    assert "e5m3" in panel._choices
    assert row(panel, "e5m3")[0] == "960"
    panel.format = Format("flush", 4, 3, subnormals=False)
    assert panel.format == "flush"
    panel._handle_custom_msg({"format": "e5m3"}, [])
    assert panel.format == "e5m3"


def test_all_that_is_sent_is_json_and_small(panel: BitExplorer):
    for fmt in FORMATS:
        panel.format = fmt
        for value in (math.inf, 0.1):
            if FORMATS[fmt].signed:
                panel.value = value
            sent = json.dumps([panel._answer, panel._format, panel._choices], allow_nan=False)
            assert len(sent) < 5000


def test_one_code_of_each_class_reads_well():
    starts = {0: "is 0.", 1: "a subnormal value", FP16.encode(1.0): "is 1, a normal value", 0x7C00: "is inf;"}
    for code, words in starts.items():
        panel = BitExplorer("fp16")
        panel.bits = f"{code:016b}"
        assert words in panel.status
    panel.bits = "1" * 16
    assert panel.status == "In fp16, 1 11111 1111111111 is NaN: not a number."
    assert "It is the largest value of e4m3fn; its neighbour is 416" in BitExplorer("e4m3fn", 1e9).status
