from __future__ import annotations

import pytest

from mixlab.machine import Gpu
from mixlab.memory import GPUS, GpuSpec, gpu_spec
from mixlab.memory.gpus import named_by_driver

GIB = 2**30


def test_there_are_plenty():
    assert len(GPUS) >= 14
    assert all(name == gpu.name for name, gpu in GPUS.items())


@pytest.mark.parametrize("name", GPUS)
def test_numbers_are_those_of_a_gpu(name):
    gpu = GPUS[name]
    assert gpu.source
    assert 0.909 < gpu.usable_bytes / gpu.memory_bytes < 1.0  # the least: a T4, whose ECC takes a sixteenth
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
    """What PyTorch reports, not nvidia-smi's total: 140.40 GiB on an H200, 23.99 GiB on an RTX 4090."""
    assert gpu_spec("h200").usable_bytes == int(139.72 * GIB)
    assert gpu_spec("rtx-4090").usable_bytes < 23.7 * GIB
    own = GpuSpec("mine", 48 * GIB, 1e12, {"bf16": 2e14})
    assert own.seen_bytes is None
    assert own.usable_bytes == int(0.91 * 48 * GIB)


def test_where_sources_disagree_a_question_mark_says_so():
    for name in ("b200", "gb200"):
        assert "?" in GPUS[name].source
        assert "fp32" in GPUS[name].source.partition("?")[2]


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
    with pytest.raises(ValueError, match="peak_flops must be keyed by fp32, tf32, fp16, bf16, fp8, fp4, got 'int8'"):
        GpuSpec("x", 1, 1e12, {"int8": 1.0})


TFLOPS = {  # dense, in bf16 or else fp16, by the name that the driver gives; None for what is not known
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H100 PCIe": 756,
    "NVIDIA H100 NVL": None,
    "NVIDIA H100": None,
    "NVIDIA H100 80GB HBM3 MIG 1g.10gb": None,
    "NVIDIA H800": None,
    "NVIDIA H20": None,
    "NVIDIA H200": 989.4,
    "NVIDIA H200 NVL": None,
    "NVIDIA GH200 480GB": None,
    "NVIDIA GH200 144G HBM3e": None,
    "NVIDIA B200": 2250,
    "NVIDIA GB200": 2500,
    "NVIDIA B300 SXM6 AC": None,
    "NVIDIA A100-SXM4-40GB": 312,
    "A100-SXM4-40GB": 312,
    "NVIDIA A100-SXM4-80GB": 312,
    "NVIDIA A100-PCIE-40GB": 312,
    "NVIDIA A100 80GB PCIe": 312,
    "NVIDIA A100-SXM4-40GB MIG 3g.20gb": None,
    "NVIDIA A100X": None,
    "NVIDIA A800-SXM4-80GB": None,
    "NVIDIA A10": 125,
    "NVIDIA A10G": None,
    "NVIDIA A10M": None,
    "NVIDIA A16": None,
    "NVIDIA A2": None,
    "NVIDIA A30": None,
    "NVIDIA A40": None,
    "NVIDIA RTX A1000": None,
    "NVIDIA RTX A1000 Laptop GPU": None,
    "NVIDIA RTX A6000": 154.8,
    "NVIDIA RTX 6000 Ada Generation": None,
    "NVIDIA RTX PRO 6000 Blackwell Server Edition": None,
    "NVIDIA L4": 121,
    "NVIDIA L40": None,
    "NVIDIA L40S": 362,
    "NVIDIA L20": None,
    "NVIDIA GeForce RTX 3090": 71,
    "NVIDIA GeForce RTX 3090 Ti": None,
    "NVIDIA GeForce RTX 4090": 165.2,
    "NVIDIA GeForce RTX 4090 D": None,
    "NVIDIA GeForce RTX 4090 Laptop GPU": None,
    "NVIDIA GeForce RTX 5090": 209.5,
    "NVIDIA GeForce RTX 5090 Laptop GPU": None,
    "Tesla T4": 65,
    "NVIDIA T400": None,
    "NVIDIA T4G": None,
    "NVIDIA T1000": None,
    "Tesla V100-SXM2-16GB": 125,
    "Tesla V100-SXM2-32GB": 125,
    "Tesla V100-SXM3-32GB": None,
    "Tesla V100-PCIE-16GB": None,
    "Tesla K80": None,
    "Tesla P100-PCIE-16GB": None,
    "NVIDIA TITAN V": None,
    "AMD Instinct MI300X": 1307.4,
    "AMD Instinct MI300A": None,
    "": None,
    "H": None,
}


@pytest.mark.parametrize("name", TFLOPS)
def test_a_name_of_a_driver_is_known_as_a_whole_or_not_at_all(name):
    peaks = {spec.peak_flops.get("bf16", spec.peak_flops["fp16"]) / 1e12 for spec in named_by_driver(name)}
    assert peaks == ({TFLOPS[name]} if TFLOPS[name] else set())


def test_size_decides_between_gpus_of_one_name():
    assert gpu_spec(Gpu("Tesla V100-SXM2-16GB", int(15.8 * GIB), (7, 0))).memory_bytes == 16 * GIB
    assert gpu_spec(Gpu("Tesla V100-SXM2-32GB", int(31.7 * GIB), (7, 0))).memory_bytes == 32 * GIB
