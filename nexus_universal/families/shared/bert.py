"""BERT and its relatives, encoders that are read as decoders: norms after sums, biases, rows of types and positions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any, Literal

from nexus_universal.architecture.ends import HeadTransform
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions, Norm
from nexus_universal.families.shared import common
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.reader import ConfigReader

SIZE = Size(context=512, vocab=30522, width=768, inner=3072, depth=12, heads=12, bos=None, eos=None, pad=0, tied=True)
COUNTED = replace(SIZE, bos=0, eos=2, pad=1)


def decoder(
    reader: ConfigReader,
    size: Size = SIZE,
    *,
    normed: Literal["after", "before"] = "after",
    counted: bool = False,
    types: int | None = 2,
    table: Mapping[str, Any] | None = None,
    transform: Mapping[str, Any] | None = None,
    act: str = "gelu",
    eps: float = 1e-12,
    decodes: bool = False,
    **attention: Any,
) -> ArchitectureParameter:
    """The n of a config.

    `normed`: whether norms stand after each sum, or before what a sublayer reads and at the end. `counted`: positions
    count tokens other than pads, behind whose row they begin (RoBERTa). `types`: rows of a table of token types, if
    there is one. `decodes`: whether it is no encoder. The mappings are fields of the embedding and of the head's
    transform; the rest goes to the attention.
    """
    if not decodes:
        causal(reader)
    common.written_out(reader, attention.get("kernel", ""))
    text = common.text(reader, context=size.context, bos=size.bos, eos=size.eos, pad=size.pad)
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", eps), bias=True, rounding="native")
    rows: dict[str, Any] = {"norm": norm, "types": reader.count("type_vocab_size", types) if types else None}
    rows["positions"] = positions(reader, text.context or 0, pad=text.pad, counted=counted)
    embedding = common.embedding(reader, vocab=size.vocab, width=size.width, pad=text.pad, **{**rows, **(table or {})})
    width, heads = embedding.width, reader.count("num_attention_heads", size.heads)
    reader.require(width % heads == 0, "num_attention_heads", heads, f"must divide {width}")
    attention = {"biases": common.ALL_BIASES, **attention}
    mixer = Attention(heads=heads, kv_heads=heads, head_dim=width // heads, **attention)
    inner = common.feed_forward(reader, size.inner, act=act, gated=False, biases=("up", "down"))
    head: dict[str, Any] = {"width": width, "activation": inner.activation, "norm": norm}
    before = norm if normed == "before" else None
    layers = common.sequential(
        [mixer] * reader.count("num_hidden_layers", size.depth),
        inner,
        norm=before,
        sum_norm=None if before else norm,
    )
    return common.decoder(
        reader,
        text,
        embedding,
        layers,
        before,
        tied=size.tied,
        bias=True,
        transform=None if transform is None else HeadTransform(**{**head, **transform}),
    )


counted_decoder = partial(decoder, counted=True, transform={"activation": "gelu"})
"""RoBERTa's; its head has an activation of its own."""


def causal(reader: ConfigReader) -> None:
    """Insist on a decoder: without, positions see what comes after them.

    Raises:
        UnsupportedConfig: is_decoder is false.
    """
    decodes = reader.take("is_decoder", False)
    reader.require(decodes, "is_decoder", decodes, "must be true: otherwise tokens see those after them")
    reader.inert("position_embedding_type", "absolute")


def positions(reader: ConfigReader, rows: int, *, pad: int | None, counted: bool) -> LearnedPositions:
    """A table of positions, which may begin behind the pad's row."""
    if not counted:
        return LearnedPositions(count=rows)
    if pad is None or not 0 <= pad < rows - 1:
        raise reader.refuse("pad_token_id", pad, f"must lie in [0, {rows - 1}), before the rows of positions")
    return LearnedPositions(count=rows, offset=pad + 1, uncounted=pad)
