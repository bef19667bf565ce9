"""Reads Hugging Face's config.json: each field is used, known to change no byte, or refused by name."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def shape_of_config(path: Path) -> dict[str, Any]:
    """Returns the arguments of a `ModelShape` from a config.json of GPT-2, Llama, Mistral or Qwen2 architecture.

    GPT-2's dropout is left out: shapes have none. A sliding window limits the context to its length, up to which it is
    plain causal attention.

    Args:
        path: The config.json.

    Raises:
        ValueError: If the file cannot be read; or a field is missing, has a value that no shape has, or is unknown and
            may change parameters or activations.
    """
    config = _read(path)
    kind = config.get("model_type")
    if not isinstance(kind, str) or kind not in _READ:
        raise ValueError(f"{path}: model_type must be one of {', '.join(_READ)}, got {kind!r:.60}")
    if missing := [key for key in _READ[kind].values() if key not in config]:
        raise ValueError(f"{path} lacks {', '.join(missing)}")
    _refuse_unknown(path, kind, config)
    shape: dict[str, Any] = {field: config[key] for field, key in _READ[kind].items()}
    shape["name"] = str(config.get("_name_or_path") or path.parent.name or path.stem)
    shape["style"] = kind
    shape["tied"] = _truth(path, config, "tie_word_embeddings", kind == "gpt2")
    if kind == "gpt2":
        ffn = config.get("n_inner")
        shape["ffn"] = 4 * shape["width"] if ffn is None and type(shape["width"]) is int else ffn
        return {**shape, "kv_heads": shape["heads"]}
    kv_heads = config.get("num_key_value_heads", _KV_HEADS.get(kind))
    shape["kv_heads"] = shape["heads"] if kv_heads is None else kv_heads
    shape["context"] = _context(path, kind, config)
    shape["qkv_bias"] = kind == "llama" and _truth(path, config, "attention_bias")
    shape["output_bias"] = kind == "llama" and _truth(path, config, "attention_bias")
    shape["ffn_bias"] = kind == "llama" and _truth(path, config, "mlp_bias")
    _check_head_width(path, config.get("head_dim"), shape["heads"], shape["width"])
    return shape


def _check_head_width(path: Path, head_width: Any, heads: Any, width: Any) -> None:
    if head_width is None or type(heads) is not int or type(width) is not int:
        return
    if type(head_width) is not int or head_width * heads != width:
        raise ValueError(f"{path}: head_dim must be hidden_size / num_attention_heads, got {head_width!r}")


def _read(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON: {error}") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path} is not a config.json: it must hold an object")
    return config


def _refuse_unknown(path: Path, kind: str, config: Mapping[str, Any]) -> None:
    known = {"model_type", "tie_word_embeddings", *_READ[kind].values(), *_ALSO_READ[kind]}
    allowed = {**_ALLOWED, **_ALLOWED_OF[kind]}
    for name, value in config.items():
        if name in known or name in _HARMLESS or value is None or value is False:
            continue
        if name not in allowed:
            raise ValueError(
                f"{path}: {name}={value!r:.60} is unknown for {kind}, and may change its parameters or activations; "
                "remove the field if it changes neither, or describe the model as a ModelShape"
            )
        if not any(value == one and type(value) is type(one) for one in allowed[name]):
            words = ", ".join(map(repr, allowed[name]))
            raise ValueError(f"{path}: {name} must be {words} or absent for a shape of {kind}, got {value!r:.60}")


def _truth(path: Path, config: Mapping[str, Any], name: str, default: bool = False) -> bool:
    value = config.get(name)
    if value is None:
        return default
    if type(value) is not bool:
        raise ValueError(f"{path}: {name} must be true or false, got {value!r}")
    return value


def _context(path: Path, kind: str, config: Mapping[str, Any]) -> Any:
    context, window = config["max_position_embeddings"], None
    if kind == "mistral" or (kind == "qwen2" and _truth(path, config, "use_sliding_window")):
        window = config.get("sliding_window", 4096)  # the default of both
    if window is None:
        return context
    if type(window) is not int or window < 1:
        raise ValueError(f"{path}: sliding_window must be a whole number from 1 up, or null, got {window!r}")
    return min(context, window) if type(context) is int else context


_LLAMA = {
    "layers": "num_hidden_layers",
    "width": "hidden_size",
    "heads": "num_attention_heads",
    "ffn": "intermediate_size",
    "vocabulary": "vocab_size",
    "context": "max_position_embeddings",
}
_READ: dict[str, dict[str, str]] = {
    "gpt2": {
        "layers": "n_layer",
        "width": "n_embd",
        "heads": "n_head",
        "vocabulary": "vocab_size",
        "context": "n_positions",
    },
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": _LLAMA,
}
_ALSO_READ: dict[str, tuple[str, ...]] = {
    "gpt2": ("n_inner",),
    "llama": ("num_key_value_heads", "head_dim", "attention_bias", "mlp_bias"),
    "mistral": ("num_key_value_heads", "head_dim", "sliding_window"),
    "qwen2": ("num_key_value_heads", "head_dim", "sliding_window", "use_sliding_window", "layer_types"),
}
_KV_HEADS = {"mistral": 8, "qwen2": 32}  # the value of an absent field; null means as many as heads

_ALLOWED: dict[str, tuple[Any, ...]] = {
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({},),
    "is_decoder": (True,),
}
_LLAMA_ALLOWED: dict[str, tuple[Any, ...]] = {"hidden_act": ("silu", "swish"), "attention_dropout": (0.0, 0)}
_ALLOWED_OF: dict[str, dict[str, tuple[Any, ...]]] = {
    "gpt2": {
        "architectures": (["GPT2LMHeadModel"],),
        "activation_function": ("gelu_new", "gelu_pytorch_tanh", "gelu"),
        "scale_attn_weights": (True,),
    },
    "llama": {**_LLAMA_ALLOWED, "architectures": (["LlamaForCausalLM"], ["LLaMAForCausalLM"])},
    "mistral": {**_LLAMA_ALLOWED, "architectures": (["MistralForCausalLM"],)},
    "qwen2": {**_LLAMA_ALLOWED, "architectures": (["Qwen2ForCausalLM"],)},
}

# Fields that change neither parameters nor activations: numbers, names, tokens, generation. The recipe sets the dtype.
_HARMLESS = frozenset(
    [
        "_name_or_path",
        "name_or_path",
        "transformers_version",
        "transformers.js_config",
        "unsloth_version",
        "unsloth_fixed",
        "torch_dtype",
        "dtype",
        "_attn_implementation",
        "attn_implementation",
        "use_cache",
        "return_dict",
        "return_dict_in_generate",
        "torchscript",
        "use_bfloat16",
        "tf_legacy_loss",
        "id2label",
        "label2id",
        "num_labels",
        "problem_type",
        "finetuning_task",
        "task_specific_params",
        "tokenizer_class",
        "prefix",
        "model_max_length",
        "initializer_range",
        "rms_norm_eps",
        "layer_norm_epsilon",
        "rope_theta",
        "rope_scaling",
        "rope_parameters",
        "rope_interleaved",
        "pretraining_tp",
        "is_llama_config",
        "max_window_layers",
        "original_max_position_embeddings",
        "n_ctx",
        "n_special",
        "output_past",
        "predict_special_tokens",
        "attn_pdrop",
        "embd_pdrop",
        "resid_pdrop",
        "summary_activation",
        "summary_first_dropout",
        "summary_proj_to_labels",
        "summary_type",
        "summary_use_proj",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "sep_token_id",
        "cls_token_id",
        "mask_token_id",
        "unk_token_id",
        "decoder_start_token_id",
        "forced_bos_token_id",
        "forced_eos_token_id",
        "suppress_tokens",
        "begin_suppress_tokens",
        "bad_words_ids",
        "max_length",
        "min_length",
        "max_new_tokens",
        "do_sample",
        "early_stopping",
        "num_beams",
        "num_beam_groups",
        "diversity_penalty",
        "temperature",
        "top_k",
        "top_p",
        "typical_p",
        "repetition_penalty",
        "length_penalty",
        "no_repeat_ngram_size",
        "encoder_no_repeat_ngram_size",
        "num_return_sequences",
        "output_scores",
        "remove_invalid_values",
        "exponential_decay_length_penalty",
        "renormalize_logits",
    ]
)
