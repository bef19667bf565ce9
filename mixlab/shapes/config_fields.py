"""Fields of any config.json that change neither parameters nor activations, and those that do for some values."""

from __future__ import annotations

from typing import Any

ALLOWED_FIELDS: dict[str, tuple[Any, ...]] = {
    "chunk_size_feed_forward": (0,),
    "pruned_heads": ({},),
    "is_decoder": (True, False),
    "moe_layer_freq": (1,),
    "partial_rotary_factor": (1, 1.0),
    "clip_qkv": (None,),
}

# Names, versions, and how the file is read.
_FILES = (
    "_name_or_path name_or_path model_max_length transformers_version transformers.js_config unsloth_version "
    "unsloth_fixed transformers_weights auto_map tokenizer_class prefix torch_dtype dtype _attn_implementation "
    "attn_implementation use_flash_attn init_device verbose cache_implementation is_llama_config "
    "tokenizer_name init_config gradient_checkpointing "
)
# Numbers that multiply or begin, and tables of rotary positions.
_NUMBERS = (
    "initializer_range initializer_factor init_std rms_norm_eps layer_norm_eps layer_norm_epsilon norm_eps "
    "norm_epsilon rope_theta rope_scaling rope_parameters rope_interleaved rope_interleave rope_ratio "
    "rotary_emb_base original_max_position_embeddings embedding_multiplier logits_scaling residual_multiplier "
    "attention_multiplier "
)
# Numbers for each token and expert, not for each unit of width.
_ROUTING = (
    "norm_topk_prob routed_scaling_factor n_group topk_group topk_method scoring_func router_aux_loss_coef "
    "aux_loss_alpha aux_loss_coef seq_aux ep_size num_nextn_predict_layers num_mtp_layers moe_norm_min "
    "qk_head_dim "
)
# What is returned, other heads, older libraries.
_OTHER = (
    "use_cache return_dict return_dict_in_generate torchscript use_bfloat16 tf_legacy_loss id2label label2id "
    "num_labels problem_type finetuning_task task_specific_params pretraining_tp max_window_layers n_ctx "
    "n_special output_past predict_special_tokens attn_pdrop embd_pdrop resid_pdrop summary_activation "
    "summary_first_dropout summary_proj_to_labels summary_type summary_use_proj classifier_dropout "
)
# Tokens and generation.
_TOKENS = (
    "bos_token_id eos_token_id pad_token_id sep_token_id cls_token_id mask_token_id unk_token_id "
    "decoder_start_token_id forced_bos_token_id forced_eos_token_id suppress_tokens begin_suppress_tokens "
    "bad_words_ids max_length min_length max_new_tokens do_sample early_stopping num_beams num_beam_groups "
    "diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty no_repeat_ngram_size "
    "encoder_no_repeat_ngram_size num_return_sequences output_scores remove_invalid_values "
    "exponential_decay_length_penalty renormalize_logits "
)

HARMLESS_FIELDS = frozenset(" ".join((_FILES, _NUMBERS, _ROUTING, _OTHER, _TOKENS)).split())
