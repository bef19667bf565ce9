"""Which models can be traced: those that cannot are refused in words that name the module and say what to do."""

from __future__ import annotations

import torch
from torch import nn


class TraceError(RuntimeError):
    """A model, loss or optimizer that cannot be traced; the words say where and what to do."""


def check_traceable(model: nn.Module) -> None:
    """Raises a TraceError for a model that can train, but not be traced."""
    for path, module in model.named_modules():
        reason = _reason(module, path)
        if reason:
            where = f"module {path!r}" if path else "the model"
            raise TraceError(f"trace: {where} ({type(module).__name__}) cannot be traced: {reason}")


def _reason(module: nn.Module, path: str) -> str:
    name = f"model.{path}" if path else "model"
    wrapper = next((words for kind, words in _WRAPPERS.items() if _is_a(module, kind)), None)
    if wrapper is not None:
        return wrapper.format(name)
    if getattr(module, "_compiled_call_impl", None) is not None:
        return f"{name}.compile() was called, and memory of compiled code is not that of its ops: trace it before that"
    if getattr(module, "sparse", False) is True:
        return (
            "its gradient is sparse, and how large that is depends on the values of a batch: "
            f"set {name}.sparse = False, or make it with sparse=False"
        )
    for kind, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
        for label, tensor in tensors.items():
            if tensor is None:
                continue
            if torch.nn.parameter.is_lazy(tensor):
                return f"its {kind} {label} has no shape before the first batch: call the model on one, then trace it"
            if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
                return f"its {kind} {label} is sparse, quantized or nested: trace the model with a dense one"
    return ""


def _is_a(module: nn.Module, kind: str) -> bool:
    """Whether a module is of a class ("module.Class") or derived from it; nothing is imported for that."""
    return any(f"{base.__module__}.{base.__qualname__}" == kind for base in type(module).__mro__)


_WRAPPERS = {
    "torch.nn.parallel.distributed.DistributedDataParallel": (
        "it divides batches over processes and keeps buckets of gradients: trace {}.module, the model of one process"
    ),
    "torch.nn.parallel.data_parallel.DataParallel": "it divides batches over devices: trace {}.module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": (
        "its parameters are shards of other processes' too: trace the model before it is wrapped"
    ),
    "torch.distributed.fsdp._fully_shard._fully_shard.FSDPModule": (
        "its parameters are shards of other processes' too: trace the model before fully_shard"
    ),
    "torch._dynamo.eval_frame.OptimizedModule": (
        "it is compiled, and memory of compiled code is not that of its ops: trace {}._orig_mod"
    ),
    "torch.jit._script.RecursiveScriptModule": (
        "it is TorchScript, which does not run on fake tensors: trace the module that it was made from"
    ),
    "torch.jit._script.ScriptModule": (
        "it is TorchScript, which does not run on fake tensors: trace the module that it was made from"
    ),
    "torch.jit._trace.TopLevelTracedModule": (
        "it is TorchScript, which does not run on fake tensors: trace the module that it was made from"
    ),
}
