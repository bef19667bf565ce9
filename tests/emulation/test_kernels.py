"""Every op of torch's own database under `mixlab.autocast` on a CPU, beside CUDA's autocast on fake CUDA tensors.

Two questions are asked of each call. On fake tensors, where no kernel of a device runs, the rules have to be equal
without exception, whether the call returns or raises. On real tensors the dtypes have to be equal wherever both accept
the call, but for the calls in `OTHER_KERNELS`.
"""

from __future__ import annotations

import logging
import sys
import warnings
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.testing._internal.autocast_test_lists import AutocastTestLists
from torch.testing._internal.common_methods_invocations import op_db
from torch.testing._internal.opinfo.core import OpInfo
from torch.utils._pytree import tree_leaves

from mixlab import autocast
from mixlab.emulation.lists import RULES
from tests.reference.cuda_autocast import Outcome, cuda_autocast, floats, mixes, on_fakes, outcome, placed

# What a fake CUDA tensor cannot answer, by the words of its error.
UNASKABLE = {
    "not linked with support for cuda": "it asks for properties of the GPU: cuDNN's batch norm, nonzero, indexing",
    "not compiled with CUDA": "it asks for properties of the GPU: sparse tensors, histograms, CTC",
    "DataDependentOutputException": "its result or its check depends on values: item, equal, allclose",
    "DynamicOutputShapeException": "the shape of its result depends on values: unique, masked_select, lstsq",
    "to be on cpu, but it's on cuda": "it takes a tensor of the host",
    "device type cpu does not match": "it makes a tensor of the host: logspace of tensors",
}
# Where both accept a call and a real CPU returns other dtypes than a fake CUDA tensor, whatever autocast does.
OTHER_KERNELS = {
    "its kernel calls ops of the lists, which a fake does not run": """
        ldexp torch.ops.aten._safe_softmax.default mvlgamma.mvlgamma_p_1 mvlgamma.mvlgamma_p_3 mvlgamma.mvlgamma_p_5
        pinverse linalg.pinv linalg.pinv.hermitian matrix_exp
    """,
    "a CPU's kernel and CUDA's return other formats": """
        _softmax_backward_data native_group_norm native_batch_norm _native_batch_norm_legit normal
    """,
}
# Fake CPU tensors refuse an FFT of 16 bits, which cuFFT computes for powers of two.
NO_FFT_IN_16_BITS = "Unsupported dtype Half", "Unsupported dtype BFloat16"


def calls(op: OpInfo, count: int) -> Iterator[tuple[tuple[Any, ...], dict[str, Any]]]:
    """Yields the arguments of the first sample calls that have only strided tensors."""
    for sample in op.sample_inputs("cpu", torch.float32):
        arguments = (sample.input, *sample.args), sample.kwargs
        if all(leaf.layout is torch.strided for leaf in tree_leaves(arguments) if isinstance(leaf, Tensor)):
            yield arguments
            count -= 1
        if not count:
            return


def variants(op: OpInfo, arguments: Any, half: torch.dtype) -> Iterator[tuple[str, Any, bool]]:
    """Yields (name, call, whether backward follows): the op, in place, and with `out=` of either format."""
    yield "", op.op, op.supports_autograd
    if op.inplace_variant is not None:
        yield " in place", op.inplace_variant, False
    if op.supports_out:
        for dtype in (half, torch.float32):

            def into(*args: Any, dtype: torch.dtype = dtype, **kwargs: Any) -> Any:
                with torch.no_grad():
                    shapes = [(r.shape, r.dtype) for r in tree_leaves(op.op(*args, **kwargs)) if isinstance(r, Tensor)]
                device = next(leaf for leaf in tree_leaves(args) if isinstance(leaf, Tensor)).device
                out = [torch.empty(s, dtype=dtype if d.is_floating_point else d, device=device) for s, d in shapes]
                return op.op(*args, **kwargs, out=out[0] if len(out) == 1 else tuple(out))

            yield f" out={dtype}", into, False


FORMATS = {torch.float16: "fp16", torch.bfloat16: "bf16"}
OPS = [op for op in op_db if torch.float32 in op.dtypes]
LISTED = {name.partition(".")[0] for names in RULES.values() for name in names}
SAMPLE = [op for place, op in enumerate(OPS) if place % 32 == 0 or op.aten_name in LISTED]


def report(line: str) -> None:
    """Shows how much was compared, with pytest's -s."""
    sys.stdout.write(f"\n{line}\n")


@pytest.fixture(autouse=True)
def quiet():
    """Ops of the database warn, and fakes log every error that their kernels raise."""
    logging.disable(logging.CRITICAL)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
    logging.disable(logging.NOTSET)


RAISES = ("raises",)


def is_unaskable(theirs: Outcome) -> bool:
    return theirs[:1] == RAISES and any(words in theirs[1] for words in UNASKABLE)


def compare_rules(ops: list[OpInfo], half: torch.dtype, samples: int) -> Counter[str]:
    """Compares fake CPU tensors with fake CUDA tensors, and counts the calls by how it ended."""
    counts: Counter[str] = Counter()
    different = []
    for op in ops:
        for arguments in calls(op, samples):
            for mix_name, mix in mixes(half).items():
                if mix[0] is not mix[1] and len(floats(arguments)) < 2:
                    continue
                for name, call, _ in variants(op, arguments, half):
                    theirs = on_fakes(call, arguments, mix, "cuda", cuda_autocast(half))
                    if is_unaskable(theirs):
                        counts["not asked"] += 1
                        continue
                    ours = on_fakes(call, arguments, mix, "cpu", autocast("cpu", FORMATS[half]))
                    raised = ours[:1] == RAISES, theirs[:1] == RAISES
                    if ours == theirs or all(raised):
                        counts["both raise" if all(raised) else "equal"] += 1
                    elif raised[0] and any(words in ours[1] for words in NO_FFT_IN_16_BITS):
                        counts["FFT"] += 1
                    else:
                        different.append((op.full_name + name, mix_name, ours, theirs))
    assert different == []
    return counts


def compare_dtypes(ops: list[OpInfo], half: torch.dtype, samples: int) -> Counter[str]:
    """Compares real CPU tensors with fake CUDA tensors, and counts the calls by how it ended."""
    counts: Counter[str] = Counter()
    different = []
    for op in ops:
        for arguments in calls(op, samples):
            for mix_name, mix in mixes(half).items():
                if mix[0] is not mix[1] and len(floats(arguments)) < 2:
                    continue
                ours = outcome(op.op, placed(arguments, mix, "cpu"), autocast("cpu", FORMATS[half]))
                theirs = on_fakes(op.op, arguments, mix, "cuda", cuda_autocast(half))
                if RAISES in (ours[:1], theirs[:1]):
                    counts["raised"] += 1
                elif ours == theirs:
                    counts["equal"] += 1
                elif any(op.full_name in names.split() for names in OTHER_KERNELS.values()):
                    counts["other kernels"] += 1
                else:
                    different.append((op.full_name, mix_name, ours, theirs))
    assert different == []
    return counts


def test_the_rules_are_cudas_for_a_sample_of_ops_in_place_and_with_out_too():
    counts = compare_rules(SAMPLE, torch.float16, 1)
    report(f"{len(SAMPLE)} ops: {dict(counts)}")
    assert counts["equal"] > 400


def test_real_tensors_get_the_formats_of_cuda_for_a_sample_of_ops():
    counts = compare_dtypes(SAMPLE[::2], torch.float16, 1)
    report(f"{len(SAMPLE[::2])} ops: {dict(counts)}")
    assert counts["equal"] > 100


@pytest.mark.slow
@pytest.mark.parametrize("half", FORMATS, ids=str)
def test_the_rules_are_cudas_for_every_op_in_place_and_with_out_too(half):
    counts = compare_rules(OPS, half, 1)
    report(f"{len(OPS)} ops: {dict(counts)}")
    assert counts["equal"] > 3000


@pytest.mark.slow
@pytest.mark.parametrize("half", FORMATS, ids=str)
def test_real_tensors_get_the_formats_of_cuda_for_every_op(half):
    counts = compare_dtypes(OPS, half, 2)
    report(f"{len(OPS)} ops: {dict(counts)}")
    assert counts["equal"] > 1400


def gradients(op: OpInfo, half: torch.dtype, device: str) -> Iterator[tuple[str, Any, Any]]:
    """Yields (mix, formats of an op's results and gradients, formats of its arguments) on real tensors."""
    for arguments in calls(op, 1):
        for name, mix in mixes(half).items():
            if mix[0] is mix[1] or len(floats(arguments)) > 1:
                context = autocast(device, FORMATS[half])
                tensors = placed(arguments, mix, device, gradients=True)
                leaves = [str(leaf.dtype)[6:] for leaf in tree_leaves(tensors) if isinstance(leaf, Tensor)]
                yield name, outcome(op.op, tensors, context, backward=True), leaves


def test_gradients_have_the_formats_of_the_arguments():
    """As autograd requires on every device: so a backward pass works for what forward returns in any format."""
    compared, wrong = 0, []
    for op in (op for op in SAMPLE[1::3] if op.supports_autograd):
        for mix, seen, leaves in gradients(op, torch.float16, "cpu"):
            if seen[:1] != RAISES and leaves:
                compared += 1
                arrived = seen[-len(leaves) :]
                if any(kind not in ("NoneType", leaf) for kind, leaf in zip(arrived, leaves, strict=True)):
                    wrong.append((op.full_name, mix, seen, leaves))
    assert wrong == []
    assert compared > 60


@pytest.mark.gpu
@pytest.mark.parametrize("half", FORMATS, ids=str)
def test_real_cuda_tensors_get_the_formats_of_the_emulation(half):
    """With a backward pass; where either device raises, it has no kernel for the call or does not allow it."""
    counts: Counter[str] = Counter()
    different = []
    for op in (op for op in OPS if op.supports_autograd):
        theirs_by_mix = gradients(op, half, "cuda")
        for (mix, ours, _), (_, theirs, _) in zip(gradients(op, half, "cpu"), theirs_by_mix, strict=True):
            if RAISES in (ours[:1], theirs[:1]):
                counts["raised"] += 1
            elif ours == theirs:
                counts["equal"] += 1
            else:
                different.append((op.full_name, mix, ours, theirs))
    report(f"{len(OPS)} ops: {dict(counts)}")
    known = OTHER_KERNELS["a CPU's kernel and CUDA's return other formats"].split()
    assert [one for one in different if one[0] not in known] == []


LISTS = (
    *("torch_expect_builtin_promote", "methods_expect_builtin_promote", "torch_need_autocast_promote", "banned"),
    *("torch_fp16", "torch_fp32", "nn_fp16", "nn_fp32", "linalg_fp16", "methods_fp16", "methods_fp32"),
)


@pytest.mark.parametrize("name", LISTS)
def test_torchs_own_lists_of_autocast(name):
    """They hold, for each op, a call with the formats that autocast has to change."""
    owners = (Tensor,) if name.startswith("methods") else (torch, torch._C._nn, torch.linalg, torch.nn.functional)
    compared = 0
    for op, arguments, *rest in getattr(AutocastTestLists("cpu"), name, ()):
        owner = next((owner for owner in owners if hasattr(owner, op.removeprefix("linalg_"))), None)
        if owner is None or op == "einsum":  # whose arguments stand in another order
            continue
        call = getattr(owner, op.removeprefix("linalg_"))
        keywords = next((one for one in rest if isinstance(one, dict)), {})
        ours = outcome(call, (arguments, keywords), autocast("cpu", "fp16"))
        theirs = on_fakes(call, (arguments, keywords), None, "cuda", cuda_autocast(torch.float16))
        if not is_unaskable(theirs):
            assert ours == theirs or ours[:1] == theirs[:1] == RAISES, op
            assert (ours[:1] == RAISES) == (name == "banned"), op
            compared += 1
    assert compared or name == "linalg_fp16"  # which torch's lists have from 2.13 on
