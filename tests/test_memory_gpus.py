from __future__ import annotations

import pytest

from mixlab.machine import Gpu
from mixlab.memory.gpus import GPUS, GpuSpec, gpu_spec

GIB = 2**30


def test_there_are_plenty():
    assert len(GPUS) >= 14
    assert all(name == gpu.name for name, gpu in GPUS.items())


@pytest.mark.parametrize("name", GPUS)
def test_numbers_are_those_of_a_gpu(name):
    gpu = GPUS[name]
    assert gpu.source
    assert 0.93 <= gpu.usable_bytes / gpu.memory_bytes <= 1.0
    assert 3e11 <= gpu.bandwidth <= 8e12
    peaks = gpu.peak_flops
    assert peaks["fp32"] < peaks["fp16"]
    assert peaks.get("bf16", peaks["fp16"]) == peaks["fp16"]  # dense, not one of them with sparsity
    for wide, narrow in (("tf32", "fp16"), ("fp16", "fp8"), ("fp8", "fp4")):
        if wide in peaks and narrow in peaks:
            assert peaks[narrow] / peaks[wide] == pytest.approx(
                4 if name == "rtx-5090" and narrow == "fp4" else 2, rel=0.03
            )


def test_memory_is_as_seen_or_estimated():
    assert gpu_spec("h200").usable_bytes == 143_771 * 2**20
    assert gpu_spec("mi355x").seen_bytes is None
    assert gpu_spec("mi355x").usable_bytes == int(0.94 * 288 * GIB)


@pytest.mark.parametrize("text", ["H100 SXM", "h100_sxm", " h100-sxm "])
def test_names_are_read_as_people_write_them(text):
    assert gpu_spec(text) is GPUS["h100-sxm"]


def test_a_gpu_of_ones_own_passes():
    own = GpuSpec("mine", 48 * GIB, 1e12, {"bf16": 2e14})
    assert gpu_spec(own) is own
    assert str(own) == "mine"


@pytest.mark.parametrize(
    ("name", "gib", "same"),
    [
        ("NVIDIA H100 80GB HBM3", 79.1, "h100-sxm"),
        ("NVIDIA H100 PCIe", 79.1, "h100-pcie"),
        ("NVIDIA H200", 139.8, "h200"),
        ("NVIDIA A100-SXM4-40GB", 39.4, "a100-40gb"),
        ("NVIDIA A100 80GB PCIe", 79.1, "a100-80gb"),
        ("NVIDIA GeForce RTX 4090", 23.6, "rtx-4090"),
        ("Tesla T4", 14.7, "t4"),
        ("NVIDIA A10G", 22.0, None),
        ("NVIDIA GeForce RTX 4090", 47.4, None),
    ],
)
def test_a_gpu_of_this_machine_is_recognised(name, gib, same):
    gpu = Gpu(name, int(gib * GIB), (9, 0))
    if same is None:
        with pytest.raises(ValueError, match=f"{name} with {gib:.0f} GiB is not among v100-16gb, .*GpuSpec"):
            gpu_spec(gpu)
        return
    assert gpu_spec(gpu).peak_flops == GPUS[same].peak_flops
    assert gpu_spec(gpu).usable_bytes == gpu.memory_bytes


def test_mistakes_are_named():
    with pytest.raises(ValueError, match="unknown GPU 'H100': did you mean h100-pcie or h100-sxm"):
        gpu_spec("H100")
    with pytest.raises(ValueError, match="unknown GPU 'rtx 4080': did you mean rtx-4090"):
        gpu_spec("rtx 4080")
    with pytest.raises(TypeError, match="gpu must be a name such as 'h200', a GpuSpec or a machine's Gpu, got 80"):
        gpu_spec(80)
    with pytest.raises(ValueError, match="GpuSpec x: memory_bytes must be a positive number, got -1"):
        GpuSpec("x", -1, 1e12, {})
    with pytest.raises(ValueError, match="GpuSpec x: bf16 must be a positive number, got 0"):
        GpuSpec("x", 1, 1e12, {"bf16": 0})
    with pytest.raises(
        ValueError, match="peak_flops are by format, one of fp32, tf32, fp16, bf16, fp8, fp4, got 'int8'"
    ):
        GpuSpec("x", 1, 1e12, {"int8": 1.0})
