"""The settings of a parameter group: the values allowed, and the torch.optim settings refused."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Real
from typing import Any

from torch import Tensor

_TORCHS_OWN = "use torch.optim's optimizer for it"
# Settings of torch.optim that change the result: the only value allowed here, and what to do instead.
_FIXED: dict[str, tuple[Any, str]] = {
    "maximize": (False, f"negate the loss, or {_TORCHS_OWN}"),
    "differentiable": (False, _TORCHS_OWN),
}
SGD_FIXED = {"dampening": (0, _TORCHS_OWN), "nesterov": (False, _TORCHS_OWN), **_FIXED}
ADAM_FIXED = {"amsgrad": (False, _TORCHS_OWN), "decoupled_weight_decay": (False, "use AdamW"), **_FIXED}
ADAMW_FIXED = {**ADAM_FIXED, "decoupled_weight_decay": (True, "use Adam, which adds the decay to the gradient")}


@dataclass(frozen=True)
class Settings:
    """The settings of an optimizer's groups.

    torch.optim's `foreach`, `fused` and `capturable` do not change the result: they are accepted and have no effect.
    Any other name is ignored; it may belong to a scheduler, for example.

    Attributes:
        owner: The optimizer's name.
        numbers: Names of settings that are finite numbers from 0 up.
        has_betas: Whether there is a setting `betas`, two numbers from 0 to below 1.
        fixed: Settings of torch.optim that change the result: the only value allowed, and what to do instead.
    """

    owner: str
    numbers: tuple[str, ...]
    has_betas: bool
    fixed: Mapping[str, tuple[Any, str]]

    def defaults(self) -> dict[str, Any]:
        """Returns the fixed settings; torch.optim's class of the same name needs them to load a state saved here."""
        return {name: value for name, (value, _) in self.fixed.items()}

    def check(self, group: Mapping[str, Any]) -> None:
        """Raises ValueError if a setting of the group is not allowed."""
        for name in self.numbers:
            if not (_is_number(group[name]) and 0 <= group[name] < math.inf):
                raise ValueError(f"{self.owner}: {name} must be a finite number from 0 up, got {group[name]!r}")
        if self.has_betas and not _are_betas(group["betas"]):
            raise ValueError(f"{self.owner}: betas must be two numbers from 0 to below 1, got {group['betas']!r}")
        for name, (value, advice) in self.fixed.items():
            if bool(group.get(name, value)) is not bool(value):
                raise ValueError(f"{self.owner}: {name} must be {value!r}, got {group[name]!r}; {advice}")

    def check_loaded(self, group: Mapping[str, Any]) -> None:
        """Raises ValueError if a saved group lacks a setting, and so belongs to another kind of optimizer."""
        needed = [*self.numbers, *(["betas"] if self.has_betas else [])]
        if not group.keys().isdisjoint(("maximize", "foreach", "nesterov", "amsgrad")):  # torch.optim's
            needed += [name for name in ("dampening", "nesterov", "amsgrad") if name in self.fixed]
        missing = [name for name in needed if name not in group]
        if missing:
            raise ValueError(
                f"{self.owner}: load_state_dict needs groups with {', '.join(needed)}; one lacks {missing[0]}, so the "
                "state belongs to another optimizer"
            )


def as_number(value: Any) -> Any:
    """Returns a setting for arithmetic as in torch.optim, where a one-element tensor stays a tensor."""
    return value.detach().squeeze() if isinstance(value, Tensor) else value


def _is_number(value: object) -> bool:
    if isinstance(value, Tensor):
        return value.numel() == 1 and not value.is_complex()
    return isinstance(value, Real) and not isinstance(value, bool)


def _are_betas(betas: object) -> bool:
    pair = betas if isinstance(betas, tuple | list) else ()
    return len(pair) == 2 and all(_is_number(beta) and 0 <= beta < 1 for beta in pair)
