"""Llama 2 and 3 (arXiv 2307.09288, 2407.21783): the plain sequential pre-norm decoder."""

from __future__ import annotations

from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=2048, bos=1, eos=2, pad=None)
    embedding = common.embedding(reader, vocab=32000, width=4096, pad=text.pad)
    norm = common.rms_norm(reader, 1e-6)
    heads = reader.count("num_attention_heads", 32)
    attention = Attention(
        heads=heads,
        kv_heads=common.kv_heads(reader, heads),
        head_dim=reader.count("head_dim", optional=True) or embedding.width // heads,
        rope=common.rope(reader.section("rope_parameters"), context=text.context),
        biases=common.ALL_BIASES if reader.take("attention_bias", False) else (),
    )
    feed_forward = FeedForward(
        width=reader.count("intermediate_size", 11008),
        activation=common.activation(reader),
        biases=("gate", "up", "down") if reader.take("mlp_bias", False) else (),
    )
    layer = sequential_layer(("attention", attention), ("feed_forward", feed_forward), norm=norm)
    return ArchitectureParameter(
        embedding=embedding,
        layers=(layer,) * reader.count("num_hidden_layers", 32),
        final_norm=norm,
        head=Head(tied=reader.take("tie_word_embeddings", False)),
        text=text,
    )


FAMILY = Family(
    model_type="llama",
    title="Llama 2, 3",
    read=read,
    weights=WeightMap(
        tensors=names.ends() | names.attention() | names.gated() | names.pre_norms(),
        passed_over=names.PASSED_OVER,
    ),
    irrelevant={"pretraining_tp": "split products in training; transformers no longer reads it"},
    tiny=draws.TINY,
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (None, 16, 8),
        "mlp_bias": (False, True),
        "hidden_act": ("silu", "gelu", "gelu_pytorch_tanh", "relu"),
        "num_hidden_layers": (2, 1, 3),
    },
)
