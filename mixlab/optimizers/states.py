"""Creates, adapts and loads the state of one parameter.

A state is a dict: "step", counted from 1; each moment by name, with its "_scale" if it is stored in blocks; and
"master" or "compensation" for 16-bit weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from mixlab.optimizers.layout import flat, is_dense, laid_out_as, unflat
from mixlab.optimizers.state_formats import StateDtype, StateFormat, state_format

Formats = Mapping[str, StateFormat]
State = dict[str, Any]

_DEFAULT_BLOCK = 256

# What ledgers, traces and estimates call a state's tensors; Adam's moments keep their names.
STATE_NAMES = {
    "master": "master weights",
    "compensation": "Kahan compensation",
    "momentum_buffer": "momentum",
    **{f"{name}_scale": f"scales of {name}" for name in ("exp_avg", "exp_avg_sq")},
    "momentum_buffer_scale": "scales of momentum",
}


def without_gaps(parameter: Tensor) -> Tensor:
    """Returns a parameter detached, and copied only if its memory has gaps."""
    return parameter.detach() if is_dense(parameter) else parameter.detach().contiguous()


def new_state(name: str, fmt: StateFormat, like: Tensor, start: float) -> State:
    """Returns the tensors of a state filled with `start`, laid out in memory like the dense parameter `like`."""
    codes = torch.zeros_like(like, dtype=fmt.dtype)
    kept = [codes, torch.ones(-(-like.numel() // fmt.block_size), device=like.device)] if fmt.scaled else [codes]
    if like.numel():
        fmt.write_(torch.full((like.numel(),), start, device=like.device), None, *map(flat, kept))
    return dict(zip(fmt.keys(name), kept, strict=True))


def fit_(state: State, like: Tensor, formats: Formats) -> None:
    """Converts the moments to the memory layout of `like`, the dense parameter, if theirs differs.

    Raises:
        ValueError: If the parameter has moved to another device or changed shape.
    """
    for name, fmt in formats.items():
        codes = state[name]
        if codes.device != like.device or codes.shape != like.shape:
            came, kept = (f"{tuple(t.shape)} on {t.device}" for t in (like, codes))
            raise ValueError(
                f"a parameter is {came}, but its {name} is {kept}: make a new optimizer after changing the model; "
                "its load_state_dict moves states to the parameters' device"
            )
        if codes.stride() != like.stride():
            value = unflat(fmt.read(*(flat(state[key]) for key in fmt.keys(name))), codes)
            state |= new_state(name, fmt, like, 0.0)
            fmt.write_(flat(laid_out_as(like, value)), None, *(flat(state[key]) for key in fmt.keys(name)))


def keep_weight_(state: State, parameter: Tensor, kept: str | None) -> None:
    """Keeps a float32 copy or a compensation for a 16-bit parameter, in its current dtype and layout.

    If it is no longer needed, because the model was cast to float32, the parameter takes over its value.

    Args:
        state: The parameter's state.
        parameter: The parameter.
        kept: "master", "compensation" or None.
    """
    if "master" in state and kept != "master":
        parameter.copy_(state.pop("master"))
    if "compensation" in state and kept != "compensation":
        parameter.add_(state.pop("compensation"))
    if kept is None:
        return
    like = without_gaps(parameter)
    if kept not in state:
        state[kept] = like.float() if kept == "master" else torch.zeros_like(like)
    dtype = torch.float32 if kept == "master" else like.dtype
    state[kept] = laid_out_as(like, state[kept]).to(dtype)


def restored(state: State, formats: Formats, saved: Mapping[str, Any]) -> State:
    """Returns a state with the values of a saved one, converted if they were stored in other formats.

    Args:
        state: A new state.
        formats: The formats of its moments.
        saved: A state of the same kind of optimizer, or of torch.optim's optimizer of the same name.

    Raises:
        ValueError: If the saved state has another block size or other shapes, or is from another kind of optimizer.
    """
    known = {"step", "master", "compensation", *(key for name in formats for key in (name, f"{name}_scale"))}
    foreign = [name for name, value in saved.items() if name not in known and value is not None]
    lacking = [name for name in (*formats, "step") if saved.get(name) is None and "exp_avg" in formats]
    if foreign or lacking:
        wrong = f"has {foreign[0]}" if foreign else f"lacks {lacking[0]}"
        raise ValueError(
            f"load_state_dict: the state of a parameter {wrong}, so it belongs to another optimizer; this one keeps "
            f"{', '.join(formats) or 'none'}"
        )
    for name, fmt in formats.items():
        if saved.get(name) is not None:
            _require_shape(name, saved[name], state[name])
            _restore_(state, name, fmt, saved)
    for name in ("master", "compensation"):
        if name in state and name in saved:
            _require_shape(name, saved[name], state[name])
            state[name].copy_(saved[name])
    state["step"] = int(saved.get("step", 0))
    return state


def _require_shape(name: str, saved: Tensor, state: Tensor) -> None:
    if saved.shape != state.shape:
        raise ValueError(
            f"load_state_dict: {name} was saved with shape {tuple(saved.shape)}, but this optimizer needs "
            f"{tuple(state.shape)}; use the parameters and the block_size that it was saved with"
        )


def _restore_(state: State, name: str, fmt: StateFormat, saved: Mapping[str, Any]) -> None:
    """Copies a saved state into a new one, converting it if it was stored in another format."""
    codes, scale = saved[name], saved.get(f"{name}_scale")
    alike = (codes.dtype, scale is not None) == (fmt.dtype, fmt.scaled)
    if alike and (not fmt.scaled or codes.stride() == state[name].stride()):
        for key in fmt.keys(name):
            _require_shape(key, saved[key], state[key])
            state[key].copy_(saved[key])
        return
    codes = without_gaps(codes.to(state[name].device))
    kept = [flat(codes)] if scale is None else [flat(codes), scale.to(codes.device)]
    value = unflat(_saved_format(name, fmt, codes, scale).read(*kept), codes)
    if codes.numel():
        fmt.write_(flat(laid_out_as(state[name], value)), None, *(flat(state[key]) for key in fmt.keys(name)))


def _saved_format(name: str, fmt: StateFormat, codes: Tensor, scale: Tensor | None) -> StateFormat:
    """Returns the format of a saved state; its number of scales must fit the block size."""
    if scale is None:
        return state_format(codes.dtype, signed=True)
    block_size = fmt.block_size if fmt.scaled else _DEFAULT_BLOCK
    if -(-codes.numel() // block_size) != scale.numel():
        raise ValueError(
            f"load_state_dict: {name} was saved with {scale.numel()} scales for {codes.numel()} elements, "
            f"not with blocks of {block_size}; load it into an optimizer with the block_size that it was saved with"
        )
    dtype: StateDtype = "dynamic8" if codes.dtype is torch.uint8 else codes.dtype
    return state_format(dtype, signed=name != "exp_avg_sq", block_size=block_size)
