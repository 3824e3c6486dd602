"""Tables of both generations of Inkling: tensors, other spellings, what no class reads, and values for proofs."""

from __future__ import annotations

from typing import Any

from nexus_universal.checkpoint.rules import Direct, Interleaved, Squeezed
from nexus_universal.families.shared import draws, names

FULL, SLIDING = KINDS = "hybrid", "hybrid_sliding"

ALIASES = {
    "sliding_window": "sliding_window_size",
    "num_local_experts": "n_routed_experts",
    "sconv_kernel_size": "conv_kernel_size",
    "model_max_length": "max_position_embeddings",
}
UNREAD = "no class of transformers reads it"
PREDICTION = "multi-token prediction, of which nothing is built"
IRRELEVANT = {"tie_word_embeddings": "the class never ties"}
FIRST_IRRELEVANT = IRRELEVANT | {
    **dict.fromkeys(("shared_expert_sink", "rms_norm_eps_moe_gate"), UNREAD),
    **dict.fromkeys(("num_mtp_layers", "chain_hidden_post_norm", "mtp_hidden_states_first"), PREDICTION),
    "mtp_local_layer_ids": PREDICTION,
}

LAYER, ATTENTION, MLP = names.LAYER, f"{names.LAYER}.self_attn", f"{names.LAYER}.mlp"
MIXER, ROLES = "layers.{i}.attention", ("query", "key", "value")


def _convolution(place: str, theirs: str) -> names.Names:
    return {f"{place}.convolution.weight": Squeezed(f"{theirs}.conv1d.weight", axis=1)}


BOTH: names.Names = {
    "embedding.norm": "model.embed_tokens.embed_norm",
    f"{MIXER}.relative": f"{ATTENTION}.r_proj",
    f"{MIXER}.relative_bias.profiles": Direct(f"{ATTENTION}.rel_logits_proj.proj"),
    "layers.{i}.feed_forward.router.weight": Direct(f"{MLP}.gate.weight"),
    "layers.{i}.feed_forward.router.selection_bias": Direct(f"{MLP}.gate.e_score_correction_bias"),
    "layers.{i}.feed_forward.experts.gate_up": Direct(f"{MLP}.experts.gate_up_proj"),
    "layers.{i}.feed_forward.experts.down": Direct(f"{MLP}.experts.down_proj"),
    **_convolution(f"{MIXER}.key_convolution", f"{ATTENTION}.k_sconv"),
    **_convolution(f"{MIXER}.value_convolution", f"{ATTENTION}.v_sconv"),
}

FIRST: names.Names = BOTH | {
    **_convolution("layers.{i}.attention_convolution", f"{LAYER}.attn_sconv"),
    **_convolution("layers.{i}.feed_forward_convolution", f"{LAYER}.mlp_sconv"),
    "layers.{i}.feed_forward_y_feed_forward_gain.weight": Direct(f"{MLP}.global_scale"),
    "layers.{i}.feed_forward.router.scale": Direct(f"{MLP}.gate.global_scale"),
    "layers.{i}.feed_forward.always.gate": Direct(f"{MLP}.shared_experts.gate_proj"),
    "layers.{i}.feed_forward.always.up": Direct(f"{MLP}.shared_experts.up_proj"),
    "layers.{i}.feed_forward.always.down": Direct(f"{MLP}.shared_experts.down_proj"),
}

SECOND: names.Names = BOTH | {
    **_convolution("layers.{i}.attention_convolution", f"{LAYER}.post_attention_convolution"),
    **_convolution("layers.{i}.feed_forward_convolution", f"{LAYER}.post_mlp_convolution"),
    f"{MIXER}.gate": f"{ATTENTION}.gate_proj",
    f"{MIXER}.sink": f"{ATTENTION}.sink_proj",
    f"{MIXER}.query_norm.scale": Direct(f"{ATTENTION}.q_l2_clip.scale"),
    f"{MIXER}.relative_bias.limit.scale": Direct(f"{ATTENTION}.rel_l2_clip.scale"),
    **{f"{MIXER}.input_norms.{role}": f"{LAYER}.{role[0]}_input_layernorm" for role in ROLES},
    **{f"{MIXER}.{role}_convolution.taps": Direct(f"{ATTENTION}.{role[0]}_sconv.static_weight") for role in ROLES[1:]},
    **{
        f"{MIXER}.{role}_convolution.project.weight": Direct(f"{ATTENTION}.{role[0]}_sconv.weight_proj.weight")
        for role in ROLES[1:]
    },
    "layers.{i}.attention_read.query": Direct(f"{LAYER}.attention_input.query"),
    "layers.{i}.feed_forward_read.query": Direct(f"{LAYER}.mlp_input.query"),
    "layers.{i}.step_read.query": Direct("model.final_input.query"),
}

THEIRS = "model.llm.layers.{i}"
PROJECTIONS = {"query": "wq_du", "key": "wk_dv", "value": "wv_dv", "output": "wo_ud", "relative": "wr_du"}
PROJECTIONS |= {"gate": "gate_attn", "sink": "attn_sink_proj"}
CONVOLUTIONS = {f"{MIXER}.{role}_convolution": f"{THEIRS}.attn.{role[0]}_sconv" for role in ROLES[1:]}
BESIDE = {"layers.{i}.attention_convolution": "attn_sconv", "layers.{i}.feed_forward_convolution": "mlp_sconv"}

PUBLISHED: names.Names = {
    "embedding.tokens": "model.llm.embed",
    "embedding.norm": "model.llm.embed_norm",
    "final_norm": "model.llm.norm",
    "head": "model.llm.unembed",
    "layers.{i}.attention_norm": f"{THEIRS}.attn_norm",
    "layers.{i}.feed_forward_norm": f"{THEIRS}.mlp_norm",
    **{f"{MIXER}.{role}": f"{THEIRS}.attn.{name}" for role, name in PROJECTIONS.items()},
    **{f"{MIXER}.input_norms.{role}": f"{THEIRS}.{role[0]}_input_norm" for role in ROLES},
    f"{MIXER}.relative_bias.profiles": Direct(f"{THEIRS}.attn.rel_logits_proj.proj"),
    f"{MIXER}.query_norm.scale": Direct(f"{THEIRS}.attn.q_l2_clip.scale"),
    f"{MIXER}.relative_bias.limit.scale": Direct(f"{THEIRS}.attn.rel_l2_clip.scale"),
    "layers.{i}.feed_forward.router.weight": Direct(f"{THEIRS}.mlp.gate.weight"),
    "layers.{i}.feed_forward.router.selection_bias": Direct(f"{THEIRS}.mlp.gate.bias"),
    "layers.{i}.feed_forward.experts.gate_up": Interleaved(f"{THEIRS}.mlp.experts.w13_weight"),
    "layers.{i}.feed_forward.experts.down": Direct(f"{THEIRS}.mlp.experts.w2_weight"),
    **{f"{ours}.convolution.weight": Squeezed(f"{theirs}.weight", axis=1) for ours, theirs in CONVOLUTIONS.items()},
    **{f"{ours}.convolution.weight": Squeezed(f"{THEIRS}.{name}.weight", axis=1) for ours, name in BESIDE.items()},
    **{f"{ours}.taps": Direct(f"{theirs}.static_w") for ours, theirs in CONVOLUTIONS.items()},
    **{f"{ours}.project.weight": Direct(f"{theirs}.weight_proj") for ours, theirs in CONVOLUTIONS.items()},
    "layers.{i}.attention_read.query": Direct("model.llm.attn_res.attn_queries.{i-1}"),
    "layers.{i}.feed_forward_read.query": Direct("model.llm.attn_res.mlp_queries.{i}"),
    "layers.{i}.step_read.query": Direct("model.llm.attn_res.output_query"),
}
"""Inkling 2 as it is published."""

TINY: dict[str, Any] = {
    "num_hidden_layers": 3,
    "head_dim": 16,
    "swa_num_attention_heads": 6,
    "swa_num_key_value_heads": 3,
    "swa_head_dim": 8,
    "sliding_window_size": 16,
    "d_rel": 6,
    "rel_extent": 24,
    "layer_types": [SLIDING, FULL, SLIDING],
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "bos_token_id": None,
    "eos_token_id": 3,
}

DRAWS: dict[str, tuple[Any, ...]] = {
    **{key: draws.DENSE[key] for key in ("num_key_value_heads", "rms_norm_eps", "hidden_act", "pad_token_id")},
    "head_dim": (16, 8),
    "swa_num_attention_heads": (6, 3),
    "swa_head_dim": (8, 20),
    "sliding_window_size": (16, 7, 128),
    "d_rel": (6, 9),
    "rel_extent": (24, 5, 100),
    "conv_kernel_size": (4, 2, 3),
    "layer_types": ([SLIDING, FULL, SLIDING], None, [FULL, SLIDING, FULL]),
    "n_routed_experts": (8, 5),
    "num_experts_per_tok": (3, 1, 4),
    "route_scale": (8.0, 1.3),
}

FIRST_DRAWS: dict[str, tuple[Any, ...]] = DRAWS | {
    "n_shared_experts": (2, 1, 3),
    "mlp_layer_types": (["dense", "sparse", "sparse"], None, ["sparse", "dense", "sparse"]),
    "dense_mlp_idx": (0, 1),
    "dense_intermediate_size": (None, 40),
    "local_layer_ids": (None, [1]),
    "log_scaling_n_floor": (20, None, 3),
    "log_scaling_alpha": (0.1, 0.7),
    "logits_mup_width_multiplier": (24.0, 3.0),
    "unpadded_vocab_size": (None, 90, 97, 200),
}

SECOND_DRAWS: dict[str, tuple[Any, ...]] = draws.without(DRAWS, "hidden_act") | {
    "log_scaling_n_floor": (20, 3),
    "log_scaling_alpha": (0.1, 0.7),
    "unpadded_vocab_size": (97, 90, 200),
    "qk_l2_clip_threshold": (22.627416997969522, 2.0),
    "rel_l2_clip_threshold": (8.0, 1.0),
    "n_layers_per_attn_res_block": (2, 1, 3, 6),
    "mlp_gate_softcap": (4.0, 0.7),
    "mlp_up_softcap": (25.0, 0.9),
    "final_logit_softcapping": (30.0, 2.0),
}
