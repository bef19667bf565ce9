"""CUDA's autocast rules as kernels of torch's dispatcher, for CPU tensors in the threads that switch them on.

Each device has its own autocast key in the dispatcher, above autograd's; the kernels under it cast, then call the op.
CUDA's are compiled for CUDA tensors, so Python kernels with the same rules are registered here, under the key of a
device that torch is no longer built for. They apply wherever an op is called, also inside C++ functions and in
backward. A thread that has not switched them on never reaches them, and none of torch's own kernels is replaced.

The CPU's own autocast is on as well, so that `torch.is_autocast_enabled("cpu")` and `torch.get_autocast_dtype("cpu")`
give the right answers; its lists are skipped.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.library import Library, fallthrough_kernel

from mixlab.emulation.lists import FLOAT32_RESULT_OVERLOADS, RECURRENT_OPS, ROUNDED_ONCE_OPS, RULES

Arguments = tuple[tuple[Any, ...], dict[str, Any]]
Rule = Callable[[tuple[Any, ...], dict[str, Any]], Arguments]

_KEY = "AutocastIPU"
_OURS = torch._C._dispatch_key_parse(_KEY)
_CPUS = torch._C.DispatchKey.AutocastCPU
_BOTH = torch._C.DispatchKeySet(_OURS) | torch._C.DispatchKeySet(_CPUS)
_BELOW = torch._C._dispatch_keyset_full_after(_OURS) - torch._C.DispatchKeySet(_CPUS)


def is_on() -> bool:
    """Returns whether CPU tensors of this thread follow CUDA's rules while autocast is enabled for them."""
    return torch._C._dispatch_tls_is_dispatch_key_included(_OURS)


def is_casting() -> bool:
    """Returns whether CPU tensors of this thread are cast by CUDA's rules now."""
    return is_on() and torch.is_autocast_enabled("cpu")


@contextmanager
def switched_on() -> Iterator[None]:
    """A context in which CPU tensors of this thread follow CUDA's rules while autocast is enabled for them.

    Casts of weights are kept until the outermost of these contexts ends.
    """
    _register()
    before = is_on()
    _set_on(True)
    try:
        yield
    finally:
        _set_on(before)
        if not before:
            clear_cache()


def clear_cache() -> None:
    """Forgets this thread's casts of weights."""
    _thread.casts.clear()


def as_listed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """Returns a function that stands in for a listed op, and casts its arguments as autocast would for the op.

    Args:
        name: The op, such as "layer_norm" or "softmax.int".
        function: Takes the op's arguments.
    """
    rule = next(rule for rule, ops in RULES.items() if name in ops)
    ruled = _RULES[rule](_overload(name))

    def called(*args: Any, **kwargs: Any) -> Any:
        if not is_casting():
            return function(*args, **kwargs)
        with torch._C._ExcludeDispatchKeyGuard(_BOTH):
            with torch._C.DisableTorchFunction():
                args, kwargs = ruled(args, kwargs)
            return function(*args, **kwargs)

    return called


class _Thread(threading.local):
    """Casts of weights, by the weight's id. Each weight is kept alive with its cast, so that no id is reused."""

    def __init__(self) -> None:
        self.casts: dict[int, tuple[Tensor, Tensor]] = {}


_thread = _Thread()


def _set_on(on: bool) -> None:
    torch._C._dispatch_tls_set_dispatch_key_included(_OURS, on)
    torch._C._dispatch_tls_set_dispatch_key_excluded(_OURS, not on)


_registering = threading.Lock()
_libraries: list[Library] = []  # kernels live as long as these


def _register() -> None:
    """Registers the kernels, once.

    Ops that the installed torch casts on CUDA get CUDA's rule. Ops that it casts only on a CPU are not cast.
    """
    with _registering:
        if not _libraries:
            _libraries.extend(_registered_libraries())


def _registered_libraries() -> tuple[Library, Library]:
    fallback, kernels = Library("_", "IMPL"), Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    if not torch._C._dispatch_has_backend_fallback(_OURS):
        fallback.fallback(fallthrough_kernel, _KEY)  # type: ignore[no-untyped-call]
    ruled = {name: rule for rule, ops in RULES.items() for name in ops & (_registered("AutocastCUDA") | RECURRENT_OPS)}
    for name, rule in ruled.items():
        kernels.impl(name, _kernel(_overload(name), _RULES[rule]), _KEY, with_keyset=True)  # type: ignore[no-untyped-call]
    for name in _registered("AutocastCPU") - ruled.keys() - ROUNDED_ONCE_OPS:
        kernels.impl(name, _passed_over(_overload(name)), _KEY, with_keyset=True)  # type: ignore[no-untyped-call]
    for name in ROUNDED_ONCE_OPS:
        kernels.impl(name, _rounded_once(_overload(name)), _KEY, with_keyset=True)  # type: ignore[no-untyped-call]
    return fallback, kernels


def _registered(key: str) -> set[str]:
    names = torch._C._dispatch_get_registrations_for_dispatch_key(key)
    return {name.removeprefix("aten::") for name in names if name.startswith("aten::")}


def _overload(name: str) -> Any:
    op, _, overload = name.partition(".")
    return getattr(getattr(torch.ops.aten, op), overload or "default")


def _passed_over(op: Any) -> Callable[..., Any]:
    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        return op.redispatch(keys & _BELOW, *args, **kwargs)

    return kernel


def _rounded_once(op: Any) -> Callable[..., Any]:
    """Returns a kernel for an op that takes and returns 16 bits but computes in float32."""

    def kernel(keys: Any, x: Tensor, *args: Any, **kwargs: Any) -> Any:
        if x.dtype not in (torch.float16, torch.bfloat16) or isinstance(x, FakeTensor):
            return op.redispatch(keys & _BELOW, x, *args, **kwargs)
        return op.redispatch(keys & _BELOW, x.float(), *args, **kwargs).to(x.dtype)

    return kernel


def _kernel(op: Any, rule: Callable[[Any], Rule]) -> Callable[..., Any]:
    """Returns a kernel that applies the rule to the arguments, then calls `op` without autocast, as CUDA's do."""
    name = f"{op._overloadpacket.__name__}.{op._overloadname}"
    below, ruled = _overload(FLOAT32_RESULT_OVERLOADS.get(name, name)), rule(op)

    def kernel(keys: Any, *args: Any, **kwargs: Any) -> Any:
        if not torch.is_autocast_enabled("cpu"):
            return op.redispatch(keys & _BELOW, *args, **kwargs)
        with torch._C._ExcludeDispatchKeyGuard(_BOTH):
            with torch._C.DisableTorchFunction():
                args, kwargs = ruled(args, kwargs)
            return below.redispatch(keys & _BELOW, *args, **kwargs)

    return kernel


def _in_compute_format(_op: Any) -> Rule:
    return lambda args, kwargs: _cast((args, kwargs), torch.get_autocast_dtype("cpu"))


def _in_float32(_op: Any) -> Rule:
    return lambda args, kwargs: _cast((args, kwargs), torch.float32)


def _in_widest_format(_op: Any) -> Rule:
    return lambda args, kwargs: _cast((args, kwargs), _widest((args, kwargs)))


def _with_float32_result(op: Any) -> Rule:
    place = [argument.name for argument in op._schema.arguments].index("dtype")

    def ruled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        asked = args[place] if len(args) > place else kwargs.get("dtype")
        if asked is not None or not _is_eligible(args[0]):
            return args, kwargs
        return args[:place], {**kwargs, "dtype": torch.float32}

    return ruled


def _by_overload_with_dtype(op: Any) -> Rule:
    defaults = [argument.default_value for argument in op._schema.arguments]

    def ruled(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Arguments:
        dtype = torch.float32 if _is_eligible(args[0]) else args[0].dtype
        return (*args, *defaults[len(args) :]), {**kwargs, "dtype": dtype}

    return ruled


def _banned(op: Any) -> Rule:
    def ruled(_args: tuple[Any, ...], _kwargs: dict[str, Any]) -> Arguments:
        raise RuntimeError(
            f"{op._overloadpacket.__name__} is unsafe under autocast: its input is a 16-bit probability; "
            "use binary_cross_entropy_with_logits on the logits, or leave autocast for this op"
        )

    return ruled


_RULES: dict[str, Callable[[Any], Rule]] = {
    "compute": _in_compute_format,
    "float32": _in_float32,
    "float32 result": _with_float32_result,
    "float32 overload": _by_overload_with_dtype,
    "widest": _in_widest_format,
    "banned": _banned,
}


def _is_eligible(tensor: Tensor) -> bool:
    return tensor.is_floating_point() and tensor.dtype is not torch.float64 and tensor.is_cpu


def _cast(value: Any, dtype: torch.dtype) -> Any:
    """Casts the eligible tensors in arguments, inside tuples, lists and dicts too."""
    if isinstance(value, Tensor):
        return value if value.dtype is dtype or not _is_eligible(value) else _cached_cast(value, dtype)
    if isinstance(value, list | tuple):
        return type(value)([_cast(one, dtype) for one in value])
    if isinstance(value, dict):
        return {name: _cast(one, dtype) for name, one in value.items()}
    return value


def _cached_cast(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Casts a weight once, as torch's `cached_cast` does, and again if the first cast was made without a graph."""
    is_weight = tensor.requires_grad and tensor.dtype is torch.float32 and tensor.is_leaf and not tensor._is_view()
    if not (is_weight and dtype is torch.get_autocast_dtype("cpu") and torch.is_autocast_cache_enabled()):
        return tensor.to(dtype)
    known = _thread.casts.get(id(tensor))
    if known is None or (torch.is_grad_enabled() and not known[1].requires_grad):
        known = _thread.casts[id(tensor)] = tensor, tensor.to(dtype)
    return known[1]


def _widest(value: Any) -> torch.dtype:
    """Returns float32 if any tensor has it; else autocast's format, which all tensors must then have."""
    widest = compute = torch.get_autocast_dtype("cpu")
    for tensor in filter(_is_eligible, tensors_in(value)):
        if torch.float32 in (widest, tensor.dtype):
            widest = torch.float32
        elif tensor.dtype is not compute:
            raise RuntimeError(f"Unexpected floating ScalarType under autocast to {compute}: {tensor.dtype}")
    return widest


def tensors_in(value: Any) -> Iterator[Tensor]:
    """Yields the tensors in an op's arguments or results, which may be nested."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, list | tuple):
        for one in value:
            yield from tensors_in(one)
    elif isinstance(value, dict):
        yield from tensors_in(list(value.values()))
