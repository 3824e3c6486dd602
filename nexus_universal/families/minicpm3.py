"""MiniCPM3: latent attention with an unpaired rotation; embedding, branches and logits have muP factors."""

from __future__ import annotations

import math

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=40, latent=256, nope=64, rope=32, value=None)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=32768, bos=1, eos=2, pad=None, std=0.1)
    scale = {"scale": reader.number("scale_emb", 12), "scale_rounding": "model"}
    embedding = common.embedding(reader, vocab=73448, width=2560, pad=text.pad, **scale)
    norm = common.rms_norm(reader, 1e-5)
    width, depth = embedding.width, reader.count("num_hidden_layers", 62)
    attention = deepseek.latent_attention(
        reader, context=text.context, query_rank=768, defaults=SIZES, width=width, pairing="half"
    )
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    feed_forward = common.feed_forward(reader, 6400, biases=biases)
    grown = reader.number("scale_depth", 1.4, optional=True)
    branch = (math.sqrt(depth) if grown is None else grown) / math.sqrt(depth)
    layers = common.sequential([attention] * depth, feed_forward, norm=norm, scale=branch)
    divisor = width / (reader.count("dim_model_base", 256, optional=True) or width)
    return common.decoder(reader, text, embedding, layers, norm, tied=True, input_divisor=divisor)


FAMILY = Family(
    model_type="minicpm3",
    title="MiniCPM3",
    read=read,
    weights=names.weights(names.latent_attention()),
    irrelevant=deepseek.IRRELEVANT,
    tiny=draws.TINY | draws.TINY_LATENT | {"scale_emb": 12.0, "scale_depth": 1.4, "dim_model_base": 16},
    draws=draws.DENSE
    | draws.without(draws.LATENT, "rope_interleave")
    | {
        "v_head_dim": (16, 20, None),
        "mlp_bias": (False, True),
        "scale_emb": (12.0, 1.0, 7.5),
        "scale_depth": (1.4, None),
        "dim_model_base": (16, None, 9),
    },
)
