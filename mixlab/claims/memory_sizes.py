"""Claims about memory: bytes per parameter, activations, and what fits."""

from __future__ import annotations

from collections.abc import Callable

from mixlab.claims.sources import ZERO, recorded_on_gpu
from mixlab.claims.trainings import counted
from mixlab.claims.verdicts import Claim, Finding, Verdict
from mixlab.memory import GPUS, StepKind, estimate, model_states, variant
from mixlab.shapes import model_shape

_STEPS_OF_ADAM: tuple[StepKind, ...] = ("foreach", "fused")  # the first is PyTorch's default on a GPU


def _peaks(case: str, *recipes: str) -> Callable[[], str]:
    def read() -> str:
        record = recorded_on_gpu("memory")
        peaks = (f"{recipe} {record[f'{case} {recipe}, peak'].median / 2**20:,.0f} MiB" for recipe in recipes)
        return f"Peaks of {case}: {', '.join(peaks)}; {record.summary}"

    return read


def _does_not_fit() -> Finding:
    largest = max(GPUS.values(), key=lambda gpu: gpu.usable_bytes)
    need = {name: 16 * model_shape(name).parameters for name in ("llama-3-8b", "llama-3-70b")}
    fitting = {name: sum(size <= gpu.usable_bytes for gpu in GPUS.values()) for name, size in need.items()}
    shown = ", ".join(
        f"{name} needs {size / 2**30:,.0f} GiB and fits on {fitting[name]}" for name, size in need.items()
    )
    return Finding.of(
        [need["llama-3-70b"] > largest.usable_bytes],
        f"16 bytes a parameter: {shown} of {len(GPUS)} GPUs ({largest} is the largest).",
    )


def _doubles_capacity() -> Finding:
    """Bytes of a parameter: the weight alone, and all that a training keeps, by recipe."""
    kept = {name: model_states(name).bytes_per_parameter for name in ("fp32", "amp-bf16", "bf16")}
    shown = ", ".join(f"{name} {size:g}" for name, size in kept.items())
    cases = [kept["fp32"] == 2 * kept["bf16"], kept["fp32"] == 2 * kept["amp-bf16"]]
    return Finding.of(cases, f"Bytes of weight, gradient and Adam's moments per parameter: {shown}.")


def _less_in_all() -> Finding:
    """Compares peaks batch by batch, with the default Adam and a fused one."""
    most = 64
    ratios = {
        (model, step): [
            estimate(model, "amp-bf16", batch=rows, seq=128, step=step).peak_bytes
            / estimate(model, "fp32", batch=rows, seq=128, step=step).peak_bytes
            for rows in range(1, most + 1)
        ]
        for model in ("gpt2", "llama-3-8b")
        for step in _STEPS_OF_ADAM
    }
    saving = ", ".join(
        f"{model} with {step} Adam at {sum(ratio < 1 for ratio in each)}" for (model, step), each in ratios.items()
    )
    default = ratios["gpt2", "foreach"]
    shown = (
        f"128 tokens a row. Of batches 1 to {most}, AMP needs less than fp32: {saving}. With foreach Adam gpt2 needs "
        f"{default[0]:.0%} of fp32 at batch 1, {default[-1]:.0%} at batch {most}."
    )
    return Finding.of((ratio < 1 for ratio in (default[0], default[-1])), shown)


def _more_per_parameter() -> Finding:
    """Compares the weight alone, and all that is kept as the optimizer steps."""
    fp32, amp = (counted(name) for name in ("fp32", "amp-fp16"))
    weight = [one.bytes_of("parameters") / one.numel for one in (fp32, amp)]
    casts = amp.bytes_of("weights cast by autocast") / amp.numel
    master = counted("fp16-master").bytes_per_parameter
    shown = (
        f"Counted bytes a parameter: the weight {weight[0]:g} in fp32, {weight[1] + casts:.3g} in AMP's forward; all "
        f"as the optimizer steps {fp32.bytes_per_parameter:g} and {amp.bytes_per_parameter:g}, and {master:g} with a "
        "stored 16-bit weight and fp32 gradients."
    )
    return Finding.of([weight[1] + casts > weight[0], amp.bytes_per_parameter > fp32.bytes_per_parameter], shown)


def _sixteen() -> Finding:
    sizes = [counted("fp32").bytes_of(name) / counted("fp32").numel for name in ("parameters", "gradients")]
    total = counted("fp32").bytes_per_parameter
    shown = (
        f"Counted in a training: weight {sizes[0]:g}, gradient {sizes[1]:g}, in all {total:g} bytes a "
        "parameter as the optimizer steps."
    )
    return Finding.of([total == 16], shown)


def _twelve() -> Finding:
    """Counts a training whose gradient and first moment are stored in bf16, and one under torch's autocast."""
    kept = {name: counted(name).bytes_per_parameter for name in ("lean-bf16", "amp-bf16")}
    most = variant("lean-bf16").most_bytes_per_parameter
    shown = (
        f"Counted bytes a parameter as the optimizer steps: lean-bf16 {kept['lean-bf16']:g}, autocast "
        f"{kept['amp-bf16']:g}; lean-bf16 with accumulated gradients and bf16 copies up to {most:g}."
    )
    return Finding.of((size == 12 for size in kept.values()), shown)


def _gradient_bytes() -> Finding:
    ledgers = {name: counted(name) for name in ("amp-bf16", "bf16-master", "lean-bf16")}
    sizes = {name: ledger.bytes_of("gradients") / ledger.numel for name, ledger in ledgers.items()}
    shown = ", ".join(f"{name} {size:g}" for name, size in sizes.items())
    return Finding.of((size == 2 for size in sizes.values()), f"Bytes of a gradient, counted: {shown}.")


def _order_of_modes() -> Finding:
    """Predicts the peaks of a GPT with few and with many tokens."""
    cases, words = [], []
    for rows in (1, 64):
        estimates = (estimate("gpt2", name, batch=rows, seq=128) for name in ("fp32", "amp-fp16", "fp16"))
        fp32, amp, pure = (one.peak_bytes / 2**20 for one in estimates)
        cases.append(fp32 > amp > pure)
        words.append(f"batch {rows}: fp32 {fp32:,.0f}, AMP {amp:,.0f}, pure fp16 {pure:,.0f} MiB")
    return Finding.of(cases, f"gpt2, 128 tokens, predicted: {'; '.join(words)}.")


CLAIMS: tuple[Claim, ...] = (
    Claim(
        "memory-wall",
        "Large models trained in full fp32 do not fit into the memory of a GPU.",
        "1. What problem is it solving?",
        f"Adam in fp32 needs 16 bytes a parameter, before activations. {ZERO}",
        Verdict.HOLDS,
        "",
        _does_not_fit,
    ),
    Claim(
        "capacity-doubles",
        "Going from 4 to 2 bytes per parameter doubles the capacity of the hardware.",
        "1. What problem is it solving?",
        f"Of weights, yes. In training, AMP keeps weights, gradients and moments in fp32. {ZERO}",
        Verdict.HOLDS_IF,
        "if everything is stored in 16 bits; under AMP a parameter takes 16 bytes, as in fp32",
        _doubles_capacity,
        _peaks("gpt2 x4", "fp32", "amp-bf16"),
    ),
    Claim(
        "more-memory-per-parameter",
        "Mixed precision uses more memory for a single parameter, since both versions are stored.",
        "4. Are we sacrificing anything?",
        f"A 16-bit copy comes on top of the fp32 weight: up to 2 bytes, for a while. {ZERO}",
        Verdict.HOLDS_IF,
        "of the weight alone, 6 bytes for 4; with gradient and moments autocast takes 16 bytes as fp32 does, "
        "and designs with a stored 16-bit weight and fp32 gradients 18",
        _more_per_parameter,
    ),
    Claim(
        "less-memory-in-all",
        "The savings in activations are so large that the overall memory drops significantly.",
        "4. Are we sacrificing anything?",
        "States do not shrink under AMP; activations do, and they grow with the tokens. Korthikanti et al., Reducing "
        "Activation Recomputation in Large Transformer Models, 2022, for their sizes.",
        Verdict.HOLDS_IF,
        "with fused attention from some batch size on; with few tokens AMP saves nothing if Adam steps by foreach, "
        "PyTorch's default, and only with some models if Adam is fused",
        _less_in_all,
        _peaks("gpt2 x4", "fp32", "amp-bf16"),
    ),
    Claim(
        "12n-bytes",
        "With mixed precision: weight 4N, gradient 2N, first moment 2N, second moment 4N, in all 12N bytes.",
        "6. Summary",
        f"A product in bf16 needs the weight in bf16: up to 2N more. torch.autocast keeps 16N. {ZERO}",
        Verdict.HOLDS_IF,
        "in a design that stores gradient and first moment in bf16; torch.autocast keeps 16N. Up to 14N if "
        "gradients are kept while bf16 copies live, as with accumulation",
        _twelve,
    ),
    Claim(
        "gradient-2n-bytes",
        "With mixed precision, a gradient takes 2 bytes.",
        "6. Summary",
        "A gradient has the format of its weight: fp32 under torch.autocast, and fp32 main gradients in Megatron-LM.",
        Verdict.HOLDS_IF,
        "if gradients are stored in bf16; torch.autocast and Megatron-LM keep fp32 gradients of 4 bytes",
        _gradient_bytes,
    ),
    Claim(
        "16n-bytes",
        "Without optimizations: 16N bytes.",
        "6. Summary",
        "Weight, gradient and two moments in fp32. While it steps, PyTorch's default Adam (foreach) takes up to 4N "
        f"more. Between steps 12N, since zero_grad() frees the gradients. {ZERO}",
        Verdict.HOLDS,
        "",
        _sixteen,
    ),
    Claim(
        "memory-of-the-modes",
        "Memory: fp32 high, AMP low, pure fp16 lowest.",
        "Comparison of training modes",
        "Pure fp16 halves everything; AMP only shrinks activations.",
        Verdict.HOLDS_IF,
        "if activations outweigh states; with few tokens AMP needs as much as fp32 under PyTorch's default Adam",
        _order_of_modes,
        _peaks("gpt2 x4", "fp32", "amp-bf16", "bf16"),
    ),
)
