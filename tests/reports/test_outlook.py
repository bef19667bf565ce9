from __future__ import annotations

import math
import re

import pytest

from mixlab.loss_scaling import ScaleWindow
from mixlab.machine import Gpu
from mixlab.memory import model_states
from mixlab.recipes import PRESETS, Recipe
from mixlab.reports import Outlook, memory_words, refusal, scale_words

WINDOW = ScaleWindow(5, 22)


@pytest.mark.parametrize(
    ("text", "mark", "says"),
    [
        ("amp-fp16", "✓", "It starts at 2¹⁶, in the usable window 2⁵ to 2²²"),
        ("amp-fp16,scale=2^5", "✓", "It starts at 2⁵, in"),
        ("amp-fp16,scaler=static,scale=2^22", "✓", "It stays at 2²², in"),
        ("amp-fp16,scale=2^3", "✗", "below .* more than 1 % .* until the scale has grown, 2000 clean steps"),
        ("amp-fp16,scaler=static,scale=2^3", "✗", "It stays at 2³, below .* gradients become zero.$"),
        ("amp-fp16,scaler=none", "✗", "There is no scaler: the scale is 1, below the usable window"),
        ("amp-fp16,scale=2^24", "✗", "overflow, and steps are skipped until the scaler has lowered it"),
        ("amp-fp16,scaler=static,scale=2^24", "✗", "overflow, and steps are skipped.$"),
        ("amp-fp16,scaler=static,scale=2^24,on_overflow=zero", "✗", "taken with all gradients set to zero"),
        ("amp-fp16,scaler=static,scale=1000", "✓", "It stays at 1.95 × 2⁹, in"),
        ("fp32", "✓", "None is needed in fp32"),
        ("bf16", "✓", "None is needed: gradients in bf16 reach as far as in fp32"),
        ("tf32,scaler=dynamic", "✓", "None is needed: gradients in tf32"),
    ],
)
def test_where_the_scale_lies(text: str, mark: str, says: str):
    given, words = scale_words(Recipe.parse(text), WINDOW, "on seed 0")
    assert given == mark
    assert re.search(says, words), words


def test_what_is_not_known_is_not_said():
    recipe = PRESETS["amp-fp16"]
    assert scale_words(recipe, None)[0] == "…"
    assert scale_words(recipe, "not known: no gradient") == ("✗", "not known: no gradient")
    assert "No scale fits" in scale_words(recipe, ScaleWindow(16, 12), "on seed 0")[1]
    assert "above 0 the largest" in scale_words(recipe, ScaleWindow(math.inf, -math.inf))[1]


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_has_an_outlook(name: str):
    states = model_states(name)
    outlook = Outlook(PRESETS[name], states, memory_words(3 * 2**20, "step", gpu=True), WINDOW, "on seed 0")
    bytes_words, memory, scale = outlook.rows.values()
    assert bytes_words.startswith(f"{states.bytes_per_parameter:g}: weights")
    assert memory == "3 MiB at its peak, as the optimizer steps; predicted for this model and batch on a GPU"
    assert scale[0] in "✓✗"
    assert all(words in outlook._repr_html_() for words in (bytes_words, memory))


@pytest.mark.parametrize(("size", "words"), [(999, "0.976 KiB"), (2**20, "1 MiB"), (5 * 2**30, "5 GiB")])
def test_memory_has_a_fitting_unit(size: int, words: str):
    assert memory_words(size, "backward", gpu=False).startswith(f"{words} at its peak, in backward;")


def test_only_an_old_gpu_refuses_only_tf32():
    old, new = (Gpu("T4", 2**34, (7, 5)), Gpu("A100", 2**35, (8, 0)))
    assert "tf32 needs 8.0" in refusal(PRESETS["tf32"], old)
    assert [refusal(PRESETS["tf32"], gpu) for gpu in (new, None)] == ["", ""]
    assert refusal(PRESETS["bf16"], old) == ""
