"""SGD, Adam and AdamW that compute in float32 and store weights and states as they are told.

`torch.optim` keeps its states in the parameters' dtype and rounds every operation to it. Here each step is computed in
float32, with the operations of `torch.optim` in their order, and rounded once to where it is stored: so with float32
storage the two are equal bit for bit, and with any other storage only the storage makes a difference.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, ClassVar, get_args

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.optimizers.group_settings import ADAM_FIXED, ADAMW_FIXED, SGD_FIXED, Settings, plain
from mixlab.optimizers.layout import flat, is_dense, laid_out_as, unflat
from mixlab.optimizers.state_formats import STATE_DTYPES, StateDtype, StateFormat, StateRounding, state_format
from mixlab.optimizers.states import dense, fit_, keep_weight_, new_state, restored
from mixlab.optimizers.step import (
    AdamNumbers,
    AdamRule,
    SGDNumbers,
    SGDRule,
    StepPlan,
    WeightUpdate,
    compiled_step,
    eager_step_,
    seed_from,
    step_in_blocks_,
    widened_step_,
)

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

    @cached_property
    def exp_avg(self) -> StateFormat:
        return state_format(self.exp_avg_dtype, signed=True, rounding=self.state_rounding, block_size=self.block_size)

    @cached_property
    def exp_avg_sq(self) -> StateFormat:
        return state_format(
            self.exp_avg_sq_dtype, signed=False, rounding=self.state_rounding, block_size=self.block_size
        )


class _StoredOptimizer(Optimizer):
    """The loop over parameters and their pieces, and what is kept; the rule is the mathematics of one step."""

    _settings: ClassVar[Settings]
    _moments: ClassVar[dict[str, float]]  # and what they start from

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
        super().__init__(params, defaults | self._settings.defaults())

    def __getstate__(self) -> dict[str, Any]:
        """Returns what a copy or a pickle takes along; as in torch.optim, hooks stay behind."""
        states = defaultdict(dict, {key: _as_bytes(state) for key, state in self.state.items()})
        own = {"storage": self.storage, "generator": self.generator, "compiled": self.compiled}
        return super().__getstate__() | {"state": states} | own

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for kept in self.state.values():
            for name, fmt in self._formats().items():
                if name in kept:
                    kept[name] = kept[name].view(fmt.dtype)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        for index, parameter in enumerate(group["params"]):
            self._check_parameter(parameter, group, index)
        self._settings.check(group)
        self.param_groups.append(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step for every parameter that has a gradient.

        Raises:
            ValueError, TypeError: A setting or a parameter has become one that is not allowed; nothing has moved then.
            RuntimeError: A gradient is not dense; nothing has moved then.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            self._settings.check(group)
            for index, parameter in enumerate(group["params"]):
                if parameter.grad is not None:
                    self._check_parameter(parameter, group, index)
        for group in self.param_groups:
            numbers = _Numbers(partial(self._numbers, group))
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._step_one(parameter, group, numbers)
        return loss

    def _check_parameter(self, parameter: Tensor, group: dict[str, Any], index: int) -> None:
        owner = type(self).__name__
        if hasattr(parameter, "__tensor_flatten__"):
            raise TypeError(
                f"{owner}: {_named(group, index)} is a {type(parameter).__name__}, and plain tensors are needed; for "
                "sharded or quantized parameters take an optimizer of torch.optim or torchao"
            )
        if parameter.dtype not in _DTYPES:
            allowed = ", ".join(map(str, _DTYPES))
            raise TypeError(f"{owner}: parameters must be {allowed}, got {parameter.dtype} of {_named(group, index)}")
        if parameter.grad is not None and parameter.grad.layout is not torch.strided:
            raise RuntimeError(
                f"{owner}: gradients must be dense, got {parameter.grad.layout} of {_named(group, index)}; make the "
                "embedding with sparse=False, or train it with torch.optim.SparseAdam or SGD"
            )

    def _step_one(self, parameter: Tensor, group: dict[str, Any], numbers: _Numbers) -> None:
        state = self.state[parameter]
        weight = self._prepare(parameter, state, group)
        state["step"] += 1
        if not parameter.numel():
            return
        plan = self._plan(parameter, group)
        whole = {"weight": weight, "gradient": laid_out_as(weight, parameter.grad)}  # type: ignore[arg-type]
        whole |= {name: value for name, value in state.items() if name != "step"}
        parts = {name: flat(tensor) for name, tensor in whole.items()}
        if self.compiled:
            self._step_compiled(plan, parts, numbers.tensor(state["step"], parameter.device))
        else:
            # Two streams of random bits take turns with the pieces, which then are those of one thread.
            threads = 1 if plan.random_streams > 1 else torch.get_num_threads()
            for piece in _pieces(parts, self.storage.block_size, size=_PIECE * threads):
                eager_step_(plan, piece, numbers(state["step"]), self.generator)
        if not is_dense(parameter):
            parameter.copy_(weight)

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
        seed, start = self._seed(plan, device), 0
        for piece in _pieces(parts, 1, size=_WIDE_PIECE * torch.get_num_threads()):
            here = seed_from(seed, start) if plan.random else seed
            widened_step_(plan, piece, numbers, here, scratch)
            start += piece["weight"].numel()

    def _seed(self, plan: StepPlan, device: torch.device) -> Tensor:
        """Returns two numbers for the hash of a compiled step; drawn only where something is rounded at random."""
        if not plan.random:
            return torch.zeros(2, dtype=torch.int32, device=device)
        return torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=device, generator=self.generator)

    def _plan(self, parameter: Tensor, group: dict[str, Any]) -> StepPlan:
        update: WeightUpdate = "nearest" if parameter.dtype is torch.float32 else self.storage.update
        return StepPlan(self._rule(group), tuple(self._states(group).items()), parameter.dtype, update)

    def _prepare(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """Starts the states that a step needs, fits all to a parameter that has changed, and returns it dense."""
        state.setdefault("step", 0)
        for name, fmt in self._states(group).items():
            if name not in state:
                state |= new_state(name, fmt, dense(parameter), self._moments[name])
        keep_weight_(state, parameter, self._kept_beside(parameter))
        weight = dense(parameter)
        fit_(state, weight, {name: fmt for name, fmt in self._formats().items() if name in state})
        return weight

    def _kept_beside(self, parameter: Tensor) -> str | None:
        if parameter.dtype is torch.float32:
            return None
        if self.storage.master_weights:
            return "master"
        return "compensation" if self.storage.update == "kahan" else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads states and keeps them as this optimizer stores them, also those of `torch.optim`'s namesake.

        States that were stored in the same way come back bit for bit; others are rounded to nearest, and what a
        checkpoint lacks (master weights, compensation) starts from the parameters. Hooks run as in torch.optim.

        Raises:
            ValueError: Scales of another block size, other shapes, settings of torch.optim that this optimizer does not
                have, or the state of another kind of optimizer; this one is then as it was.
        """
        before = self.state, self.param_groups
        saved: dict[str, Any] = {}

        def without_states(_optimizer: Optimizer, given: dict[str, Any]) -> dict[str, Any]:
            saved.update(given)
            for group in given["param_groups"]:
                self._settings.check_loaded(group)
                self._settings.check(group)
            return {**given, "state": {}}  # torch's own loading would cast the states to the parameters' dtype

        handles = [
            self.register_load_state_dict_pre_hook(without_states),
            self.register_load_state_dict_post_hook(lambda _optimizer: self._restore(saved), prepend=True),
        ]
        try:
            super().load_state_dict(state_dict)
        except BaseException:
            self.state, self.param_groups = before
            raise
        finally:
            for handle in handles:
                handle.remove()

    def _restore(self, saved: dict[str, Any]) -> None:
        """Takes over the states of a checkpoint whose groups are loaded already."""
        numbers = [number for group in saved["param_groups"] for number in group["params"]]
        owners = [(parameter, group) for group in self.param_groups for parameter in group["params"]]
        for group in self.param_groups:
            for name, value in self._settings.defaults().items():
                group.setdefault(name, value)
        for number, (parameter, group) in zip(numbers, owners, strict=True):
            if number in saved["state"]:
                kept = saved["state"][number]
                formats = self._states(group) | {k: fmt for k, fmt in self._formats().items() if k in kept}
                self.state[parameter] = self._restored(parameter, formats, kept)

    @torch.no_grad()
    def _restored(self, parameter: Tensor, formats: dict[str, StateFormat], saved: dict[str, Any]) -> dict[str, Any]:
        state: dict[str, Any] = {"step": 0}
        for name, fmt in formats.items():
            state |= new_state(name, fmt, dense(parameter), self._moments[name])
        keep_weight_(state, parameter, self._kept_beside(parameter))
        return restored(state, formats, saved)

    def read_state(self, parameter: Tensor, name: str) -> Tensor:
        """Returns one state of a parameter in float32, in its shape, whatever it is stored as.

        Args:
            parameter: One of this optimizer's, which has taken a step.
            name: "exp_avg", "exp_avg_sq" or "momentum_buffer".

        Raises:
            KeyError: There is no such state.
        """
        fmt, state = self._formats()[name], self.state.get(parameter, {})
        value = fmt.read(*(flat(state[key]) for key in fmt.keys(name)))
        return unflat(value, state[name]).clone()

    def _formats(self) -> dict[str, StateFormat]:
        """Returns the names of all moments that the rule may work on, and how they are stored."""
        raise NotImplementedError

    def _states(self, _group: dict[str, Any]) -> dict[str, StateFormat]:
        """Returns the moments that the rule works on as a group is set."""
        return self._formats()

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

    _settings: ClassVar = Settings("SGD", ("lr", "momentum", "weight_decay"), has_betas=False, fixed=SGD_FIXED)
    _moments: ClassVar = {"momentum_buffer": -0.0}  # plus a gradient this is the gradient, the sign of a zero too

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

    def _formats(self) -> dict[str, StateFormat]:
        return {"momentum_buffer": self.storage.exp_avg}

    def _states(self, group: dict[str, Any]) -> dict[str, StateFormat]:
        return self._formats() if group["momentum"] else {}

    def _rule(self, group: dict[str, Any]) -> SGDRule:
        return SGDRule(has_momentum=bool(group["momentum"]), decays=bool(group["weight_decay"]))

    def _numbers(self, group: dict[str, Any], _step: int) -> SGDNumbers:
        return SGDNumbers(float(group["lr"]), float(group["momentum"]), float(group["weight_decay"]))


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
        storage: Storage = Storage(),
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


def unwrapped(optimizer: Optimizer) -> Optimizer:
    """Returns the optimizer inside of wrappers such as accelerate's, which keep it as their `optimizer`; or itself."""
    inner = getattr(optimizer, "optimizer", None)
    return unwrapped(inner) if isinstance(inner, Optimizer) and inner is not optimizer else optimizer


def state_tensors(optimizer: Optimizer, parameter: Tensor | None = None) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) for each state of one parameter or of all, without the counters of steps."""
    states = optimizer.state.values() if parameter is None else [optimizer.state.get(parameter, {})]
    for state in states:
        yield from ((name, value) for name, value in state.items() if isinstance(value, Tensor) and name != "step")


def read_state(optimizer: Optimizer, parameter: Tensor, name: str) -> Tensor:
    """Returns a state of any optimizer in float32: one of these, or one that keeps plain tensors, as torch.optim does.

    Wrappers such as accelerate's are looked into. Tensors of torchao are dequantized. Complex values are complex64.

    Raises:
        KeyError: The parameter has no such state, or has not taken a step.
        TypeError: It is kept as codes whose meaning only the optimizer knows.
    """
    optimizer = unwrapped(optimizer)
    kept = optimizer.state.get(parameter, {}).get(name)
    if not isinstance(kept, Tensor):
        raise KeyError(f"read_state: this parameter has no {name!r} in {type(optimizer).__name__}")
    if isinstance(optimizer, _StoredOptimizer) and name in optimizer._moments:
        return optimizer.read_state(parameter, name)
    if type(kept).dequantize is not Tensor.dequantize:
        return kept.dequantize().float()
    if not (kept.is_floating_point() or kept.is_complex()):
        raise TypeError(
            f"read_state: {name!r} holds codes in {kept.dtype}, which only {type(optimizer).__name__} reads"
        )
    return kept.to(torch.complex64) if kept.is_complex() else kept.float()


def _as_bytes(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a state without tensors in 8-bit floats, which torch's tensors cannot be pickled in."""
    return {
        name: value.view(torch.uint8) if isinstance(value, Tensor) and value.dtype.itemsize == 1 else value
        for name, value in state.items()
    }


def _named(group: dict[str, Any], index: int) -> str:
    """Returns a name for a parameter of a group: that of `named_parameters`, if the optimizer was given those."""
    names = group.get("param_names")
    shape = tuple(group["params"][index].shape)
    return repr(names[index]) if names else f"parameter {index} of its group, of shape {shape}"


def _pieces(parts: dict[str, Tensor], block_size: int, *, size: int) -> Iterator[dict[str, Tensor]]:
    """Yields parts that belong together and begin at a block's first element; on a CPU they are small."""
    numel = parts["weight"].numel()
    size = size if parts["weight"].is_cpu else numel
    blocks = -(-size // block_size)
    lengths = {name: blocks if name.endswith("_scale") else blocks * block_size for name in parts}
    cut = {name: torch.split(part, lengths[name]) for name, part in parts.items()}
    yield from (dict(zip(cut, piece, strict=True)) for piece in zip(*cut.values(), strict=True))
