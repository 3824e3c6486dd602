"""GLM-4-9B (arXiv 2406.12793): half of each head rotated in pairs; biases on queries, keys, values; gate|up packed."""

from __future__ import annotations

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

ENDS = [151329, 151336, 151338]


def read(reader: ConfigReader, *, sandwich: bool = False) -> ArchitectureParameter:
    """The n of a config; `sandwich` norms what the sublayers give, too."""
    text, embedding = common.ends(reader, context=131072, vocab=151552, width=4096, eos=ENDS, pad=151329)
    norm = common.rms_norm(reader, 1.5625e-7)
    section = reader.section("rope_parameters")
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=32,
        kv_heads=2,
        head_dim=128,
        rope=rotary.rope(section, context=text.context, takes_fraction=True, pairing="interleaved"),
        biases=common.INPUT_BIASES if reader.take("attention_bias", True) else (),
    )
    feed_forward = common.feed_forward(reader, 13696, packing=(Packed(roles=("gate", "up")),))
    depth = reader.count("num_hidden_layers", 40)
    output_norm = norm if sandwich else None
    layers = common.sequential([attention] * depth, feed_forward, norm=norm, output_norm=output_norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="glm",
    title="GLM-4-9B",
    read=read,
    weights=names.weights(names.packed_gated()),
    partial_rotary_factor=0.5,
    tiny=draws.TINY | {"head_dim": 16, "eos_token_id": 3, "pad_token_id": 0},
    draws=draws.DENSE
    | {
        "head_dim": (16, 8),
        "partial_rotary_factor": (0.5, 0.75, 1.0),
        "attention_bias": (True, False),
        "pad_token_id": (0, None),
        "eos_token_id": (3, None),
    },
)
