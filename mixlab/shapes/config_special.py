"""Parts of a shape that are read by a rule of their own."""

from __future__ import annotations

from typing import Any

from mixlab.shapes.config_fields import HARMLESS_FIELDS
from mixlab.shapes.config_reads import Config, Parts


def head_dim(config: Config, _: Parts) -> int | None:
    """Returns the width of a head; null, where it is transformers' default, stands for the width by the heads."""
    return None if config.value("head_dim") is config.defaults.get("head_dim") is None else config.whole("head_dim")


def dense_layers_of_qwen(config: Config, parts: Parts) -> int:
    """Returns the layers without experts: those listed, and all but each `decoder_sparse_step`-th."""
    only = config.value("mlp_only_layers") or []
    if not isinstance(only, list) or not all(type(one) is int for one in only):
        raise config.refused("mlp_only_layers", "a list of numbers of layers")
    step = config.whole("decoder_sparse_step")
    return sum(layer in only or (layer + 1) % step != 0 for layer in range(parts["layers"]))


def dense_layers_of_ernie(config: Config, parts: Parts) -> int:
    """Returns the layers without experts: those outside the range, and all but each `moe_layer_interval`-th in it."""
    start, end = config.whole("moe_layer_start_index", 0), config.value("moe_layer_end_index")
    last = parts["layers"] - 1 if end in (None, -1) else config.whole("moe_layer_end_index", 0)
    step = config.whole("moe_layer_interval")
    return sum(not (start <= layer <= last and (layer + 1) % step == 0) for layer in range(parts["layers"]))


def kv_heads_of_falcon(config: Config, parts: Parts) -> Any:
    """Returns the heads of keys: the new layer says them, the old one has a single head or as many as of queries."""
    if config.truth("new_decoder_architecture"):
        return parts["heads"] if config.value("num_kv_heads") is None else config.whole("num_kv_heads")
    return 1 if config.truth("multi_query") else parts["heads"]


def norms_of_falcon(config: Config, _: Parts) -> str:
    """Returns where the norms of a layer stand."""
    new, parallel = config.truth("new_decoder_architecture"), config.truth("parallel_attn")
    norms = config.value("num_ln_in_parallel_attn")
    if new and not parallel:
        raise config.refused("parallel_attn", "true with new_decoder_architecture")
    allowed = (None, 1, 2) if new else (None, 1)
    if norms not in allowed or type(norms) is bool:
        raise config.refused("num_ln_in_parallel_attn", " or ".join("null" if n is None else str(n) for n in allowed))
    return "shared" if parallel and (norms == 1 or not new) else "before"


def local_layers_of_gpt_neo(config: Config, parts: Parts) -> int:
    """Returns the layers with a window: those that are "local" in pairs of words and how often they repeat."""
    types, kinds = config.value("attention_types"), []
    types = [[["global", "local"], 12]] if types is None else types
    for one in types if isinstance(types, list) else [None]:
        if not isinstance(one, list) or len(one) != 2 or not isinstance(one[0], list) or type(one[1]) is not int:
            raise config.refused("attention_types", 'a list of pairs such as [["global", "local"], 12]')
        kinds += one[0] * min(one[1], parts["layers"] + 1)  # more are too many anyway
    if len(kinds) != parts["layers"] or not all(kind in ("global", "local") for kind in kinds):
        raise config.refused("attention_types", f"global or local for each of {parts['layers']} layers")
    if config.value("attention_layers") not in (None, kinds):
        raise config.refused("attention_layers", "what attention_types repeats, or absent")
    return kinds.count("local")


def unrotated_of_smollm(config: Config, parts: Parts) -> int:
    """Returns the layers without rotary embeddings: zeros in a list, or each `no_rope_layer_interval`-th."""
    rotated = config.value("no_rope_layers")
    if rotated is None:
        step = config.whole("no_rope_layer_interval")
        return sum((layer + 1) % step == 0 for layer in range(parts["layers"]))
    if not isinstance(rotated, list) or len(rotated) != parts["layers"] or not all(one in (0, 1) for one in rotated):
        raise config.refused("no_rope_layers", f"a list of {parts['layers']} zeros and ones, one for each layer")
    return rotated.count(0)


def embedding_width_of_opt(config: Config, parts: Parts) -> int | None:
    """Returns the width of the embedding, if it is another than that of the residual stream."""
    width = config.value("word_embed_proj_dim")
    return None if width is None or width == parts["width"] else config.whole("word_embed_proj_dim")


def dropout_of_mpt(config: Config, _: Parts) -> tuple[str, ...]:
    """Returns where dropouts are: the rate of attention is that of the residual sums too."""
    table = config.value("attn_config") or {}
    if not isinstance(table, dict):
        raise config.refused("attn_config", "an object")
    attention = Config(f"{config.path}: attn_config", table, {"attn_type": "multihead_attention", "alibi": True})
    for name, allowed in _MPT.items():
        if name in table and table[name] not in allowed:
            raise attention.refused(name, " or ".join(map(repr, allowed)))
    known = {*_MPT, *_MPT_HARMLESS, *HARMLESS_FIELDS}
    if unknown := [name for name, value in table.items() if value and name not in known]:
        raise ValueError(f"{attention.path}: {', '.join(unknown)} is unknown, and may change the model")
    return ("attention", "residual") if attention.number("attn_pdrop", 1) else ()


_MPT = {"attn_type": ("multihead_attention",), "alibi": (True,), "qk_ln": (False,), "prefix_lm": (False,)}
_MPT |= {"attn_uses_sequence_id": (False,), "clip_qkv": (None,)}
_MPT_HARMLESS = {"attn_pdrop", "attn_impl", "softmax_scale", "alibi_bias_max", "model_type"}


def final_norm_of_opt(config: Config, _: Parts) -> bool:
    """Returns whether a norm precedes the output layer."""
    return config.truth("do_layer_norm_before") and not config.truth("_remove_final_layer_norm")
