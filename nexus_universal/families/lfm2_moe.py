"""LFM2 with experts (LFM2-8B-A1B): short convolutions, a few layers of attention, sigmoid-routed experts."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, lfm, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FEED_FORWARD = f"{names.LAYER}.feed_forward"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=128000, vocab=65536, width=2048, bos=1, eos=2, pad=0)
    norm = Norm(kind="rms", eps=reader.take("norm_eps", 1e-5))
    qk_norm = QueryKeyNorm(norm=norm)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, biases=(), qk_norm=qk_norm)
    mixers = {"full_attention": ("attention", attention), "conv": ("short_convolution", lfm.convolution(reader, 3))}
    dense = FeedForward(width=reader.count("intermediate_size", 7168), activation="silu")
    normalise = reader.take("norm_topk_prob", True)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 32),
        per_token=reader.count("num_experts_per_tok", 4),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 1792), activation="silu"),
        router=Router(
            score="sigmoid",
            normalise=normalise,
            selection_bias=reader.take("use_expert_bias", True),
            sum_epsilon=1e-6 if normalise else 0.0,
            scale=reader.number("routed_scaling_factor", 1.0),
            weights="model",
        ),
    )
    depth, dense_layers = reader.count("num_hidden_layers", 32), reader.take("num_dense_layers", 2)
    kinds = reader.names("layer_types", length=depth, known=tuple(mixers))
    reader.require(kinds is not None, "layer_types", None, f"must list {depth} layers")
    layers = [
        sequential_layer(mixers[kind], ("feed_forward", dense if index < dense_layers else experts), norm=norm)
        for index, kind in enumerate(kinds or ("conv",) * depth)
    ]
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


FAMILY = Family(
    model_type="lfm2_moe",
    title="LFM2-MoE",
    read=read,
    weights=names.weights(
        lfm.tensors(),
        lfm.attention_names(),
        names.experts(
            f"{FEED_FORWARD}.experts.{{e}}",
            gate="w1",
            up="w3",
            down="w2",
            held=f"{FEED_FORWARD}.experts",
            router=f"{FEED_FORWARD}.gate",
        ),
        {"layers.{i}.feed_forward.router.selection_bias": Direct(f"{FEED_FORWARD}.expert_bias")},
    ),
    aliases=lfm.ALIASES,
    rope_theta=1000000.0,
    completes={"layer_types": ["conv"] * 31 + ["full_attention"]},
    tiny=draws.without(draws.TINY | draws.TINY_EXPERTS, "head_dim") | lfm.TINY | {"num_dense_layers": 1},
    draws=lfm.DRAWS
    | {
        "layer_types": (["conv", "full_attention"], ["full_attention", "conv"]),
        "num_dense_layers": (1, 0),
        "num_experts": (8, 5),
        "num_experts_per_tok": (3, 1, 5),
        "norm_topk_prob": (True, False),
        "use_expert_bias": (True, False),
        "routed_scaling_factor": (1.0, 1.8),
    },
)
