"""Models that others wrote, with random weights from tiny configs: nothing is downloaded.

Everything here that imports their packages does so inside functions, so that the files can be collected without them.
"""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import torch

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

_DETECTION = "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
_LIBRARIES: list[torch.library.Library] = []  # an op is gone when its library is


def _name_ops_of_torchvision() -> None:
    """Defines the ops that `import torchvision` registers fakes for, if its library of ops does not fit this torch.

    A torchvision for CUDA beside a torch for CPUs is such a case. No model here calls these ops.
    """
    found = find_spec("torchvision")
    if found is None or found.origin is None or _loads(Path(found.origin).with_name("_C.so")):
        return
    library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        library.define(name + _DETECTION)
    _LIBRARIES.append(library)


def _loads(path: Path) -> bool:
    try:
        torch.ops.load_library(path)
    except OSError:
        return False
    return True


_name_ops_of_torchvision()
