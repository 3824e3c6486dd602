"""Early decoders as published: the config.json of each, and the number of parameters that its authors count."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.position import Alibi

GPT: dict[str, Any] = {
    "afn": "gelu",
    "attn_pdrop": 0.1,
    "embd_pdrop": 0.1,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "openai-gpt",
    "n_ctx": 512,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 512,
    "predict_special_tokens": True,
    "resid_pdrop": 0.1,
    "vocab_size": 40478,
}
GPT_J_6B: dict[str, Any] = {
    "activation_function": "gelu_new",
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gptj",
    "n_embd": 4096,
    "n_head": 16,
    "n_inner": None,
    "n_layer": 28,
    "n_positions": 2048,
    "rotary": True,
    "rotary_dim": 64,
    "tie_word_embeddings": False,
    "vocab_size": 50400,
}
GPT_NEO_125M: dict[str, Any] = {
    "activation_function": "gelu_new",
    "attention_layers": ["global", "local"] * 6,
    "attention_types": [[["global", "local"], 6]],
    "bos_token_id": 50256,
    "eos_token_id": 50256,
    "hidden_size": 768,
    "intermediate_size": None,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neo",
    "num_heads": 12,
    "num_layers": 12,
    "vocab_size": 50257,
    "window_size": 256,
}
OPT_125M: dict[str, Any] = {
    "activation_function": "relu",
    "bos_token_id": 2,
    "do_layer_norm_before": True,
    "dropout": 0.1,
    "eos_token_id": 2,
    "ffn_dim": 3072,
    "hidden_size": 768,
    "init_std": 0.02,
    "layerdrop": 0.0,
    "max_position_embeddings": 2048,
    "model_type": "opt",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "pad_token_id": 1,
    "vocab_size": 50272,
    "word_embed_proj_dim": 768,
}
BLOOM: dict[str, Any] = {
    "apply_residual_connection_post_layernorm": False,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True,
    "model_type": "bloom",
    "n_embed": 14336,
    "n_layer": 70,
    "num_attention_heads": 112,
    "offset_alibi": 100,
    "pad_token_id": 3,
    "pretraining_tp": 4,
    "seq_length": 2048,
    "skip_bias_add": True,
    "skip_bias_add_qkv": False,
    "slow_but_exact": False,
    "unk_token_id": 0,
    "vocab_size": 250880,
}
MPT_7B: dict[str, Any] = {
    "attn_config": {
        "alibi": True,
        "alibi_bias_max": 8,
        "attn_impl": "torch",
        "attn_pdrop": 0,
        "attn_type": "multihead_attention",
        "attn_uses_sequence_id": False,
        "clip_qkv": None,
        "prefix_lm": False,
        "qk_ln": False,
        "softmax_scale": None,
    },
    "d_model": 4096,
    "emb_pdrop": 0,
    "embedding_fraction": 1.0,
    "expansion_ratio": 4,
    "init_device": "cpu",
    "learned_pos_emb": True,
    "logit_scale": None,
    "max_seq_len": 2048,
    "model_type": "mpt",
    "n_heads": 32,
    "n_layers": 32,
    "no_bias": True,
    "norm_type": "low_precision_layernorm",
    "resid_pdrop": 0,
    "vocab_size": 50432,
}
STARCODER: dict[str, Any] = {
    "activation_function": "gelu",
    "attention_softmax_in_fp32": True,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt_bigcode",
    "multi_query": True,
    "n_embd": 6144,
    "n_head": 48,
    "n_inner": 24576,
    "n_layer": 40,
    "n_positions": 8192,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "vocab_size": 49152,
}
PHI_2: dict[str, Any] = {
    "hidden_act": "gelu_new",
    "hidden_size": 2560,
    "intermediate_size": 10240,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "phi",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.4,
    "qk_layernorm": False,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "tie_word_embeddings": False,
    "vocab_size": 51200,
}
STABLELM_3B: dict[str, Any] = {
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 6912,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "model_type": "stablelm",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "partial_rotary_factor": 0.25,
    "rope_theta": 10000,
    "tie_word_embeddings": False,
    "use_qkv_bias": False,
    "vocab_size": 50304,
}
COMMAND_R: dict[str, Any] = {
    "bos_token_id": 5,
    "eos_token_id": 255001,
    "hidden_act": "silu",
    "hidden_size": 8192,
    "intermediate_size": 22528,
    "layer_norm_eps": 1e-05,
    "logit_scale": 0.0625,
    "max_position_embeddings": 8192,
    "model_max_length": 131072,
    "model_type": "cohere",
    "num_attention_heads": 64,
    "num_hidden_layers": 40,
    "num_key_value_heads": 64,
    "pad_token_id": 0,
    "rope_theta": 8000000.0,
    "use_qk_norm": False,
    "vocab_size": 256000,
}
RWKV_169M: dict[str, Any] = {
    "attention_hidden_size": 768,
    "bos_token_id": 0,
    "context_length": 1024,
    "eos_token_id": 0,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "layer_norm_epsilon": 1e-05,
    "model_type": "rwkv",
    "num_hidden_layers": 12,
    "rescale_every": 6,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 50277,
}
XLSTM_7B: dict[str, Any] = {
    "chunk_size": 64,
    "embedding_dim": 4096,
    "ffn_proj_factor": 2.667,
    "ffn_round_up_to_multiple_of": 64,
    "gate_soft_cap": 15.0,
    "model_type": "xlstm",
    "norm_eps": 1e-06,
    "num_blocks": 32,
    "num_heads": 8,
    "output_logit_soft_cap": 30.0,
    "qk_dim_factor": 0.5,
    "v_dim_factor": 1.0,
    "vocab_size": 50304,
    "weight_mode": "single",
}
PUBLISHED: dict[str, tuple[dict[str, Any], int]] = {
    "GPT": (GPT, 116_534_784),
    "GPT-J 6B": (GPT_J_6B, 6_050_882_784),
    "GPT-Neo 125M": (GPT_NEO_125M, 125_198_592),
    "OPT 125M": (OPT_125M, 125_239_296),
    "BLOOM": (BLOOM, 176_247_271_424),
    "MPT 7B": (MPT_7B, 6_649_286_656),
    "StarCoder": (STARCODER, 15_517_456_384),
    "Phi-2": (PHI_2, 2_779_683_840),
    "StableLM 3B": (STABLELM_3B, 2_795_443_200),
    "Command R": (COMMAND_R, 34_980_831_232),
    "RWKV-4 169M": (RWKV_169M, 169_342_464),
    "xLSTM 7B": (XLSTM_7B, 6_865_424_896),
}


def read(raw: dict[str, Any]) -> ArchitectureParameter:
    return ArchitectureParameter.from_huggingface(raw)


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_number_of_parameters(name: str) -> None:
    raw, parameters = PUBLISHED[name]
    assert read(raw).count(context=1, dtype="float32").parameters == parameters


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_config_is_written_back_as_it_was(name: str) -> None:
    raw, _ = PUBLISHED[name]
    assert read(raw).to_huggingface() == raw


def test_what_stands_for_positions() -> None:
    """A table, a table with rows that no position has, a rotation of the first dimensions, or biases."""
    kinds = {name: read(raw).pos_embedding_type for name, (raw, _) in PUBLISHED.items()}
    assert {kinds[name] for name in ("GPT", "GPT-Neo 125M", "OPT 125M", "StarCoder")} == {"learned"}
    assert {kinds[name] for name in ("BLOOM", "MPT 7B")} == {"alibi"}
    assert {kinds[name] for name in ("GPT-J 6B", "Phi-2", "StableLM 3B", "Command R")} == {"rope"}
    assert kinds["RWKV-4 169M"] == kinds["xLSTM 7B"] == "none"
    positions = read(OPT_125M).embedding.positions
    assert positions is not None and (positions.count, positions.offset) == (2050, 2)
    part: Any = read(GPT_J_6B).layers[0].steps[0].branches[0].part
    assert part.rope.dims(part.head_dim) == 64 < part.head_dim == 256
    part = read(MPT_7B).layers[0].steps[0].branches[0].part
    assert part.alibi == Alibi(rounding="none", origin="last", slopes="reciprocals")


def test_gpt_neo_sees_a_window_in_every_second_layer() -> None:
    windows = [layer.steps[0].branches[0].part.window for layer in read(GPT_NEO_125M).layers]  # type: ignore[union-attr]
    assert windows == [None, 256] * 6


def test_rwkv_halves_its_residual_in_the_middle() -> None:
    """What is added behind the middle is halved, too."""
    layers = read(RWKV_169M).layers
    assert [layer.steps[1].writes[0].divisor for layer in layers] == 2 * [*5 * [None], 2.0]
    assert [layer.steps[0].writes[0].terms[1].scale for layer in layers] == [*6 * [None], *6 * [0.5]]
