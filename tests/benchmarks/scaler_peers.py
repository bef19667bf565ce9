"""Holds the policies of DeepSpeed and Megatron against these systems' own sources, on random overflow sequences.

    pip download --no-deps --no-binary :all: --dest /tmp/peers deepspeed
    pip download --no-deps --dest /tmp/peers megatron-core
    python tests/benchmarks/scaler_peers.py /tmp/peers

Only the modules with the scalers are loaded, with empty stand-ins for what they import and do not need here.
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import MagicMock

import numpy as np

from mixlab.loss_scaling import DeepSpeedPolicy, MegatronPolicy, ScalePolicy, simulate
from tests.loss_scaling.test_policies import random_knobs


def main(folder: str, sequences: str = "10000") -> None:
    sdist = next(Path(folder).glob("deepspeed-*.tar.gz"))
    wheel = next(Path(folder).glob("megatron_core-*.whl"))
    with tarfile.open(sdist) as tar:
        member = next(name for name in tar.getnames() if name.endswith("runtime/fp16/loss_scaler.py"))
        deepspeed = tar.extractfile(member).read().decode()
    megatron = zipfile.ZipFile(wheel).read("megatron/core/optimizer/grad_scaler.py").decode()
    compare(sdist.name, DeepSpeedPolicy, deepspeed_scaler(deepspeed), int(sequences))
    compare(wheel.name, MegatronPolicy, megatron_scaler(megatron), int(sequences))


def deepspeed_scaler(source: str) -> Any:
    stand_ins = {
        "deepspeed": MagicMock(),
        "deepspeed.runtime": MagicMock(),
        "deepspeed.runtime.config_utils": MagicMock(DeepSpeedConfigObject=object),
        "deepspeed.utils": MagicMock(),
        "deepspeed.runtime.utils": MagicMock(),
    }
    module = load(source, stand_ins)

    def make(knobs: dict[str, Any]) -> tuple[Any, Any]:
        scaler = module.DynamicLossScaler(
            knobs["init_scale"],
            knobs["growth_interval"],
            knobs["min_scale"],
            knobs["hysteresis"],
            knobs["consecutive_hysteresis"],
        )
        return scaler.update_scale, lambda: scaler.cur_scale

    return make


def megatron_scaler(source: str) -> Any:
    module = load(source.replace("device='cuda'", "device='cpu'"), {})

    def make(knobs: dict[str, Any]) -> tuple[Any, Any]:
        names = {"init_scale": "initial_scale"}
        scaler = module.DynamicGradScaler(**{names.get(name, name): value for name, value in knobs.items()})
        return scaler.update, lambda: scaler.scale.item()

    return make


def load(source: str, stand_ins: dict[str, Any]) -> ModuleType:
    sys.modules.update(stand_ins)
    module = ModuleType("peer")
    sys.modules["peer"] = module
    exec(compile(source, "peer", "exec"), module.__dict__)
    return module


def compare(name: str, policy: type[ScalePolicy], make: Any, sequences: int) -> None:
    rng = np.random.default_rng(1)
    different = ended = 0
    for _ in range(sequences):
        knobs = {key: value for key, value in random_knobs(rng).items() if key in policy.__dataclass_fields__}
        overflows = list(map(bool, rng.random(rng.integers(1, 40)) < rng.choice([0.05, 0.3, 0.8])))
        update, scale = make(knobs)
        scales = []
        for overflow in overflows:
            try:
                update(overflow)
            except Exception as error:
                if "already at minimum" not in str(error):
                    raise
                ended += 1
                break
            scales.append(scale())
        different += list(simulate(policy(**knobs), overflows).scales[1:]) != scales
    print(f"{name}: {different} of {sequences} sequences differ; {ended} ended at the minimum")


if __name__ == "__main__":
    main(*sys.argv[1:])
