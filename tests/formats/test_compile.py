"""Compiled code beside what another CPU has left in the compiler's cache."""

from __future__ import annotations

import ast
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import mixlab
from mixlab.formats._compile import vector_options

PACKAGE = Path(mixlab.__file__).parent

only_x86 = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="other CPUs have one vector width")

ROUNDING = """
for rounding in roundings:
    bits = torch.randint(-(2**31), 2**31, x.shape, dtype=torch.int32) if rounding == "stochastic" else None
    eager, fused = (
        round_to(x, "fp16", overflow="saturate", rounding=rounding, random_bits=bits, compiled=compiled)
        for compiled in (False, True)
    )
    assert torch.equal(eager, fused), f"{(eager != fused).sum()} of {x.numel()} values are wrong"
"""
STATISTICS = """
(eager, counted), (fused, told) = (
    round_with_stats(x, "fp16", overflow="saturate", compiled=compiled) for compiled in (False, True)
)
assert torch.equal(eager, fused)
assert (counted.numel, counted.non_zero, counted.underflow, counted.subnormal, counted.clipped, counted.amax) == (
    told.numel, told.non_zero, told.underflow, told.subnormal, told.clipped, told.amax
)
torch.testing.assert_close(counted.mean_square_error, told.mean_square_error, rtol=1e-5, atol=0)
"""
OPTIMIZERS = """
for make, storage in [
    *[(AdamW, Storage(dtype, dtype)) for dtype in (torch.float32, torch.bfloat16, torch.float8_e4m3fn, "dynamic8")],
    (SGD, Storage("dynamic8")),
]:
    p, q = (torch.nn.Parameter(x[:777].clone()) for _ in range(2))
    knobs = {"lr": 1e-2} | ({"momentum": 0.9} if make is SGD else {})
    fused, eager = make([p], storage=storage, compiled=True, **knobs), make([q], storage=storage, **knobs)
    for step in range(3):
        p.grad, q.grad = (x[step * 777 : (step + 1) * 777].clone() for _ in range(2))
        fused.step(), eager.step()
    torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-4)
    for name, state in eager.state[q].items():
        torch.testing.assert_close(
            fused.state[p][name].float(), state.float(), rtol=2**-7, atol=1.0 if state.element_size() == 1 else 1e-4
        )
"""
SETTING_UP = """
import torch
from mixlab import round_to, round_with_stats
from mixlab.optimizers import SGD, AdamW, Storage
torch.set_num_threads(1)
x = torch.randn(100_000, generator=torch.Generator().manual_seed(0)) * 1e3
"""


def run(program: str, cache: Path, **environment: str) -> str:
    """Runs a program with a cache of the compiler, and returns what it printed."""
    variables = {name: value for name, value in os.environ.items() if name != "ATEN_CPU_CAPABILITY"}
    variables |= {"TORCHINDUCTOR_CACHE_DIR": str(cache), "PYTHONPATH": str(PACKAGE.parent), **environment}
    variables["TORCHINDUCTOR_VEC_ISA_OK"] = (
        "1"  # what the CPU can do is not tried by compiling, which takes ten seconds
    )
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@only_x86
def test_what_was_compiled_for_wider_vectors_is_not_taken_from_a_shared_cache(tmp_path):
    program = SETTING_UP + 'roundings = ["nearest_even"]' + ROUNDING
    for capability in ("avx2", "default"):
        run(program, tmp_path, ATEN_CPU_CAPABILITY=capability)


@pytest.mark.slow
@only_x86
def test_no_compiled_function_takes_code_for_other_vectors_from_a_shared_cache(tmp_path):
    """The widest vectors come first and again; each capability is met by what the others have left."""
    roundings = 'roundings = ["nearest_even", "stochastic"]'
    program = SETTING_UP + roundings + ROUNDING + STATISTICS + OPTIMIZERS
    for capability in ("avx512", "avx2", "default", "avx512", "avx2"):
        run(program, tmp_path, ATEN_CPU_CAPABILITY=capability)


@pytest.mark.cpu_kernels
def test_the_width_is_that_which_inductor_takes_by_itself():
    from torch._inductor import config
    from torch._inductor.cpu_vec_isa import pick_vec_isa

    own = pick_vec_isa()
    with config.patch(vector_options()):
        assert pick_vec_isa() is own
    assert config.cpp.simdlen is None, "compilations of others keep their options"


def test_everything_that_is_compiled_names_its_vectors():
    """`torch.compile` and `nn.Module.compile` are called with `vector_options` alone, or by `compiled_variant`."""
    calls = []
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr == "compile":
                call = ast.unparse(node)
                if not call.startswith("re."):
                    calls.append((path.name, call))
    assert sorted(calls) == [
        ("_compile.py", "torch.compile(own, dynamic=True, options=options)"),
        ("training.py", "trainer.model.compile(options=vector_options())"),
    ]
