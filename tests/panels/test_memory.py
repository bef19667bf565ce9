from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from mixlab import PRESETS
from mixlab.memory import GpuSpec, Parallelism, estimate, gpu_spec, suggestions
from mixlab.panels import MemoryPanel
from mixlab.shapes import SHAPES, model_shape

LLAMA = SHAPES["llama-3-8b"]


@pytest.fixture
def panel() -> MemoryPanel:
    return MemoryPanel(batch=16, gpu="t4")


def test_it_opens_as_it_is_told():
    panel = MemoryPanel(model="gpt2-xl", recipe="bf16-sr,gradients=fp32", batch=3, seq=500, gpu="h200")
    assert panel.estimate == estimate("gpt2-xl", "bf16-sr,gradients=fp32", batch=3, seq=500)
    assert panel.gpu == gpu_spec("h200")
    assert (panel._batch.value, panel._batch._place) == ("3", 1)
    assert (panel._seq.value, panel._seq._place) == ("500", 8)
    assert (panel._mode.label, panel._share.value) == ("custom, see Share", "bf16-sr,gradients=fp32")
    assert panel.last_error is None


def test_it_says_in_words_what_it_shows(panel):
    assert repr(panel) == f"MemoryPanel: {panel.status}"
    assert panel.status.startswith("gpt2 under amp-bf16, 16 x 1024 tokens. Memory peaks in backward (gradient of the")
    assert "it does not fit on t4: 2.62 GiB are missing. It fits on 17 of 19 GPUs, not on t4, v100-16gb." in repr(panel)
    assert 'role="status" aria-live="polite"' in panel._words.value
    assert panel.status in panel._words.value
    assert "t4: 14.56 GiB" in panel._bars.value
    assert "gradients" in panel._table.value
    assert "✗ <b>▶ t4</b>" in panel._row.value
    assert "What to change first" in panel._head.value


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_shows(panel, name):
    panel._mode.value = name
    assert panel.estimate.recipe == PRESETS[name]
    assert panel._share.value == name
    assert panel.last_error is None


def test_a_loss_scale_is_no_other_recipe(panel):
    panel._share.value = "amp-fp16,scale=1024"
    assert (panel._mode.value, panel._share.value) == ("amp-fp16", "amp-fp16,scale=1024")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=str)
def test_every_model_shows(panel, shape):
    panel._tensor.value = 12
    panel._model.value = shape
    assert panel.last_error is None
    assert panel.estimate.shape == shape
    assert panel._tensor.value == panel.estimate.parallel.tensor
    assert panel.changes


@pytest.mark.parametrize(
    ("control", "value", "changes"),
    [
        ("_passes", "4", {"accumulation": 4}),
        ("_attention", "materialised", {"attention": "materialised"}),
        ("_checkpointing", "full", {"checkpointing": "full"}),
        ("_step", "fused", {"step": "fused"}),
        ("_data", "8", {"parallel": Parallelism(data=8)}),
        ("_tensor", 3, {"parallel": Parallelism(tensor=3)}),
    ],
)
def test_every_control_is_a_field(panel, control, value, changes):
    before = panel.estimate
    getattr(panel, control).value = value
    assert panel.estimate == replace(before, **changes)
    assert panel.last_error is None


def test_sliders_go_by_powers_of_two_and_boxes_take_any(panel):
    batch, seq = panel._batch, panel._seq
    batch._moved(batch, {"to": 5}, None)
    assert (panel.estimate.batch, batch.value) == (32, "32")
    batch.value = "33"
    assert (panel.estimate.batch, batch._place) == (33, 5)
    batch._moved(batch, {"by": 1}, None)
    assert panel.estimate.batch == 64
    seq._moved(seq, {"to": 15}, None)  # as far as gpt2 has positions
    assert (panel.estimate.seq, seq.value, seq._place) == (1024, "1024", 10)
    panel._model.value = LLAMA
    seq._moved(seq, {"to": 15}, None)
    assert panel.estimate.seq == 2**15
    panel._model.value = SHAPES["gpt2"]
    assert panel.estimate.seq == 1024
    assert panel.last_error is None


def test_what_has_nothing_to_divide_is_disabled(panel):
    assert (panel._zero.disabled, panel._sequence.disabled) == (True, True)
    panel._data.value, panel._tensor.value = "8", 4
    assert (panel._zero.disabled, panel._sequence.disabled) == (False, False)
    panel._zero.value, panel._sequence.value = 3, True
    assert panel.estimate.parallel == Parallelism(data=8, zero=3, tensor=4, sequence=True)
    assert panel._tensor.options == (1, 2, 3, 4, 6, 12)


def test_the_gpu_is_marked(panel):
    panel._gpu_choice.value = gpu_spec("h200")
    assert panel.gpu == gpu_spec("h200")
    assert "<b>▶ h200</b>" in panel._row.value
    assert "It fits. To reduce memory further" in panel._head.value


def test_the_list_is_the_advice_and_can_be_applied(panel):
    before = panel.estimate
    every = [one for one in suggestions(before, panel.gpu) if one.saved_bytes >= 0.01 * before.total_bytes]
    assert panel.changes == every[: len(panel.changes)]
    assert panel._undo.disabled
    first = panel.changes[0]
    assert [b.description for b in panel._apply[: len(every)]] == [f"Apply: {one.change}" for one in panel.changes]
    assert f"{first.saved_bytes / 2**30:.2f} GiB less" in panel._lines[0].value
    panel._apply[0].click()
    assert panel.estimate == first.estimate
    assert panel.estimate.fits("t4")
    assert panel._batch.taken == first.estimate.batch
    panel._undo.click()
    assert panel.estimate == before
    assert panel._undo.disabled
    assert panel.last_error is None


def test_a_short_list_hides_the_rest():
    panel = MemoryPanel(model="gpt2", recipe="bf16", batch=1, seq=1)
    panel.estimate = replace(panel.estimate, checkpointing="full", step="fused", parallel=Parallelism(64, 3, 12, True))
    assert len(panel.changes) < len(panel._rows)
    assert [row.layout.display for row in panel._rows] == [None] * len(panel.changes) + ["none"] * (
        len(panel._rows) - len(panel.changes)
    )
    with pytest.raises(IndexError, match=f"there are {len(panel.changes)} changes to apply, got number 9"):
        panel.apply(9)


def test_what_is_not_allowed_is_answered_and_changes_nothing(panel):
    before = panel.estimate
    panel._share.value = "bf17"
    assert "unknown recipe 'bf17'" in str(panel.last_error)
    assert "unknown recipe 'bf17'" in panel._share.error
    assert panel._share.error.endswith("Still in use: amp-bf16")
    panel._seq.value = "4000"
    assert "seq=4000 is longer than gpt2" in str(panel.last_error)
    assert "seq=4000 is longer than gpt2" in panel._seq.error
    assert (panel.estimate, panel._share.value, panel._seq.value) == (before, "bf17", "4000")
    panel._batch.value = "2"
    assert (panel.last_error, panel.errors.value, panel._share.value, panel._seq.value) == (None, "", "bf17", "4000")
    panel._mode.value, panel._model.value = "bf16", LLAMA
    assert (panel._share.value, panel._share.error) == ("bf16", "")


@pytest.mark.parametrize("box", ["_batch", "_seq", "_passes", "_data"])
@pytest.mark.parametrize("typed", ["0", "-1", "1.5", "1,5", "1e999", "abc", "", "9" * 400, "100000000000000000000"])
def test_a_number_that_cannot_be_read_stays_with_its_reason(panel, box: str, typed: str):
    before = panel.estimate
    shown = getattr(panel, box)
    shown.value = typed
    assert f"{shown.label} must be a whole number from 1 to " in shown.error
    assert (shown.value, panel.estimate) == (typed, before)
    shown.value = "2^1"
    assert (shown.value, shown.error, panel.last_error) == ("2", "", None)


def test_a_choice_that_cannot_be_is_answered_below_it(panel, monkeypatch):
    def refuse(*_args: object, **_fields: object) -> None:
        raise ValueError("not this one")

    (row,) = (row for row in panel._answering if row.children[0] is panel._attention)
    with monkeypatch.context() as refusing:
        refusing.setattr("mixlab.panels.memory.replace", refuse)
        panel._attention.value = "materialised"
    assert "not this one" in row.children[1].value
    assert (panel._attention.value, str(panel.last_error)) == ("fused", "not this one")
    panel._batch.value = "4"
    assert (row.children[1].value, panel.last_error) == ("", None)


def test_shapes_and_gpus_of_ones_own_are_among_the_choices():
    shape = replace(SHAPES["gpt2"], name="mine", layers=3)
    gpu = GpuSpec("own", 2**36, 1e12, {"fp32": 1e13})
    panel = MemoryPanel(model=shape, gpu=gpu)
    assert (panel._model.value, panel._gpu_choice.value) == (shape, gpu)
    panel._model.value = LLAMA
    panel._model.value = shape
    assert panel.status.startswith("mine under amp-bf16")


CONFIG = {
    "model_type": "mixtral",
    "num_hidden_layers": 2,
    "hidden_size": 512,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 1024,
    "vocab_size": 5120,
    "num_local_experts": 8,
    "num_experts_per_tok": 2,
}


@pytest.fixture
def sparse(tmp_path: Path) -> Path:
    path = tmp_path / "sparse" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    return path


@pytest.mark.parametrize("as_path", [str, Path])
def test_a_config_may_be_the_model_and_experts_are_counted_in_all_and_active(sparse: Path, as_path: type):
    panel = MemoryPanel(model=as_path(sparse), batch=2, seq=64)
    shape = model_shape(sparse)
    million = f"{shape.parameters / 1e6:.3g} M, {shape.active_parameters / 1e6:.3g} M active"
    assert panel.estimate == estimate(shape, "amp-bf16", batch=2, seq=64)
    assert (panel._model.label, panel._model.value) == (f"sparse ({shape.parameters / 1e6:.3g} M)", shape)
    assert panel.status.startswith(f"sparse ({million}) under amp-bf16, 2 x 64 tokens, transformers' module. Memory")
    panel._batch.value = "64"
    assert panel.changes
    panel._apply[0].click()
    assert panel.last_error is None


def test_small_models_are_counted_in_full():
    panel = MemoryPanel(model=replace(SHAPES["gpt2"], name="tiny", layers=1, width=12, vocabulary=10), seq=8, batch=1)
    assert panel._model.label == f"tiny ({panel.estimate.shape.parameters:,})"


def test_the_implementation_is_a_choice(panel):
    default = panel.estimate
    assert (panel._module.value, panel._module.options) == ("mixlab", ("mixlab", "transformers"))
    panel._module.value = "transformers"
    assert panel.estimate == replace(default, implementation="transformers")
    assert "transformers' module" in panel.status
    panel._model.value = LLAMA
    assert panel.estimate.implementation == "transformers"
    panel._model.value, panel._module.value = SHAPES["gpt2"], "mixlab"
    assert panel.estimate == default
    assert panel.last_error is None


def test_what_another_module_does_not_have_is_cut(panel, sparse: Path):
    panel._checkpointing.value, panel._tensor.value = "selective", 4
    panel._module.value = "transformers"
    assert (panel.estimate.checkpointing, panel.estimate.parallel.tensor) == ("full", 1)
    assert (panel._checkpointing.options, panel._tensor.options) == (("none", "full"), (1,))
    own = MemoryPanel(model=sparse)
    assert own._module.options == ("transformers",)
    own._model.value = LLAMA
    own._module.value, own._checkpointing.value, own._tensor.value = "mixlab", "selective", 8
    own._model.value = model_shape(sparse)
    assert (own.estimate.module, own.estimate.checkpointing, own.estimate.parallel.tensor) == (
        "transformers",
        "full",
        1,
    )
    assert (panel.last_error, own.last_error) == (None, None)


def test_learned_positions_end_the_tokens_of_a_row_whatever_the_model(tmp_path: Path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"model_type": "opt", "num_hidden_layers": 2, "hidden_size": 768}))
    panel = MemoryPanel(model=path, seq=64)
    panel._seq._moved(panel._seq, {"to": 15}, None)
    assert panel.estimate.seq == 2048
    panel._seq.value = "4096"
    assert "seq=4096 is longer than" in panel._seq.error


def test_what_an_estimate_leaves_out_is_said(sparse: Path):
    one = MemoryPanel(model=sparse, batch=2, seq=64)
    noted = replace(model_shape(sparse), window=32)
    one.estimate = replace(one.estimate, shape=noted)
    assert one.estimate.notes
    assert all(note[1:] in one.status for note in one.estimate.notes)


@pytest.mark.parametrize(
    ("mistake", "said"),
    [
        ({"model": "gpt-2"}, "unknown model 'gpt-2'"),
        ({"recipe": "fp17"}, "unknown recipe"),
        ({"batch": 0}, "batch must be a whole number from 1 up, got 0"),
        ({"seq": 2048}, "seq=2048 is longer than gpt2"),
        ({"model": "nowhere/config.json"}, "nowhere/config.json cannot be read"),
        ({"implementation": "jax"}, "implementation must be one of mixlab, transformers"),
        ({"gpu": "rtx"}, "unknown GPU 'rtx'"),
    ],
)
def test_mistakes_are_named(mistake, said):
    with pytest.raises(ValueError, match=said):
        MemoryPanel(**mistake)
