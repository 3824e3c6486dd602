"""Gemma 3n, text: four streams by alternating updates, an augmented residual, a per-layer table, sparse gates."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import PerLayerEmbedding, Streams
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import LowRank, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import AltUp
from nexus_universal.families.shared import common, draws, gemma_layers, names, reuse, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-6, rounding="after_scale", root="power")
    width, depth = reader.count("hidden_size", 2048), reader.count("num_hidden_layers", 35)
    table = PerLayerEmbedding(
        vocab=reader.count("vocab_size_per_layer_input", 262144),
        width=reader.count("hidden_size_per_layer_input", 256),
        norm=norm,
    )
    scale = {"scale": width**0.5, "scale_rounding": "model"}
    text, embedding = common.ends(
        reader, context=32768, vocab=262400, width=2048, bos=2, eos=1, pad=0, per_layer=table, **scale
    )
    kinds = common.layer_types(reader, depth, full_every=5, pattern_key="_sliding_window_pattern")
    ropes = reader.section("rope_parameters")
    far, near = (
        rotary.rope(ropes.section(f"{kind}_attention"), context=text.context, nested=True, over="positions")
        for kind in ("full", "sliding")
    )
    normed = {"qk_norm": QueryKeyNorm(norm=norm), "value_norm": replace(norm, scale="none")}
    full = common.attention(reader, text, width, heads=8, kv_heads=2, head_dim=256, rope=far, scale=1.0, **normed)
    reader.require(width % full.heads == 0, "hidden_size", width, f"must be a multiple of {full.heads}")
    sliding = replace(full, rope=near, window=reader.count("sliding_window", 512))
    mixers = [sliding if kind == "sliding_attention" else full for kind in kinds]
    mixers = reuse.reused(mixers, kinds, reuse.first_reusing(reader, kinds, shared=15))
    streams = Streams(count=reader.count("altup_num_inputs", 4), fill="project", merge="mean", eps=1e-5)
    active = reader.take("altup_active_idx", 0)
    reader.require(0 <= active < streams.count, "altup_active_idx", active, f"must name one of {streams.count} streams")
    altup = AltUp(streams=streams.count, active=active, norm=norm)
    corrected = reader.take("altup_correct_scale", True)
    laurel = LowRank(rank=reader.count("laurel_rank", 64))
    layers = (
        gemma_layers.updated_layer(mixer, feed_forward, laurel, table.width, altup, scaled=corrected)
        for mixer, feed_forward in zip(mixers, _feed_forwards(reader, depth), strict=True)
    )
    softcap = reader.number("final_logit_softcapping", 30.0)
    n = common.decoder(reader, text, embedding, layers, norm, tied=True, softcap=softcap)
    return replace(n, streams=streams)


def _feed_forwards(reader: ConfigReader, depth: int) -> list[FeedForward]:
    """Each layer's, with a width and a sparsity of its own."""
    widths = reader.layer_counts("intermediate_size", 16384, length=depth)
    sparsity = reader.layer_numbers("activation_sparsity_pattern", length=depth)
    if sparsity is None:
        sparsity = tuple(0.95 * (index < 10 < depth) for index in range(depth))
    activation = common.activation(reader, "hidden_activation", "gelu_pytorch_tanh")
    return [
        FeedForward(width=width, activation=activation, sparsity=share if share > 0 else None)
        for width, share in zip(widths, sparsity, strict=True)
    ]


FAMILY = Family(
    model_type="gemma3n_text",
    title="Gemma 3n (text)",
    read=read,
    weights=names.weights(
        gemma_layers.updated(),
        passed_over=reuse.PASSED_OVER | {r"\.altup\.correct_output_scale$": "altup_correct_scale is false"},
    ),
    irrelevant={"cache_implementation": "a default of generation", "altup_coef_clip": "used in training only"},
    rope="by_layer_type",
    rope_theta={"full_attention": 1000000.0, "sliding_attention": 10000.0},
    tiny=draws.TINY
    | {
        "num_hidden_layers": 6,
        "head_dim": 16,
        "sliding_window": 16,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"] * 2,
        "num_kv_shared_layers": 0,
        "hidden_size_per_layer_input": 12,
        "vocab_size_per_layer_input": 97,
        "laurel_rank": 8,
        "pad_token_id": 0,
    },
    draws=draws.without(draws.DENSE, "rope_parameters", "hidden_act")
    | {
        "hidden_activation": ("gelu_pytorch_tanh", "silu"),
        "head_dim": (16, 8),
        "rope_scaling": draws.ROPE_SCALING,
        "rope_theta": (1000000.0, 500.0),
        "rope_local_base_freq": (10000.0, 100.0),
        "intermediate_size": (80, [80, 64, 80, 48, 96, 80]),
        "activation_sparsity_pattern": (None, [0.95, 0.5, 0.0, 0.0, 0.7, 0.0]),
        "num_kv_shared_layers": (0, 2, 3),
        "vocab_size_per_layer_input": (97, 60),
        "altup_num_inputs": (4, 2),
        "altup_active_idx": (0, 1),
        "altup_correct_scale": (True, False),
        "final_logit_softcapping": (30.0, 3.0),
        "sliding_window": (16, 7, 128),
    },
)
