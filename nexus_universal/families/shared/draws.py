"""Values that proofs draw for config keys many families share; the plain value stands first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

V = TypeVar("V")

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
"""A decoder small enough for hundreds of proofs; its context is shorter than the proofs' sequences."""

TINY_EXPERTS: dict[str, Any] = {
    "head_dim": 16,
    "moe_intermediate_size": 24,
    "num_experts": 8,
    "num_experts_per_tok": 3,
}
"""What Qwen's experts add to it."""

PER_PAIR = "one factor per rotated pair"
"""Stands for a list whose length follows from the other draws; the proof fills it in."""

ROPE_SCALING: tuple[dict[str, Any] | None, ...] = (
    None,
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16},
    {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 8,
        "beta_fast": 0.57,
        "beta_slow": 0.055,
        "mscale": 0.7,
        "mscale_all_dim": 1.2,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 16, "attention_factor": 0.8},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 16,
    },
    {
        "rope_type": "longrope",
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "short_factor": PER_PAIR,
        "long_factor": PER_PAIR,
    },
    {"rope_type": "proportional", "partial_rotary_factor": 0.62, "factor": 2.0},
)

ROPE: tuple[dict[str, Any], ...] = (
    {"rope_type": "default", "rope_theta": 10000.0},
    {"rope_type": "default", "rope_theta": 100.0},
    *({"rope_theta": 500.0, **scaling} for scaling in ROPE_SCALING if scaling),
    {
        "rope_type": "yarn",
        "rope_theta": 100.0,
        "factor": 4.0,
        "original_max_position_embeddings": 16,
        "beta_fast": 1.5,
        "beta_slow": 0.25,
        "truncate": False,
    },
)

DENSE: dict[str, tuple[Any, ...]] = {
    "num_key_value_heads": (2, 4, 1),
    "rope_parameters": ROPE,
    "rms_norm_eps": (1e-6, 1e-3),
    "attention_bias": (False, True),
    "hidden_act": ("silu", "gelu_pytorch_tanh"),
    "tie_word_embeddings": (False, True),
    "pad_token_id": (None, 0),
}
"""What nearly every decoder lets one choose."""


def mixtures(
    tiny: Mapping[str, Any], values: Mapping[str, tuple[Any, ...]], count: int = 6
) -> tuple[dict[str, Any], ...]:
    """Whole configs, the tiny one first, for a section of another config: each key walks through its values."""
    settled = {key: [value for value in found if PER_PAIR not in str(value)] for key, found in values.items()}
    mixed = [{key: found[index % len(found)] for key, found in settled.items()} for index in range(1, count)]
    return ({**tiny}, *({**tiny, **chosen} for chosen in mixed))


def without(values: Mapping[str, V], *keys: str) -> dict[str, V]:
    """The same draws (or tiny config) but for keys that a family does not have."""
    return {key: found for key, found in values.items() if key not in keys}


TINY_VISION: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}
"""A vision tower beside a text model, of which nothing is built."""

TINY_LATENT: dict[str, Any] = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 20,
    "q_lora_rank": 28,
    "qk_nope_head_dim": 12,
    "qk_rope_head_dim": 8,
    "v_head_dim": 16,
}
"""What latent attention adds to it."""

TINY_INDEXED: dict[str, Any] = {"index_n_heads": 12, "index_head_dim": 20, "index_topk": 17}
"""What the indexer of DeepSeek-V3.2 adds to it: heads enough that no sum is nothing but zeros."""

INDEXED: dict[str, tuple[Any, ...]] = {
    "index_topk": (17, 5, 100),
    "index_n_heads": (12, 16),
    "index_head_dim": (20, 32),
}
"""That indexer."""

TINY_ROUTED: dict[str, Any] = {
    "num_hidden_layers": 3,
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
}
"""What DeepSeek's experts add to it."""

LATENT: dict[str, tuple[Any, ...]] = {
    "num_key_value_heads": (4,),
    "q_lora_rank": (28, None),
    "v_head_dim": (16, 20),
    "qk_rope_head_dim": (8, 16),
    "rope_interleave": (True, False),
}
"""DeepSeek's latent attention."""

ROUTED: dict[str, tuple[Any, ...]] = {
    "num_experts_per_tok": (3, 1, 4),
    "n_shared_experts": (1, 2),
    "n_group": (1, 2),
    "norm_topk_prob": (True, False),
    "routed_scaling_factor": (1.8, 1.0),
}
"""DeepSeek's spelling of experts."""

EXPERTS: dict[str, tuple[Any, ...]] = {
    "num_experts": (8, 5),
    "num_experts_per_tok": (3, 1, 5),
    "norm_topk_prob": (True, False),
    "decoder_sparse_step": (1, 2),
    "mlp_only_layers": ([], [0], [0, 1]),
}
"""Qwen's spelling of experts."""

TINY_WHOLE_EXPERTS: dict[str, Any] = {"intermediate_size": 24, "num_experts": 8, "num_experts_per_tok": 3}
"""The same where every layer has experts, of `intermediate_size`."""

WHOLE_EXPERTS: dict[str, tuple[Any, ...]] = without(EXPERTS, "decoder_sparse_step", "mlp_only_layers") | {
    "norm_topk_prob": (False, True)
}
"""Of those, what is chosen and how it is weighed."""

WINDOWED_ABOVE: dict[str, tuple[Any, ...]] = {
    "use_sliding_window": (False, True),
    "sliding_window": (7, 24, 64),
    "max_window_layers": (1, 0, 2),
}
"""Qwen's windows."""
