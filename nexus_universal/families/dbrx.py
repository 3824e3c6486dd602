"""DBRX (Databricks): clipped packed projections, LayerNorms without biases, a softmax over all experts."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.checkpoint.rules import Folded
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

BLOCK = "transformer.blocks.{i}"
PAIR = f"{BLOCK}.norm_attn_norm"
EXPERTS = f"{BLOCK}.ffn.experts.mlp"
OF_ATTENTION = {
    "attn_pdrop": TRAINING,
    "rope_theta": "the reference reads it and turns by another, that of rope_parameters (docs/REFERENCE_FAULTS.md)",
}
OF_EXPERTS = {
    **dict.fromkeys(("moe_jitter_eps", "moe_loss_weight"), TRAINING),
    "hidden_size": "the reference puts the model's width in its place",
}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=2048, vocab=32000, width=2048)
    norm = Norm(kind="layer", eps=1e-5, rounding="native")
    for key in ("attn_config", "ffn_config"):
        if reader.values.get(key) is None:
            reader.values[key] = {}
    attending, feeding = (
        reader.config(key, irrelevant=irrelevant)
        for key, irrelevant in (("attn_config", OF_ATTENTION), ("ffn_config", OF_EXPERTS))
    )
    reader.values["num_key_value_heads"] = attending.count("kv_n_heads", 1)
    for section in (attending, feeding):
        section.inert("model_type", "")
        section.inert("dtype", None, text.dtype)
    packing, clip = (Packed(roles=("query", "key", "value")),), attending.number("clip_qkv")
    form = {"biases": (), "packing": packing, "clip": clip}
    attention = common.attention(reader, text, embedding.width, heads=16, **form)
    if feeding.values.get("ffn_act_fn") is None:
        feeding.values["ffn_act_fn"] = {}
    act = common.activation(feeding.section("ffn_act_fn"), "name")
    weighed = feeding.number("moe_normalize_expert_weights", 1.0, optional=True)
    feeding.require(weighed in (None, 1.0), "moe_normalize_expert_weights", weighed, "known: 1.0, null")
    experts = MixtureOfExperts(
        experts=feeding.count("moe_num_experts", 4),
        per_token=feeding.count("moe_top_k", 1),
        expert=FeedForward(width=feeding.count("ffn_hidden_size", 3584), activation=act),
        router=Router(
            score="softmax",
            normalise=weighed is not None,
            scores="model",
            weights="model",
            total="sum" if weighed is None else "norm",
        ),
        stacks="apart",
        sum_order="loop",
    )
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 24), experts, norm=norm)
    reader.inert("tie_word_embeddings", False)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="dbrx",
    title="DBRX",
    read=read,
    weights=names.weights(
        {
            "embedding.tokens": "transformer.wte",
            "final_norm": "transformer.norm_f",
            "layers.{i}.attention_norm": f"{PAIR}.norm_1",
            "layers.{i}.feed_forward_norm": f"{PAIR}.norm_2",
            "layers.{i}.attention.query_key_value": f"{PAIR}.attn.Wqkv",
            "layers.{i}.attention.output": f"{PAIR}.attn.out_proj",
            "layers.{i}.feed_forward.router": f"{BLOCK}.ffn.router.layer",
            "layers.{i}.feed_forward.experts.gate": Folded(f"{EXPERTS}.w1"),
            "layers.{i}.feed_forward.experts.up": Folded(f"{EXPERTS}.v1"),
            "layers.{i}.feed_forward.experts.down": Folded(f"{EXPERTS}.w2", transposed=True),
        }
    ),
    aliases={
        "d_model": "hidden_size",
        "n_heads": "num_attention_heads",
        "n_layers": "num_hidden_layers",
        "max_seq_len": "max_position_embeddings",
    },
    irrelevant={
        **dict.fromkeys(("resid_pdrop", "emb_pdrop"), TRAINING),
        "num_key_value_heads": "the reference puts attn_config.kv_n_heads in its place",
    },
    completes={"attn_config": {"clip_qkv": 8.0, "rope_theta": 10000.0}},
    tiny={
        "vocab_size": 97,
        "d_model": 48,
        "n_heads": 4,
        "n_layers": 2,
        "max_seq_len": 64,
        "attn_config": {"clip_qkv": 0.9, "kv_n_heads": 2, "rope_theta": 10000.0},
        "ffn_config": {"ffn_hidden_size": 24, "moe_num_experts": 6, "moe_top_k": 3},
    },
    draws={
        "rope_parameters": tuple(rope for rope in draws.ROPE if "short_factor" not in rope),
        "pad_token_id": (None, 0),
        "attn_config": tuple(
            {"clip_qkv": clip, "kv_n_heads": heads, "rope_theta": 10000.0}
            for clip, heads in ((0.9, 2), (8, 4), (0.3, 1))
        ),
        "ffn_config": (
            {"ffn_hidden_size": 24, "moe_num_experts": 6, "moe_top_k": 3},
            {"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 1, "moe_normalize_expert_weights": None},
            {"ffn_act_fn": {"name": "gelu"}, "ffn_hidden_size": 16, "moe_num_experts": 5, "moe_top_k": 4},
        ),
    },
)
