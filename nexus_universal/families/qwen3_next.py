"""Qwen3-Next: three gated delta layers to one of gated attention, experts with a gated shared one."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, GatedDeltaRule, OutputGate, Packed, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

MLP = f"{names.LAYER}.mlp"
GATES: names.Names = {
    "layers.{i}.attention.query_gate": f"{names.LAYER}.self_attn.q_proj",
    "layers.{i}.feed_forward.shared_gate": f"{MLP}.shared_expert_gate",
}
PATTERN: dict[str, Any] = {"other": "linear_attention", "pattern_key": "full_attention_interval"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=32768, bos=None, eos=None, pad=None)
    embedding = common.embedding(reader, vocab=151936, width=2048, pad=text.pad)
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    heads, act = reader.count("num_attention_heads", 16), common.activation(reader)
    attention = Attention(
        heads=heads,
        kv_heads=reader.count("num_key_value_heads", 2),
        head_dim=reader.count("head_dim", 256),
        rope=common.rope(reader.section("rope_parameters"), context=text.context, takes_fraction=True),
        biases=("query", "key", "value", "gate", "output") if reader.take("attention_bias", False) else (),
        qk_norm=QueryKeyNorm(norm=norm),
        gate=OutputGate(),
        packing=(Packed(roles=("query", "gate"), groups=heads),),
    )
    key_heads = reader.count("linear_num_key_heads", 16)
    delta = GatedDeltaRule(
        key_heads=key_heads,
        value_heads=reader.count("linear_num_value_heads", 32),
        key_dim=reader.count("linear_key_head_dim", 128),
        value_dim=reader.count("linear_value_head_dim", 128),
        convolution=reader.count("linear_conv_kernel_dim", 4),
        norm=Norm(kind="rms", eps=norm.eps),
        activation=act,
        packing=(
            Packed(roles=("query", "key", "value", "gate"), groups=key_heads),
            Packed(roles=("beta", "decay"), groups=key_heads),
        ),
    )
    dense = FeedForward(width=reader.count("intermediate_size", 5632), activation=act)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 512),
        per_token=reader.count("num_experts_per_tok", 10),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 512), activation=act),
        router=Router(score="softmax", normalise=reader.take("norm_topk_prob", True), weights="model"),
        shared=FeedForward(width=reader.count("shared_expert_intermediate_size", 512), activation=act),
        shared_gate=True,
    )
    kinds = {"full_attention": ("attention", attention), "linear_attention": ("linear_attention", delta)}
    depth = reader.count("num_hidden_layers", 48)
    kinds_of_layers = common.layer_types(reader, depth, full_every=4, **PATTERN)
    layers = {
        name: [sequential_layer(mixer, ("feed_forward", f), norm=norm) for f in (dense, experts)]
        for name, mixer in kinds.items()
    }
    sparse = common.sparse_layers(reader, depth)
    return ArchitectureParameter(
        embedding=embedding,
        layers=tuple(layers[name][is_sparse] for name, is_sparse in zip(kinds_of_layers, sparse, strict=True)),
        final_norm=norm,
        head=Head(tied=reader.take("tie_word_embeddings", False)),
        text=text,
    )


FAMILY = Family(
    model_type="qwen3_next",
    title="Qwen3-Next, Qwen3-Coder-Next",
    read=read,
    weights=WeightMap(
        tensors=names.ends()
        | names.attention()
        | names.gated()
        | names.experts()
        | names.gated("layers.{i}.feed_forward.shared", f"{MLP}.shared_expert")
        | names.pre_norms()
        | names.gated_delta()
        | GATES,
        passed_over=names.PASSED_OVER | {r"^mtp\.": "multi-token prediction"},
    ),
    partial_rotary_factor=0.25,
    tiny=draws.TINY
    | draws.TINY_EXPERTS
    | {
        "num_hidden_layers": 4,
        "shared_expert_intermediate_size": 20,
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 12,
        "linear_num_key_heads": 2,
        "linear_num_value_heads": 4,
    },
    draws=draws.DENSE
    | draws.EXPERTS
    | {
        "head_dim": (16, 32),
        "linear_num_value_heads": (4, 2),
        "linear_conv_kernel_dim": (4, 2),
        "shared_expert_intermediate_size": (20, 32),
        "layer_types": (None, ["linear_attention", "full_attention"] * 2, ["full_attention", "linear_attention"] * 2),
    },
)
