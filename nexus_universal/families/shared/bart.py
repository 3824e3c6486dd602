"""Decoders of encoder-decoders, alone: without an encoder's states their attention to it is skipped."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions, Norm, SinusoidPositions
from nexus_universal.families.shared import common
from nexus_universal.families.shared.reader import ConfigReader

NORM = Norm(kind="layer", eps=1e-5, bias=True, rounding="native")


@dataclass(frozen=True, kw_only=True)
class Size:
    """The defaults of a reference class."""

    context: int = 1024
    vocab: int = 50265
    width: int = 1024
    inner: int = 4096
    depth: int = 12
    heads: int = 16
    bos: int | None = 0
    eos: int | None = 2
    pad: int | None = 1
    act: str = "gelu"
    scaled: bool = False


def decoder(
    reader: ConfigReader,
    size: Size,
    *,
    normed: Literal["before", "after"],
    positions: Callable[[int], LearnedPositions | SinusoidPositions],
    embedding_norm: Norm | None = NORM,
    scaled: bool = True,
    scale_inputs: bool = False,
    table: Mapping[str, Any] | None = None,
    scale_query: bool = False,
    **attention: Any,
) -> ArchitectureParameter:
    """The n of a config.

    `normed`: whether norms stand before what a sublayer reads (and one at the end), or after its sum with x.
    `positions` makes the table of a context. `scaled`: whether the reference heeds `scale_embedding`, which it may do
    for given embeddings, too. `table` holds further fields of the embedding. `scale_query`: the softmax's scale is
    multiplied into the query. The rest goes to the attention.
    """
    std = reader.take("init_std", 0.02)
    text = common.text(reader, context=size.context, bos=size.bos, eos=size.eos, pad=size.pad, std=std)
    width = reader.count("hidden_size", size.width)
    scaled = scaled and reader.take("scale_embedding", size.scaled)
    embedding = common.embedding(
        reader,
        vocab=size.vocab,
        width=size.width,
        pad=text.pad,
        positions=positions(text.context or size.context),
        norm=embedding_norm,
        **({"scale": math.sqrt(width), "scale_inputs": scale_inputs} if scaled else {}),
        **(table or {}),
    )
    for key, value in (
        ("normalize_before", normed == "before"),
        ("add_final_layer_norm", normed == "before"),
        ("normalize_embedding", embedding_norm is not None),
        ("static_position_embeddings", isinstance(embedding.positions, SinusoidPositions)),
        ("add_bias_logits", False),
    ):
        reader.inert(key, value)  # what the reference's class does whatever these old keys say
    heads = reader.count("decoder_attention_heads", size.heads)
    reader.require(width % heads == 0, "decoder_attention_heads", heads, f"must divide {width}")
    common.written_out(reader, attention.get("kernel", ""))
    if scale_query:
        attention |= {"scale": 1.0, "query_scale": (width // heads) ** -0.5, "contiguous": True}
    attention = {"biases": common.ALL_BIASES, **attention}
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=width // heads, **attention)
    feed_forward = FeedForward(
        width=reader.count("decoder_ffn_dim", size.inner),
        activation=common.activation(reader, "activation_function", size.act),
        gated=False,
        biases=("up", "down"),
    )
    layers = common.sequential(
        [mixer] * reader.count("decoder_layers", size.depth),
        feed_forward,
        norm=NORM if normed == "before" else None,
        sum_norm=NORM if normed == "after" else None,
    )
    return common.decoder(reader, text, embedding, layers, NORM if normed == "before" else None, tied=True)


def from_zero(context: int) -> LearnedPositions:
    """A table in which each position has its row."""
    return LearnedPositions(count=context)


def sinusoids(context: int) -> SinusoidPositions:
    """Sines, then cosines; files hold them, too."""
    return SinusoidPositions(count=context, layout="sin_cos")


def offset_by_two(context: int) -> LearnedPositions:
    """BART's table, whose first two rows no position has."""
    return LearnedPositions(count=context + 2, offset=2)
