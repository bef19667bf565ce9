from __future__ import annotations

import pytest

from mixlab import Recipe
from mixlab.memory import Parallelism, model_states
from mixlab.memory.parallel import ONE_GPU, pipeline_stages
from mixlab.shapes import SHAPES, ModelShape

GB = 10**9


def kept(recipe: str, parameters: int, **parallel) -> int:
    """Returns the bytes of all states on one GPU."""
    parts = model_states(Recipe.parse(recipe), [parameters]).parts
    return sum(Parallelism(**parallel).shard(parts).values())


@pytest.mark.parametrize(("zero", "gigabytes"), [(0, 120), (1, 31.4), (2, 16.6), (3, 1.9)])
def test_zero_as_in_its_papers_first_figure(zero, gigabytes):
    # Rajbhandari et al., 2020, figure 1: 7.5 billion parameters, 64 GPUs, K = 12.
    found = kept("fp16-master,gradients=fp16", 7_500_000_000, data=64, zero=zero)
    assert round(found / GB, 1) == gigabytes


@pytest.mark.parametrize("gpus", [1, 2, 8, 512])
@pytest.mark.parametrize(
    ("recipe", "whole", "divided"), [("fp32", 8, 8), ("bf16-master", 6, 12), ("fp16-master,gradients=fp16", 4, 12)]
)
def test_zero_1_as_megatrons_distributed_optimizer(recipe, whole, divided, gpus):
    # NVIDIA, Megatron-LM, docs of the distributed optimizer, 2024: 8 + 8/d and 6 + 12/d bytes a parameter.
    assert kept(recipe, 512_000, data=gpus, zero=1) == 512_000 * (whole + divided / gpus)


def test_every_state_is_divided_from_its_stage_on():
    parts = model_states(Recipe.parse("bf16-kahan,exp_avg=dynamic8")).parts
    for zero, divided in ((0, 0), (1, 4), (2, 5), (3, 6)):
        sharded = Parallelism(data=2, zero=zero).shard(parts)
        assert list(sharded) == list(parts)
        assert sum(sharded[name] < parts[name] for name in parts) == divided
    assert Parallelism(data=3, zero=1).shard({"exp_avg": 10}) == {"exp_avg": 4}  # the largest part


def test_what_divides_nothing_is_harmless():
    parts = model_states(Recipe.parse("fp32")).parts
    for zero in (1, 2, 3):
        assert Parallelism(zero=zero).shard(parts) == parts
    (alone,) = pipeline_stages(SHAPES["gpt2"], Parallelism(sequence=True, microbatches=8))
    assert alone == pipeline_stages(SHAPES["gpt2"], ONE_GPU)[0]


def test_stages_are_of_mixlabs_own_layers():
    with pytest.raises(ValueError, match="mixtral-8x7b: mixlab has no layer of style mixtral as this shape has it"):
        pipeline_stages(SHAPES["mixtral-8x7b"], ONE_GPU)


@pytest.mark.parametrize("name", [name for name, shape in SHAPES.items() if shape.lean])
def test_one_stage_holds_all_parameters(name):
    (stage,) = pipeline_stages(SHAPES[name], ONE_GPU)
    assert stage.parameters == sum(stage.tensors) == SHAPES[name].parameters
    assert stage.largest == max(stage.tensors)
    assert stage.layer_parameters == SHAPES[name].layer_parameters


@pytest.mark.parametrize(("name", "t"), [("gpt2", 4), ("llama-3-8b", 8), ("qwen2.5-7b", 2)])
def test_tensor_parallelism_divides_matrices(name, t):
    shape = SHAPES[name]
    (whole,), (part,) = pipeline_stages(shape, ONE_GPU), pipeline_stages(shape, Parallelism(tensor=t))
    assert [t * size for size in part.matrices] == list(whole.matrices)
    assert t * part.head == pytest.approx(whole.head, rel=1e-4)
    assert (part.norms, part.final_norm, part.embeddings[1:]) == (whole.norms, whole.final_norm, whole.embeddings[1:])
    assert part.parameters * t >= whole.parameters


def test_biases_of_the_products_that_are_summed_are_whole():
    (part,) = pipeline_stages(SHAPES["gpt2"], Parallelism(tensor=4))
    assert part.biases == (192, 192, 192, 768, 3072 // 4, 768)
    assert pipeline_stages(SHAPES["qwen2.5-7b"], Parallelism(tensor=4))[0].biases == (896, 128, 128)


def test_the_vocabulary_is_rounded_up():
    (part,) = pipeline_stages(SHAPES["gpt2"], Parallelism(tensor=4))
    assert part.head == part.embeddings[0] == -(-50257 // 4) * 768


def test_pipeline_stages():
    shape = SHAPES["llama-3-8b"]
    first, last = pipeline_stages(shape, Parallelism(pipeline=4, microbatches=8))
    assert first.layers == last.layers == 8
    assert (first.head, last.embeddings, first.final_norm) == (0, (), ())
    middle = 2 * 8 * shape.layer_parameters
    assert first.parameters + middle + last.parameters == shape.parameters
    assert (first.in_flight, last.in_flight) == (4, 1)
    assert pipeline_stages(shape, Parallelism(pipeline=4, microbatches=3))[0].in_flight == 3


def test_a_tied_head_is_a_copy_on_the_last_stage():
    shape = SHAPES["gpt2"]
    first, last = pipeline_stages(shape, Parallelism(pipeline=2, microbatches=2))
    assert not first.tied
    assert not last.tied
    assert first.parameters + last.parameters == shape.parameters + shape.vocabulary * shape.width


def test_it_says_what_it_is():
    many = Parallelism(data=8, zero=3, tensor=4, sequence=True, pipeline=2)
    assert many.gpus == 64
    assert str(many) == "64 GPUs (data 8, ZeRO 3, tensor 4, pipeline 2, sequence)"
    assert str(ONE_GPU) == "1 GPU"


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"data": 0}, "data must be a whole number from 1 up, got 0"),
        ({"tensor": 2.0}, "tensor must be a whole number from 1 up, got 2.0"),
        ({"pipeline": True}, "pipeline must be a whole number from 1 up, got True"),
        ({"microbatches": -1}, "microbatches must be a whole number from 1 up, got -1"),
        ({"zero": 4}, "zero must be a stage, 0, 1, 2 or 3, got 4"),
        ({"sequence": 1}, "sequence must be True or False, got 1"),
    ],
)
def test_mistakes_are_named(fields, words):
    with pytest.raises(ValueError, match=words):
        Parallelism(**fields)


@pytest.mark.parametrize(
    ("name", "fields", "words"),
    [
        ("gpt2", {"tensor": 5}, "tensor=5 must divide the 12 heads of gpt2; use 1, 2, 3, 4, 6, 12"),
        ("llama-3-8b", {"tensor": 16}, "tensor=16 must divide the 8 kv_heads of llama-3-8b; use 1, 2, 4, 8"),
        ("gpt2", {"pipeline": 5}, "pipeline=5 must divide the 12 layers of gpt2; use 1, 2, 3, 4, 6, 12"),
    ],
)
def test_a_shape_that_it_does_not_divide_is_refused(name, fields, words):
    with pytest.raises(ValueError, match=words):
        pipeline_stages(SHAPES[name], Parallelism(**fields))


def test_a_feed_forward_that_it_does_not_divide_is_refused():
    shape = ModelShape("odd", 2, 64, 4, 4, 101, 100, True, 64)
    with pytest.raises(ValueError, match="tensor=2 must divide the 101 ffn of odd; use 1, 101"):
        pipeline_stages(shape, Parallelism(tensor=2))
