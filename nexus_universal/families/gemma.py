"""Gemma (arXiv 2403.08295): norms of the (1 + w) kind, embeddings scaled by the root of their width, tanh-GELU."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

ACTIVATIONS = common.ACTIVATIONS | {"gelu": "gelu_tanh"}
"""The first published configs say "gelu" and mean its tanh form: configuration_gemma.py."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    scale = reader.count("hidden_size", 3072) ** 0.5
    text, embedding = common.ends(
        reader, context=8192, vocab=256000, width=3072, bos=2, eos=1, pad=0, scale=scale, scale_rounding="model"
    )
    norm = common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")
    reader.inert("use_bidirectional_attention", False, None)
    attention = common.attention(reader, text, embedding.width, heads=16, kv_heads=16, head_dim=256)
    activation = reader.take("hidden_act", "gelu_pytorch_tanh", known=ACTIVATIONS)
    feed_forward = FeedForward(width=reader.count("intermediate_size", 24576), activation=activation)
    depth = reader.count("num_hidden_layers", 28)
    layers = common.sequential([attention] * depth, feed_forward, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


FAMILY = Family(
    model_type="gemma",
    title="Gemma",
    read=read,
    weights=names.weights(),
    irrelevant={"hidden_activation": "hidden_act is what is read"},
    tiny=draws.TINY | {"head_dim": 16, "pad_token_id": 0},
    draws=draws.DENSE
    | {
        "head_dim": (16, 8),
        "hidden_act": ("gelu_pytorch_tanh", "gelu", "silu"),
        "tie_word_embeddings": (True, False),
        "pad_token_id": (0, None),
    },
)
