"""OLMo 2 (arXiv 2501.00656): sublayers read the bare residual and are normed after; norms over all queries and keys."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=2048, vocab=50304, width=4096, eos=50279, pad=1)
    norm = common.rms_norm(reader, 1e-5, rounding="after_scale")
    rope = rotary.rope(reader.section("rope_parameters"), context=text.context, table="float32")
    normed = QueryKeyNorm(norm=norm, over="width")
    attention = common.attention(reader, text, embedding.width, heads=32, rope=rope, qk_norm=normed)
    depth = reader.count("num_hidden_layers", 32)
    layers = common.sequential([attention] * depth, common.feed_forward(reader, 11008), norm=None, output_norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="olmo2",
    title="OLMo 2",
    read=read,
    weights=names.weights(names.post_norms()),
    tiny=draws.TINY | {"eos_token_id": 3},
    draws=draws.DENSE | {"num_key_value_heads": (2, 4, 1, None), "head_dim": (16, 24), "pad_token_id": (1, None, 0)},
)
