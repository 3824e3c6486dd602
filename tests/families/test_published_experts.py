"""The config.json of published Qwen1.5-MoE, OLMoE, Granite 3 MoE and ERNIE 4.5 checkpoints, and what n says of them."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.position import Rope

QWEN15_MOE: dict[str, Any] = {
    "architectures": ["Qwen2MoeForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "decoder_sparse_step": 1,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 5632,
    "max_position_embeddings": 8192,
    "max_window_layers": 21,
    "model_type": "qwen2_moe",
    "moe_intermediate_size": 1408,
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 60,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 16,
    "output_router_logits": False,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "router_aux_loss_coef": 0.001,
    "shared_expert_intermediate_size": 5632,
    "sliding_window": 32768,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.39.0.dev0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
OLMOE: dict[str, Any] = {
    "architectures": ["OlmoeForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "clip_qkv": None,
    "eos_token_id": 50279,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 1024,
    "max_position_embeddings": 4096,
    "model_type": "olmoe",
    "norm_topk_prob": False,
    "num_attention_heads": 16,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 16,
    "num_key_value_heads": 16,
    "output_router_logits": False,
    "pad_token_id": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "router_aux_loss_coef": 0.01,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.43.0.dev0",
    "use_cache": True,
    "vocab_size": 50304,
}
GRANITE_1B: dict[str, Any] = {
    "architectures": ["GraniteMoeForCausalLM"],
    "attention_bias": False,
    "attention_multiplier": 0.015625,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 512,
    "logits_scaling": 6.0,
    "max_position_embeddings": 4096,
    "model_type": "granitemoe",
    "num_attention_heads": 16,
    "num_experts_per_tok": 8,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000,
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 49155,
}
ERNIE: dict[str, Any] = {
    "architectures": ["Ernie4_5_MoeForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "intermediate_size": 12288,
    "max_position_embeddings": 131072,
    "model_type": "ernie4_5_moe",
    "moe_capacity": [64, 64, 64],
    "moe_gate": "topk",
    "moe_intermediate_size": 1536,
    "moe_k": 6,
    "moe_layer_interval": 1,
    "moe_layer_start_index": 1,
    "moe_num_experts": 64,
    "moe_num_shared_experts": 2,
    "moe_use_aux_free": True,
    "num_attention_heads": 20,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "num_nextn_predict_layers": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-05,
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "use_bias": False,
    "use_cache": True,
    "vocab_size": 103424,
}


def parts(raw: dict[str, Any]) -> list[tuple[Attention, FeedForward | MixtureOfExperts]]:
    """The attention and the feed-forward of each layer."""
    n = ArchitectureParameter.from_huggingface(raw)
    assert n.to_huggingface() == raw
    return [tuple(branch.part for branch in layer.branches()) for layer in n.layers]  # type: ignore[misc]


def test_qwen_1_5_gates_its_shared_expert_and_uses_no_windows() -> None:
    for attention, experts in parts(QWEN15_MOE):
        assert attention.window is None and set(attention.biases) == {"query", "key", "value"}
        assert (experts.experts, experts.per_token, experts.expert.width) == (60, 4, 1408)
        assert experts.shared_gate and experts.shared.width == 5632 and not experts.router.normalise


def test_olmoe_norms_all_heads_at_once_and_lets_shares_sum_to_less_than_one() -> None:
    for attention, experts in parts(OLMOE):
        assert attention.qk_norm is not None and attention.qk_norm.over == "width" and attention.clip is None
        assert (experts.experts, experts.per_token, experts.expert.width) == (64, 8, 1024)
        assert not experts.router.normalise and experts.shared is None


def test_granite_takes_a_softmax_over_the_chosen() -> None:
    for attention, experts in parts(GRANITE_1B):
        assert attention.scale == 0.015625 and attention.rope == Rope(theta=1e4)
        assert (experts.experts, experts.per_token, experts.expert.width) == (32, 8, 512)
        assert (experts.router.score, experts.router.weights) == ("softmax_chosen", "rounded")


def test_ernie_has_a_dense_layer_and_routers_in_float32() -> None:
    (attention, dense), *rest = parts(ERNIE)
    assert attention.head_dim == 128 and isinstance(dense, FeedForward) and dense.width == 12288
    for _, experts in rest:
        assert (experts.experts, experts.per_token, experts.shared.width) == (64, 6, 2 * 1536)
        assert experts.router.stored == "float32" and experts.router.selection_bias
        assert experts.router.sum_floor == 1e-12


@pytest.mark.parametrize(
    ("raw", "key", "value"),
    [(ERNIE, "moe_gate", "top2_fused"), (ERNIE, "moe_use_aux_free", False), (OLMOE, "head_dim", 64)],
)
def test_what_the_reference_overlooks_is_refused_at_other_values(raw: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfig, match=f"{raw['model_type']}: {key} = "):
        ArchitectureParameter.from_huggingface(raw | {key: value})
