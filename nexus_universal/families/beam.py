"""Beam (Reflection): residuals scaled by depth, gated attention that grows with position where it does not rotate."""

from __future__ import annotations

from dataclasses import replace
from math import sqrt

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, OutputGate, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm, QueryTemperature
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.families.shared import common, deepseek, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FULL, SLIDING = KINDS = "full_attention", "sliding_attention"
MLPS = ["dense", "sparse", "sparse"]
GROWTH = QueryTemperature(growth=0.1, span=2048, form="power")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=8192, vocab=151936, width=5120)
    norm = common.rms_norm(reader, 1e-6, rounding="after_scale")
    plain = common.attention(
        reader,
        text,
        embedding.width,
        heads=48,
        kv_heads=8,
        head_dim=128,
        rotated=False,
        qk_norm=QueryKeyNorm(norm=norm),
        gate=OutputGate(head_bias=True),
    )
    mixers = _placed(reader, plain, text.context)
    depth = reader.count("num_hidden_layers", 52)
    derived = [FULL if (index + 1) % 6 == 0 or index + 1 == depth else SLIDING for index in range(depth)]
    kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
    dense = common.feed_forward(reader, 20480, product="float32")
    router = deepseek.sigmoid_router(reader, scale=2.5, groups=8, kept=4)
    experts = MixtureOfExperts(
        experts=reader.count("num_experts", 256),
        per_token=reader.count("num_experts_per_tok", 8),
        expert=replace(dense, width=reader.count("moe_intermediate_size", 2560)),
        router=replace(router, scale=None, order="sorted", stored="float32"),
        scale=router.scale,
    )
    mlps = reader.names("mlp_layer_types", length=depth, known=("dense", "sparse"))
    mlps = mlps or (("dense",) * 3 + ("sparse",) * depth)[:depth]
    layers = (
        _layer(mixers[kind], dense if mlp == "dense" else experts, norm, index)
        for index, (kind, mlp) in enumerate(zip(kinds, mlps, strict=True))
    )
    cap = reader.number("final_logit_softcapping", 30.0, optional=True)
    capped = {"softcap": cap, "dtype": "float32_capped"} if cap is not None else {}
    return common.decoder(reader, text, embedding, layers, norm, **capped)


def _placed(reader: ConfigReader, plain: Attention, context: int | None) -> dict[str, Attention]:
    """Each kind's attention: it rotates, or what it asks grows with its position."""
    if reader.values.get("rope_parameters") is None:
        reader.values["rope_parameters"] = {SLIDING: {"rope_type": "default", "rope_theta": 10000.0}, FULL: None}
    section, mixers = reader.section("rope_parameters"), {}
    windows = {SLIDING: reader.count("sliding_window", 512), FULL: None}
    for kind in KINDS:
        mixer = replace(plain, window=windows[kind])
        if section.take(kind, None, kinds=(dict, type(None))) is None:
            mixers[kind] = replace(mixer, temperature=GROWTH)
        else:
            rope = rotary.rope(section.section(kind), context=context, nested=True, table="float32")
            mixers[kind] = replace(mixer, rope=rope)
    return mixers


def _layer(mixer: Attention, feed_forward: FeedForward | MixtureOfExperts, norm: Norm, index: int) -> Program:
    """What is written k-th joins k - 1 earlier parts, each of which then weighs the same in the mean of squares."""

    def step(name: str, part: Part, k: int) -> Step:
        branch = Branch(name=name, part=part, output_norm=norm)  # type: ignore[arg-type]
        terms = Term(source=name, scale=1.0 / sqrt(k)), Term(source="x", scale=sqrt((k - 1) / k))
        return Step(branches=(branch,), writes=(Write(terms=terms),), norm=norm)

    k = 2 * (index + 1)
    return Program(steps=(step("attention", mixer, k), step("feed_forward", feed_forward, k + 1)))


FAMILY = Family(
    model_type="beam",
    title="Beam 1.0",
    read=read,
    weights=names.weights(
        names.experts(),
        names.sandwich_norms(),
        {
            "layers.{i}.attention.gate": f"{names.LAYER}.self_attn.gate_proj",
            "layers.{i}.attention.gate_head_bias": f"{names.LAYER}.self_attn.gate_bias",
        },
    ),
    rope="none",
    tiny=draws.TINY
    | draws.TINY_EXPERTS
    | {"num_hidden_layers": 3, "sliding_window": 16, "n_group": 2, "topk_group": 1, "mlp_layer_types": MLPS},
    draws=draws.without(draws.DENSE, "rope_parameters")
    | {
        "head_dim": (16, 8),
        "rope_parameters": (None, {FULL: draws.ROPE[2], SLIDING: None}),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, [FULL, SLIDING, FULL]),
        "mlp_layer_types": (MLPS, None),
        "num_experts": (8, 6),
        "num_experts_per_tok": (3, 1),
        "n_group": (2, 1),
        "norm_topk_prob": (True, False),
        "routed_scaling_factor": (2.5, 1.0),
        "final_logit_softcapping": (30.0, None, 2.0),
    },
)
