"""Qwen3.5 (dense): three gated delta layers, whose inputs are projected apart, to one of gated attention."""

from __future__ import annotations

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, delta, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

PACKING = (Packed(roles=("query", "key", "value")), Packed(roles=("gate",)))

TENSORS = delta.NAMES | names.gated_delta() | names.unpacked_gated_delta()

IRRELEVANT = {
    **dict.fromkeys(("mtp_num_hidden_layers", "mtp_use_dedicated_embeddings"), "speak of multi-token prediction"),
    "mlp_only_layers": "the reference has one kind of feed-forward in all layers",
}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=248320, width=4096)
    norm, dense = delta.norm(reader), common.feed_forward(reader, 12288)
    mixers = {
        "full_attention": delta.attention(reader, text, embedding.width, norm=norm, kv_heads=4),
        "linear_attention": delta.delta_rule(reader, eps=norm.eps, act=common.activation(reader), packing=PACKING),
    }
    made = {kind: delta.layer(kind, mixers, dense, norm) for kind in mixers}
    kinds = common.layer_types(reader, reader.count("num_hidden_layers", 32), **delta.PATTERN)
    delta.inert(reader)
    return common.decoder(reader, text, embedding, (made[kind] for kind in kinds), norm)


FAMILY = Family(
    model_type="qwen3_5_text",
    title="Qwen3.5",
    read=read,
    weights=names.weights(TENSORS, passed_over=delta.PASSED_OVER),
    irrelevant=IRRELEVANT,
    partial_rotary_factor=0.25,
    tiny=draws.TINY | delta.TINY,
    draws=draws.DENSE | delta.DRAWS,
)
