"""MiMo-V2-Flash (Xiaomi): values narrower than keys and scaled, windows with sinks and twice the key/value heads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, deepseek, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FULL, SLIDING = KINDS = "full_attention", "sliding_attention"
DENSE, SPARSE = MLPS = "dense", "sparse"
THETAS = {FULL: 5000000.0, SLIDING: 10000.0}
FRACTION = 0.334
SINKS = tuple(Direct(f"{names.LAYER}.self_attn.{name}") for name in ("attention_sink_bias", "sinks"))


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=152576, width=4096, bos=1)
    norm = common.rms_norm(reader, 1e-5)
    if reader.values.get("rope_parameters") is None:
        reader.values["rope_parameters"] = {kind: {"rope_theta": theta} for kind, theta in THETAS.items()}
    section = reader.section("rope_parameters")
    ropes = {}
    for kind in KINDS:
        of_kind = section.section(kind)
        if of_kind.values.get("rope_type", "default") == "default":
            of_kind.values.setdefault("partial_rotary_factor", FRACTION)
        ropes[kind] = rotary.rope(of_kind, context=text.context, takes_fraction=True, nested=True)
    full = common.attention(
        reader,
        text,
        embedding.width,
        heads=64,
        kv_heads=4,
        head_dim=192,
        rope=ropes[FULL],
        biased=common.INPUT_BIASES,
        value_dim=reader.count("v_head_dim", 128),
        value_scale=reader.number("attention_value_scale", 0.707, optional=True),
        kernel="eager_shifted",
    )
    before = reader.count("sliding_window_size", optional=True)  # without the query, which a window counts, too
    window = reader.count("sliding_window", 129)
    twice = replace(full, kv_heads=2 * full.kv_heads, rope=ropes[SLIDING], sinks=True, kernel="eager")
    mixers = {FULL: full, SLIDING: replace(twice, window=before + 1 if before else window)}
    depth = reader.count("num_hidden_layers", 48)
    derived = tuple(KINDS[index > 0 and (index + 1) % 6 > 0] for index in range(depth))
    kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
    dense = common.feed_forward(reader, 16384)
    if reader.values.get("routed_scaling_factor") is None:
        reader.values["routed_scaling_factor"] = 1.0
    experts = MixtureOfExperts(
        experts=reader.count("n_routed_experts", 256),
        per_token=reader.count("num_experts_per_tok", 8),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 2048), activation=dense.activation),
        router=deepseek.sigmoid_router(reader, scale=1.0),
    )
    mlps = reader.names("mlp_layer_types", length=depth, known=MLPS) or (DENSE, *[SPARSE] * (depth - 1))
    feed_forwards = [dense if mlp == DENSE else experts for mlp in mlps]
    layers = common.sequential([mixers[kind] for kind in kinds], feed_forwards, norm=norm)
    _unread(reader, kinds, mlps)
    return common.decoder(reader, text, embedding, layers, norm)


def _unread(reader: ConfigReader, kinds: Sequence[str], mlps: Sequence[str]) -> None:
    """Keys of the published config that transformers does not read, and what its class does anyway."""
    heads = reader.values.get("num_attention_heads", 64)
    kv_heads = reader.values.get("num_key_value_heads", 4) or heads
    for key, value in {
        "hybrid_layer_pattern": [int(kind == SLIDING) for kind in kinds],
        "moe_layer_freq": [int(mlp == SPARSE) for mlp in mlps],
        "swa_num_attention_heads": heads,
        "swa_num_key_value_heads": 2 * kv_heads,
        "swa_head_dim": reader.values.get("head_dim", 192),
        "swa_v_head_dim": reader.values.get("v_head_dim", 128),
        "add_swa_attention_sink_bias": True,
        "add_full_attention_sink_bias": False,
        "rope_theta": THETAS[FULL],
        "swa_rope_theta": THETAS[SLIDING],
        "partial_rotary_factor": FRACTION,
        "layernorm_epsilon": reader.values.get("rms_norm_eps", 1e-5),
        "n_shared_experts": None,
        "scoring_func": "sigmoid",
        "topk_method": "noaux_tc",
    }.items():
        reader.inert(key, value)


FAMILY = Family(
    model_type="mimo_v2_flash",
    title="MiMo-V2-Flash",
    read=read,
    weights=names.weights(
        names.experts(),
        {"layers.{i}.attention.sinks": SINKS},
        passed_over={r"^model\.mtp\.": "multi-token prediction"},
    ),
    aliases={"num_local_experts": "n_routed_experts"},
    irrelevant={"attention_chunk_size": "nothing attends within chunks"},
    rope="none",
    tiny=draws.TINY | draws.TINY_ROUTED | {"head_dim": 24, "v_head_dim": 16, "sliding_window": 16},
    draws=draws.without(draws.DENSE, "rope_parameters", "num_key_value_heads")
    | draws.without(draws.ROUTED, "n_shared_experts")
    | {
        "num_key_value_heads": (2, 1),
        "head_dim": (24, 12),
        "v_head_dim": (16, 20),
        "sliding_window": (16, 7, 128),
        "attention_value_scale": (0.707, None, 1.3),
        "rope_parameters": (None, {FULL: draws.ROPE[2], SLIDING: {**draws.ROPE[1], "partial_rotary_factor": 0.5}}),
        "layer_types": (None, [SLIDING, FULL, SLIDING], [FULL] * 3),
        "mlp_layer_types": (None, [SPARSE, DENSE, SPARSE]),
    },
)
