"""What other calculators say of a training's memory: their formulas, written down slowly from their sources.

Read in stored copies of the repositories, at the commits named, in 2026:

- accelerate, Hugging Face, `accelerate estimate-memory`: src/accelerate/commands/estimate.py (00e4d26, 2023 and later)
  and `calculate_maximum_sizes` of src/accelerate/utils/modeling.py.
- DeepSpeed, Microsoft: `estimate_zero3_model_states_mem_needs` in deepspeed/runtime/zero/stage3.py (0003660, 2022) and
  `estimate_zero2_model_states_mem_needs` in stage_1_and_2.py of that time.
- Megatron-LM, NVIDIA: megatron/training/theoretical_memory_usage.py (00caa53, 2023 and later).
- cookbook, EleutherAI: calc/calc_transformer_mem.py (069ae2e), of Anthony et al., Transformer Math 101, 2023.

All sizes are bytes; `shape` is a ModelShape.
"""

from __future__ import annotations


def accelerate_total(shape):
    """The fp32 size of the model that `AutoModel` builds: the head is missing, unless it is the embedding."""
    parameters = shape.parameters
    if not shape.tied:
        parameters = parameters - shape.vocabulary * shape.width
    return 4 * parameters


def accelerate_largest_layer(shape):
    """The largest part that is not split: a layer, or the embedding of tokens; fp32."""
    embedding = shape.vocabulary * shape.width
    return 4 * max(shape.layer_parameters, embedding)


def accelerate_training(shape, dtype):
    """ "Training using Adam": the largest of four entries."""
    fp32 = accelerate_total(shape)
    if dtype == "float32":
        model, gradients, optimizer, step = fp32, fp32, 2 * fp32, 4 * fp32
    else:
        model, gradients, optimizer, step = fp32, fp32 + fp32 // 2, 2 * fp32, 2 * fp32
    return max(model, gradients, optimizer, step)


def deepspeed_zero2(parameters, gpus, offload_optimizer=False):
    """A GPU's bytes."""
    if offload_optimizer:
        return 2 * parameters
    return 4 * parameters + 16 * parameters // gpus


def deepspeed_zero3(parameters, largest_layer, gpus, offload_optimizer=False, offload_parameters=False):
    """A GPU's bytes; `largest_layer` counts the parameters of the module that has most of its own."""
    if offload_parameters:
        return 4 * largest_layer
    if offload_optimizer:
        return 4 * largest_layer + 2 * parameters // gpus
    return 4 * largest_layer + 18 * parameters // gpus


def deepspeed_largest_layer(shape):
    """Of a module's own parameters, without those of its children: the embedding, or one matrix with its bias."""
    matrix = max(rows * columns for rows, columns in shape.layer_matrices)
    return max(shape.vocabulary * shape.width, matrix + (shape.ffn if shape.lean == "gpt2" else 0))


def megatron_parameters(shape, tensor=1, pipeline=1):
    """Of the most loaded GPU; biases and positions do not count, the vocabulary is not padded here."""
    h = shape.width
    gated = 3 / 2 if shape.lean == "llama" else 1
    norm = 1 if shape.lean == "llama" else 2
    attention = 2 * h * h * (1 + shape.kv_heads / shape.heads)
    layer = 2 * h * (shape.ffn * gated + norm) + attention
    embedding = h * shape.vocabulary
    block = layer * shape.layers + norm * h
    loaded = (block / pipeline + embedding) / tensor
    if not shape.tied and pipeline == 1:
        loaded = loaded + embedding / tensor
    return loaded


def megatron_states(shape, data=1, distributed_optimizer=False, tensor=1, pipeline=1):
    each = 6 + 12 / data if distributed_optimizer else 18
    return megatron_parameters(shape, tensor, pipeline) * each


def megatron_activations(shape, batch, seq, tensor=1, pipeline=1, microbatches=None):
    """With sequence parallelism and selective recomputation: Korthikanti et al., 2022, table 2, row 4."""
    sb = seq * batch
    sbh = sb * shape.width
    total = shape.layers * sbh * (18 + 4 * shape.ffn / shape.width)
    total = total + 8 * sb * pipeline  # inputs of the embedding
    total = total + sbh * pipeline  # its dropout
    if pipeline > 1 and microbatches is not None:
        total = total * min(1, microbatches / pipeline)
    if pipeline == 1:
        total = total + sbh * 4 * (1 + shape.vocabulary / shape.width)  # inputs of head and loss
    return total / tensor


def cookbook_parameters(shape, seq):
    """Two embeddings, positions and LayerNorms whatever the model; no biases."""
    h, layers = shape.width, shape.layers
    embeddings = 2 * shape.vocabulary * h
    positions = h * seq
    norms = 8 * h * layers + 2 * h
    attention = 2 * (1 + shape.kv_heads / shape.heads) * layers * h * h
    mlp = (3 if shape.lean == "llama" else 2) * layers * h * shape.ffn
    return embeddings + positions + norms + attention + mlp


def cookbook_states(shape, seq, gpus=1, zero=0):
    """Mixed precision: 2 + 4 + 12 bytes, each divided by the GPUs from its stage on; without buffers."""
    parameters = cookbook_parameters(shape, seq)
    model, gradients, optimizer = 2 * parameters, 4 * parameters, 12 * parameters
    if zero == 3:
        model = model / gpus
    if zero >= 2:
        gradients = gradients / gpus
    if zero >= 1:
        optimizer = optimizer / gpus
    return model + gradients + optimizer


def cookbook_activations(shape, batch, seq, checkpoint=False):
    """34 bytes of a layer for each token and width, and 5 for each score; "checkpointing" drops the scores."""
    sbh = seq * batch * shape.width
    scores = 0 if checkpoint else 5 * shape.heads * seq / shape.width
    return sbh * shape.layers * (34 + scores)
