"""Hunyuan 4: gated latent attention with sinks over keys that an indexer chose, four streams, limited experts."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import Streams
from nexus_universal.architecture.mixers import LatentAttention, OutputGate, ReusedIndices
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, ProportionalScaling
from nexus_universal.architecture.program import GatedStreams
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, compressed, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=32, latent=512, nope=192, rope=64, value=256)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=262144, bos=120000, eos=120025, pad=120002, std=0.006)
    embedding = common.embedding(reader, vocab=120832, width=2816, pad=text.pad)
    norm = common.rms_norm(reader, 1e-5)
    common.written_out(reader, "eager")
    depth = reader.count("num_hidden_layers", 34)
    attention = _attention(reader, norm, context=text.context)
    dense = common.feed_forward(reader, 6912)
    experts = deepseek.experts(
        reader, dense, deepseek.sigmoid_router(reader, scale=2.827), count=256, chosen=8, width=768
    )
    limited = replace(experts.expert, activation="silu", gate_limit=reader.number("swiglu_limit", 10.0))
    feed_forwards = {"dense": dense, "sparse": replace(experts, expert=limited)}
    modes = reader.names("indexer_types", length=depth, known=tuple(attention)) or [
        "full" if index % 4 == 1 or index == 0 else "shared" for index in range(depth)
    ]
    reader.require(modes[0] == "full", "indexer_types[0]", modes[0], "must be full: nothing is chosen before")
    listed = reader.names("mlp_layer_types", length=depth, known=tuple(feed_forwards))
    kinds = listed or ("dense", *["sparse"] * (depth - 1))
    reader.names("layer_types", length=depth, known=("indexed_attention",))
    streams, eps, size = reader.count("hc_mult", 4), reader.number("hc_eps", 1e-6), reader.number("hc_magnitude", 2.0)
    connection = GatedStreams(streams=streams, magnitude=size, eps=eps, norm_eps=norm.eps)
    parts = ({"attention": attention[m], "feed_forward": feed_forwards[k]} for m, k in zip(modes, kinds, strict=True))
    layers = (compressed.connected_layer(each, connection, norm) for each in parts)
    n = common.decoder(reader, text, embedding, layers, norm)
    merged = Streams(count=streams, fill="copy", merge="weigh", eps=eps, norm_eps=norm.eps, late_norm=True)
    return replace(n, streams=merged)


def _attention(reader: ConfigReader, norm: Norm, *, context: int | None) -> dict[str, LatentAttention]:
    """What chooses keys, and what sees those that were chosen before."""
    plain = deepseek.latent_attention(reader, context=context, query_rank=1536, defaults=SIZES, pairing="half")
    reader.count("q_lora_rank", 1536)
    plain = replace(plain, gate=OutputGate(), sinks=True)
    indexer = deepseek.sparse_indexer(reader, plain, heads=16, pairing="half")
    assert indexer.rope
    indexer = replace(
        indexer,
        emit="chosen",
        scale_on="weights",
        key_norm=replace(indexer.key_norm, eps=norm.eps),
        rope=replace(indexer.rope, fraction=plain.rope_dim / indexer.head_dim).at_the_end(),
        rope_dim=None,
    )
    whole = isinstance(plain.rope and plain.rope.scaling, ProportionalScaling) and plain.rope_dim < indexer.head_dim
    reader.require(not whole, "rope_parameters.rope_type", "proportional", "the indexer turns a part of its heads only")
    return {"full": replace(plain, indexer=indexer), "shared": replace(plain, indexer=ReusedIndices(reuse="chosen"))}


ATTENTION, EXPERTS = f"{names.LAYER}.self_attn", f"{names.LAYER}.mlp.experts"
# transformers writes names other than the published (conversion_mapping.py turned round): its files come first
TENSORS: names.Names = {
    "layers.{i}.attention.gate": (f"{ATTENTION}.linear_gate", f"{ATTENTION}.gate_proj"),
    "layers.{i}.attention.sinks": (Direct(f"{ATTENTION}.learnable_sink_param"), Direct(f"{ATTENTION}.sinks")),
    "layers.{i}.feed_forward.gate": (f"{names.LAYER}.mlp.linear_gate", f"{names.LAYER}.mlp.gate_proj"),
    "layers.{i}.feed_forward.shared.gate": tuple(
        f"{names.LAYER}.mlp.shared_experts.{gate}" for gate in ("linear_gate", "gate_proj")
    ),
    "layers.{i}.feed_forward.experts.gate_up": Direct(f"{EXPERTS}.gate_up_proj"),
    "layers.{i}.feed_forward.experts.down": Direct(f"{EXPERTS}.down_proj"),
}
for role, name in (("weight", "fn"), ("bias", "base"), ("scale", "scale")):
    ends = (f"hc_pre.hc_head.hc_head_{name}", f"hc_head.hc_head_{name}", f"hc_head.hc_{name}")
    TENSORS[f"streams.{role}"] = tuple(Direct(f"model.{end}") for end in ends)
    for ours, layer, held in (("attention", "hc_attn_layer", "attn_hc"), ("feed_forward", "hc_mlp_layer", "ffn_hc")):
        ends = (f"hc_pre.{layer}.hc_{name}", f"{layer}.hc_{name}", f"{layer}.hc_pre.hc_{name}", f"{held}.{name}")
        TENSORS[f"layers.{{i}}.{ours}_connection.{role}"] = tuple(Direct(f"{names.LAYER}.{end}") for end in ends)


FAMILY = Family(
    model_type="hy_v4",
    title="Hunyuan 4",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        names.sparse_indexer(),
        names.experts(),
        names.shared_experts(),
        TENSORS,
        passed_over={r"^model\.mtp_layers\.": "multi-token prediction"},
        wide=("streams.*", "*_connection.*", "*.sinks", "*.indexer.key_norm.*", "*.indexer.weights.*", "head.*"),
    ),
    aliases={"num_local_experts": "n_routed_experts"},
    irrelevant=dict.fromkeys(("head_dim", "num_key_value_heads", "qk_head_dim"), "follows from other keys")
    | {"learnable_sink_init": "says how weights start"},
    tiny=draws.without(draws.TINY | draws.TINY_LATENT, "num_key_value_heads")
    | draws.TINY_ROUTED
    | draws.TINY_INDEXED
    | {"pad_token_id": None},
    draws=draws.without(draws.DENSE, "num_key_value_heads")
    | draws.INDEXED
    | draws.ROUTED
    | {
        "rope_parameters": tuple(rope for rope in draws.ROPE if rope["rope_type"] != "proportional"),
        "v_head_dim": (16, 20),
        "indexer_types": (None, ["full", "shared", "shared"]),
        "mlp_layer_types": (None, ["sparse", "dense", "sparse"]),
        **{"hc_mult": (4, 2), "hc_eps": (1e-6, 1e-3), "hc_magnitude": (2.0, 0.7), "swiglu_limit": (10.0, 0.5)},
    },
)
