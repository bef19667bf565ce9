"""What one optimizer step loses on one parameter, found by reading the parameter before and after the step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.layers import local_part
from mixlab.optimizers import SGD, Adam, read_state
from mixlab.probes.lost import Share
from mixlab.probes.second_moments import (
    decays_weights,
    entering,
    has_values,
    is_mean_of_squares,
    kind_of,
    may_wait,
    moment_name,
    why_unreadable,
)


@dataclass
class Before:
    """One parameter before a step, as real float64 tensors.

    Attributes:
        weight: The value that the optimizer holds.
        gradient: Its gradient, without a loss scale.
        moving: Which weights are stepped and have a non-zero gradient or first moment.
        second: The second moment, if there is one.
        stepped: Which elements the optimizer steps; None for all.
        has_state: Whether the optimizer had any state of the parameter.
    """

    weight: Tensor
    gradient: Tensor
    moving: Tensor
    second: Tensor | None
    stepped: Tensor | None
    has_state: bool


def look_before(optimizer: Optimizer, parameter: Tensor) -> Before:
    """Returns what `shares_lost` needs to know about a parameter before the step."""
    gradient = _real(parameter.grad.detach())  # type: ignore[union-attr]
    scale = getattr(optimizer, "grad_scale", None)  # a scaler leaves it to fused optimizers to unscale
    if scale is not None:
        gradient = gradient / scale.to(gradient.device, gradient.dtype)
    moving = gradient != 0
    for name in ("exp_avg", "momentum_buffer"):
        if (first := state_of(optimizer, parameter, name)) is not None:
            moving |= first != 0
    stepped = _rows(parameter) if isinstance(optimizer, torch.optim.SparseAdam) else None
    if stepped is not None:
        moving &= stepped
    state = optimizer.state.get(parameter, {})
    moment = moment_name(state, parameter)
    second = None if moment is None else state_of(optimizer, parameter, moment)
    return Before(_held(optimizer, parameter), gradient, moving, second, stepped, bool(state))


def shares_lost(
    optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, before: Before
) -> tuple[dict[str, Share], str]:
    """Returns what the step lost on a parameter, under the names of `Lost`, and in words what could not be judged.

    Shares that do not apply or could not be judged are left out.
    """
    kind, state = kind_of(optimizer), optimizer.state.get(parameter, {})
    stood = _held(optimizer, parameter) == before.weight
    swallowed = _share(stood, before.moving)
    if may_wait(optimizer) and swallowed.lost == swallowed.of > 0 and state and not before.has_state:
        return {}, "its first step moved no weight of the parameter, which it may not have meant to"
    shares = {"swallowed": swallowed}
    if (name := moment_name(state, parameter)) is None:
        why = why_unreadable(state, parameter)
    else:
        lost, why = _second_moment(optimizer, group, parameter, before, name)
        shares |= lost
    if kind is not None and kind.is_adam:
        if name is not None:
            shares["eps_lost"] = _eps_lost(optimizer, group, parameter)
        if group.get("weight_decay") and decays_weights(optimizer, group):
            shares["decay_lost"] = _decay_lost(optimizer, group, parameter, before.weight)
    return shares, why


def _second_moment(
    optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, before: Before, name: str
) -> tuple[dict[str, Share], str]:
    """Returns the shares of the second moment, or none and why it is not taken for one."""
    second = state_of(optimizer, parameter, name)
    assert second is not None  # it has values
    v = torch.zeros_like(second) if before.second is None else before.second
    gradients = entering(optimizer, group, before.gradient, before.weight)
    if kind_of(optimizer) is None:
        dtype = optimizer.state[parameter][name].dtype.to_real()
        if dtype.itemsize < 4:
            return {}, f"whether {name} is a mean of squared gradients cannot be told in {dtype}"
        eps = torch.finfo(dtype).eps
        gradients = [gradient for gradient in gradients if is_mean_of_squares(v, second, gradient, eps)]
        if not gradients:
            return {}, f"{name} is no mean of the squared gradients"
    meant = gradients[0].square()
    falling, rising = meant < v, meant > v
    if before.stepped is not None:
        falling &= before.stepped
    return {
        "stuck_falling": _share(second >= v, falling),
        "stuck_rising": _share(second <= v, rising),
        "vanished": _share(second == 0, gradients[0] != 0),
    }, ""


def _rows(parameter: Tensor) -> Tensor:
    """Returns which elements are in rows of the sparse gradient."""
    rows = torch.zeros(parameter.shape, dtype=torch.bool, device=parameter.device)
    rows[parameter.grad.coalesce().indices().unbind()] = True  # type: ignore[union-attr]
    return rows


def _computed_in(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> torch.dtype:
    """Returns the dtype that the optimizer computes in; for a complex parameter, the dtype of its parts."""
    if isinstance(optimizer, SGD | Adam) or (group.get("fused") and parameter.dtype.itemsize < 4):
        return torch.float32
    return parameter.dtype.to_real()


def _eps_lost(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor) -> Share:
    dtype = _computed_in(optimizer, group, parameter)
    second = state_of(optimizer, parameter, "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq")
    step, beta2 = int(optimizer.state[parameter]["step"]), float(group["betas"][1])
    root = (second.to(dtype).sqrt() / (1 - beta2**step) ** 0.5).to(dtype)  # type: ignore[union-attr]
    exact = root.float()
    return _share(root + group["eps"] == root, exact + group["eps"] != exact)


def _decay_lost(optimizer: Optimizer, group: dict[str, Any], parameter: Tensor, weight: Tensor) -> Share:
    decayed = weight * (1 - float(group["lr"]) * float(group["weight_decay"]))
    return _share(_stored(optimizer, parameter, decayed) == weight, weight != 0)


def _held(optimizer: Optimizer, parameter: Tensor) -> Tensor:
    """Returns the weight that the optimizer holds, in float64: a Kahan sum of two bfloat16 needs up to 30 bits."""
    state = optimizer.state.get(parameter, {})
    if isinstance(optimizer, SGD | Adam) and "master" in state:
        return _real(state["master"])
    compensation = state.get("compensation", state.get("kahan_comp"))  # mixlab's and AnyPrecisionAdamW's, optimi's
    weight = _real(parameter.detach())
    return weight + _real(compensation) if isinstance(compensation, Tensor) else weight


def _stored(optimizer: Optimizer, parameter: Tensor, weight: Tensor) -> Tensor:
    """Returns the value the optimizer would hold after storing `weight`, in float64; its mean if it is random."""
    state, dtype = optimizer.state[parameter], parameter.dtype.to_real()
    if dtype is torch.float64:
        return weight
    weight = weight.float().double()
    if isinstance(optimizer, SGD | Adam) and ("master" in state or optimizer.storage.update == "stochastic"):
        return weight
    stored = weight.to(dtype).double()
    if isinstance(optimizer, SGD | Adam) and "compensation" in state:
        return stored + (weight - stored).to(dtype).double()
    return stored


def state_of(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor | None:
    """Returns a moment in float64, or None if the optimizer has none in the parameter's shape that can be read.

    Args:
        optimizer: From mixlab or another library; not a wrapper.
        parameter: One of its parameters.
        name: E.g. "exp_avg_sq".
    """
    kept = optimizer.state.get(parameter, {}).get(name)
    if not isinstance(kept, Tensor) or kept.shape != parameter.shape:
        return None
    if isinstance(optimizer, SGD | Adam) or type(kept).dequantize is not Tensor.dequantize:
        return read_state(optimizer, parameter, name).double()
    return _real(kept) if has_values(kept) else None


def _real(tensor: Tensor) -> Tensor:
    """Returns a dense float64 copy, with complex numbers as pairs; of a sharded tensor, only this process's part."""
    tensor = local_part(tensor)
    if tensor.layout is not torch.strided:
        tensor = tensor.to_dense()
    tensor = torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor
    return tensor.to(torch.float64, copy=True)


def _share(lost: Tensor, of: Tensor) -> Share:
    return Share(int((lost & of).sum()), int(of.sum()))
