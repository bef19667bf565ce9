from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from mixlab.measure import Record, Series, matmul, measure_matmul, predicted_series, roofs_here
from mixlab.measure.matmul_cases import OPS, STORED, OpCase, Operands, ProductCase, default_shapes
from mixlab.measure.requests import MATMUL_FORMATS, parsed_shape
from mixlab.measure.roofs import case_named
from mixlab.measure.sensors import clock_and_power, last_cache_bytes, parsed_clock_and_power, parsed_size

SMALL = {"formats": ["fp32", "bf16"], "shapes": ["16x16x16", "2x8x8x4"], "numel": 4096, "rounds": 2, "budget_s": 20.0}
CPU = torch.device("cpu")


def samples(record: Record) -> dict[str, int]:
    return {one.name: len(one.samples) for one in record.series if not one.name.endswith("predicted")}


def test_a_record_holds_every_case_and_its_prediction():
    parts: list[float] = []
    record = measure_matmul("cpu", command="as typed", progress=parts.append, **SMALL)
    names = ["read", "write", "copy"]
    for fmt in ("fp32", "bf16"):
        names += [f"{fmt} 16x16x16", f"{fmt} 2x8x8x4"]
        names += [f"{op} {fmt} 4096" for op in ("copy", "add", "mul", "gelu", "softmax", "layer_norm")]
    assert samples(record) == dict.fromkeys(names, 2)
    assert (record.kind, record.command, record.parameters["state"]) == ("matmul", "as typed", "finished")
    assert {one.unit for one in record.series} == {"GFLOP/s", "GB/s"}
    assert [one.name for one in record.series if one.name.endswith("predicted")] == [
        f"{n}, predicted" for n in names[3:]
    ]
    assert parts == sorted(parts)
    assert parts[-1] == 1.0


def test_every_format_that_may_be_asked_for_has_its_dtypes():
    assert tuple(STORED) == MATMUL_FORMATS


def test_what_the_machine_lacks_is_named_with_the_reason(monkeypatch):
    monkeypatch.setattr(matmul, "free_bytes", lambda _device: 2**28 + 2**27)
    record = measure_matmul(
        "cpu", formats=["fp32", "tf32", "int8"], shapes=["8x8x8", "2x8x8x8", "4096x4096x8"], numel=512, rounds=1
    )
    notes = {value: name for name, value in record.parameters.items() if name.startswith("left out")}
    assert notes["tf32"] == "left out, only CUDA multiplies in it"
    assert notes["fp32 4096x4096x8, int8 4096x4096x8"] == "left out, more than memory holds, of which 0.4 GiB are free"
    assert "torch says" in notes["int8 2x8x8x8"]


def test_a_case_that_takes_longer_than_the_budget_is_named(monkeypatch):
    monkeypatch.setattr(matmul, "_GUESSED_BANDWIDTH", {"cpu": 1e3})
    with pytest.raises(ValueError, match="nothing can be measured here: .*longer than the budget allows"):
        measure_matmul("cpu", formats=["fp32"], shapes=["8x8x8"], numel=4096, budget_s=0.001)


@pytest.mark.parametrize("fmt", [name for name in STORED if name != "tf32"])
def test_a_case_computes_what_its_name_says(fmt: str):
    stored, out = STORED[fmt]
    generator = torch.Generator().manual_seed(0)
    x, y = (torch.randint(-3, 4, (16 * 32,), generator=generator).to(torch.float32) for _ in range(2))
    operands = Operands(x.to(stored), y.to(stored), torch.zeros(16 * 16, dtype=out))
    case = ProductCase(fmt, 16, 16, 32)
    try:
        result = case.call(operands)()
    except RuntimeError:
        pytest.skip(f"torch has no {fmt} here")
    assert torch.equal(result.float(), x.view(16, 32) @ y.view(16, 32).T)  # sums of at most 9 * 32: exact in all
    assert (case.flops, case.numels) == (2 * 16 * 16 * 32, (512, 512, 256))
    assert case.read_bytes == 1024 * stored.itemsize
    assert case.written_bytes == 256 * out.itemsize


def test_a_batch_multiplies_each_pair():
    x, y = (torch.randn(2 * 4 * 3, generator=torch.Generator().manual_seed(n)) for n in (0, 1))
    result = ProductCase("fp32", 4, 4, 3, batch=2).call(Operands(x, y, torch.zeros(32)))()
    assert torch.equal(result, torch.bmm(x.view(2, 4, 3), y.view(2, 4, 3).mT))


@pytest.mark.parametrize("op", OPS)
def test_an_op_computes_what_its_name_says(op: str):
    x, y, out = (torch.randn(8192, generator=torch.Generator().manual_seed(n)) for n in range(3))
    expected = {
        "read": torch.dot(x, y),
        "write": torch.ones(8192),
        "copy": x,
        "add": x + y,
        "mul": x * y,
        "gelu": torch.nn.functional.gelu(x),
        "softmax": torch.softmax(x.view(2, 4096), -1).flatten(),
        "layer_norm": torch.nn.functional.layer_norm(x.view(2, 4096), (4096,)).flatten(),
    }[op]
    case = OpCase(op, "fp32", 8192)
    result = case.call(Operands(x, y, out))()
    assert torch.equal(result.flatten() if op != "read" else result, expected)
    assert 4 * 8192 * sum(OPS[op][:2]) == case.read_bytes + case.written_bytes


def of(name: str, value: float, unit: str = "GFLOP/s") -> Series:
    return Series(name, unit, (value,))


def test_predictions_follow_the_slower_of_computing_and_moving():
    measured = [of("read", 20.0, "GB/s"), of("write", 10.0, "GB/s"), of("copy", 15.0, "GB/s")]
    measured += [of("fp32 1000x1000x1000", 100.0), of("fp32 1x8192x8192", 9.0), of("copy fp32 1000", 15.0, "GB/s")]
    measured += [of("bf16 2x8x8x8", 1.0)]  # has no peak: no product that is nearly square and no batch
    predicted = {one.name: one.median for one in predicted_series(measured)}
    assert predicted.keys() == {
        f"{name}, predicted" for name in ("fp32 1000x1000x1000", "fp32 1x8192x8192", "copy fp32 1000")
    }
    assert predicted["fp32 1000x1000x1000, predicted"] == pytest.approx(100.0)
    seconds = (8192 * 8192 + 8192) * 4 / 20e9 + 8192 * 4 / 10e9
    assert predicted["fp32 1x8192x8192, predicted"] == pytest.approx(2 * 8192 * 8192 / 1e9 / seconds)
    assert predicted["copy fp32 1000, predicted"] == pytest.approx(2 / (1 / 20 + 1 / 10))
    assert predicted_series(measured[2:]) == ()


def test_a_record_has_one_roof_for_each_format():
    record = measure_matmul("cpu", **SMALL)
    roofs = {roof.format: roof for roof in roofs_here(record)}
    assert roofs.keys() == {"fp32", "bf16"}
    for fmt, roof in roofs.items():
        assert roof.peak_flops == pytest.approx(1e9 * record[f"{fmt} 16x16x16"].median)
        assert roof.bandwidth == pytest.approx(1e9 * max(record["read"].median, record["copy"].median))
    with pytest.raises(ValueError, match="must be of kind matmul, got 'cast'"):
        roofs_here(Record("cast", record.machine, record.date, 0, "x", {}, ()))
    assert roofs_here(Record("matmul", record.machine, record.date, 0, "x", {}, ())) == ()


@pytest.mark.parametrize(
    "name", ["read", "clock", "fp32 x", "fp32 0x1x1", "fp99 8x8x8", "gelu fp32 0", "gelu fp32", ""]
)
def test_a_name_that_is_no_case_is_none(name: str):
    assert case_named(name) is None


def test_case_names_come_back():
    for case in (ProductCase("bf16", 3, 4, 5), ProductCase("int8", 3, 4, 5, 6), OpCase("gelu", "fp16", 4096)):
        assert case_named(case.name) == case


def test_a_measurement_that_was_interrupted_goes_on(tmp_path: Path, monkeypatch):
    path = tmp_path / "r.json"
    calls = []

    def stop_later(part: float) -> None:
        calls.append(part)
        if len(calls) == 7:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        measure_matmul("cpu", path=path, command="first", progress=stop_later, **SMALL)
    half = Record.load(path)
    assert str(half.parameters["state"]).startswith("unfinished")
    assert samples(half)
    assert len(samples(half)) < 19
    whole = measure_matmul("cpu", path=path, command="second", **SMALL)
    assert Record.load(path) == whole
    assert set(samples(whole).values()) == {2}
    for series in half.series:
        if not series.name.endswith("predicted"):
            assert whole[series.name].samples[: len(series.samples)] == series.samples
    assert (whole.parameters["state"], whole.command, whole.date) == ("finished", "first", half.date)
    assert float(whole.parameters["spent_s"]) >= float(half.parameters["spent_s"])
    before = path.read_bytes()
    assert measure_matmul("cpu", path=path, **SMALL) == whole
    assert path.read_bytes() == before


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_a_record_that_is_continued(tmp_path: Path, how: signal.Signals):
    path = tmp_path / "r.json"
    options = ["--device=cpu", "--formats=fp32", "--shapes=16x16x16,8x8x8", "--numel=4096", "--budget=500"]
    command = [sys.executable, "-m", "mixlab", "measure", "matmul", *options, f"--out={path}"]
    # A session that runs in the background ignores SIGINT, and so would its children.
    slow = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
    slow += "import mixlab.measure.matmul as m, time, runpy, sys; take = m._Measurement._sample\n"
    slow += "m._Measurement._sample = lambda self, turn: (time.sleep(0.2), take(self, turn))[1]\n"
    slow += f"sys.argv = {['mixlab', *command[3:]]!r}; runpy.run_module('mixlab', run_name='__main__')"
    root = Path(matmul.__file__).parents[2]
    child = subprocess.Popen([sys.executable, "-c", slow], stderr=subprocess.PIPE, text=True, cwd=root)
    waited_s = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < waited_s
        assert child.poll() is None
        time.sleep(0.05)
    os.kill(child.pid, how)
    told = child.communicate(timeout=60)[1]
    half = Record.load(path)
    assert str(half.parameters["state"]).startswith("unfinished")
    if how == signal.SIGINT:
        assert child.returncode == 130
        assert "keeps what was measured; the same command continues it" in " ".join(told.split())
    done = subprocess.run([*command, "--json"], capture_output=True, text=True, cwd=root, check=True)
    assert '"state": "finished"' in done.stdout
    whole = Record.load(path)
    assert whole["read"].samples[: len(half["read"].samples)] == half["read"].samples


def test_what_cannot_be_continued_is_refused_and_kept(tmp_path: Path):
    path = tmp_path / "r.json"
    record = measure_matmul("cpu", path=path, **SMALL)
    before = path.read_bytes()
    with pytest.raises(ValueError, match="cannot be continued: seed was 0 and is 1. Choose another file"):
        measure_matmul("cpu", path=path, seed=1, **SMALL)
    with pytest.raises(ValueError, match=r"budget_s was 20.0 and is 30.0"):
        measure_matmul("cpu", path=path, **{**SMALL, "budget_s": 30.0})
    assert path.read_bytes() == before
    Record(record.kind, {**record.machine, "cpu": "a 486"}, *list(vars(record).values())[2:]).save(path)
    with pytest.raises(ValueError, match="cpu was 'a 486' and is "):
        measure_matmul("cpu", path=path, **SMALL)
    Record("cast", *list(vars(record).values())[1:]).save(path)
    with pytest.raises(ValueError, match="is a record of kind cast, not matmul; it is kept"):
        measure_matmul("cpu", path=path, **SMALL)
    path.write_text("{")
    with pytest.raises(ValueError, match="is not a record"):
        measure_matmul("cpu", path=path, **SMALL)
    assert path.read_text() == "{"


def test_a_case_that_raises_later_keeps_its_samples(monkeypatch):
    seen: dict[str, int] = {}

    def raising(self: ProductCase, operands: Operands):
        whole = original(self, operands)

        def call() -> object:
            seen[self.name] = seen.get(self.name, 0) + 1
            if self.name == "fp32 9x9x9":
                raise RuntimeError("CUBLAS_STATUS_NOT_SUPPORTED\nmore")
            return whole()

        return call

    original = ProductCase.call
    monkeypatch.setattr(ProductCase, "call", raising)
    record = measure_matmul("cpu", formats=["fp32"], shapes=["9x9x9", "8x8x8"], numel=64, rounds=2)
    assert record.parameters["left out, torch says: CUBLAS_STATUS_NOT_SUPPORTED"] == "fp32 9x9x9"
    assert "fp32 9x9x9" not in samples(record)
    assert samples(record)["fp32 8x8x8"] == 2


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"formats": ["fp17"]}, "unknown format 'fp17': did you mean fp1"),
        ({"formats": []}, "formats must be a list of fp32, tf32"),
        ({"formats": "fp32"}, "formats must be a list of fp32, tf32"),
        ({"formats": [16]}, "unknown format '16'"),
        ({"shapes": ["8x8x0"]}, "k of 8x8x0 must be a whole number from 1 to 2147483647, got 0"),
        ({"shapes": ["8x-1x8"]}, "n of 8x-1x8 must be a whole number from 1"),
        ({"shapes": [f"8x8x{10**15}"]}, "must be a whole number from 1 to 2147483647"),
        ({"shapes": ["8x8"]}, "a shape must be MxNxK or BATCHxMxNxK, such as 1024x1024x512, got '8x8'"),
        ({"shapes": [8]}, "a shape must be MxNxK"),
        ({"shapes": ["8x8x" + "9" * 400]}, "a shape must be MxNxK"),
        ({"shapes": "8x8x8"}, "shapes must be a list"),
        ({"formats": ["fp32"], "shapes": []}, None),
        ({"numel": 0}, "numel must be a whole number from 1 to 2147483647, got 0"),
        ({"numel": 10**400}, "numel must be a whole number from 1 to 2147483647"),
        ({"budget_s": 0}, "budget_s must be a number of seconds above 0, got 0"),
        ({"budget_s": float("nan")}, "budget_s must be a number of seconds above 0, got nan"),
        ({"budget_s": True}, "budget_s must be a number of seconds above 0, got True"),
        ({"budget_s": 10**400}, "budget_s must be a number of seconds above 0"),
        ({"budget_s": "60"}, "budget_s must be a number of seconds above 0, got '60'"),
        ({"rounds": 0}, "rounds must be a whole number from 1 up, got 0"),
        ({"threads": 1.0}, "threads must be a whole number from 1 up, got 1.0"),
        ({"seed": -1}, "seed must be a whole number from 0 to 9223372036854775807, got -1"),
        ({"device": "tpu"}, "device must be cpu, cuda or cuda:<number>"),
        ({"formats": ["tf32"], "shapes": ["8x8x8"], "device": "cpu"}, None),
    ],
)
def test_bad_input_is_refused_in_words(arguments, words):
    if words is None:  # the ops remain
        assert measure_matmul(**{"device": "cpu", "numel": 64, "rounds": 1, **arguments}).series
        return
    with pytest.raises(ValueError, match=words):
        measure_matmul(**{"device": "cpu", **arguments})


def test_more_than_memory_holds_is_said(monkeypatch):
    monkeypatch.setattr(matmul, "free_bytes", lambda _device: 2**30)
    with pytest.raises(ValueError, match="nothing can be measured here: .*more than memory holds"):
        measure_matmul("cpu", formats=["int8"], shapes=["100000000x1x100000"], numel=2**31 - 1)


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
@pytest.mark.parametrize("numel", [4096, 1 << 22, 1 << 28])
def test_default_shapes_are_shapes(kind: str, numel: int):
    shapes = default_shapes(kind, numel)
    assert len(set(shapes)) == len(shapes)
    assert all(min(parsed_shape(shape)[1:]) >= 1 for shape in shapes)
    parsed = [parsed_shape(shape) for shape in shapes]
    assert any(k % 8 and m == n == k for _, m, n, k in parsed)
    assert any(batch for batch, *_ in parsed)


def test_what_the_system_says():
    assert [parsed_size(text) for text in ("2048K\n", "1M", "32", "", "x", "-1K")] == [2**21, 2**20, 32, 0, 0, 0]
    assert last_cache_bytes(CPU) >= 2**15
    assert parsed_clock_and_power("1980, 512.30\n1, 2\n") == {"clock": 1980.0, "power": 512.3}
    assert parsed_clock_and_power("1980, [N/A]") == {"clock": 1980.0}
    assert parsed_clock_and_power("") == {}
    assert clock_and_power(CPU) == {}


@pytest.mark.gpu
def test_a_gpu_is_measured_in_its_own_formats(tmp_path: Path):
    record = measure_matmul("cuda", shapes=["2048x2048x2048", "1023x1023x1023"], numel=1 << 24, budget_s=30)
    assert record["bf16 2048x2048x2048"].median > record["fp32 2048x2048x2048"].median
