"""SGD, Adam and AdamW that compute in float32 and store weights and states as they are told.

`torch.optim` keeps its states in the parameters' dtype and rounds every operation to it. Here each step is computed in
float32, with the operations of `torch.optim` in their order, and rounded once to where it is stored: so with float32
storage the two are equal bit for bit, and with any other storage only the storage makes a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.memory_layout import flat, is_dense, laid_out_as, unflat
from mixlab.optimizer_step import (
    AdamNumbers,
    AdamRule,
    SGDNumbers,
    SGDRule,
    StepPlan,
    WeightUpdate,
    compiled_step,
    eager_step_,
    step_in_blocks_,
    widened_step_,
)
from mixlab.state_formats import STATE_DTYPES, StateDtype, StateFormat, StateRounding, state_format

_PIECE = 1 << 17  # elements of an eager step, or one in blocks, on a CPU thread: what it computes stays in the cache
_WIDE_PIECE = 1 << 19  # of a compiled step that works on copies: fewer calls, and its copies still fit
_VECTORS = torch.backends.cpu.get_cpu_capability()  # of this CPU, as torch names them
_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Storage:
    """How an optimizer stores what it keeps from step to step.

    Attributes:
        exp_avg_dtype: Of Adam's first moment, or of SGD's momentum: float32, float16, bfloat16; or, in 8 bits with a
            float32 scale for each block, float8_e4m3fn, float8_e5m2 or "dynamic8".
        exp_avg_sq_dtype: Of Adam's second moment; "dynamic8" is without sign there.
        master_weights: Keep a float32 copy of 16-bit parameters, update it, and round it to the parameters.
        update: How a new weight is rounded to a 16-bit parameter without master weights. "nearest". "stochastic": up or
            down at random, in proportion to the distances, so that it is right on average (Gupta et al., Deep Learning
            with Limited Numerical Precision, 2015, section 3). "kahan": to nearest, with what was lost kept in a second
            number of the parameter's dtype (Zamirai et al., Revisiting BFloat16 Training, 2020, section 3.2).
        state_rounding: How both moments are rounded to their dtypes: "nearest" or "stochastic".
        block_size: How many neighbours in memory share a scale, in the 8-bit dtypes (Dettmers et al., 8-bit Optimizers
            via Block-wise Quantization, 2022, section 2.1).

    Raises:
        ValueError: A value that is not allowed.
    """

    exp_avg_dtype: StateDtype = torch.float32
    exp_avg_sq_dtype: StateDtype = torch.float32
    master_weights: bool = False
    update: WeightUpdate = "nearest"
    state_rounding: StateRounding = "nearest"
    block_size: int = 256

    def __post_init__(self) -> None:
        for name in ("exp_avg_dtype", "exp_avg_sq_dtype"):
            if getattr(self, name) not in STATE_DTYPES:
                allowed = ", ".join(map(str, STATE_DTYPES))
                raise ValueError(f"Storage: {name} must be one of {allowed}, got {getattr(self, name)!r}")
        if self.state_rounding not in get_args(StateRounding):
            raise ValueError(f"Storage: state_rounding must be one of nearest, stochastic, got {self.state_rounding!r}")
        if type(self.block_size) is not int or self.block_size < 1:
            raise ValueError(f"Storage: block_size must be a whole number from 1 up, got {self.block_size!r}")
        if type(self.master_weights) is not bool:
            raise ValueError(f"Storage: master_weights must be True or False, got {self.master_weights!r}")
        if self.update not in get_args(WeightUpdate):
            raise ValueError(f"Storage: update must be one of nearest, stochastic, kahan, got {self.update!r}")
        if self.master_weights and self.update != "nearest":
            raise ValueError(f"Storage: update={self.update} has no effect with master weights; use update='nearest'")

    @property
    def exp_avg(self) -> StateFormat:
        return state_format(self.exp_avg_dtype, signed=True, rounding=self.state_rounding, block_size=self.block_size)

    @property
    def exp_avg_sq(self) -> StateFormat:
        return state_format(
            self.exp_avg_sq_dtype, signed=False, rounding=self.state_rounding, block_size=self.block_size
        )


class _StoredOptimizer(Optimizer):
    """The loop over parameters and their pieces, and what is kept; the rule is the mathematics of one step."""

    def __init__(
        self,
        params: Any,
        defaults: dict[str, Any],
        storage: Storage,
        generator: torch.Generator | None,
        compiled: bool,
    ) -> None:
        if not isinstance(storage, Storage):
            raise TypeError(f"{type(self).__name__}: storage must be a Storage, got {storage!r}")
        self.storage = storage
        self.generator = generator
        self.compiled = compiled
        super().__init__(params, defaults)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        for parameter in group["params"]:
            if parameter.dtype not in _DTYPES:
                allowed = ", ".join(map(str, _DTYPES))
                raise TypeError(f"{type(self).__name__}: parameters must be {allowed}, got {parameter.dtype}")
        self._check(group)
        self.param_groups.append(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step for every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            numbers = _Numbers(partial(self._numbers, group))
            for parameter in group["params"]:
                if parameter.grad is not None and parameter.numel():
                    self._step_one(parameter, group, numbers)
        return loss

    def _step_one(self, parameter: Tensor, group: dict[str, Any], numbers: _Numbers) -> None:
        if parameter.grad.layout is not torch.strided:  # type: ignore[union-attr]
            raise RuntimeError(f"{type(self).__name__}: gradients must be dense, got {parameter.grad.layout}")  # type: ignore[union-attr]
        state = self.state[parameter]
        if not state:
            self._start(parameter, state, group)
        state["step"] += 1
        plan = self._plan(parameter, group)
        dense = parameter.detach() if is_dense(parameter) else parameter.detach().contiguous()
        whole = {"weight": dense, "gradient": laid_out_as(dense, parameter.grad)}  # type: ignore[arg-type]
        whole |= {name: value for name, value in state.items() if name != "step"}
        parts = {name: flat(tensor) for name, tensor in whole.items()}
        if self.compiled:
            self._step_compiled(plan, parts, numbers.tensor(state["step"], parameter.device))
        else:
            for piece in _pieces(parts, self.storage.block_size):
                eager_step_(plan, piece, numbers(state["step"]), self.generator)
        if not is_dense(parameter):
            parameter.copy_(dense)

    def _step_compiled(self, plan: StepPlan, parts: dict[str, Tensor], numbers: Tensor) -> None:
        device = parts["weight"].device
        if plan.in_blocks:
            at_once = _PIECE * torch.get_num_threads() if device.type == "cpu" else None
            step_in_blocks_(plan, parts, numbers, self._seed(plan, device), at_once=at_once)
            return
        widened = _VECTORS == "AVX512" and plan.dtype is torch.float32 and plan.has_narrow_states
        if device.type != "cpu" or not widened:
            compiled_step(plan)(parts, numbers, self._seed(plan, device))
            return
        scratch: dict[str, Tensor] = {}
        for piece in _pieces(parts, 1, size=_WIDE_PIECE):
            widened_step_(plan, piece, numbers, self._seed(plan, device), scratch)

    def _seed(self, plan: StepPlan, device: torch.device) -> Tensor:
        """Returns two numbers for the hash of a compiled step; drawn only where something is rounded at random."""
        if not plan.random:
            return torch.zeros(2, dtype=torch.int32, device=device)
        return torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=device, generator=self.generator)

    def _plan(self, parameter: Tensor, group: dict[str, Any]) -> StepPlan:
        update: WeightUpdate = "nearest" if parameter.dtype is torch.float32 else self.storage.update
        return StepPlan(self._rule(group), tuple(self._states(group).items()), parameter.dtype, update)

    def _start(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> None:
        state["step"] = 0
        for name, fmt in self._states(group).items():
            state |= _new_state(name, fmt, parameter)
        if parameter.dtype is torch.float32:
            return
        if self.storage.master_weights:
            state["master"] = parameter.detach().float()
        elif self.storage.update == "kahan":
            state["compensation"] = torch.zeros_like(parameter)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads states and keeps them as this optimizer stores them, also those of `torch.optim`'s namesake.

        States that were stored in the same way come back bit for bit; others are rounded to nearest, and what a
        checkpoint lacks (master weights, compensation) starts from the parameters.

        Raises:
            ValueError: Scales of another block size.
        """
        groups = {**state_dict, "state": {}}
        super().load_state_dict(groups)
        parameters = [parameter for group in self.param_groups for parameter in group["params"]]
        owners = [group for group in self.param_groups for _ in group["params"]]
        numbers = [number for group in state_dict["param_groups"] for number in group["params"]]
        for number, parameter, group in zip(numbers, parameters, owners, strict=True):
            if number in state_dict["state"]:
                self.state[parameter] = self._restored(parameter, group, state_dict["state"][number])

    def _restored(self, parameter: Tensor, group: dict[str, Any], saved: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {}
        self._start(parameter, state, group)
        state["step"] = int(saved.get("step", 0))
        for name, fmt in self._states(group).items():
            if isinstance(saved.get(name), Tensor):
                _restore_(state, name, fmt, saved)
        for name in ("master", "compensation"):
            if name in state and name in saved:
                state[name].copy_(saved[name])
        return state

    def read_state(self, parameter: Tensor, name: str) -> Tensor:
        """Returns one state of a parameter in float32, in its shape, whatever it is stored as.

        Args:
            parameter: One of this optimizer's, which has taken a step.
            name: "exp_avg", "exp_avg_sq" or "momentum_buffer".

        Raises:
            KeyError: There is no such state.
        """
        state, fmt = self.state[parameter], self._formats(parameter)[name]
        value = fmt.read(*(flat(state[key]) for key in fmt.keys(name)))
        return unflat(value, state[name]).clone()

    def _formats(self, parameter: Tensor) -> dict[str, StateFormat]:
        return next(self._states(g) for g in self.param_groups if any(parameter is p for p in g["params"]))

    def _check(self, group: dict[str, Any]) -> None:
        """Raises ValueError for numbers of a group that are not allowed."""
        raise NotImplementedError

    def _states(self, group: dict[str, Any]) -> dict[str, StateFormat]:
        """Returns the names of the moments that the rule works on, and how they are stored."""
        raise NotImplementedError

    def _rule(self, group: dict[str, Any]) -> SGDRule | AdamRule:
        raise NotImplementedError

    def _numbers(self, group: dict[str, Any], step: int) -> SGDNumbers | AdamNumbers:
        """Returns what the rule computes with in a step, which is counted from 1."""
        raise NotImplementedError


class _Numbers:
    """The numbers of a group's steps, and as one tensor; most parameters share their step."""

    def __init__(self, of_step: Callable[[int], SGDNumbers | AdamNumbers]) -> None:
        self._of_step = of_step
        self._known: dict[int, SGDNumbers | AdamNumbers] = {}
        self._tensors: dict[tuple[int, torch.device], Tensor] = {}

    def __call__(self, step: int) -> SGDNumbers | AdamNumbers:
        if step not in self._known:
            self._known[step] = self._of_step(step)
        return self._known[step]

    def tensor(self, step: int, device: torch.device) -> Tensor:
        key = (step, device)
        if key not in self._tensors:
            self._tensors[key] = torch.tensor(self(step), dtype=torch.float32, device=device)
        return self._tensors[key]


class SGD(_StoredOptimizer):
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

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        storage: Storage = Storage(),
        generator: torch.Generator | None = None,
        compiled: bool = False,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(params, defaults, storage, generator, compiled)

    def _check(self, group: dict[str, Any]) -> None:
        _require_from_zero(self, group, "lr", "momentum", "weight_decay")

    def _states(self, group: dict[str, Any]) -> dict[str, StateFormat]:
        return {"momentum_buffer": self.storage.exp_avg} if group["momentum"] else {}

    def _rule(self, group: dict[str, Any]) -> SGDRule:
        return SGDRule(has_momentum=bool(group["momentum"]), decays=bool(group["weight_decay"]))

    def _numbers(self, group: dict[str, Any], _step: int) -> SGDNumbers:
        return SGDNumbers(float(group["lr"]), group["momentum"], group["weight_decay"])


class Adam(_StoredOptimizer):
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

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        storage: Storage = Storage(),
        generator: torch.Generator | None = None,
        compiled: bool = False,
    ) -> None:
        defaults = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(params, defaults, storage, generator, compiled)

    def _check(self, group: dict[str, Any]) -> None:
        _require_from_zero(self, group, "lr", "eps", "weight_decay")
        betas = group["betas"]
        if not (len(betas) == 2 and all(0 <= beta < 1 for beta in betas)):
            raise ValueError(f"{type(self).__name__}: betas must be two numbers from 0 to below 1, got {betas!r}")

    def _states(self, _group: dict[str, Any]) -> dict[str, StateFormat]:
        return {"exp_avg": self.storage.exp_avg, "exp_avg_sq": self.storage.exp_avg_sq}

    def _rule(self, group: dict[str, Any]) -> AdamRule:
        return AdamRule(decays=bool(group["weight_decay"]), decoupled=self._decoupled)

    def _numbers(self, group: dict[str, Any], step: int) -> AdamNumbers:
        lr, (beta1, beta2), decay = float(group["lr"]), group["betas"], group["weight_decay"]
        return AdamNumbers(
            step_size=lr / (1 - beta1**step),
            shrink=1 - lr * decay,
            weight_decay=decay,
            new1=1 - beta1,
            beta2=beta2,
            new2=1 - beta2,
            root=(1 - beta2**step) ** 0.5,
            inverse_root=(1 - beta2**step) ** -0.5,
            eps=group["eps"],
        )


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

    def __init__(
        self,
        params: Any,
        lr: float = 1e-3,
        *,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        storage: Storage = Storage(),
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


def state_tensors(optimizer: Optimizer, parameter: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for each state of one parameter or of all, without the counters of steps."""
    states = optimizer.state.values() if parameter is None else [optimizer.state.get(parameter, {})]
    for state in states:
        yield from ((name, value) for name, value in state.items() if isinstance(value, Tensor) and name != "step")


def read_state(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor:
    """Returns a state of any optimizer in float32: one of these, or one that keeps plain tensors, as torch.optim does.

    Raises:
        KeyError: The parameter has no such state, or has not taken a step.
    """
    if isinstance(optimizer, _StoredOptimizer):
        return optimizer.read_state(parameter, name)
    return optimizer.state[parameter][name].float()  # type: ignore[no-any-return]


def _new_state(name: str, fmt: StateFormat, parameter: Tensor) -> dict[str, Tensor]:
    """Returns the tensors of a state that is zero everywhere, laid out as the parameter."""
    dense = parameter.detach() if is_dense(parameter) else parameter.detach().contiguous()
    codes = torch.zeros_like(dense, dtype=fmt.dtype)
    blocks = -(-parameter.numel() // fmt.block_size)
    kept = [codes, torch.ones(blocks, device=parameter.device)] if fmt.scaled else [codes]
    fmt.write_(torch.zeros(parameter.numel(), device=parameter.device), None, *map(flat, kept))
    return dict(zip(fmt.keys(name), kept, strict=True))


def _restore_(state: dict[str, Any], name: str, fmt: StateFormat, saved: dict[str, Any]) -> None:
    """Writes a saved state over a new one, converting it if it was stored in another way."""
    codes, scale = saved[name], saved.get(f"{name}_scale")
    if (codes.dtype, scale is not None) == (fmt.dtype, fmt.scaled):
        for key in fmt.keys(name):
            if saved[key].shape != state[key].shape:
                raise ValueError(
                    f"load_state_dict: {key} was saved with shape {tuple(saved[key].shape)}, and this optimizer needs "
                    f"{tuple(state[key].shape)}; take the parameters and the block_size that it was saved with"
                )
            state[key].copy_(saved[key])
        return
    kept = [flat(codes)] if scale is None else [flat(codes), scale]
    value = unflat(_saved_format(name, fmt, codes, scale).read(*kept), codes)
    fmt.write_(flat(laid_out_as(state[name], value)), None, *(flat(state[key]) for key in fmt.keys(name)))


def _saved_format(name: str, fmt: StateFormat, codes: Tensor, scale: Tensor | None) -> StateFormat:
    """Returns how a state was stored; of its block size the number of scales must tell."""
    if scale is None:
        return state_format(codes.dtype, signed=True)
    block_size = fmt.block_size if fmt.scaled else Storage.block_size
    if -(-codes.numel() // block_size) != scale.numel():
        raise ValueError(
            f"load_state_dict: {name} was saved with {scale.numel()} scales for {codes.numel()} elements, "
            f"not with blocks of {block_size}; load it into an optimizer with the block_size that it was saved with"
        )
    dtype: StateDtype = "dynamic8" if codes.dtype is torch.uint8 else codes.dtype
    return state_format(dtype, signed=name != "exp_avg_sq", block_size=block_size)


def _pieces(parts: dict[str, Tensor], block_size: int, *, size: int = _PIECE) -> Iterator[dict[str, Tensor]]:
    """Yields parts that belong together and begin at a block's first element; on a CPU they are small."""
    numel = parts["weight"].numel()
    size = size * torch.get_num_threads() if parts["weight"].is_cpu else numel
    blocks = -(-size // block_size)
    lengths = {name: blocks if name.endswith("_scale") else blocks * block_size for name in parts}
    cut = {name: torch.split(part, lengths[name]) for name, part in parts.items()}
    yield from (dict(zip(cut, piece, strict=True)) for piece in zip(*cut.values(), strict=True))


def _require_from_zero(optimizer: Optimizer, group: dict[str, Any], *names: str) -> None:
    for name in names:
        if not 0 <= group[name] < float("inf"):
            owner = type(optimizer).__name__
            raise ValueError(f"{owner}: {name} must be a finite number from 0 up, got {group[name]!r}")
