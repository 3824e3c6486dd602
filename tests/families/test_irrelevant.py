"""Every key declared irrelevant, varied in the *reference*, leaves its logits as they are, bit for bit."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal import ArchitectureParameter, families
from nexus_universal.architecture.ends import Text
from nexus_universal.families.shared.reader import INERT, IRRELEVANT
from tests.helpers import MODEL_TYPES, built, config, ids, inert_values, pair, reference, same

VARIED: dict[str, Any] = {
    "_name_or_path": "somewhere/else",
    "name_or_path": "somewhere/else",
    "transformers_version": "4.0.0",
    "architectures": ["AnotherForCausalLM"],
    "_commit_hash": "0" * 40,
    "license": "mit",
    "language_model_only": True,
    "auto_map": {"AutoModelForCausalLM": "modeling_evil.EvilForCausalLM"},
    "output_hidden_states": True,
    "torchscript": True,
    "tie_last_hidden_states": False,
    "output_router_logits": True,
    "id2label": {0: "a", 1: "b", 2: "c"},
    "label2id": {"a": 0, "b": 1, "c": 2},
    "problem_type": "regression",
    "num_labels": 3,
    "finetuning_task": "cola",
    "attention_dropout": 0.7,
    "hidden_dropout": 0.7,
    **dict.fromkeys(("router_aux_loss_coef", "mtp_loss_scaling_factor"), 0.7),
    **dict.fromkeys(("w_init_variance_scale", "final_w_init_variance_scale"), 0.7),
    "router_jitter_noise": 0.7,
    "use_bfloat16": True,
    "tf_legacy_loss": True,
    "gradient_checkpointing": True,
    "quantization_config": {"quant_method": "fp8"},
    "compression_config": {"quant_method": "compressed-tensors"},
    "tokenizer_class": "AnotherTokenizer",
    "prefix": "once upon a time",
    "task_specific_params": {"summarization": {"max_length": 7}},
    "sep_token_id": 4,
    "decoder_start_token_id": 4,
    "max_length": 5,
    "min_length": 5,
    "do_sample": True,
    "early_stopping": True,
    "num_beams": 4,
    "temperature": 0.1,
    "top_k": 1,
    "top_p": 0.1,
    "typical_p": 0.1,
    "repetition_penalty": 9.0,
    "length_penalty": 9.0,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "bad_words_ids": [[1]],
    "num_return_sequences": 3,
    "output_scores": True,
    "return_dict_in_generate": True,
    "forced_bos_token_id": 1,
    "forced_eos_token_id": 1,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [3, 1.1],
    "suppress_tokens": [8, 9],
    "begin_suppress_tokens": [1, 2],
    "num_beam_groups": 2,
    "diversity_penalty": 0.7,
    # families' own
    "cache_implementation": "static",
    "hidden_activation": "relu",
    "ep_size": 8,
    "norm_topk_prob": True,
    "mtp_num_hidden_layers": 3,
    "mtp_use_dedicated_embeddings": True,
    "mlp_only_layers": [0],
    "mlp_bias": True,
    "num_experts": 25,
    "num_experts_per_tok": 2,
    "learnable_sink_init": 0.7,
    "qk_head_dim": 7,
    "head_dim": 6,
    "index_share_for_mtp_iteration": True,
    "aux_loss_alpha": 0.7,
    "seq_aux": False,
    "hidden_act": "relu",
    "layer_switch": 2,
    "model_max_length": 8,
    "use_parallel_embedding": True,
    "_sliding_window_pattern": 2,
    "pretraining_tp": 4,
    "first_k_dense_replace": 2,
    "num_nextn_predict_layers": 2,
    "use_mem_eff_path": True,
    "use_conv_bias": False,
    **{key: {"rope_type": "default", "rope_theta": 7.0} for key in ("rope_parameters", "rope_scaling")},
    "topk_method": "greedy",
    "expert_dtype": "fp4",
    "resid_pdrop": 0.7,
    "embd_pdrop": 0.7,
    "attn_pdrop": 0.7,
    "summary_type": "mean",
    "summary_use_proj": False,
    "summary_activation": "tanh",
    "summary_proj_to_labels": False,
    "summary_first_dropout": 0.7,
    "n_ctx": 8,
    "reorder_and_upcast_attn": True,
    "residual_dropout": 0.7,
    "embedding_dropout": 0.7,
    "classifier_dropout": 0.7,
    "classifier_dropout_prob": 0.7,
    "hidden_dropout_prob": 0.7,
    "attention_probs_dropout_prob": 0.7,
    "summary_last_dropout": 0.7,
    "block_size": 2,
    "num_random_blocks": 1,
    "activation_function": "relu",
    "time_step_rank": 7,
    "norm_before_gate": True,
    "rescale_prenorm_residual": True,
    "time_step_init_scheme": "constant",
    "time_step_scale": 3.0,
    "max_window_layers": 1,
    "sliding_window_size": 3,
    "experts_per_token": 1,
    "num_logits_to_keep": 3,
    "rope_theta": 7.0,
    "partial_rotary_factor": 0.3,
    "rotary_dim": 4,
    "attention_bias": True,
    "mamba_proj_bias": True,
    "residual_in_fp32": True,
    "n_shared_experts": 3,
    "time_step_limit": [0.2, 0.3],
    "expand": 5,
    "mamba_ssm_cache_dtype": "bfloat16",
    "use_mamba_kernels": False,
    "moe_shared_expert_overlap": False,
    "mtp_layers_block_type": ["moe"],
    "mtp_hybrid_override_pattern": "E",
    "z_loss_coefficient": 0.3,
    "use_mambapy": True,
    "use_associative_scan": False,
    "fused_add_norm": True,
    "pad_vocab_size_multiple": 16,
    "block_mlp_init_scale": 0.7,
    "block_out_init_scale": 0.7,
    "block_use_xavier_init": False,
    "conv_use_xavier_init": False,
    "apply_residual_connection_post_layernorm": True,
    "initial_context_length": 8,
    "eod_token_id": 5,
    # of towers, and of models around a text model
    "mm_tokens_per_image": 16,
    "boi_token_index": 3,
    "eoi_token_index": 4,
    "image_token_index": 5,
    "image_token_id": 5,
    **dict.fromkeys(("video_token_id", "vision_start_token_id", "vision_end_token_id"), 5),
    "image_seq_length": 7,
    "image_size": 60,
    "audio_token_id": 5,
    **dict.fromkeys(("boi_token_id", "eoi_token_id", "boa_token_id", "eoa_token_id", "eoa_token_index"), 5),
    **dict.fromkeys(("vision_soft_tokens_per_image", "audio_soft_tokens_per_image"), 5),
    "audio_chunk_size": 4800,
    "projector_hidden_act": "relu",
    "lambda_std_dev": 0.7,
    "split_ngram_parts": 2,
    "number_of_conv_states": 3,
    "altup_coef_clip": 3.0,
    "prefix_lm": False,
    "aux_loss_coef": 0.7,
    "use_cache": False,
    "initializer_range": 0.9,
    # of encoders
    **dict.fromkeys(("encoder_layers", "num_hidden_layers"), 5),
    **dict.fromkeys(("encoder_attention_heads", "num_attention_heads"), 2),
    "encoder_ffn_dim": 24,
    **dict.fromkeys(("encoder_layerdrop", "decoder_layerdrop", "dropout", "activation_dropout"), 0.7),
    "is_encoder_decoder": True,
    "is_decoder": False,
    "attention_type": "original_full",
    # of mixtures of experts
    **dict.fromkeys(("intermediate_size", "expert_intermediate_size"), 60),
    "input_jitter_noise": 0.7,
    "attention_chunk_size": 8,
    "emb_pdrop": 0.7,
    "load_balance_coeff": 0.7,
    "use_grouped_mm": False,
    "use_mtp": False,
    **dict.fromkeys(("num_mtp_modules", "mtp_transformer_layers", "mlp_intermediate_size"), 7),
    "shared_moe_mode": "softmax",
    "enable_moe_fp32_combine": False,
    "moe_capacity": [1, 1, 1],
    "num_mtp_layers": 1,
    "mtp_layer_types": ["full_attention"],
    "mtp_mlp_layer_types": ["dense"],
    "use_prompt": True,
    "prompt_length": 7,
    "prompt_mid_dim": 8,
    "share_encoder_decoder_embeddings": False,
    **dict.fromkeys(("num_mel_bins", "max_source_positions", "classifier_proj_size", "audio_vocab_size"), 40),
    **dict.fromkeys(("use_weighted_layer_sum", "apply_spec_augment"), True),
    **dict.fromkeys(("mask_time_prob", "mask_feature_prob"), 0.7),
    **dict.fromkeys(("mask_time_length", "mask_feature_length", "mask_time_min_masks", "mask_feature_min_masks"), 3),
    "num_key_value_heads": 2,
    "median_filter_width": 3,
    "forced_decoder_ids": [[1, 7]],
    "num_codebooks": 4,
    **dict.fromkeys(("classif_dropout", "extra_pos_embeddings", "save_step"), 7),
    **dict.fromkeys(("output_past", "force_bos_token_to_be_generated"), True),
    # of early decoders
    **dict.fromkeys(("rotary", "attention_softmax_in_fp32", "scale_attention_softmax_in_fp32"), False),
    **dict.fromkeys(("resid_dropout", "embed_dropout", "layerdrop", "mlp_dropout", "embedding_fraction"), 0.7),
    **dict.fromkeys(("masked_softmax_fusion", "bias_dropout_fusion", "skip_bias_add", "skip_bias_add_qkv"), True),
    **dict.fromkeys(("offset_alibi", "seq_length", "max_batch_size", "max_sequence_length"), 77),
    **dict.fromkeys(("unk_token_id", "cls_token_id"), 5),
    **dict.fromkeys(("learned_pos_emb", "predict_special_tokens"), False),
    **dict.fromkeys(("norm_type", "init_device", "tokenizer_name", "attention_head_type"), "another"),
    **dict.fromkeys(("inference_runner", "validate_runner_input", "pre_allocate_kv_cache", "pad_key_length"), True),
    **dict.fromkeys(("from_tf", "verbose"), True),
    **dict.fromkeys(("layer_norm_eps", "initializer_cutoff_factor"), 0.5),
    "init_config": {"name": "kaiming_normal_"},
    "pooling": "mean",
    "vocabulary_map": {"<image>": 5},
    "sliding_window": 3,
    "scale_embedding": True,
    "tie_word_embeddings": False,
    # of recurrences
    "chunkwise_kernel": "parallel--native_autograd",
    "autocast_kernel_dtype": "float32",
    **dict.fromkeys(("add_out_norm", "return_last_states"), False),
    "max_inference_chunksize": 4096,
    # of Inkling
    **dict.fromkeys(("shared_expert_sink", "mtp_hidden_states_first"), False),
    "rms_norm_eps_moe_gate": 0.7,
    "chain_hidden_post_norm": True,
    "mtp_local_layer_ids": [0],
}
"""A value far from the default for every key that is declared irrelevant."""

NOT_IN_THE_REFERENCE = {
    "model_type": "it chooses the class itself",
    "output_attentions": "the reference refuses it with its fused kernel; eager attention has other bits",
    "return_dict": "set to false, the reference's own forward fails: it reads a field of a tuple",
    "num_attention_heads": "follows from other keys, and is a read-only property",
    **dict.fromkeys(
        ("sequence_kernel", "step_kernel"), "without a package of kernels there is one name that it may be"
    ),
    "use_return_dict": "a read-only property of the reference's configs",
    **dict.fromkeys(
        (
            "vision_config",
            "audio_config",
            "vq_config",
            "patch_size",
            "num_channels",
            "audio_merge_size",
            "projector_bias",
            "num_image_with_embedding",
        ),
        "gives a tower, of which nothing is built, weights of other shapes",
    ),
    **dict.fromkeys(
        ("audio_encoder_config", "depth_decoder_config", "cross_attention_hidden_size"),
        "gives a tower, of which nothing is built, weights of other shapes",
    ),
}
"""Irrelevant keys that cannot be varied in the reference."""

TEXT_KEYS: dict[str, Any] = {
    "bos_token_id": 7,
    "eos_token_id": [7, 8],
    "use_cache": False,
    "initializer_range": 0.9,
    "max_position_embeddings": 80,
}
"""Keys that are read but kept outside n: they must not move a logit either."""

TEXT_KEYS_OF = {
    "mamba2": {"time_step_min": 0.01, "time_step_max": 0.2, "time_step_floor": 0.05},
    **{
        name: {"time_step_min": 0.01, "time_step_max": 0.2, "time_step_floor": 0.05, "rescale_prenorm_residual": True}
        for name in ("mamba", "falcon_mamba")
    },
    "olmo_hybrid": {"linear_a_log_min": 0.5, "linear_a_log_max": 8.0, "linear_dt_min": 0.01, "linear_dt_max": 0.2},
    "youtu": {"embedding_initializer_range": 0.3},
    "nemotron_h": {"rescale_prenorm_residual": False, "time_step_max": 0.2, "time_step_floor": 0.05},
}
"""Those of one family alone."""


def logits(model: Any) -> Tensor:
    with torch.no_grad():
        out = model(ids(2, 24))
    return out[0] if isinstance(out, tuple) else out.logits


def with_weights_of(plain: Any, settled: Any) -> Any:
    model = built(settled).eval()
    model.load_state_dict(plain.state_dict())
    return model


def assert_unmoved(model_type: str, changes: dict[str, Any], **tiny: Any) -> None:
    """All changes at once; where something moved, one by one, to name the guilty key."""
    plain = reference(model_type, **tiny)
    before = logits(plain)
    if same(logits(with_weights_of(plain, config(model_type, **tiny, **changes))), before):
        return
    guilty = [
        key
        for key, value in changes.items()
        if not same(logits(with_weights_of(plain, config(model_type, **tiny, **{key: value}))), before)
    ]
    raise AssertionError(f"{model_type}: declared irrelevant, but the reference's logits depend on {guilty}")


def declared(model_type: str) -> dict[str, Any]:
    """The varied values of what is irrelevant in this family, those that it reads itself left out."""
    names = {*IRRELEVANT, *families.find(model_type).irrelevant} - {*NOT_IN_THE_REFERENCE}
    refused = {"diffllama": {"attention_dropout"}, "phimoe": {"router_jitter_noise"}}  # or read without training, too
    refused["mellum"] = {"num_nextn_predict_layers"}
    places = {"image_token_id", "video_token_id", "audio_token_id"}  # of what is no text, which is embedded as pads
    refused |= dict.fromkeys(("gemma4", "gemma4_unified"), places)
    names -= refused.get(model_type, set())
    return {name: VARIED[name] for name in sorted(names)}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_irrelevant_keys(model_type: str) -> None:
    assert_unmoved(model_type, declared(model_type))


def test_two_numbers_of_half_precision_have_the_same_sum_in_float32() -> None:
    """Rounded, it is theirs: Hunyuan 3's `enable_moe_fp32_combine` changes no bit where it could."""
    plain = reference("hy_v3").to(torch.bfloat16)
    other = with_weights_of(plain, config("hy_v3", enable_moe_fp32_combine=False)).to(torch.bfloat16)
    assert same(logits(plain), logits(other))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_irrelevant_keys_leave_n_alone(model_type: str) -> None:
    plain = ArchitectureParameter.from_huggingface(config(model_type))
    varied = ArchitectureParameter.from_huggingface(config(model_type).to_dict() | declared(model_type))
    assert (varied, varied.text) == (plain, plain.text)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("column", range(max(map(len, INERT.values()))))
def test_inert_keys(model_type: str, column: int) -> None:
    """The values at which a key is said to change nothing, in as many rounds as a key has values."""
    chooses = pair(model_type)[0]._can_set_experts_implementation()  # elsewhere the reference refuses it
    keys = [key for key in INERT if chooses or key != "experts_implementation"]
    changes = {key: inert_values(model_type, key)[min(column, len(INERT[key]) - 1)] for key in keys}
    assert_unmoved(model_type, changes)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_text_keys(model_type: str) -> None:
    plain = ArchitectureParameter.from_huggingface(config(model_type))
    changes = {key: value for key, value in TEXT_KEYS.items() if not (plain.embedding.positions and "position" in key)}
    changes |= TEXT_KEYS_OF.get(model_type, {})
    if model_type == "hrm_text":
        del changes["initializer_range"]  # scales the embeddings, too
    if model_type in ("inkling_text", "inkling2_text"):
        changes["eos_token_id"] = 7  # its config takes no list
    if model_type == "qwen4_exp_text":
        del changes["eos_token_id"]  # begins its n-grams anew
    if model_type == "roformer":
        del changes["max_position_embeddings"]  # its state dict holds a table of so many rows
    if families.find(model_type).sections:
        del changes["max_position_embeddings"]  # the section's own
    assert_unmoved(model_type, changes)
    plain, varied = (ArchitectureParameter.from_huggingface(config(model_type, **c)) for c in ({}, changes))
    assert plain == varied
    assert plain.text != varied.text


def test_every_declared_key_has_a_varied_value() -> None:
    every = {*IRRELEVANT, *(key for t in MODEL_TYPES for key in families.find(t).irrelevant)}
    assert every == {*VARIED, *NOT_IN_THE_REFERENCE}
    known = {"context", "bos", "eos", "pad", "use_cache", "dtype", "initializer_range", "scaled_residual"}
    known |= {
        "step_range",
        "uniform_output",
        "shrunk_output",
        "reread_beyond",
        "embedding_range",
        "zero_routers",
        "decay_range",
    }
    assert set(Text.__dataclass_fields__) == known, "a field of Text was added: vary its key here"


@pytest.mark.parametrize(("key", "value"), [("rms_norm_eps", 1e-3), ("hidden_act", "relu"), ("rope_theta", 100.0)])
def test_a_key_that_matters_would_be_found(key: str, value: Any) -> None:
    with pytest.raises(AssertionError, match=key):
        assert_unmoved("llama", {"attention_dropout": 0.7, key: value})
