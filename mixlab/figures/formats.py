"""Number formats: where their values lie, how far they reach, how fine they are, and what happens to sums."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import plotly.graph_objects as go
from numpy.typing import ArrayLike, NDArray
from plotly.subplots import make_subplots

from mixlab.figures.theme import escaped, styled
from mixlab.formats import Format
from mixlab.powers import power, superscript
from mixlab.reports.colours import BLUE, DASHES, GREEN, GREY, ORANGE, SERIES, VERMILLION

_MOST_BITS = 10  # the widest format whose values can be told apart on a line
_POINTS = 400  # of a curve


def number_line(fmt: Format | str, *, log: bool = False) -> go.Figure:
    """Draws every finite value of a small format as a mark; subnormals stand out.

    Args:
        fmt: A format of at most 10 bits.
        log: Whether to draw the positive values only, on a logarithmic axis.

    Raises:
        ValueError: If the format has more bits.
    """
    fmt = Format.of(fmt)
    if fmt.bits > _MOST_BITS:
        raise ValueError(
            f"number_line: {fmt} has {fmt.bits} bits, too many values to draw; use one of at most {_MOST_BITS} bits, "
            "such as e4m3fn or e3m2fn"
        )
    values = np.unique(fmt.values())
    values = values[np.isfinite(values)]
    values = values[values > 0] if log else values
    size = np.abs(values)
    kinds = (
        ("normal", size >= fmt.smallest_normal, BLUE, "line-ns"),
        ("subnormal", (size > 0) & (size < fmt.smallest_normal), ORANGE, "circle"),
        ("zero", size == 0, VERMILLION, "x-thin"),
    )
    figure = go.Figure()
    for name, chosen, colour, symbol in kinds:
        if chosen.any():
            figure.add_scatter(
                name=f"{name} ({chosen.sum()})",
                x=np.log2(values[chosen]) if log else values[chosen],
                y=np.zeros(chosen.sum()),
                mode="markers",
                marker={"symbol": symbol, "size": 8 if name == "subnormal" else 18, "color": colour},
                marker_line={"color": colour, "width": 1.5},
                customdata=[f"{value:.10g}" for value in values[chosen]],
                hovertemplate=f"%{{customdata}}, {name}<extra></extra>",
            )
    which = "Every positive value" if log else "Every finite value"
    figure = styled(figure, title=f"{which} of {fmt}, {len(values)} of them", summary=_counted(fmt, values), height=210)
    figure.update_layout(hovermode="closest", margin_t=80, legend={"x": 0, "xanchor": "left"}, showlegend=True)
    figure.update_yaxes(visible=False, range=[-1, 1])
    if not log:
        return figure.update_xaxes(title="value", zeroline=False)
    low, high = math.floor(math.log2(values[0])), math.ceil(math.log2(values[-1]))
    step = max(1, round((high - low) / 16))
    return figure.update_xaxes(title="value, logarithmic", zeroline=False, **_powers(range(low, high + 1, step)))


def _counted(fmt: Format, values: NDArray[np.float64]) -> str:
    subnormal = int(((values != 0) & (np.abs(values) < fmt.smallest_normal)).sum())
    gaps = np.diff(values)
    return (
        f"{len(values)} values from {values[0]:.4g} to {values[-1]:.4g}, {subnormal} of them subnormal; "
        f"the gap between neighbours is {gaps.min():.4g} at the narrowest and {gaps.max():.4g} at the widest."
    )


def dynamic_range_and_precision(formats: Iterable[Format | str]) -> go.Figure:
    """Draws how far formats reach and, beside it, how many decimal digits they keep.

    Digits are (mantissa_bits + 1) log10(2): a relative error of eps / 2 is half a unit in the last of them.

    Args:
        formats: The formats, one row each, from the top.
    """
    shown = [Format.of(fmt) for fmt in formats]
    figure = make_subplots(
        cols=2, shared_yaxes=True, horizontal_spacing=0.04, column_titles=["range", "decimal digits, and eps"]
    )
    _draw_ranges(figure, shown)
    _draw_digits(figure, shown)
    bars = 26 * len(shown)
    figure = styled(figure, title="How far, and how fine", summary=_reach(shown), height=bars + 155)
    figure.update_layout(barmode="overlay", hovermode="closest", margin={"t": 100, "l": 95, "b": 55})
    figure.update_layout(legend={"y": 1 + 28 / bars})
    return figure.update_yaxes(autorange="reversed", showgrid=False)


def _reach(formats: Sequence[Format]) -> str:
    each = (f"{fmt.name} {fmt.smallest_subnormal:.2g} to {fmt.max:.2g}, {_digits(fmt):.1f} digits" for fmt in formats)
    return f"{'; '.join(each)}."


def _draw_ranges(figure: go.Figure, formats: Sequence[Format]) -> None:
    ends = np.log2([_limits(fmt) for fmt in formats])  # (F, 3)
    for part, colour, pattern, low in (("subnormal", ORANGE, "/", 0), ("normal", BLUE, "", 1)):
        figure.add_bar(
            name=part,
            y=[fmt.name for fmt in formats],
            x=ends[:, low + 1] - ends[:, low],
            base=ends[:, low],
            orientation="h",
            marker={"color": colour, "pattern_shape": pattern},
            customdata=[[f"{_limits(fmt)[low]:.3g}", f"{_limits(fmt)[low + 1]:.6g}"] for fmt in formats],
            hovertemplate=f"%{{y}} {part}: %{{customdata[0]}} to %{{customdata[1]}}<extra></extra>",
            row=1,
            col=1,
        )
    lowest = 40 * math.floor(ends.min() / 40)
    highest = 40 * math.ceil(ends.max() / 40)
    step = 80 if highest - lowest <= 400 else 400
    figure.update_xaxes(
        title="magnitude", tickangle=0, **_powers(range(-step * (-lowest // step), highest + 1, step)), col=1
    )


def _digits(fmt: Format) -> float:
    return (fmt.mantissa_bits + 1) * math.log10(2)


def _draw_digits(figure: go.Figure, formats: Sequence[Format]) -> None:
    digits = [_digits(fmt) for fmt in formats]
    figure.add_bar(
        name="digits",
        y=[fmt.name for fmt in formats],
        x=digits,
        orientation="h",
        marker={"color": GREEN, "pattern_shape": "."},
        text=[f"{kept:.1f}, eps {fmt.eps:.3g}" for kept, fmt in zip(digits, formats, strict=True)],
        textposition="outside",
        cliponaxis=False,
        hovertemplate="%{y}: %{text}<extra></extra>",
        row=1,
        col=2,
    )
    figure.update_xaxes(title="digits", range=[0, 2.2 * max(digits)], col=2)


def accumulation_error(sums: Mapping[str, ArrayLike], value: float) -> go.Figure:
    """Draws sums of one value, accumulated in several ways, beside the exact sum; below, their relative errors.

    Args:
        sums: The sums after 1, 2, ... additions, by name, as `accumulate` returns them; all of one length.
        value: The number that is added each time.

    Raises:
        ValueError: If there are no sums.
    """
    if not sums:
        raise ValueError("accumulation_error: sums is empty; give it what accumulate returned, by name")
    series = {name: np.asarray(partial, dtype=np.float64) for name, partial in sums.items()}
    length = max(map(len, series.values()))
    counts = np.unique(np.linspace(1, length, min(length, _POINTS)).round().astype(int))
    exact = value * counts
    figure = make_subplots(rows=2, shared_xaxes=True, vertical_spacing=0.06, row_heights=[0.6, 0.4])
    figure.add_scatter(name="exact", x=counts, y=exact, line={"color": GREY, "width": 6}, row=1, col=1)
    for i, (name, partial) in enumerate((escaped(label), sums) for label, sums in series.items()):
        taken = partial[counts - 1]
        error = np.abs(taken - exact) / abs(value * counts)
        look = {"color": SERIES[i % len(SERIES)], "dash": DASHES[i % len(DASHES)], "width": 2.5}
        figure.add_scatter(name=name, x=counts, y=taken, line=look, row=1, col=1)
        figure.add_scatter(
            name=name, x=counts, y=_positive(error), line=look, showlegend=False, hovertemplate="%{y:.2g}", row=2, col=1
        )
    figure = styled(
        figure, title=f"{length} times {value:g}, added up one by one", summary=_ends(series, value), height=550
    )
    figure.update_layout(margin={"t": 50, "b": 140}, legend={"y": -0.24, "yanchor": "top", "x": 0, "xanchor": "left"})
    figure.update_yaxes(title="sum", row=1).update_xaxes(title="additions", row=2)
    places = _decades(trace.y for trace in figure.data if trace.yaxis == "y2")
    labels = [f"10{superscript(place)}" for place in places]
    ticks = {"tickvals": [10.0**place for place in places], "ticktext": labels}
    return figure.update_yaxes(title="relative error", type="log", row=2, **ticks)


def _ends(series: Mapping[str, NDArray[np.float64]], value: float) -> str:
    each = (f"{name} ends at {sums[-1]:.4g}, exact is {value * len(sums):.4g}" for name, sums in series.items())
    return f"{'; '.join(each)}."


def _decades(series: Iterable[NDArray[np.float64]]) -> range:
    """Returns the exponents of at most seven powers of ten that span the positive values."""
    values = np.concatenate([np.asarray(one) for one in series])
    logs = np.log10(values[np.isfinite(values)]) if np.isfinite(values).any() else np.zeros(1)
    low, high = math.floor(logs.min()), math.ceil(logs.max())
    return range(low, high + 1, max(1, math.ceil((high - low) / 6)))


def _limits(fmt: Format) -> tuple[float, float, float]:
    return fmt.smallest_subnormal, fmt.smallest_normal, fmt.max


def _positive(errors: NDArray[np.float64]) -> NDArray[np.float64]:
    """Returns NaN for zeros: a logarithmic axis has no place for them, and the curve gets a gap."""
    return np.where(errors > 0, errors, np.nan)


def _powers(exponents: Iterable[int]) -> dict[str, list[object]]:
    exponents = list(exponents)
    return {"tickvals": list(exponents), "ticktext": [power(exponent) for exponent in exponents]}
