"""MiniMax-M3 (MiniMax): M2 with norms per head, a clamped gate in every network, and keys chosen block by block."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.indexers import BlockIndexer
from nexus_universal.architecture.mixers import Packed, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FULL, SPARSE = KINDS = "full_attention", "minimax_m3_sparse"
MLP = f"{names.LAYER}.mlp"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=524288, vocab=200064, width=6144, bos=200034, eos=200020)
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    rope = rotary.rope(reader.section("rope_parameters"), context=text.context, takes_fraction=True)
    attention = partial(common.attention, reader, text, embedding.width, heads=64, kv_heads=4, head_dim=128)
    full = attention(rope=rope, biases=(), qk_norm=QueryKeyNorm(norm=norm))
    reader.inert("swiglu_alpha", 1.702)
    width, limit = reader.count("intermediate_size", 3072), reader.number("swiglu_limit", 7.0)
    expert = FeedForward(width=width, activation="gelu_quick", gate_limit=limit, up_shift=1.0)
    packed = replace(expert, packing=(Packed(roles=("gate", "up")),))
    dense = replace(packed, width=reader.count("dense_intermediate_size", 12288))
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 128),
        per_token=reader.count("num_experts_per_tok", 4),
        expert=expert,
        router=Router(score="sigmoid", normalise=True, selection_bias=True, logits="widened", order="unsorted"),
        scale=reader.number("routed_scaling_factor", 2.0),
        shared=replace(packed, width=reader.count("shared_intermediate_size", 3072)),
        shared_call="first",
    )
    depth = reader.count("num_hidden_layers", 60)
    indexer, older = _indexer(reader, norm, depth)
    mixers = {FULL: full, SPARSE: replace(full, indexer=indexer)}
    kinds = reader.names("layer_types", length=depth, known=KINDS) or older
    flags = reader.names("moe_layer_freq", length=depth, known=(0, 1)) or (1,) * depth
    mlps = reader.names("mlp_layer_types", length=depth, known=("dense", "sparse"))
    mlps = mlps or tuple("sparse" if flag else "dense" for flag in flags)
    feed_forwards = [experts if mlp == "sparse" else dense for mlp in mlps]
    layers = common.sequential([mixers[kind] for kind in kinds], feed_forwards, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


def _indexer(reader: ConfigReader, norm: Norm, depth: int) -> tuple[BlockIndexer, tuple[str, ...]]:
    """The indexer, and which layers have it by the older spelling, whose sizes win over the newer one's."""
    said = bool(reader.values.get("sparse_attention_config"))
    older = reader.section("sparse_attention_config") if said else ConfigReader(reader.family, {})
    if not said:
        reader.inert("sparse_attention_config", None, {})
    near = older.take("sparse_local_block", reader.take("index_local_blocks", 1))
    reader.require(near >= 0, "index_local_blocks", near, "must not be negative")
    indexer = BlockIndexer(
        heads=older.count("sparse_num_index_heads", reader.count("index_n_heads", 4)),
        head_dim=older.count("sparse_index_dim", reader.count("index_head_dim", 128)),
        size=older.count("sparse_block_size", reader.count("index_block_size", 128)),
        keep=older.count("sparse_topk_blocks", reader.count("index_topk_blocks", 16)),
        near=near or None,
        norm=norm,
    )
    flags = older.names("sparse_attention_freq", length=depth, known=(0, 1)) or (0,) * depth
    return indexer, tuple(KINDS[flag] for flag in flags)


TENSORS: names.Names = {
    **names.packed_gated(),
    "layers.{i}.feed_forward.shared.gate_up": f"{MLP}.shared_experts.gate_up_proj",
    "layers.{i}.feed_forward.shared.down": f"{MLP}.shared_experts.down_proj",
    "layers.{i}.feed_forward.router.weight": Direct(f"{MLP}.gate.weight"),
    "layers.{i}.feed_forward.router.selection_bias": f"{MLP}.gate.e_score_correction_bias",
    "layers.{i}.feed_forward.experts.gate_up": Direct(f"{MLP}.experts.gate_up_proj"),
    "layers.{i}.feed_forward.experts.down": Direct(f"{MLP}.experts.down_proj"),
    **{
        f"layers.{{i}}.attention.indexer.{ours}": f"{names.LAYER}.self_attn.indexer.{theirs}"
        for ours, theirs in {"query": "q_proj", "key": "k_proj", "query_norm": "q_norm", "key_norm": "k_norm"}.items()
    },
}

FAMILY = Family(
    model_type="minimax_m3_vl_text",
    title="MiniMax-M3",
    read=read,
    weights=names.weights(TENSORS, passed_over={r"(^|\.)mtp\.": "multi-token prediction"}),
    aliases={"num_experts": "num_local_experts"},
    irrelevant={"hidden_act": "the gate is fixed", "rotary_dim": "the reference reads partial_rotary_factor"},
    rope_theta=5000000.0,
    tiny=draws.TINY
    | {"num_hidden_layers": 3, "head_dim": 16, "num_local_experts": 6, "num_experts_per_tok": 2, "swiglu_limit": 1.5}
    | {"intermediate_size": 24, "dense_intermediate_size": 40, "shared_intermediate_size": 32}
    | {"index_n_heads": 2, "index_head_dim": 16, "index_block_size": 8, "index_topk_blocks": 3}
    | {"layer_types": [FULL, SPARSE, SPARSE], "mlp_layer_types": ["dense", "sparse", "sparse"]},
    draws=draws.without(draws.DENSE, "attention_bias", "hidden_act", "rope_parameters")
    | {
        "rope_parameters": (*draws.ROPE, {"rope_type": "default", "rope_theta": 300.0, "partial_rotary_factor": 0.5}),
        "num_local_experts": (6, 3),
        "num_experts_per_tok": (2, 1, 3),
        "routed_scaling_factor": (2.0, 1.0),
        "shared_intermediate_size": (32, 24),
        "swiglu_limit": (1.5, 7.0, 0.4),
        "index_n_heads": (2, 4, 1),
        "index_head_dim": (16, 24),
        "index_block_size": (8, 5, 128),
        "index_topk_blocks": (3, 1, 6),
        "index_local_blocks": (1, 2, 0),
        "layer_types": ([FULL, SPARSE, SPARSE], [SPARSE] * 3, None),
        "mlp_layer_types": (["dense", "sparse", "sparse"], None, ["sparse", "dense", "sparse"]),
        "moe_layer_freq": (None, [1, 0, 1]),
        "sparse_attention_config": (None, {"sparse_topk_blocks": 2, "sparse_attention_freq": [1, 1, 0]}),
    },
)
