"""Private random numbers: `torch.manual_seed` for a part of a program, without effect on other threads.

torch draws from one generator for the whole process, and most of its functions (`nn.init`, dropout) take no other. So
seeding it, or restoring it, changes the numbers of every other thread. Within a `RandomStream`, each op that draws gets
the stream's generator. The numbers are the same, bit for bit, as after `torch.manual_seed(seed)`; torch's own generator
does not move.

This works through the dispatcher. One dispatch key is enabled only within a stream, and only in its thread; it comes
last before the device keys. Under it, a Python kernel for every ATen op that draws fills in the stream's generator and
calls the op again; all other ops fall through. Autograd, autocast, dispatch modes and fake tensors come before the key,
so none of them sees the generator; before torch 2.13 dispatch modes come after it, and see it. Autograd's threads and
compiled code draw from the stream too.
"""

from __future__ import annotations

import ctypes
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch

from mixlab.process.settings import CUDA_RANDOM_NUMBERS, DEFAULT_GENERATOR

_KEY_NAME = "Fake"  # unused: made for a library of deferred initialisation that no longer exists
_TLS_NAME = "mixlab.random_stream"  # in the thread-local state that torch passes on to autograd's threads


class RandomStream:
    """A context in which this thread draws from its own generator on a CPU, and from seeded generators on CUDA.

    Within it, `torch.manual_seed`, `get_rng_state`, `set_rng_state` and `fork_rng`, checkpoints and torch.compile act
    on the stream. An op called with a generator uses that one. Streams nest; each object can be entered once.

    CUDA's fused dropout and attention take no generator. So on `devices`, the process's own generators are seeded, and
    restored at the end; one thread at a time may do this. Two streams never mix there. But if a thread without a stream
    draws on such a device meanwhile, it draws from the stream, and its draws are undone at the end.

    Not covered: the process-wide generators of Python's `random` and of NumPy, and threads started within the stream.

    Args:
        seed: As for `torch.manual_seed`; None starts from the generators' current state, and leaves it unchanged.
        devices: CUDA devices to cover too.
    """

    def __init__(self, seed: int | None, *, devices: Sequence[torch.device] = ()) -> None:
        _register()
        self.generator = torch.Generator()
        self._seed = seed
        self._outer: RandomStream | None = None
        self._patch = DEFAULT_GENERATOR.held(_PROXY)
        self._turn = CUDA_RANDOM_NUMBERS.held(True) if devices else None
        self._on_cuda = [_cuda_generator(device) for device in devices]
        self._before: list[tuple[torch.Generator, torch.Tensor]] = []

    def __enter__(self) -> RandomStream:
        self._outer = _stream()
        if self._seed is None:
            self.generator.set_state(_current().get_state())
        else:
            self.generator.manual_seed(self._seed)
        try:
            if self._turn is not None:
                self._turn.__enter__()
                self._before += [(generator, generator.get_state()) for generator in self._on_cuda]
                if self._seed is not None:
                    for generator in self._on_cuda:
                        generator.manual_seed(self._seed)
            self._patch.__enter__()
            _set_stream(self)
        except BaseException:
            self._leave()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        try:
            self._leave()
        finally:
            self._leave()  # once more, in case an interrupt cut the first short

    def _leave(self) -> None:
        _set_stream(self._outer)
        self._patch.__exit__()
        while self._before:
            generator, state = self._before[-1]
            generator.set_state(state)
            self._before.pop()
        if self._turn is not None:
            self._turn.__exit__()


class _Proxy:
    """Stands in for torch's generator in the functions of `torch.random`; within a stream, it is the stream's."""

    def __getattr__(self, name: str) -> Any:
        return getattr(_current(), name)


_PROXY: Any = _Proxy()


def _stream() -> RandomStream | None:
    """Returns the stream that this thread is in."""
    stream = torch._C._get_obj_in_tls(_TLS_NAME) if torch._C._is_key_in_tls(_TLS_NAME) else None
    assert stream is None or isinstance(stream, RandomStream)
    return stream


def _set_stream(stream: RandomStream | None) -> None:
    references = sys.getrefcount(stream)
    torch._C._stash_obj_in_tls(_TLS_NAME, stream)
    if sys.getrefcount(stream) == references:  # torch 2.10 drops a reference that it has not taken
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(stream))
    torch._C._dispatch_tls_set_dispatch_key_included(_KEY_NAME, stream is not None)


def _current() -> torch.Generator:
    """Returns the generator that this thread draws from on a CPU."""
    stream = _stream()
    return torch.default_generator if stream is None else stream.generator


def _cuda_generator(device: torch.device) -> torch.Generator:
    torch.cuda.init()  # type: ignore[no-untyped-call]
    return torch.cuda.default_generators[torch.cuda.current_device() if device.index is None else device.index]


_LIBRARIES: list[torch.library.Library] = []  # kernels live as long as these
_REGISTERING = threading.Lock()


def _register() -> None:
    """Registers a kernel for every op that draws, once: about 80 ops in 40 ms."""
    if _LIBRARIES:
        return
    with _REGISTERING:
        if _LIBRARIES:
            return
        others = torch.library.Library("_", "IMPL", _KEY_NAME)  # type: ignore[no-untyped-call]
        others.fallback(torch.library.fallthrough_kernel, _KEY_NAME)  # type: ignore[no-untyped-call]
        drawing = torch.library.Library("aten", "IMPL", _KEY_NAME)  # type: ignore[no-untyped-call]
        for op, kernel in _kernels():
            drawing.impl(op, kernel)  # type: ignore[no-untyped-call]
        _LIBRARIES[:] = [others, drawing]


def _kernels() -> Iterator[tuple[Any, Callable[..., Any]]]:
    """Yields (op, kernel) for each op with a `generator` argument, and for those made of one that has it.

    The dispatcher takes the latter apart below the key, but not below a dispatch mode before torch 2.13.
    """
    schemas = [schema for schema in torch._C._jit_get_all_schemas() if schema.name.startswith("aten::")]
    places = {_name(schema): place for schema in schemas if (place := _place(schema)) is not None}
    with_generator = {_signature(schema): schema for schema in schemas if _name(schema) in places}
    for schema in schemas:
        if (place := places.get(_name(schema))) is not None:
            yield _op(schema), _kernel(_op(schema), place, keyword=schema.arguments[place].kwarg_only)
        elif (drawing := with_generator.get(_signature(schema))) is not None:
            yield _op(schema), _made_of(_op(schema), _op(drawing), places[_name(drawing)])
    yield torch.ops.aten.native_dropout.default, _native_dropout


def _name(schema: Any) -> tuple[str, str]:
    return schema.name, schema.overload_name


def _op(schema: Any) -> Any:
    packet = getattr(torch.ops.aten, schema.name.removeprefix("aten::"))
    return getattr(packet, schema.overload_name or "default")


def _place(schema: Any) -> int | None:
    """Returns where an op takes its generator; None if it takes none."""
    return next((place for place, argument in enumerate(schema.arguments) if argument.name == "generator"), None)


def _signature(schema: Any) -> tuple[str, tuple[tuple[str, str], ...]]:
    """Returns an op's name with its arguments but the generator."""
    arguments = tuple((one.name, str(one.type)) for one in schema.arguments if one.name != "generator")
    return schema.name, arguments


def _kernel(op: Any, place: int, *, keyword: bool) -> Callable[..., Any]:
    """Returns a kernel that calls an op with the stream's generator, if none is given and the op draws on a CPU."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        # Function modes have seen the call that led here, and must not see the calls inside.
        with torch._C._ExcludeDispatchKeyGuard(_KEY), torch._C.DisableTorchFunction():
            given = kwargs.get("generator") if keyword or len(args) <= place else args[place]
            if given is None and (generator := _generator(args, kwargs)) is not None:
                if keyword or len(args) <= place:
                    kwargs["generator"] = generator
                else:
                    args = (*args[:place], generator, *args[place + 1 :])
            return op(*args, **kwargs)

    return kernel


def _made_of(op: Any, drawing: Any, place: int) -> Callable[..., Any]:
    """Returns a kernel for an op without a generator, which calls the same op with one if that draws on a CPU."""

    def kernel(*args: Any, **kwargs: Any) -> Any:
        with torch._C._ExcludeDispatchKeyGuard(_KEY), torch._C.DisableTorchFunction():
            generator = _generator(args, kwargs)
            if generator is None:
                return op(*args, **kwargs)
            if len(args) > place:
                return drawing(*args[:place], generator, *args[place:], **kwargs)
            return drawing(*args, **kwargs, generator=generator)

    return kernel


def _native_dropout(x: torch.Tensor, p: float, train: bool | None) -> Any:
    """Takes native_dropout apart as ATen does on a CPU, so that its mask is drawn under the key."""
    if train is False or x.device.type != "cpu" or x.numel() == 0:
        with torch._C._ExcludeDispatchKeyGuard(_KEY), torch._C.DisableTorchFunction():
            return torch.ops.aten.native_dropout.default(x, p, train)
    keep = 1 - p
    mask = torch.empty_like(x, dtype=torch.bool).bernoulli_(keep)
    return x.mul(mask).mul_(1 / keep if keep else 0.0), mask


_KEY = torch._C.DispatchKeySet(torch._C._dispatch_key_parse(_KEY_NAME))


_TRACED = torch._C._TorchDispatchModeKey.PROXY


def _generator(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.Generator | None:
    """Returns the stream's generator if an op draws on a CPU; None while it is only traced, to be compiled."""
    stream = _stream()
    traced = torch._C._get_dispatch_mode(_TRACED) is not None
    return None if stream is None or traced or _device_type(args, kwargs) != "cpu" else stream.generator


def _device_type(args: tuple[Any, ...], kwargs: dict[str, Any]) -> str:
    """Returns the type of the device that an op draws on."""
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"]).type
    tensors = (value for value in (*args, *kwargs.values()) if isinstance(value, torch.Tensor))
    tensor = next(tensors, None)
    return "cpu" if tensor is None else tensor.device.type
