"""LFM2 (arXiv 2511.23404): gated short convolutions, a few layers of attention."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.families.shared import common, draws, lfm, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

INITIAL = ("block_mlp_init_scale", "block_out_init_scale", "block_use_xavier_init", "conv_use_xavier_init")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=128000, vocab=65536, width=2560, bos=1, eos=2, pad=0)
    norm = Norm(kind="rms", eps=reader.take("norm_eps", 1e-5))
    qk_norm = QueryKeyNorm(norm=norm)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, biases=(), qk_norm=qk_norm)
    for key, value in {"num_heads": attention.heads, "block_norm_eps": norm.eps, "block_use_swiglu": True}.items():
        reader.inert(key, value)
    for key in ("block_dim", "conv_dim", "conv_dim_out"):
        reader.inert(key, embedding.width)
    reader.inert("use_pos_enc", True)
    feed_forward = ("feed_forward", FeedForward(width=_width(reader), activation="silu"))
    layers = {
        "full_attention": sequential_layer(("attention", attention), feed_forward, norm=norm),
        "conv": sequential_layer(("short_convolution", lfm.convolution(reader, 3)), feed_forward, norm=norm),
    }
    depth = reader.count("num_hidden_layers", 32)
    attending = reader.indices("full_attn_idxs", list(range(depth)), length=depth)
    derived = tuple("full_attention" if index in attending else "conv" for index in range(depth))
    kinds = reader.names("layer_types", length=depth, known=tuple(layers)) or derived
    return common.decoder(reader, text, embedding, (layers[kind] for kind in kinds), norm, tied=True)


def _width(reader: ConfigReader) -> int:
    """The feed-forward's width: the config's, or two thirds of it, multiplied and rounded up."""
    width = reader.count("intermediate_size", 12288)
    factor = reader.number("block_ffn_dim_multiplier", 1.0)
    multiple = reader.count("block_multiple_of", 256)
    if not reader.take("block_auto_adjust_ff_dim", True):
        return width
    width = int(2 * width / 3)
    return multiple * -(-int(factor * width) // multiple)


FAMILY = Family(
    model_type="lfm2",
    title="LFM2",
    read=read,
    weights=names.weights(lfm.tensors(), lfm.attention_names()),
    aliases=lfm.ALIASES | {"block_ff_dim": "intermediate_size"},
    irrelevant=dict.fromkeys(INITIAL, TRAINING),
    rope_theta=1000000.0,
    tiny=draws.TINY | lfm.TINY | {"block_auto_adjust_ff_dim": False},
    draws=lfm.DRAWS
    | {
        "layer_types": (["conv", "full_attention"], ["full_attention", "conv"]),
        "block_auto_adjust_ff_dim": (False, True),
        "block_ffn_dim_multiplier": (1.0, 1.7),
        "block_multiple_of": (256, 24),
    },
)
