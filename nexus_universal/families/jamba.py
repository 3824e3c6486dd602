"""Jamba (arXiv 2403.19887): Mamba with norms inside, attention without positions, experts in every second layer."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.architecture.recurrences import ChannelStateSpace
from nexus_universal.families.shared import common, draws, names, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=262144, vocab=65536, width=4096, bos=1, eos=2, pad=0)
    norm = common.rms_norm(reader, 1e-6)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, rotated=False, biases=())
    dense = common.feed_forward(reader, 14336)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 16),
        per_token=reader.count("num_experts_per_tok", 2),
        expert=dense,
        router=Router(score="softmax", normalise=False, weights="model"),
    )
    mixer = ChannelStateSpace(
        width=reader.count("mamba_expand", 2) * embedding.width,
        state_dim=reader.count("mamba_d_state", 16),
        rank=state_space.rank(reader, "mamba_dt_rank", embedding.width),
        convolution=reader.count("mamba_d_conv", 4),
        inner_norm=norm,
        activation=common.activation(reader),
        convolution_bias=reader.take("mamba_conv_bias", True),
        biases=state_space.projection_biases(reader),
    )
    depth = reader.count("num_hidden_layers", 32)
    attending = _every(reader, "attn_layer", depth, period=8, offset=4)
    sparse = _every(reader, "expert_layer", depth, period=2, offset=1)
    mixers = {True: ("attention", attention), False: ("state_space", mixer)}
    feeding = {True: ("feed_forward", experts), False: ("feed_forward", dense)}
    layers = [
        sequential_layer(mixers[attends], feeding[is_sparse and experts.experts > 1], norm=norm)
        for attends, is_sparse in zip(attending, sparse, strict=True)
    ]
    return common.decoder(reader, text, embedding, layers, norm)


def _every(reader: ConfigReader, kind: str, layers: int, *, period: int, offset: int) -> list[bool]:
    """Which layers are of a kind: one in each period."""
    period, offset = reader.count(f"{kind}_period", period), reader.take(f"{kind}_offset", offset)
    reader.require(0 <= offset < period, f"{kind}_offset", offset, f"must lie in [0, {period})")
    return [index % period == offset for index in range(layers)]


FAMILY = Family(
    model_type="jamba",
    title="Jamba",
    read=read,
    weights=names.weights(
        names.channel_state_space(),
        names.gated(theirs=f"{names.LAYER}.feed_forward"),
        names.experts(
            f"{names.LAYER}.feed_forward.experts.{{e}}",
            held=f"{names.LAYER}.feed_forward.experts",
            router=f"{names.LAYER}.feed_forward.router",
        ),
        {"layers.{i}.feed_forward_norm": f"{names.LAYER}.pre_ff_layernorm", "final_norm": "model.final_layernorm"},
    ),
    aliases={"num_local_experts": "num_experts"},
    irrelevant={
        **state_space.IRRELEVANT,
        **dict.fromkeys(("use_mamba_kernels", "use_mambapy", "use_associative_scan"), "says how, not what is computed"),
    },
    rope="none",
    tiny=draws.TINY
    | {"num_experts": 8, "num_experts_per_tok": 3, "mamba_d_state": 10, "mamba_dt_rank": 5}
    | {"attn_layer_period": 2, "attn_layer_offset": 1},
    draws={
        **{key: draws.DENSE[key] for key in ("rms_norm_eps", "hidden_act", "tie_word_embeddings")},
        "num_key_value_heads": (2, 4, 1),
        "num_hidden_layers": (2, 4),
        "num_experts": (8, 5, 1),
        "num_experts_per_tok": (3, 1, 5),
        "attn_layer_offset": (1, 0),
        "expert_layer_period": (2, 3),
        "expert_layer_offset": (1, 0),
        "mamba_d_state": (10, 16),
        "mamba_d_conv": (4, 2),
        "mamba_expand": (2, 1),
        "mamba_dt_rank": (5, "auto"),
        "mamba_conv_bias": (True, False),
        "mamba_proj_bias": (False, True),
        "pad_token_id": (0, None),
    },
)
