"""torch's tf32 switches for matrix products and convolutions on CUDA, as one process-wide setting.

torch has two interfaces to them, `allow_tf32` and, since 2.9, `fp32_precision`. It keeps both, and the getters of the
older one raise if they disagree (PyTorch, aten/src/ATen/Context.cpp). Both are written here, so that model code and
torch.compile may read either, and both are restored, even if they disagreed. A precision that was set explicitly to the
value it would inherit cannot be told from an inherited one, and is restored as inherited.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch

from mixlab.process.settings import Setting

_OPERATIONS = ("matmul", "conv", "rnn")


class Switches(NamedTuple):
    """The values of both interfaces.

    Attributes:
        matmul: `torch.backends.cuda.matmul.allow_tf32`.
        cudnn: `torch.backends.cudnn.allow_tf32`.
        precisions: `fp32_precision` of matrix products, convolutions and recurrent layers: "ieee", "tf32" or "none".
        medium: Whether `torch.set_float32_matmul_precision` was last called with "medium", which on CUDA means "high".
    """

    matmul: bool
    cudnn: bool
    precisions: tuple[str, ...]
    medium: bool = False


ON = Switches(True, True, ("tf32",) * 3)
OFF = Switches(False, False, ("ieee",) * 3)


def _read() -> Switches:
    precisions = tuple(torch._C._get_fp32_precision_getter("cuda", one) for one in _OPERATIONS)
    try:
        medium = torch.get_float32_matmul_precision() == "medium"
    except RuntimeError:
        medium = False
    try:
        return Switches(torch._C._get_cublas_allow_tf32(), torch._C._get_cudnn_allow_tf32(), precisions, medium)
    except RuntimeError:  # they disagree: make the newer agree with the older, and ask again
        try:
            matmul, cudnn = _agreed(torch._C._get_cublas_allow_tf32), _agreed(torch._C._get_cudnn_allow_tf32)
            return Switches(matmul, cudnn, precisions, medium)
        finally:
            _write_precisions(precisions)


def _agreed(ask: Callable[[], bool]) -> bool:
    try:
        _write_precisions(ON.precisions)
        return ask()
    except RuntimeError:
        _write_precisions(OFF.precisions)
        return ask()


def _write(switches: Switches) -> None:
    if switches.medium:
        onednns = torch._C._get_fp32_precision_getter("mkldnn", "matmul")
        torch.set_float32_matmul_precision("medium")  # sets oneDNN's too
        torch._C._set_fp32_precision_setter("mkldnn", "matmul", onednns)
    else:
        torch._C._set_cublas_allow_tf32(switches.matmul)
    torch._C._set_cudnn_allow_tf32(switches.cudnn)
    _write_precisions(switches.precisions)


def _write_precisions(precisions: tuple[str, ...]) -> None:
    for operation, precision in zip(_OPERATIONS, precisions, strict=True):
        torch._C._set_fp32_precision_setter("cuda", operation, "none")
        if torch._C._get_fp32_precision_getter("cuda", operation) != precision:
            torch._C._set_fp32_precision_setter("cuda", operation, precision)


TF32_SWITCHES: Setting[Switches] = Setting("tf32 on CUDA", _read, _write)
