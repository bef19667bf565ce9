"""The base of SGD, Adam and AdamW: it keeps their states, and takes each step parameter by parameter."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import Optimizer

from mixlab.optimizers.group_settings import Settings
from mixlab.optimizers.layout import flat, is_dense, laid_out_as, unflat
from mixlab.optimizers.pieces import step_compiled_, step_eagerly_
from mixlab.optimizers.rules import AdamNumbers, AdamRule, SGDNumbers, SGDRule
from mixlab.optimizers.state_formats import StateFormat
from mixlab.optimizers.states import fit_, keep_weight_, new_state, restored, without_gaps
from mixlab.optimizers.step import StepPlan, WeightUpdate
from mixlab.optimizers.storage import Storage

_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


class StoredOptimizer(Optimizer):
    """An optimizer that stores weights and states as a `Storage` says; `SGD`, `Adam` and `AdamW` provide the rules.

    Args:
        params: Parameters, named parameters or groups of them.
        defaults: Settings for groups that do not have their own.
        storage: How weights and states are stored.
        generator: The generator for stochastic rounding, on the parameters' device; None means torch's global one.
        compiled: Whether to compile the step.

    Raises:
        TypeError: If `storage` is not a Storage, or a parameter is not a plain tensor in float32, float16 or bfloat16.
        ValueError: If a setting is not allowed.
    """

    _settings: ClassVar[Settings]
    _moments: ClassVar[dict[str, float]]  # the initial value of each

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
        """Returns the state of a copy or a pickle. As in torch.optim, hooks are left out."""
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
        """Adds a group of parameters, as in torch.optim.

        Args:
            param_group: "params", and settings that differ from the defaults.

        Raises:
            TypeError: If a parameter is not a plain tensor in float32, float16 or bfloat16.
            ValueError: If a setting is not allowed. Then no group is added.
        """
        super().add_param_group(param_group)
        group = self.param_groups.pop()
        for index, parameter in enumerate(group["params"]):
            self._check_parameter(parameter, group, index)
        self._settings.check(group)
        self.param_groups.append(group)

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Takes one step for every parameter that has a gradient.

        Args:
            closure: Evaluates the model again and returns the loss; called once, before the step.

        Returns:
            The closure's loss, or None.

        Raises:
            ValueError: If a setting is no longer allowed; then no parameter has moved. Also if a parameter has changed
                its shape or device since its last step.
            TypeError: If a parameter is no longer a plain tensor in float32, float16 or bfloat16; then none has moved.
            RuntimeError: If a gradient is not dense; then no parameter has moved.
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
                f"{owner}: {_named(group, index)} is a {type(parameter).__name__}, but must be a plain tensor; for "
                "sharded or quantized parameters use an optimizer of torch.optim or torchao"
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
            number_tensor = numbers.tensor(state["step"], parameter.device)
            step_compiled_(plan, parts, number_tensor, self._seed(plan, parameter.device))
        else:
            step_eagerly_(plan, parts, numbers(state["step"]), self.generator)
        if not is_dense(parameter):
            parameter.copy_(weight)

    def _seed(self, plan: StepPlan, device: torch.device) -> Tensor:
        """Returns the two seeds for a compiled step's hash, drawn only if something is rounded at random."""
        if not plan.random:
            return torch.zeros(2, dtype=torch.int32, device=device)
        return torch.randint(-(2**31), 2**31, (2,), dtype=torch.int32, device=device, generator=self.generator)

    def _plan(self, parameter: Tensor, group: dict[str, Any]) -> StepPlan:
        update: WeightUpdate = "nearest_even" if parameter.dtype is torch.float32 else self.storage.update
        return StepPlan(self._rule(group), tuple(self._states(group).items()), parameter.dtype, update)

    def _prepare(self, parameter: Tensor, state: dict[str, Any], group: dict[str, Any]) -> Tensor:
        """Creates missing states, adapts the others if the parameter has changed, and returns the parameter dense."""
        state.setdefault("step", 0)
        for name, fmt in self._states(group).items():
            if name not in state:
                state |= new_state(name, fmt, without_gaps(parameter), self._moments[name])
        keep_weight_(state, parameter, self._kept_beside(parameter))
        weight = without_gaps(parameter)
        fit_(state, weight, {name: fmt for name, fmt in self._formats().items() if name in state})
        return weight

    def _kept_beside(self, parameter: Tensor) -> str | None:
        if parameter.dtype is torch.float32:
            return None
        if self.storage.master_weights:
            return "master"
        return "compensation" if self.storage.update == "kahan" else None

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of this class, or of torch.optim's class of the same name, and converts it to this storage.

        States that were stored in the same way come back bit for bit; others are rounded to nearest. Missing master
        weights and compensation start from the parameters. Hooks run as in torch.optim.

        Args:
            state_dict: A state dict of this class, or of torch.optim's class of the same name.

        Raises:
            ValueError: If the state has another block size, other shapes, or settings of torch.optim that this
                optimizer lacks, or if it belongs to another kind of optimizer. Then nothing is loaded.
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
        """Loads a checkpoint's states, once its groups are loaded."""
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
            state |= new_state(name, fmt, without_gaps(parameter), self._moments[name])
        keep_weight_(state, parameter, self._kept_beside(parameter))
        return restored(state, formats, saved)

    def read_state(self, parameter: Tensor, name: str) -> Tensor:
        """Returns one state of a parameter in float32 and in the parameter's shape, however it is stored.

        Args:
            parameter: One of this optimizer's parameters that has taken a step.
            name: "exp_avg", "exp_avg_sq" or "momentum_buffer".

        Raises:
            KeyError: If there is no such state.
        """
        fmt, state = self._formats()[name], self.state.get(parameter, {})
        value = fmt.read(*(flat(state[key]) for key in fmt.keys(name)))
        return unflat(value, state[name]).clone()

    def _formats(self) -> dict[str, StateFormat]:
        """Returns the format of each moment that the rule may use, by name."""
        raise NotImplementedError

    def _states(self, _group: dict[str, Any]) -> dict[str, StateFormat]:
        """Returns the formats of the moments that the rule uses under a group's settings."""
        return self._formats()

    def _rule(self, group: dict[str, Any]) -> SGDRule | AdamRule:
        raise NotImplementedError

    def _numbers(self, group: dict[str, Any], step: int) -> SGDNumbers | AdamNumbers:
        """Returns the rule's numbers for a step; steps count from 1."""
        raise NotImplementedError


class _Numbers:
    """The rule's numbers by step, also as one tensor, computed once for all parameters of a group at that step."""

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


def _as_bytes(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a state with 8-bit floats viewed as bytes, because torch cannot pickle tensors of 8-bit floats."""
    return {
        name: value.view(torch.uint8) if isinstance(value, Tensor) and value.dtype.itemsize == 1 else value
        for name, value in state.items()
    }


def _named(group: dict[str, Any], index: int) -> str:
    """Returns a parameter's name if the optimizer was given `named_parameters`, else its index and shape."""
    names = group.get("param_names")
    shape = tuple(group["params"][index].shape)
    return repr(names[index]) if names else f"parameter {index} of its group, of shape {shape}"
