"""DeepSeek-V4's attention and connections in its config's words, and how their tensors are named."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import CompressedAttention, SparseIndexer
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.architecture.program import Branch, Connection, Program, Step, Term, Write
from nexus_universal.families.shared import common, names, rotary
from nexus_universal.families.shared.reader import ConfigReader

SLIDING, SPARSE, HEAVY = KINDS = "sliding_attention", "compressed_sparse_attention", "heavily_compressed_attention"
RATIOS = {0: SLIDING, 4: SPARSE, 128: HEAVY}
"""What an old list of numbers calls them, whatever their rates."""
OLD_RATES = {SPARSE: "compress_rate_csa", HEAVY: "compress_rate_hca"}


def kinds(reader: ConfigReader, *, depth: int) -> tuple[str, ...]:
    """Each layer's attention: named, told by an old list (which goes on with layers for prediction), or alternating."""
    listed = reader.values.get("compress_ratios")
    if isinstance(listed, list):
        reader.values["compress_ratios"] = listed[:depth]
    old = reader.names("compress_ratios", length=depth, known=RATIOS)
    named = reader.names("layer_types", length=depth, known=KINDS)
    if named and old:
        numbers = {kind: number for number, kind in RATIOS.items()}
        reader.agree("compress_ratios", list(old), [numbers[kind] for kind in named])
    alternating = [HEAVY] * min(depth, 2) + [SPARSE if index % 2 else HEAVY for index in range(depth - 2)]
    return named or tuple(RATIOS[number] for number in old or ()) or tuple(alternating)


def attention(reader: ConfigReader, norm: Norm, *, context: int | None) -> dict[str, CompressedAttention]:
    """Each kind's attention."""
    head_dim = reader.count("head_dim", 512)
    near, far = _ropes(reader, head_dim, context=context)
    if reader.values.get("compress_rates") is None:
        reader.values["compress_rates"] = {}
    section = reader.section("compress_rates")
    for kind, old in OLD_RATES.items():
        if reader.count(old, None, optional=True):
            section.values[kind] = reader.values[old]
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
        rope=replace(far, fraction=far.dims(head_dim) / width).at_the_end(),
    )
    heavy = replace(sliding, rope=far, rate=rates[HEAVY])
    return {SLIDING: sliding, HEAVY: heavy, SPARSE: replace(heavy, rate=rates[SPARSE], overlap=True, indexer=indexer)}


def _ropes(reader: ConfigReader, head_dim: int, *, context: int | None) -> list[Rope]:
    """The rotations of plain and of compressing layers: said apart, or as one scaling that is the latter's only."""
    dims = reader.count("qk_rope_head_dim", None, optional=True)
    given = reader.number("partial_rotary_factor", None)
    fraction = given or (dims / head_dim if dims else 64 / 512)
    thetas = reader.number("rope_theta", 10000.0), reader.number("compress_rope_theta", 160000.0)
    form: dict[str, Any] = {"pairing": "interleaved", "product": "float32"}
    said = _rope_section(reader)
    if {"main", "compress"} <= said.values.keys():
        sections = [_settled(said.section(kind)) for kind in ("main", "compress")]
        outer = {"rope_theta": thetas[0]} | ({"partial_rotary_factor": given} if given else {})
        for section in sections:
            section.values = {**outer, **section.values}
    else:
        sections = [_settled(said)]
        factor = {"attention_factor": 1.0} if said.values["rope_type"] == "yarn" else {}
        said.values = {**factor, **said.values, "rope_theta": thetas[1], "partial_rotary_factor": fraction}
    settings = {"context": context, "takes_fraction": True, "nested": True}
    ropes = [rotary.rope(section, **settings, **form) for section in sections]
    ropes = ropes if len(ropes) == 2 else [Rope(theta=thetas[0], fraction=fraction, **form), *ropes]
    return [rope.at_the_end() for rope in ropes]


def _rope_section(reader: ConfigReader) -> ConfigReader:
    """What rotates, under either name."""
    if reader.values.get("rope_scaling"):
        reader.inert("rope_parameters", None)
        return reader.section("rope_scaling")
    reader.inert("rope_scaling", None, {})
    if reader.values.get("rope_parameters") is None:
        reader.values["rope_parameters"] = {}
    return reader.section("rope_parameters")


def _settled(section: ConfigReader) -> ConfigReader:
    """With `type` as an old name of `rope_type`."""
    old = section.take("type", "default") if "type" in section.values else "default"
    section.values.setdefault("rope_type", old)
    return section


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


def connected_layer(parts: dict[str, Part], connection: Connection, norm: Norm | None) -> Program:
    """Every part reads the streams through a connection and a norm, if there is one."""
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


def _compressor(ours: str, published: str, held: str) -> dict[str, tuple[str, str]]:
    roles = {"value": ("wkv", "kv_proj"), "gate": ("wgate", "gate_proj"), "norm": ("norm", "kv_norm")}
    roles["bias"] = ("ape", "position_bias")
    return {f"{ours}.{role}": (f"{published}.{name}", f"{held}.{other}") for role, (name, other) in roles.items()}


def _renamed(held: str, published: str) -> tuple[str, ...]:
    """What transformers writes as it holds it, though it is published under another name."""
    return held, published, held


ATTENTION = {
    "query_down": ("wq_a", "q_a_proj"),
    "query_norm": ("q_norm", "q_a_norm"),
    "query_up": ("wq_b", "q_b_proj"),
    "shared": ("wkv", "kv_proj"),
    "output_down": ("wo_a", "o_a_proj"),
    "output_up": ("wo_b", "o_b_proj"),
    "sinks": ("attn_sink", "sinks"),
    "indexer.query": ("indexer.wq_b", "compressor.indexer.q_b_proj"),
    "indexer.weigh": ("indexer.weights_proj", "compressor.indexer.scorer.weights_proj"),
    **_compressor("compressor", "compressor", "compressor"),
    **_compressor("indexer.compressor", "indexer.compressor", "compressor.indexer"),
}
OURS, LAYER = "layers.{i}", names.LAYER
CONNECTION = {"weight": "fn", "bias": "base", "scale": "scale"}
SHARED_NORM = (f"{LAYER}.attn.norm", f"{LAYER}.attn.kv_norm", f"{LAYER}.self_attn.kv_norm")
"""The first is what transformers writes: it takes a compressor's renaming back for every `kv_norm`."""
MLP = f"{LAYER}.mlp"

TENSORS: names.Names = {
    **names.experts(
        f"{LAYER}.ffn.experts.{{e}}",
        gate="w1",
        up="w3",
        down="w2",
        held=f"{MLP}.experts",
        router=f"{MLP}.gate",
        published_router=f"{LAYER}.ffn.gate",
    ),
    **{
        f"{OURS}.feed_forward.shared.{role}": (
            f"{LAYER}.ffn.shared_experts.{name}",
            f"{MLP}.shared_experts.{role}_proj",
        )
        for role, name in (("gate", "w1"), ("down", "w2"), ("up", "w3"))
    },
    f"{OURS}.feed_forward.router.selection_bias": (f"{LAYER}.ffn.gate.bias", f"{MLP}.gate.e_score_correction_bias"),
    f"{OURS}.feed_forward.router.table": (f"{LAYER}.ffn.gate.tid2eid", f"{MLP}.gate.tid2eid"),
    f"{OURS}.attention_norm": (f"{LAYER}.attn_norm", f"{LAYER}.input_layernorm"),
    f"{OURS}.feed_forward_norm": (f"{LAYER}.ffn_norm", f"{LAYER}.post_attention_layernorm"),
    **{
        f"{OURS}.attention.{role}": (f"{LAYER}.attn.{p}", f"{LAYER}.self_attn.{h}")
        for role, (p, h) in ATTENTION.items()
    },
    f"{OURS}.attention.shared_norm": SHARED_NORM,
    **{
        f"{OURS}.{ours}_connection.{role}": (f"{LAYER}.hc_{theirs}_{name}", f"{LAYER}.{theirs}_hc.{name}")
        for ours, theirs in (("attention", "attn"), ("feed_forward", "ffn"))
        for role, name in CONNECTION.items()
    },
    **{
        f"streams.{role}": _renamed(f"model.hc_head.hc_{name}", f"model.hc_head_{name}")
        for role, name in CONNECTION.items()
    },
    "embedding.tokens": _renamed("model.embed_tokens", "model.embed"),
    "head": ("head", "lm_head"),
}
"""As transformers writes them, which are the published names but for four, as published, and as it holds them."""
