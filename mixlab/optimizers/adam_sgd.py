"""SGD, Adam and AdamW that compute in float32 and store weights and states as they are told.

`torch.optim` keeps its states in the parameters' dtype and rounds every operation to it. Here each step is computed in
float32, with the operations of `torch.optim` in their order, and rounded once to where it is stored: so with float32
storage the two are equal bit for bit, and with any other storage only the storage makes a difference.
"""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import torch

from mixlab.optimizers.group_settings import ADAM_FIXED, ADAMW_FIXED, SGD_FIXED, Settings, plain
from mixlab.optimizers.rules import AdamNumbers, AdamRule, SGDNumbers, SGDRule
from mixlab.optimizers.state_formats import StateFormat
from mixlab.optimizers.storage import Storage
from mixlab.optimizers.stored import StoredOptimizer

OptimizerName = Literal["sgd", "adam", "adamw"]

_ALL_IN_FLOAT32 = Storage()


class SGD(StoredOptimizer):
    """Stochastic gradient descent with momentum, as `torch.optim.SGD`.

    Args:
        params: Parameters or groups of them.
        lr: Learning rate.
        momentum: 0 keeps no state.
        weight_decay: Times the weight, added to the gradient.
        storage: How weights and momentum are stored; the momentum as `exp_avg_dtype` says.
        generator: Of stochastic rounding, on the parameters' device; None takes torch's global one.
        compiled: Compute each parameter's step in one pass over memory with `torch.compile`; as for `AdamW`.
    """

    _settings: ClassVar = Settings("SGD", ("lr", "momentum", "weight_decay"), has_betas=False, fixed=SGD_FIXED)
    _moments: ClassVar = {"momentum_buffer": -0.0}  # plus a gradient this is the gradient, the sign of a zero too

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        storage: Storage = _ALL_IN_FLOAT32,
        generator: torch.Generator | None = None,
        compiled: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults, storage, generator, compiled)

    def _formats(self) -> dict[str, StateFormat]:
        return {"momentum_buffer": self.storage.exp_avg}

    def _states(self, group: dict[str, Any]) -> dict[str, StateFormat]:
        return self._formats() if group["momentum"] else {}

    def _rule(self, group: dict[str, Any]) -> SGDRule:
        return SGDRule(has_momentum=bool(group["momentum"]), decays=bool(group["weight_decay"]))

    def _numbers(self, group: dict[str, Any], _step: int) -> SGDNumbers:
        return SGDNumbers(float(group["lr"]), float(group["momentum"]), float(group["weight_decay"]))


class Adam(StoredOptimizer):
    """Adam (Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015), as `torch.optim.Adam`.

    Args:
        params: Parameters or groups of them.
        lr, betas, eps: As in the paper; eps is added to the square root.
        weight_decay: Times the weight, added to the gradient.
        storage: How weights and moments are stored.
        generator: Of stochastic rounding, on the parameters' device; None takes torch's global one.
        compiled: Compute each parameter's step in one pass over memory with `torch.compile` (on a CPU it needs a C++
            compiler; the first step of each kind of parameter takes some seconds). It computes the same up to last
            bits, and hashes the bits of stochastic rounding instead of drawing them.
    """

    _decoupled = False
    _settings: ClassVar = Settings("Adam", ("lr", "eps", "weight_decay"), has_betas=True, fixed=ADAM_FIXED)
    _moments: ClassVar = {"exp_avg": 0.0, "exp_avg_sq": 0.0}

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        storage: Storage = _ALL_IN_FLOAT32,
        generator: torch.Generator | None = None,
        compiled: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, storage, generator, compiled)

    def _formats(self) -> dict[str, StateFormat]:
        return {"exp_avg": self.storage.exp_avg, "exp_avg_sq": self.storage.exp_avg_sq}

    def _rule(self, group: dict[str, Any]) -> AdamRule:
        return AdamRule(decays=bool(group["weight_decay"]), decoupled=self._decoupled)

    def _numbers(self, group: dict[str, Any], step: int) -> AdamNumbers:
        lr, decay = plain(group["lr"]), group["weight_decay"]
        beta1, beta2 = map(plain, group["betas"])
        correction2 = 1 - beta2 ** float(step)
        numbers = AdamNumbers(
            step_size=lr / (1 - beta1 ** float(step)),
            shrink=1 - lr * decay,
            weight_decay=decay,
            new1=1 - beta1,
            beta2=beta2,
            new2=1 - beta2,
            root=correction2**0.5,
            inverse_root=correction2**-0.5,
            eps=group["eps"],
        )
        return AdamNumbers(*map(float, numbers))


class AdamW(Adam):
    """Adam with decoupled weight decay (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019), as
    `torch.optim.AdamW`.

    Args:
        params: Parameters or groups of them.
        lr, betas, eps: As for `Adam`.
        weight_decay: Each step takes lr * weight_decay times the weight off the weight.
        storage, generator, compiled: As for `Adam`.
    """

    _decoupled = True
    _settings: ClassVar = Settings("AdamW", ("lr", "eps", "weight_decay"), has_betas=True, fixed=ADAMW_FIXED)

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        storage: Storage = _ALL_IN_FLOAT32,
        generator: torch.Generator | None = None,
        compiled: bool = False,
    ) -> None:
        super().__init__(
            params,
            lr,
            betas=betas,
            eps=eps,
            weight_decay=weight_decay,
            storage=storage,
            generator=generator,
            compiled=compiled,
        )
