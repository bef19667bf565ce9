"""Refuses models that cannot be traced, naming the module and saying what to do."""

from __future__ import annotations

import torch
from torch import nn


class TraceError(RuntimeError):
    """Raised for a model, loss or optimizer that cannot be traced; the message says where and what to do."""


def check_traceable(model: nn.Module) -> None:
    """Raises a TraceError if a model can train but cannot be traced."""
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
        return f"{name}.compile() was called, and compiled code needs other memory: trace the model before that"
    if getattr(module, "sparse", False) is True:
        return (
            "its gradient is sparse, and its size depends on the values of the batch: "
            f"set {name}.sparse = False, or create it with sparse=False"
        )
    for kind, tensors in (("parameter", module._parameters), ("buffer", module._buffers)):
        for label, tensor in tensors.items():
            if tensor is None:
                continue
            if torch.nn.parameter.is_lazy(tensor):
                return f"its {kind} {label} has no shape before the first batch: call the model once, then trace it"
            if _is_a(tensor, _DIVIDED):
                return f"its {kind} {label} is a DTensor, divided over processes: trace the model before it is divided"
            if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_nested:
                return f"its {kind} {label} is sparse, quantized or nested: use a dense one"
    return ""


def _is_a(value: object, kind: str) -> bool:
    """Whether something is an instance of a class ("module.Class"), found without importing it."""
    return any(f"{base.__module__}.{base.__qualname__}" == kind for base in type(value).__mro__)


_DIVIDED = "torch.distributed.tensor.DTensor"
_WRAPPERS = {
    "torch.nn.parallel.distributed.DistributedDataParallel": (
        "it divides batches over processes and keeps buckets of gradients: trace {}.module, the model of one process"
    ),
    "torch.nn.parallel.data_parallel.DataParallel": "it divides batches over devices: trace {}.module",
    "torch.distributed.fsdp.fully_sharded_data_parallel.FullyShardedDataParallel": (
        "other processes hold shards of its parameters: trace the model before you wrap it"
    ),
    "torch.distributed.fsdp.FSDPModule": (
        "other processes hold shards of its parameters: trace the model before fully_shard"
    ),
    "torch._dynamo.eval_frame.OptimizedModule": (
        "it is compiled, and compiled code needs other memory than its ops: trace {}._orig_mod"
    ),
    "torch.jit._script.RecursiveScriptModule": (
        "it is TorchScript, which does not run on fake tensors: trace the original module"
    ),
    "torch.jit._script.ScriptModule": (
        "it is TorchScript, which does not run on fake tensors: trace the original module"
    ),
    "torch.jit._trace.TopLevelTracedModule": (
        "it is TorchScript, which does not run on fake tensors: trace the original module"
    ),
}
