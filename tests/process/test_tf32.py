"""Both of torch's ways to set tf32 are written, and put back as they were, whichever was used before."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

# Each in a Python of its own: what is set cannot be unset.
USED_BEFORE = {
    "nothing": "",
    "old, products": "torch.backends.cuda.matmul.allow_tf32 = True",
    "old, convolutions": "torch.backends.cudnn.allow_tf32 = False",
    "old, high": "torch.set_float32_matmul_precision('high')",
    "old, medium": "torch.set_float32_matmul_precision('medium')",
    "new, all": "torch.backends.fp32_precision = 'tf32'",
    "new, all ieee": "torch.backends.fp32_precision = 'ieee'",
    "new, products": "torch.backends.cuda.matmul.fp32_precision = 'tf32'",
    "new, convolutions": "torch.backends.cudnn.conv.fp32_precision = 'ieee'",
    "both": "torch.set_float32_matmul_precision('medium'); torch.backends.cuda.matmul.fp32_precision = 'ieee'",
}
PROGRAM = """
import json, sys, threading, torch
from mixlab import arithmetic
from mixlab.process.settings import SETTINGS

OPERATIONS = ("matmul", "conv", "rnn")

def said():
    new = [torch._C._get_fp32_precision_getter("cuda", one) for one in OPERATIONS]
    new += [torch._C._get_fp32_precision_getter("mkldnn", "matmul")]
    for old in (torch._C._get_cublas_allow_tf32, torch._C._get_cudnn_allow_tf32, torch.get_float32_matmul_precision):
        try:
            new.append(old())
        except RuntimeError:
            new.append("mixed")
    return new

for statement in json.loads(sys.argv[1]):
    exec(statement)
    before = said()
    for compute, precision in (("tf32", "tf32"), ("fp16", "ieee"), ("fp32", "ieee")):
        with arithmetic("cuda", compute):
            within = said()
            assert within[:3] == [precision] * 3, (statement, within)
            assert within[4:6] == [precision == "tf32"] * 2, (statement, within)  # model code may read the old ones
        assert said() == before, (statement, before, said())

    def alternate(compute):
        for _ in range(50):
            with arithmetic("cuda", compute):
                assert said()[0] == ("tf32" if compute == "tf32" else "ieee")

    threads = [threading.Thread(target=alternate, args=(compute,)) for compute in ("tf32", "fp32")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert said() == before, (statement, before, said())
"""


@pytest.mark.parametrize("name", ["one after the other", "both"])
def test_whatever_was_set_before_is_put_back(name: str):
    statements = list(USED_BEFORE.values()) if name == "one after the other" else [USED_BEFORE[name]]
    subprocess.run([sys.executable, "-c", PROGRAM, json.dumps(statements)], check=True)
