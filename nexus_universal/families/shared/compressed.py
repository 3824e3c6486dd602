"""DeepSeek-V4's attention and connections in its config's words, and how their tensors are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import CompressedAttention, SparseIndexer
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.architecture.program import Branch, Connection, Program, Step, Term, Write
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, names, rotary
from nexus_universal.families.shared.reader import ConfigReader

SLIDING, SPARSE, HEAVY = KINDS = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
ATTENTION, MLP = f"{names.LAYER}.self_attn", f"{names.LAYER}.mlp"


def attention(reader: ConfigReader, norm: Norm, *, context: int | None) -> dict[str, CompressedAttention]:
    """Each kind's attention."""
    head_dim = reader.count("head_dim", 512)
    near, far = _ropes(reader, head_dim, context=context)
    if reader.values.get("compress_rates") is None:
        reader.values["compress_rates"] = {}
    section = reader.section("compress_rates")
    rates = {kind: section.count(kind, rate) for kind, rate in ((SPARSE, 4), (HEAVY, 128))}
    sliding = CompressedAttention(
        heads=reader.count("num_attention_heads", 64),
        head_dim=head_dim,
        query_rank=reader.count("q_lora_rank", 1024),
        window=reader.count("sliding_window", 128),
        rope=near,
        latent_norm=norm,
        output_groups=reader.count("o_groups", 8),
        output_rank=reader.count("o_lora_rank", 1024),
    )
    width = reader.count("index_head_dim", 128)
    indexer = SparseIndexer(
        heads=reader.count("index_n_heads", 64),
        head_dim=width,
        keep=reader.count("index_topk", 512),
        key_norm=norm,
        rope=replace(far, fraction=far.dims(head_dim) / width),
    )
    heavy = replace(sliding, rope=far, rate=rates[HEAVY])
    return {SLIDING: sliding, HEAVY: heavy, SPARSE: replace(heavy, rate=rates[SPARSE], overlap=True, indexer=indexer)}


def _ropes(reader: ConfigReader, head_dim: int, *, context: int | None) -> list[Rope]:
    """The rotations of plain and of compressing layers: said apart, or as one scaling that is the latter's only."""
    dims = reader.count("qk_rope_head_dim", None, optional=True)
    fraction = reader.number("partial_rotary_factor", None) or (dims / head_dim if dims else 64 / 512)
    thetas = reader.number("rope_theta", 10000.0), reader.number("compress_rope_theta", 160000.0)
    form: dict[str, Any] = {"pairing": "interleaved", "part_rotated": "last", "product": "float32"}
    if reader.values.get("rope_parameters") is None:
        reader.values["rope_parameters"] = {}
    said = reader.section("rope_parameters")
    if {"main", "compress"} <= said.values.keys():
        sections = [said.section(kind) for kind in ("main", "compress")]
    else:
        factor = {"attention_factor": 1.0} if said.values.get("rope_type") == "yarn" else {}
        said.values = {**factor, **said.values, "rope_theta": thetas[1], "partial_rotary_factor": fraction}
        sections = [said]
    settings = {"context": context, "takes_fraction": True, "nested": True}
    ropes = [rotary.rope(section, **settings, **form) for section in sections]
    return ropes if len(ropes) == 2 else [Rope(theta=thetas[0], fraction=fraction, **form), *ropes]


def experts(reader: ConfigReader) -> MixtureOfExperts:
    """Experts chosen by scores, and one that every token visits."""
    expert = FeedForward(
        width=reader.count("moe_intermediate_size", 2048),
        activation=common.activation(reader),
        gate_limit=reader.number("swiglu_limit", 10.0),
    )
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    router = Router(
        score=reader.take(
            "scoring_func", "sqrtsoftplus", known={"sqrtsoftplus": "sqrt_softplus", "sigmoid": "sigmoid"}
        ),
        normalise=True,
        selection_bias=True,
        sum_epsilon=1e-20,
        scale=reader.number("routed_scaling_factor", 1.5),
        weights="model",
        order="unsorted",
    )
    return MixtureOfExperts(
        views="own",
        experts=reader.count("n_routed_experts", 256),
        per_token=reader.count("num_experts_per_tok", 6),
        expert=expert,
        shared=replace(expert, biases=biases),
        router=router,
    )


def connected_layer(parts: dict[str, Part], connection: Connection, norm: Norm) -> Program:
    """Every part reads the streams through a connection and a norm."""
    return Program(
        steps=tuple(
            Step(
                connection=connection,
                norm=norm,
                branches=(Branch(name=name, part=part),),  # type: ignore[arg-type]
                writes=(Write(terms=(Term(source=name),)),),
            )
            for name, part in parts.items()
        )
    )


def _compressor(ours: str, theirs: str) -> names.Names:
    return {
        f"{ours}.value": f"{theirs}.kv_proj",
        f"{ours}.gate": f"{theirs}.gate_proj",
        f"{ours}.bias": Direct(f"{theirs}.position_bias"),
        f"{ours}.norm": f"{theirs}.kv_norm",
    }


OURS = "layers.{i}.attention"
TENSORS: names.Names = {
    **_compressor(f"{OURS}.compressor", f"{ATTENTION}.compressor"),
    **_compressor(f"{OURS}.indexer.compressor", f"{ATTENTION}.compressor.indexer"),
    f"{OURS}.query_down": f"{ATTENTION}.q_a_proj",
    f"{OURS}.query_norm": f"{ATTENTION}.q_a_norm",
    f"{OURS}.query_up": f"{ATTENTION}.q_b_proj",
    f"{OURS}.shared": f"{ATTENTION}.kv_proj",
    f"{OURS}.shared_norm": f"{ATTENTION}.kv_norm",
    f"{OURS}.output_down": f"{ATTENTION}.o_a_proj",
    f"{OURS}.output_up": f"{ATTENTION}.o_b_proj",
    f"{OURS}.sinks": f"{ATTENTION}.sinks",
    f"{OURS}.indexer.query": f"{ATTENTION}.compressor.indexer.q_b_proj",
    f"{OURS}.indexer.weigh": f"{ATTENTION}.compressor.indexer.scorer.weights_proj",
    "layers.{i}.feed_forward.router.table": f"{MLP}.gate.tid2eid",
    **{
        f"layers.{{i}}.{ours}_connection.{role}": f"{names.LAYER}.{theirs}_hc.{name}"
        for ours, theirs in (("attention", "attn"), ("feed_forward", "ffn"))
        for role, name in (("weight", "fn"), ("bias", "base"), ("scale", "scale"))
    },
    **{
        f"streams.{role}": f"model.hc_head.hc_{name}"
        for role, name in (("weight", "fn"), ("bias", "base"), ("scale", "scale"))
    },
}
