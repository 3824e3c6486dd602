"""Nemotron-H, Nemotron 3 (arXiv 2504.03624): layers of one part, Mamba-2, unrotated attention, or (latent) experts."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import Direct, WeightMap
from nexus_universal.families.shared import common, deepseek, draws, names, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import GENERATION, ConfigReader

LETTERS = {"M": "linear_attention", "E": "moe", "*": "full_attention", "-": "mlp"}
UNREAD = ("attention_bias", "mamba_proj_bias", "residual_in_fp32", "n_shared_experts", "time_step_limit", "expand")
UNREAD += ("time_step_rank", "mamba_ssm_cache_dtype", "use_mamba_kernels", "moe_shared_expert_overlap")
PREDICTION = ("num_nextn_predict_layers", "mtp_layers_block_type", "mtp_hybrid_override_pattern")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    step_range = state_space.step_range(reader)
    start: dict[str, Any] = {"step_range": step_range, "shrunk_output": reader.take("rescale_prenorm_residual", True)}
    text = common.text(reader, context=4096, bos=1, eos=2, pad=0, **start)
    embedding = common.embedding(reader, vocab=131072, width=4096, pad=None)
    norm = Norm(kind="rms", eps=reader.take("layer_norm_epsilon", 1e-5), rounding="after_scale")
    for old in ("norm_eps", "rms_norm_eps"):
        reader.inert(old, norm.eps)
    unrotated: dict[str, Any] = {"rotated": False, "biases": ()}
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, head_dim=128, **unrotated)
    reader.inert("attention_head_dim", attention.head_dim)
    reader.inert("sliding_window", None)
    mixer = state_space.plain(
        reader,
        heads=reader.count("mamba_num_heads", 128),
        head_dim=reader.count("mamba_head_dim", 64),
        state_dim=reader.count("ssm_state_size", 128),
        norm=replace(norm, rounding="before_scale"),
        activation=common.activation(reader, "mamba_hidden_act"),
        time_step=(step_range[0], inf),
        chunk=128,
    )
    biases = ("up", "down") if reader.take("mlp_bias", False) else ()
    dense = common.feed_forward(reader, 21504, key="mlp_hidden_act", act="relu2", gated=False, biases=biases)
    experts = ("feed_forward", _experts(reader, dense))
    parts: dict[str, tuple[str, Any]] = {"moe": experts, "full_attention": ("attention", attention)}
    parts |= {"linear_attention": ("state_space", mixer), "mlp": ("feed_forward", dense)}
    layers = [sequential_layer(parts[kind], norm=norm) for kind in state_space.kinds_by_letter(reader, LETTERS)]
    reader.inert("tie_word_embeddings", False)
    return common.decoder(reader, text, embedding, layers, norm, dtype="float32")


def _experts(reader: ConfigReader, dense: FeedForward) -> MixtureOfExperts:
    latent = reader.count("moe_latent_size", optional=True)
    return MixtureOfExperts(
        experts=reader.count("n_routed_experts", 8),
        per_token=reader.count("num_experts_per_tok", 2),
        expert=replace(dense, width=reader.count("moe_intermediate_size", 7688), biases=()),
        router=deepseek.sigmoid_router(reader, scale=1.0),
        shared=replace(dense, width=reader.count("moe_shared_expert_intermediate_size", 7688)),
        latent=latent,
        latent_bias=bool(latent and dense.biases),
    )


def _tensors(model: str, *, published: bool) -> names.Names:
    layer, ours = f"{model}.layers.{{i}}", "layers.{i}.feed_forward"
    mixer = f"{layer}.mixer"
    table: names.Names = {
        "embedding.tokens": f"{model}.embeddings",
        "final_norm": f"{model}.norm_f",
        "head": "lm_head",
        "layers.{i}.attention_norm": f"{layer}.norm",
        f"{ours}_norm": f"{layer}.norm",
        f"{ours}.router.weight": Direct(f"{mixer}.gate.weight"),
        f"{ours}.router.selection_bias": Direct(f"{mixer}.gate.e_score_correction_bias"),
        f"{ours}.latent_down": f"{mixer}.fc1_latent_proj",
        f"{ours}.latent_up": f"{mixer}.fc2_latent_proj",
    }
    table |= names.plain(ours, mixer) | names.plain(f"{ours}.shared", f"{mixer}.shared_experts")
    table |= names.plain_experts(f"{ours}.experts", f"{mixer}.experts", published=published)
    return table | names.attention(layer, "mixer") | names.state_space(layer, "mixer", "norm")


TENSORS = names.either(_tensors("backbone", published=True), _tensors("model", published=False))
FAMILY = Family(
    model_type="nemotron_h",
    title="Nemotron-H, Nemotron 3",
    read=read,
    weights=WeightMap(tensors=TENSORS, passed_over={r"^mtp": "multi-token prediction"}),
    aliases={"layer_types": "layers_block_type", "num_local_experts": "n_routed_experts"} | state_space.OLD_ALIASES,
    irrelevant={
        "num_logits_to_keep": GENERATION,
        **dict.fromkeys(("rope_theta", "partial_rotary_factor"), "no layer rotates anything"),
        **dict.fromkeys(UNREAD, "the reference does not read it"),
        **dict.fromkeys(PREDICTION, deepseek.IRRELEVANT["num_nextn_predict_layers"]),
    },
    rope="none",
    tiny=draws.without(draws.TINY | draws.TINY_ROUTED, "num_hidden_layers")
    | {"mamba_num_heads": 6, "mamba_head_dim": 16, "ssm_state_size": 10, "n_groups": 2, "chunk_size": 32}
    | {"layers_block_type": list(LETTERS.values()), "head_dim": 16, "moe_shared_expert_intermediate_size": 40},
    draws=draws.without(draws.ROUTED, "n_shared_experts")
    | state_space.PLAIN_DRAWS
    | {
        "num_key_value_heads": (2, 4, 1),
        "head_dim": (16, 8),
        "layers_block_type": (list(LETTERS.values()), ["full_attention", "moe", "linear_attention"]),
        "ssm_state_size": (10, 16),
        "mamba_hidden_act": ("silu", "gelu"),
        "mlp_hidden_act": ("relu2", "silu"),
        "mlp_bias": (False, True),
        "time_step_min": (0.001, 0.3),
        "moe_latent_size": (None, 32),
        "moe_shared_expert_intermediate_size": (40, 24),
    },
)
