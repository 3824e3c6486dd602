"""StarCoder2 (arXiv 2402.19173): LayerNorm, biases and a plain feed-forward around Mistral's windowed attention."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

UNREAD = {
    "attention_softmax_in_fp32": True,
    "mlp_type": "default",
    "norm_type": "layer_norm",
    "scale_attention_softmax_in_fp32": True,
    "scale_attn_weights": True,
}
"""Keys of published configs that transformers does not read, and the value that says what its class does anyway."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text = common.text(reader, context=4096, bos=50256, eos=50256, pad=None, std=0.018042)
    embedding = common.embedding(reader, vocab=49152, width=3072, pad=text.pad)
    for key, value in UNREAD.items():
        reader.inert(key, value)
    norm = Norm(kind="layer", eps=reader.take("norm_epsilon", 1e-5), bias=True, rounding="native")
    reader.inert("layer_norm_epsilon", norm.eps)
    biased = reader.take("use_bias", True)
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=24,
        kv_heads=2,
        biases=common.ALL_BIASES if biased else (),
        window=reader.count("sliding_window", optional=True),
    )
    feed_forward = common.feed_forward(
        reader, 12288, act="gelu_pytorch_tanh", gated=False, biases=("up", "down") if biased else ()
    )
    layers = common.sequential([attention] * reader.count("num_hidden_layers", 30), feed_forward, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


FAMILY = Family(
    model_type="starcoder2",
    title="StarCoder2",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.feed_forward.up": f"{names.LAYER}.mlp.c_fc",
            "layers.{i}.feed_forward.down": f"{names.LAYER}.mlp.c_proj",
        }
    ),
    irrelevant={
        **dict.fromkeys(("residual_dropout", "embedding_dropout"), TRAINING),
        "activation_function": "an old name of hidden_act that the reference does not read",
    },
    tiny=draws.TINY | {"sliding_window": 16},
    draws=draws.without(draws.DENSE, "rms_norm_eps", "attention_bias")
    | {
        "hidden_act": ("gelu_pytorch_tanh", "relu"),
        "norm_epsilon": (1e-5, 1e-3),
        "sliding_window": (16, None, 7, 128),
        "tie_word_embeddings": (True, False),
        "use_bias": (True, False),
        "head_dim": (16, 8),
    },
)
