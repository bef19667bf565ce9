"""SGD, Adam and AdamW that compute in float32, with a choice of how to store weights and states.

`torch.optim` keeps states in the parameters' dtype; its for-loop and foreach optimizers round every operation to it,
its fused ones compute in float32. Here a step computes in float32, with the operations of the former in the same order,
and rounds once, when it stores. So with float32 storage the two are equal bit for bit, and with any other storage only
the storage makes a difference.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch

from mixlab.optimizers.group_settings import ADAM_FIXED, ADAMW_FIXED, SGD_FIXED, Settings, as_number
from mixlab.optimizers.rules import AdamNumbers, AdamRule, SGDNumbers, SGDRule
from mixlab.optimizers.state_formats import StateFormat
from mixlab.optimizers.storage import Storage
from mixlab.optimizers.stored import StoredOptimizer

_ALL_IN_FLOAT32 = Storage()


class SGD(StoredOptimizer):
    r"""Stochastic gradient descent with momentum, like `torch.optim.SGD`, with a choice of storage.

    With the gradient $g$, the weight $w$, the momentum $b$ and its factor $\mu$, the learning rate $\eta$ and the
    weight decay $\lambda$:

    $$ b \leftarrow \mu b + g + \lambda w, \qquad w \leftarrow w - \eta b $$

    >>> weight = torch.nn.Parameter(torch.ones(2))
    >>> weight.grad = torch.tensor([1.0, 2.0])
    >>> SGD([weight], lr=0.25).step()
    >>> weight.data
    tensor([0.7500, 0.5000])

    Args:
        params: Parameters, named parameters or groups of them.
        lr: Learning rate.
        momentum: What the momentum is multiplied by at each step. With 0, no state is kept.
        weight_decay: The multiple of the weight that is added to its gradient.
        storage: How weights and momentum are stored, the momentum in `exp_avg_dtype`; by default in float32.
        generator: The generator for stochastic rounding, on the parameters' device; None means torch's global one.
        compiled: Whether to compile the step; see `AdamW`.

    Raises:
        TypeError: If a parameter is not a plain tensor in float32, float16 or bfloat16, or `storage` is not a Storage.
        ValueError: If a setting is negative or not finite.
    """

    _settings: ClassVar = Settings("SGD", ("lr", "momentum", "weight_decay"), has_betas=False, fixed=SGD_FIXED)
    _moments: ClassVar = {"momentum_buffer": -0.0}  # plus a gradient gives the gradient, even the sign of a zero

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
    r"""Adam (Kingma and Ba, Adam: A Method for Stochastic Optimization, 2015), like `torch.optim.Adam`, with a choice
    of storage.

    With the gradient $g$, the weight $w$, the moments $m$ (`exp_avg`) and $v$ (`exp_avg_sq`), and the learning rate
    $\eta$, step $t$ is:

    $$ m \leftarrow \beta_1 m + (1 - \beta_1) g, \qquad v \leftarrow \beta_2 v + (1 - \beta_2) g^2 $$

    $$ w \leftarrow w - \eta \, \frac{m / (1 - \beta_1^t)}{\sqrt{v / (1 - \beta_2^t)} + \epsilon} $$

    Args:
        params: Parameters, named parameters or groups of them.
        lr: Learning rate.
        betas: Decay rates of the first and the second moment, from 0 to below 1.
        eps: Added to the square root of the second moment.
        weight_decay: The multiple of the weight that is added to its gradient.
        storage: How weights and moments are stored; by default in float32.
        generator: The generator for stochastic rounding, on the parameters' device; None means torch's global one.
        compiled: Whether to compile the step; see `AdamW`.

    Raises:
        TypeError: If a parameter is not a plain tensor in float32, float16 or bfloat16, or `storage` is not a Storage.
        ValueError: If a setting is out of range.
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
        lr, decay = as_number(group["lr"]), group["weight_decay"]
        beta1, beta2 = map(as_number, group["betas"])
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
    r"""Adam with decoupled weight decay (Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2019), like
    `torch.optim.AdamW`, with a choice of storage.

    Before each step of `Adam`, the weight decay $\lambda$ shrinks the weight: $w \leftarrow (1 - \eta \lambda) w$.

    With the default storage, its steps equal torch's bit for bit:

    >>> def train(optimizer, weight):
    ...     for step in range(10):
    ...         weight.grad = torch.linspace(0.1, 1, 1000).to(weight.dtype)
    ...         optimizer.step()
    >>> weight, same = (torch.nn.Parameter(torch.ones(1000)) for _ in range(2))
    >>> train(AdamW([weight], lr=1e-3), weight)
    >>> train(torch.optim.AdamW([same], lr=1e-3), same)
    >>> torch.equal(weight, same)
    True

    The moments may be stored in 16 bits, or in 8 bits with a scale per block:

    >>> from mixlab.optimizers import read_state, state_bytes
    >>> for storage in (Storage(), Storage(torch.bfloat16, torch.bfloat16), Storage("dynamic8", "dynamic8")):
    ...     weight = torch.nn.Parameter(torch.ones(1000))
    ...     optimizer = AdamW([weight], lr=1e-3, storage=storage)
    ...     train(optimizer, weight)
    ...     print(state_bytes(optimizer), f"{read_state(optimizer, weight, 'exp_avg')[-1]:.3f}")
    8000 0.651
    4000 0.652
    2032 0.651

    Ten steps of 0.001 should move a weight from 1 to 0.99. Stored in bf16 and rounded to nearest, it does not move;
    rounded stochastically, it gets there on average:

    >>> for storage in (Storage(), Storage(update="stochastic")):
    ...     weight = torch.nn.Parameter(torch.ones(1000).bfloat16())
    ...     train(AdamW([weight], lr=1e-3, weight_decay=0, storage=storage, generator=torch.manual_seed(0)), weight)
    ...     print(f"{weight.float().mean():.3f}")
    1.000
    0.990

    Compiled, each step is one pass over memory:

    >>> weight = torch.nn.Parameter(torch.ones(1000))
    >>> train(AdamW([weight], lr=1e-3, compiled=True), weight)
    >>> torch.testing.assert_close(weight, same, rtol=1e-6, atol=0)

    Args:
        params: Parameters, named parameters or groups of them.
        lr: Learning rate.
        betas: Decay rates of the first and the second moment, from 0 to below 1.
        eps: Added to the square root of the second moment.
        weight_decay: Each step first subtracts lr * weight_decay times the weight from the weight.
        storage: How weights and moments are stored; by default in float32.
        generator: The generator for stochastic rounding, on the parameters' device; None means torch's global one.
        compiled: Whether to compile each parameter's step with `torch.compile` into one pass over memory. On a CPU it
            needs a C++ compiler; the first step of each kind of parameter takes some seconds. Results are the same up
            to the last bits, and the bits of stochastic rounding are hashed instead of drawn.

    Raises:
        TypeError: If a parameter is not a plain tensor in float32, float16 or bfloat16, or `storage` is not a Storage.
        ValueError: If a setting is out of range.
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
