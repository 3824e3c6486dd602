"""Qwen3-Next: three gated delta layers to one of gated attention, experts with a gated shared one."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import GatedDeltaRule, OutputGate, Packed, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

MLP = f"{names.LAYER}.mlp"
PATTERN: dict[str, Any] = {"other": "linear_attention", "pattern_key": "full_attention_interval"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=151936, width=2048)
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    heads = reader.count("num_attention_heads", 16)
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=16,
        kv_heads=2,
        head_dim=256,
        rope=rotary.rope(reader.section("rope_parameters"), context=text.context, takes_fraction=True),
        biased=("query", "key", "value", "gate", "output"),
        qk_norm=QueryKeyNorm(norm=norm),
        gate=OutputGate(),
        packing=(Packed(roles=("query", "gate"), groups=heads),),
    )
    dense = common.feed_forward(reader, 5632)
    act = dense.activation
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
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 512),
        per_token=reader.count("num_experts_per_tok", 10),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 512), activation=act),
        router=Router(score="softmax", normalise=reader.take("norm_topk_prob", True), weights="model"),
        shared=FeedForward(width=reader.count("shared_expert_intermediate_size", 512), activation=act),
        shared_gate=True,
    )
    mixers = {"full_attention": ("attention", attention), "linear_attention": ("linear_attention", delta)}
    layers = {
        (kind, is_sparse): sequential_layer(mixer, ("feed_forward", experts if is_sparse else dense), norm=norm)
        for kind, mixer in mixers.items()
        for is_sparse in (False, True)
    }
    depth = reader.count("num_hidden_layers", 48)
    kinds = common.layer_types(reader, depth, full_every=4, **PATTERN)
    sparse = common.sparse_layers(reader, depth)
    return common.decoder(reader, text, embedding, (layers[kind] for kind in zip(kinds, sparse, strict=True)), norm)


FAMILY = Family(
    model_type="qwen3_next",
    title="Qwen3-Next, Qwen3-Coder-Next",
    read=read,
    weights=names.weights(
        names.experts(),
        names.gated("layers.{i}.feed_forward.shared", f"{MLP}.shared_expert"),
        names.gated_delta(),
        {
            "layers.{i}.attention.query_gate": f"{names.LAYER}.self_attn.q_proj",
            "layers.{i}.feed_forward.shared_gate": f"{MLP}.shared_expert_gate",
        },
        passed_over={r"^mtp\.": "multi-token prediction"},
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
