"""The bit explorer: one number of a format as bits to click, and the same number in every other format.

The browser decodes clicked bits from the format's widths; sentences and roundings are computed here.
"""

from __future__ import annotations

import math
import re
from typing import Any, ClassVar

import traitlets

from mixlab.formats import FORMATS, Explanation, Format, explain
from mixlab.panels.drawn import Anything, DrawnPanel, NotAllowedError
from mixlab.panels.scripts import script, stylesheet
from mixlab.powers import power, read_number


def typed_number(text: str) -> float:
    """Returns the number that a reader typed: 0.1, 1e-8, 2^-24, -inf, nan.

    Raises:
        ValueError: If the text is not a number.

    >>> typed_number("-2^-3")
    -0.125
    """
    try:
        return read_number(text)
    except ValueError:
        raise ValueError(f"type a number such as 0.1, 1e-8, 2^-24, inf or nan; got {text!r}") from None


class BitExplorer(DrawnPanel):
    """Shows what each bit of a number means: click a bit to flip it, or type a number.

        BitExplorer("fp16", 0.1)

    Everything the reader can change can also be read and set in Python; its `repr` is its status line.

    Args:
        fmt: A format or its name, "eXmY" such as "e5m3" included.
        value: Any number; it is rounded to nearest, ties to even.

    Attributes:
        format: The name of the format.
        bits: The code as a string of 0 and 1, the sign first.
        value: The number that was asked for; after a change of bits, the number that they encode.
        last_error: The error of the latest change, or None if it succeeded. It is shown in red too.

    Raises:
        ValueError: If there is no such format, if the bits are not one of its codes, or if it has no code for the
            number; also when an attribute is set.

    >>> panel = BitExplorer("fp16", 0.1)
    >>> panel.bits
    '0010111001100110'
    >>> panel.bits = "0000000000000001"
    >>> panel.value == 2.0**-24
    True
    """

    _esm = script("bit_explorer.js")
    _css = stylesheet("bit_explorer.css")
    typed_boxes: ClassVar = {"value": typed_number}

    bits = Anything("").tag(sync=True)
    _format = traitlets.Dict().tag(sync=True)
    _choices: traitlets.List[str] = traitlets.List().tag(sync=True)
    _answer = traitlets.Dict().tag(sync=True)

    def __init__(self, fmt: str | Format = "fp16", value: float = 1.0) -> None:
        self._placing = False
        self._fmt = _parsed(fmt)
        self._formats = {**FORMATS, self._fmt.name: self._fmt}
        self._asked = float(value)
        super().__init__(
            bits=bit_text(_nearest_code(self._asked, self._fmt), self._fmt),
            _format=parameters(self._fmt),
            _choices=list(self._formats),
        )
        self._tell()
        self.observe(self._take_bits, "bits")
        self.on_msg(self._guard(self._heard))

    def _format_name(self) -> str:
        return self._fmt.name

    def _choose(self, name: str | Format) -> None:
        """Keeps the number as closely as the new format can, or shows 1 if the format has no code for it."""
        fmt = self._formats[name] if isinstance(name, str) and name in self._formats else _parsed(name)
        try:
            code = _nearest_code(self._asked, fmt)
        except ValueError:
            self._asked, code = 1.0, fmt.encode(1.0)
        self._formats[fmt.name] = fmt
        self._place(fmt, bit_text(code, fmt))

    format = property(_format_name, _choose, doc="The name of the format; may be set.")

    @property
    def value(self) -> float:
        return self._asked

    @value.setter
    def value(self, value: float) -> None:
        code = _nearest_code(float(value), self._fmt)
        self._asked = float(value)
        self._place(self._fmt, bit_text(code, self._fmt))

    @property
    def status(self) -> str:
        """What the panel shows, in words."""
        return code_line(self._asked, self._fmt, int(self.bits, 2))

    @traitlets.validate("bits")
    def _check_bits(self, proposal: traitlets.Bunch) -> str:
        bits = proposal.value
        if not isinstance(bits, str) or not re.fullmatch(f"[01]{{{self._fmt.bits}}}", bits):
            raise NotAllowedError(
                f"BitExplorer: bits must be {self._fmt.bits} characters 0 or 1 for {self._fmt}, got {bits!r}"
            )
        return bits

    def _take_bits(self, _change: object) -> None:
        if self._placing:
            return
        self._asked = self._fmt.decode(int(self.bits, 2)).value
        self._tell()
        self._show_error(None)

    def _place(self, fmt: Format, bits: str) -> None:
        """Shows other bits, perhaps of another format, in one message, so that the browser never sees half a change."""
        self._placing = True
        try:
            with self.hold_sync():
                self._fmt, self._format, self._choices = fmt, parameters(fmt), list(self._formats)
                self.bits = bits
                self._tell()
        finally:
            self._placing = False
        self._show_error(None)

    def _heard(self, _widget: object, content: dict[str, Any], _buffers: object) -> None:
        """Takes a format from the browser."""
        if "format" in content:
            self.format = content["format"]

    def written(self, name: str) -> str:
        return typed_text(getattr(self, name))

    def _tell(self) -> None:
        self._forget_refusal({"name": "value"})
        self._answer = {
            "of": f"{self._fmt} {self.bits}",
            "asked": number_text(self._asked),
            "typed": typed_text(self._asked),
            "status": self.status,
            "rows": [table_row(_explained(self._asked, fmt)) for fmt in self._formats.values() if fmt.signed],
        }


def parameters(fmt: Format) -> dict[str, Any]:
    """Returns everything needed to decode the bits of a format, ready for JSON."""
    largest = fmt.decode(fmt.encode(fmt.max))
    return {
        "name": fmt.name,
        "exponentBits": fmt.exponent_bits,
        "mantissaBits": fmt.mantissa_bits,
        "bias": fmt.bias,
        "signed": fmt.signed,
        "subnormals": fmt.has_subnormals,
        "hasInf": fmt.has_inf,
        "hasNegativeZero": fmt.has_negative_zero,
        "maxFields": [largest.exponent_field, largest.mantissa_field],
    }


def bit_text(code: int, fmt: Format) -> str:
    return f"{code:0{fmt.bits}b}"


def code_line(asked: float, fmt: Format, code: int) -> str:
    """Describes what a code means, and how far it is from the number that was asked for."""
    meaning = fmt.decode(code)
    fields = " ".join(filter(None, _fields(code, fmt)))
    if meaning.kind == "nan":
        return f"In {fmt}, {fields} is NaN: not a number."
    value, asked_text = number_text(meaning.value), number_text(asked)
    if meaning.kind == "inf":
        came = "" if math.isinf(asked) else f" {asked_text} is too large for {fmt}: it overflows."
        return f"In {fmt}, {fields} is {value}; the largest finite value is {number_text(fmt.max)}.{came}"
    says = f"In {fmt}, {fields} is {value}" + (f", a {meaning.kind} value" if meaning.kind != "zero" else "")
    if asked != meaning.value and fmt.signed:
        says += f"; {asked_text} was rounded to it: {_error_text(_explained(asked, fmt))}"
    return f"{says}. {_neighbours_text(meaning.value, fmt)}"


def _neighbours_text(value: float, fmt: Format) -> str:
    below, above = fmt.next_down(value), fmt.next_up(value)
    gap = f"the gap {'below' if value < 0 else 'above'} is {number_text(fmt.ulp(value))}."
    if math.isnan(above) or math.isnan(below):
        last, other = ("largest", below) if math.isnan(above) else ("smallest", above)
        return f"It is the {last} value of {fmt}; its neighbour is {number_text(other)}; {gap}"
    return f"Its neighbours are {number_text(below)} and {number_text(above)}; {gap}"


def table_row(cast: Explanation) -> list[str]:
    """Returns format, stored value, relative error and code, in words."""
    if cast.result is None:
        return [cast.format.name, "–", "has no NaN", "–"]
    code = cast.result.bits
    stored = "NaN" if cast.result.kind == "nan" else number_text(cast.result.value)
    return [cast.format.name, stored, _error_text(cast), f"0x{code:0{math.ceil(cast.format.bits / 4)}X}"]


def number_text(value: float) -> str:
    """Returns the shortest text that reads back as this float64, or, if it is shorter, a power of two.

    >>> number_text(448.0), number_text(-2.0**-24), number_text(3e-8), number_text(-0.0)
    ('448', '-2⁻²⁴', '3e-08', '-0')
    """
    exponent = _power_in(value)
    if exponent is None:
        return _shortest(value)
    return f"{'-' if value < 0 else ''}{power(exponent)}"


def typed_text(value: float) -> str:
    """Returns a number as a reader types it: what `read_number` reads back.

    >>> typed_text(-2.0**-24), typed_text(0.1)
    ('-2^-24', '0.1')
    """
    exponent = _power_in(value)
    return _shortest(value) if exponent is None else f"{'-' if value < 0 else ''}2^{exponent}"


def _power_in(value: float) -> int | None:
    """Returns k if the value is 2^k or -2^k, and too large or too small to be written without an exponent."""
    mantissa, exponent = math.frexp(value)
    return exponent - 1 if abs(mantissa) == 0.5 and "e" in repr(float(value)) else None


def _shortest(value: float) -> str:
    return "NaN" if math.isnan(value) else repr(float(value)).removesuffix(".0")


def _error_text(cast: Explanation) -> str:
    if cast.outcome == "exact":
        return "exact"
    if cast.outcome == "nan":
        return "NaN"
    if math.isinf(cast.value) or math.isinf(cast.relative_error):
        return "overflow"
    error = f"{100 * cast.relative_error:.2g} % off" if cast.relative_error < 0.995 else "100 % off"
    return {"overflow": f"overflow, {error}", "underflow": "100 % off, underflow"}.get(cast.outcome, error)


def _fields(code: int, fmt: Format) -> tuple[str, str, str]:
    bits = bit_text(code, fmt)
    start = int(fmt.signed)
    return bits[:start], bits[start : start + fmt.exponent_bits], bits[start + fmt.exponent_bits :]


def _parsed(fmt: object) -> Format:
    return Format.of(fmt)  # type: ignore[arg-type]  # it checks the type


def _explained(value: float, fmt: Format) -> Explanation:
    return explain(value, fmt, overflow=fmt.usual_overflow)


def _nearest_code(value: float, fmt: Format) -> int:
    if not fmt.signed:
        return fmt.encode(value)
    result = _explained(value, fmt).result
    if result is None:
        raise ValueError(f"BitExplorer: {fmt} has no NaN")
    return result.bits
