"""Checked optimizer steps: unscale the gradients, look for inf and NaN, then take or skip the step."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.loss_scaling.policies import OnOverflow, require_on_overflow
from mixlab.wrappers import unwrapped


class CheckedSteps:
    """Tracks which optimizers were unscaled since the last update, what was found, and which have stepped.

    A wrapper, such as accelerate's, counts as the optimizer inside it: its gradients are unscaled once.
    """

    def __init__(self, owner: str, on_overflow: OnOverflow) -> None:
        require_on_overflow(owner, on_overflow)
        self.on_overflow = on_overflow
        self._found_inf: dict[Optimizer, bool | None] = {}  # present once unscaled; None if there was no gradient
        self._stepped: set[Optimizer] = set()

    @property
    def found_inf(self) -> bool:
        return any(self._found_inf.values())

    def unscale_(self, optimizer: Optimizer, scale: float, allow_fp16: bool) -> None:
        optimizer = unwrapped(optimizer)
        if optimizer in self._stepped:
            raise RuntimeError("unscale_: this optimizer has stepped already; call update() first")
        if optimizer in self._found_inf:
            raise RuntimeError(
                "unscale_: this optimizer's gradients are unscaled already; call it once before each update()"
            )
        self._found_inf[optimizer] = _unscale_(optimizer, scale, allow_fp16)

    def step(self, optimizer: Optimizer, scale: float, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        given, optimizer = optimizer, unwrapped(optimizer)
        if optimizer in self._stepped:
            raise RuntimeError("step: this optimizer has stepped already; call update() before its next step")
        if callable(kwargs.get("closure")):
            kwargs = {**kwargs, "closure": self._called(kwargs["closure"], optimizer, scale)}
        elif args and callable(args[0]):
            args = (self._called(args[0], optimizer, scale), *args[1:])
        if optimizer not in self._found_inf:
            self.unscale_(optimizer, scale, allow_fp16=False)
        found_inf = self._found_inf[optimizer]
        if found_inf is None:
            raise ValueError("step: no parameter of this optimizer has a gradient; call backward() first")
        if found_inf and self.on_overflow == "zero":
            _zero_gradients_(optimizer)
        returned = None
        if not found_inf or self.on_overflow == "zero":
            returned = given.step(*args, **kwargs)
        self._stepped.add(optimizer)
        return returned

    def _called(self, closure: Callable[[], Any], optimizer: Optimizer, scale: float) -> Callable[[], Any]:
        """Calls a closure. Returns one that first returns this loss, then calls it again and unscales its gradients."""
        before = [(gradient, _version(gradient)) for gradient in _gradients(optimizer)]
        with torch.enable_grad():
            losses = [closure()]
        after = zip(_gradients(optimizer), before, strict=True)
        computed = any(new is not old or _version(new) != version for new, (old, version) in after)
        if optimizer in self._found_inf and computed:
            raise RuntimeError(
                "step: unscale_ was called before the closure, which computes scaled gradients again; leave it out, or "
                "call backward() before unscale_ and step(optimizer) without the closure"
            )

        def again() -> Any:
            if losses:
                return losses.pop()
            loss = closure()
            self._found_inf[optimizer] = bool(_unscale_(optimizer, scale, False)) or self._found_inf[optimizer]
            return loss

        return again

    def finish(self) -> bool:
        """Returns whether inf or NaN was found for any optimizer, and forgets everything."""
        if all(found_inf is None for found_inf in self._found_inf.values()):
            raise RuntimeError(
                "update: no gradients were checked since the last update(); call step(optimizer) before it"
            )
        found_inf = self.found_inf
        self._found_inf.clear()
        self._stepped.clear()
        return found_inf


def _version(gradient: Tensor | None) -> int:
    """Returns how often a gradient was written to."""
    return -1 if gradient is None else gradient._version


def _unscale_(optimizer: Optimizer, scale: float, allow_fp16: bool) -> bool | None:
    """Divides the optimizer's gradients by `scale` in place.

    Returns:
        Whether any element was inf or NaN before; None if there is no gradient.
    """
    found = unscale_without_reading_(optimizer, scale, allow_fp16=allow_fp16)
    return any(bool(found_inf) for found_inf in found) if found else None


def unscale_without_reading_(optimizer: Optimizer, scale: float, *, allow_fp16: bool = False) -> list[Tensor]:
    """Divides the optimizer's gradients by `scale` in place, and reads nothing back from the device.

    Args:
        optimizer: The optimizer whose gradients to unscale.
        scale: What to divide by.
        allow_fp16: Whether float16 gradients, which may underflow again, are accepted.

    Returns:
        For each device with gradients, a (1,) float32 tensor: non-zero if any element there was inf or NaN before.

    Raises:
        ValueError: If a gradient is in float16 and that is not allowed.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[Tensor]] = {}
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            gradient = parameter.grad
            if gradient is None:
                continue
            if gradient.dtype is torch.float16 and not allow_fp16:
                raise ValueError(
                    "unscale_: gradients in float16 would underflow again when divided by the scale; keep the weights "
                    "in float32 and compute under autocast, or pass allow_fp16=True to see it happen"
                )
            if gradient.is_sparse:
                if gradient.dtype is torch.float16:  # adding up a row's values may overflow, as torch notes
                    parameter.grad = gradient = gradient.coalesce()
                gradient = gradient._values()
            if gradient.is_complex():
                gradient = torch.view_as_real(gradient)
            groups.setdefault((gradient.device, gradient.dtype), []).append(gradient)
    inverse = torch.tensor(scale, dtype=torch.float64).reciprocal().to(torch.float32)
    found: dict[torch.device, Tensor] = {}
    for (device, _), gradients in groups.items():
        found_inf = found.setdefault(device, torch.zeros(1, device=device))
        torch._amp_foreach_non_finite_check_and_unscale_(gradients, found_inf, inverse.to(device))
    return list(found.values())


def _gradients(optimizer: Optimizer) -> Iterator[Tensor | None]:
    return (parameter.grad for group in optimizer.param_groups for parameter in group["params"])


def _zero_gradients_(optimizer: Optimizer) -> None:
    for gradient in _gradients(optimizer):
        if gradient is not None:
            gradient.zero_()
