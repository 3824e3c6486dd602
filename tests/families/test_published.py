"""The config.json of published checkpoints, as they are written on disk, and what their n must say."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.feed_forward import MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, LatentAttention
from nexus_universal.architecture.position import Llama3Scaling, Rope
from nexus_universal.architecture.recurrences import GatedDeltaRule, StateSpace

QWEN3: dict[str, Any] = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_4B: dict[str, Any] = QWEN3 | {
    "hidden_size": 2560,
    "intermediate_size": 9728,
    "max_position_embeddings": 262144,
    "max_window_layers": 36,
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "rope_theta": 5000000,
}
QWEN3_CODER: dict[str, Any] = {
    "architectures": ["Qwen3MoeForCausalLM"],
    "attention_dropout": 0.0,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5472,
    "max_position_embeddings": 262144,
    "max_window_layers": 28,
    "mlp_only_layers": [],
    "model_type": "qwen3_moe",
    "moe_intermediate_size": 768,
    "norm_topk_prob": True,
    "num_attention_heads": 32,
    "num_experts": 128,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 48,
    "num_key_value_heads": 4,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000000,
    "router_aux_loss_coef": 0.0,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN3_CODER_NEXT: dict[str, Any] = {
    "architectures": ["Qwen3NextForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151645,
    "full_attention_interval": 4,
    "head_dim": 256,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5120,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 128,
    "linear_num_key_heads": 16,
    "linear_num_value_heads": 32,
    "linear_value_head_dim": 128,
    "max_position_embeddings": 262144,
    "mlp_only_layers": [],
    "model_type": "qwen3_next",
    "moe_intermediate_size": 512,
    "norm_topk_prob": True,
    "num_attention_heads": 16,
    "num_experts": 512,
    "num_experts_per_tok": 10,
    "num_hidden_layers": 48,
    "num_key_value_heads": 2,
    "output_router_logits": False,
    "partial_rotary_factor": 0.25,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.57.0.dev0",
    "use_cache": True,
    "vocab_size": 151936,
}
GLM_FLASH: dict[str, Any] = {
    "architectures": ["Glm4MoeLiteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "pad_token_id": 154820,
    "eos_token_id": [154820, 154827, 154829],
    "hidden_act": "silu",
    "hidden_size": 2048,
    "intermediate_size": 10240,
    "max_position_embeddings": 202752,
    "model_type": "glm4_moe_lite",
    "moe_intermediate_size": 1536,
    "topk_method": "noaux_tc",
    "norm_topk_prob": True,
    "num_attention_heads": 20,
    "n_group": 1,
    "topk_group": 1,
    "n_routed_experts": 64,
    "n_shared_experts": 1,
    "routed_scaling_factor": 1.8,
    "num_experts_per_tok": 4,
    "first_k_dense_replace": 1,
    "num_hidden_layers": 47,
    "num_key_value_heads": 20,
    "num_nextn_predict_layers": 1,
    "partial_rotary_factor": 1.0,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
    "transformers_version": "5.0.0rc0",
    "q_lora_rank": 768,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 192,
    "qk_rope_head_dim": 64,
    "v_head_dim": 256,
    "vocab_size": 154880,
}
LLAMA2: dict[str, Any] = {
    "_name_or_path": "meta-llama/Llama-2-7b-hf",
    "architectures": ["LlamaForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "max_position_embeddings": 4096,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 32,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "transformers_version": "4.31.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
LLAMA31: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.42.3",
    "use_cache": True,
    "vocab_size": 128256,
}
GEMMA3: dict[str, Any] = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}
MIXTRAL: dict[str, Any] = {
    "architectures": ["MixtralForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mixtral",
    "num_attention_heads": 32,
    "num_experts_per_tok": 2,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "num_local_experts": 8,
    "output_router_logits": False,
    "rms_norm_eps": 1e-05,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.02,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.36.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
GPT2: dict[str, Any] = {
    "activation_function": "gelu_new",
    "architectures": ["GPT2LMHeadModel"],
    "attn_pdrop": 0.1,
    "bos_token_id": 50256,
    "embd_pdrop": 0.1,
    "eos_token_id": 50256,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "gpt2",
    "n_ctx": 1024,
    "n_embd": 768,
    "n_head": 12,
    "n_layer": 12,
    "n_positions": 1024,
    "resid_pdrop": 0.1,
    "summary_activation": None,
    "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True,
    "summary_type": "cls_index",
    "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}},
    "vocab_size": 50257,
}
COMMAND_R7B: dict[str, Any] = {
    "architectures": ["Cohere2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 5,
    "cache_implementation": "hybrid",
    "eos_token_id": 255001,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "layer_norm_eps": 1e-05,
    "layer_switch": 4,
    "logit_scale": 0.25,
    "max_position_embeddings": 132096,
    "model_type": "cohere2",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "order_of_interleaved_layers": "local_attn_first",
    "pad_token_id": 0,
    "position_embedding_type": "rope_gptj",
    "rope_scaling": None,
    "rope_theta": 50000,
    "rotary_pct": 1.0,
    "sliding_window": 4096,
    "sliding_window_pattern": 4,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.48.0.dev0",
    "use_cache": True,
    "use_embedding_sharing": True,
    "use_gated_activation": True,
    "use_parallel_block": True,
    "use_parallel_embedding": False,
    "use_qk_norm": False,
    "vocab_size": 256000,
}

CODESTRAL_MAMBA: dict[str, Any] = {
    "architectures": ["Mamba2ForCausalLM"],
    "chunk_size": 256,
    "conv_kernel": 4,
    "expand": 2,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.1,
    "intermediate_size": 8192,
    "layer_norm_epsilon": 1e-05,
    "model_type": "mamba2",
    "n_groups": 8,
    "norm_before_gate": True,
    "num_heads": 128,
    "num_hidden_layers": 64,
    "rescale_prenorm_residual": False,
    "residual_in_fp32": True,
    "rms_norm": True,
    "state_size": 128,
    "tie_word_embeddings": False,
    "time_step_floor": 0.0001,
    "time_step_init_scheme": "random",
    "time_step_limit": [0.0, float("inf")],
    "time_step_max": 0.1,
    "time_step_min": 0.001,
    "time_step_rank": 256,
    "time_step_scale": 1.0,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_cache": True,
    "use_conv_bias": True,
    "vocab_size": 32768,
}

PYTHIA: dict[str, Any] = {
    "architectures": ["GPTNeoXForCausalLM"],
    "bos_token_id": 0,
    "eos_token_id": 0,
    "hidden_act": "gelu",
    "hidden_size": 768,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048,
    "model_type": "gpt_neox",
    "num_attention_heads": 12,
    "num_hidden_layers": 12,
    "rotary_emb_base": 10000,
    "rotary_pct": 0.25,
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "use_cache": True,
    "use_parallel_residual": True,
    "vocab_size": 50304,
}
STARCODER2: dict[str, Any] = {
    "activation_function": "gelu",
    "architectures": ["Starcoder2ForCausalLM"],
    "attention_dropout": 0.1,
    "attention_softmax_in_fp32": True,
    "bos_token_id": 0,
    "embedding_dropout": 0.1,
    "eos_token_id": 0,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 3072,
    "initializer_range": 0.018042,
    "intermediate_size": 12288,
    "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 16384,
    "mlp_type": "default",
    "model_type": "starcoder2",
    "norm_epsilon": 1e-05,
    "norm_type": "layer_norm",
    "num_attention_heads": 24,
    "num_hidden_layers": 30,
    "num_key_value_heads": 2,
    "residual_dropout": 0.1,
    "rope_theta": 999999.4420358813,
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
    "sliding_window": 4096,
    "use_bias": True,
    "use_cache": True,
    "vocab_size": 49152,
}

FACTS: list[tuple[str, dict[str, Any], dict[str, Any]]] = [
    (
        "Qwen3-0.6B",
        QWEN3,
        {
            "d_hidden": 1024,
            "num_layers": 28,
            "num_heads": 16,
            "num_kv_heads": 8,
            "head_dim": 128,
            "d_vocab": 151936,
            "d_feed_forward": 3072,
            "rope_base": 1e6,
            "rope_scaling": None,
            "norm_type": "rms",
            "ln_eps": 1e-6,
            "activation_fn": "silu",
            "use_bias": False,
            "pos_embedding_type": "rope",
            "use_cache": True,
            "bos_token_id": 151643,
            "eos_token_id": 151645,
            "head.tied": True,
            "text.context": 40960,
            "text.dtype": "bfloat16",
        },
    ),
    (
        "Qwen3-4B-Instruct-2507",
        QWEN3_4B,
        {
            "d_hidden": 2560,
            "num_layers": 36,
            "num_heads": 32,
            "num_kv_heads": 8,
            "head_dim": 128,
            "d_feed_forward": 9728,
            "rope_base": 5e6,
            "text.context": 262144,
            "head.tied": True,
        },
    ),
    (
        "Qwen3-Coder-30B-A3B",
        QWEN3_CODER,
        {
            "d_hidden": 2048,
            "num_layers": 48,
            "num_heads": 32,
            "num_kv_heads": 4,
            "head_dim": 128,
            "d_feed_forward": 768,
            "rope_base": 1e7,
            "text.context": 262144,
            "head.tied": False,
        },
    ),
    (
        "Qwen3-Coder-Next",
        QWEN3_CODER_NEXT,
        {
            "d_hidden": 2048,
            "num_layers": 48,
            "num_heads": 16,
            "num_kv_heads": 2,
            "head_dim": 256,
            "d_feed_forward": 512,
            "rope_base": 5e6,
            "text.context": 262144,
            "head.tied": False,
        },
    ),
    (
        "GLM-4.7-Flash",
        GLM_FLASH,
        {
            "d_hidden": 2048,
            "num_layers": 47,
            "num_heads": 20,
            "head_dim": 256,
            "d_feed_forward": 1536,
            "d_vocab": 154880,
            "rope_base": 1e6,
            "ln_eps": 1e-5,
            "text.context": 202752,
            "head.tied": False,
            "eos_token_id": [154820, 154827, 154829],
        },
    ),
    (
        "Llama-2-7B",
        LLAMA2,
        {
            "d_hidden": 4096,
            "num_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 32,
            "head_dim": 128,
            "d_feed_forward": 11008,
            "d_vocab": 32000,
            "ln_eps": 1e-5,
            "rope_base": 1e4,
            "text.context": 4096,
            "head.tied": False,
            "text.dtype": "float16",
        },
    ),
    (
        "Llama-3.1-8B",
        LLAMA31,
        {
            "d_hidden": 4096,
            "num_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 8,
            "head_dim": 128,
            "d_feed_forward": 14336,
            "d_vocab": 128256,
            "rope_base": 5e5,
            "text.context": 131072,
            "eos_token_id": [128001, 128008, 128009],
            "rope_scaling": Llama3Scaling(
                factor=8.0, low_frequency_factor=1.0, high_frequency_factor=4.0, original_context=8192
            ),
        },
    ),
    (
        "Gemma-3-1b",
        GEMMA3,
        {
            "d_hidden": 1152,
            "num_layers": 26,
            "num_heads": 4,
            "num_kv_heads": 1,
            "head_dim": 256,
            "d_feed_forward": 6912,
            "d_vocab": 262144,
            "activation_fn": "gelu_tanh",
            "rope_base": 1e4,
            "head.tied": True,
            "embedding.scale": 1152**0.5,
            "embedding.scale_rounding": "model",
            "text.context": 32768,
        },
    ),
    (
        "Pythia-160m",
        PYTHIA,
        {
            "d_hidden": 768,
            "num_layers": 12,
            "num_heads": 12,
            "num_kv_heads": 12,
            "head_dim": 64,
            "d_feed_forward": 3072,
            "d_vocab": 50304,
            "activation_fn": "gelu",
            "use_bias": True,
            "head.tied": False,
            "text.context": 2048,
        },
    ),
    (
        "StarCoder2-3b",
        STARCODER2,
        {
            "d_hidden": 3072,
            "num_layers": 30,
            "num_heads": 24,
            "num_kv_heads": 2,
            "head_dim": 128,
            "d_feed_forward": 12288,
            "d_vocab": 49152,
            "activation_fn": "gelu_tanh",
            "rope_base": 999999.4420358813,
            "use_bias": True,
            "head.tied": True,
            "text.context": 16384,
            "text.initializer_range": 0.018042,
        },
    ),
    (
        "Mamba-Codestral-7B",
        CODESTRAL_MAMBA,
        {
            "d_hidden": 4096,
            "num_layers": 64,
            "d_vocab": 32768,
            "head.tied": False,
            "head.dtype": "float32",
            "embedding.dtype": "float32",
            "embedding.padding_row": None,
            "text.context": None,
            "text.step_range": (0.001, 0.1, 0.0001),
        },
    ),
    (
        "Mixtral-8x7B",
        MIXTRAL,
        {
            "d_hidden": 4096,
            "num_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 8,
            "head_dim": 128,
            "d_feed_forward": 14336,
            "rope_base": 1e6,
            "ln_eps": 1e-5,
            "text.context": 32768,
        },
    ),
    (
        "GPT-2",
        GPT2,
        {
            "d_hidden": 768,
            "num_layers": 12,
            "num_heads": 12,
            "num_kv_heads": 12,
            "head_dim": 64,
            "d_feed_forward": 3072,
            "d_vocab": 50257,
            "activation_fn": "gelu_new",
            "norm_type": "layer",
            "pos_embedding_type": "learned",
            "rope_base": None,
            "use_bias": True,
            "head.tied": True,
            "text.context": 1024,
        },
    ),
    (
        "Command-R7B",
        COMMAND_R7B,
        {
            "d_hidden": 4096,
            "num_layers": 32,
            "num_heads": 32,
            "num_kv_heads": 8,
            "head_dim": 128,
            "d_feed_forward": 14336,
            "d_vocab": 256000,
            "rope_base": 5e4,
            "norm_type": "layer",
            "head.tied": True,
            "head.scale": 0.25,
            "text.context": 132096,
        },
    ),
]
NAMES = [name for name, _, _ in FACTS]
CONFIGS = {name: raw for name, raw, _ in FACTS}


@pytest.mark.parametrize(("name", "raw", "facts"), FACTS, ids=NAMES)
def test_flat_view(name: str, raw: dict[str, Any], facts: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(raw))
    n = ArchitectureParameter.from_huggingface(tmp_path)
    for path, expected in facts.items():
        found: Any = n
        for step in path.split("."):
            found = getattr(found, step)
        assert found == expected, f"{name}: {path}"
    assert n.to_huggingface() == raw


def mixers(name: str) -> list[Any]:
    n = ArchitectureParameter.from_huggingface(CONFIGS[name])
    return [next(b.part for b in layer.branches() if b.part.role == "mixer") for layer in n.layers]


def experts(name: str) -> list[MixtureOfExperts | None]:
    n = ArchitectureParameter.from_huggingface(CONFIGS[name])
    parts = [next(b.part for b in layer.branches() if b.part.role == "feed_forward") for layer in n.layers]
    return [part if isinstance(part, MixtureOfExperts) else None for part in parts]


def test_gemma_3_has_five_windows_to_one_full_layer_each_with_its_rotation() -> None:
    found = mixers("Gemma-3-1b")
    for index, part in enumerate(found):
        full = index % 6 == 5
        assert part.window == (None if full else 512)
        assert part.rope == Rope(theta=1e6 if full else 1e4)
        assert part.scale == 256**-0.5


def test_command_r7b_rotates_where_it_has_a_window() -> None:
    for index, part in enumerate(mixers("Command-R7B")):
        full = index % 4 == 3
        assert (part.window, part.rope is None) == ((None, True) if full else (4096, False))
        assert full or (part.rope.pairing, part.rope.theta) == ("interleaved", 5e4)


def test_qwen3_next_has_three_delta_layers_to_one_of_attention() -> None:
    found = mixers("Qwen3-Coder-Next")
    assert [type(part) for part in found] == [GatedDeltaRule, GatedDeltaRule, GatedDeltaRule, Attention] * 12
    assert (found[0].key_heads, found[0].value_heads, found[0].key_dim, found[0].convolution) == (16, 32, 128, 4)
    assert found[3].rope == Rope(theta=5e6, fraction=0.25)
    part = experts("Qwen3-Coder-Next")[0]
    assert part and part.shared and (part.experts, part.per_token, part.shared.width) == (512, 10, 512)
    assert part.shared_gate and part.router.normalise


@pytest.mark.parametrize(("raw", "parameters"), [(PYTHIA, 162_322_944), (STARCODER2, 3_030_371_328)])
def test_the_published_number_of_parameters(raw: dict[str, Any], parameters: int) -> None:
    n = ArchitectureParameter.from_huggingface(raw)
    assert n.count(context=1, dtype="float32").parameters == parameters


def test_pythia_rotates_a_quarter_of_each_head_and_sums_both_branches() -> None:
    n = ArchitectureParameter.from_huggingface(PYTHIA)
    for part in mixers("Pythia-160m"):
        assert part.rope == Rope(theta=1e4, fraction=0.25) and part.window is None
        assert part.packing[0].groups == 12
    (step,) = n.layers[0].steps
    assert [branch.name for branch in step.branches] == ["attention", "feed_forward"] and step.norm is None
    assert [term.source for term in step.writes[0].terms] == ["feed_forward", "attention", "x"]


def test_starcoder2_has_one_window_and_biases_everywhere() -> None:
    for part in mixers("StarCoder2-3b"):
        assert part.window == 4096 and set(part.biases) == {"query", "key", "value", "output"}


def test_codestral_mamba_is_state_spaces_alone() -> None:
    found = mixers("Mamba-Codestral-7B")
    assert len(set(found)) == 1 and isinstance(part := found[0], StateSpace)
    assert (part.heads, part.head_dim, part.state_dim, part.groups, part.norm_groups) == (128, 64, 128, 8, 8)
    assert (part.convolution, part.convolution_bias, part.biases, part.chunk) == (4, True, (), 256)
    assert part.time_step == (0.0, float("inf")) and not part.norm_first
    n = ArchitectureParameter.from_huggingface(CODESTRAL_MAMBA)
    assert all([branch.part for branch in layer.branches()] == [part] for layer in n.layers)


def test_glm_flash_has_latent_attention_and_a_dense_first_layer() -> None:
    part = mixers("GLM-4.7-Flash")[0]
    assert isinstance(part, LatentAttention)
    assert (part.query_rank, part.latent_rank, part.nope_dim, part.rope_dim, part.value_dim) == (768, 512, 192, 64, 256)
    assert part.latent_norm.eps == 1e-6
    first, *rest = experts("GLM-4.7-Flash")
    assert first is None and all(rest)
    sparse = rest[0]
    assert sparse and sparse.shared and (sparse.experts, sparse.per_token, sparse.shared.width) == (64, 4, 1536)
    router = sparse.router
    assert (router.score, router.scale, router.sum_epsilon, router.selection_bias) == ("sigmoid", 1.8, 1e-20, True)


@pytest.mark.parametrize(
    ("name", "count", "chosen", "normalised"), [("Qwen3-Coder-30B-A3B", 128, 8, True), ("Mixtral-8x7B", 8, 2, True)]
)
def test_experts(name: str, count: int, chosen: int, normalised: bool) -> None:
    for part in experts(name):
        assert part is not None and part.shared is None
        assert (part.experts, part.per_token, part.router.normalise) == (count, chosen, normalised)


@pytest.mark.parametrize("name", ["Qwen3-0.6B", "Qwen3-4B-Instruct-2507", "Qwen3-Coder-30B-A3B"])
def test_qwen3_norms_queries_and_keys_and_has_no_window(name: str) -> None:
    for part in mixers(name):
        assert part.qk_norm is not None and part.window is None and not part.biases
