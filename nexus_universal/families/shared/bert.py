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
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, names
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

SIZE = Size(context=512, vocab=30522, width=768, inner=3072, depth=12, heads=12, bos=None, eos=None, pad=0, tied=True)
COUNTED = replace(SIZE, bos=0, eos=2, pad=1)

LAYER = "encoder.layer.{i}"
PASSED_OVER = {
    r"embeddings\.(position|token_type)_ids$": "counted per call",
    r"\.embed_positions\.weight$": "a table of sinusoids, which is computed",
    r"\.pooler\.": "a pooler, which no logit depends on",
    r"(predictions|lm_head)\.(decoder\.)?bias$": "the head's bias once more",
}

COMPLETES = {"is_decoder": True}
IRRELEVANT = dict.fromkeys(("hidden_dropout_prob", "attention_probs_dropout_prob", "classifier_dropout"), TRAINING)
TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 96,
    "is_decoder": True,
}
DRAWS: dict[str, tuple[Any, ...]] = {
    "num_attention_heads": (4, 1, 6),
    "intermediate_size": (80, 56),
    "hidden_act": ("gelu", "relu", "gelu_new", "silu"),
    "layer_norm_eps": (1e-12, 1e-3),
    "type_vocab_size": (2, 1),
    "tie_word_embeddings": (True, False),
    "num_hidden_layers": (2, 3),
    "pad_token_id": (0, 5, None),
}
COUNTED_DRAWS = DRAWS | {"pad_token_id": (1, 0, 5)}


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


def weights(model: str, *tables: names.Names, passed_over: Mapping[str, str] | None = None) -> WeightMap:
    """BERT's names, which begin with `model`; tables add to them or take precedence."""
    embeddings, layer = f"{model}.embeddings", f"{model}.{LAYER}"
    tensors: names.Names = {
        "embedding.tokens": f"{embeddings}.word_embeddings",
        "embedding.positions": f"{embeddings}.position_embeddings",
        "embedding.types": f"{embeddings}.token_type_embeddings",
        "embedding.norm": f"{embeddings}.LayerNorm",
        "layers.{i}.attention.query": f"{layer}.attention.self.query",
        "layers.{i}.attention.key": f"{layer}.attention.self.key",
        "layers.{i}.attention.value": f"{layer}.attention.self.value",
        "layers.{i}.attention.output": f"{layer}.attention.output.dense",
        "layers.{i}.attention_x_write_norm": f"{layer}.attention.output.LayerNorm",
        "layers.{i}.feed_forward.up": f"{layer}.intermediate.dense",
        "layers.{i}.feed_forward.down": f"{layer}.output.dense",
        "layers.{i}.feed_forward_x_write_norm": f"{layer}.output.LayerNorm",
    }
    for table in tables:
        tensors |= table
    free = {"head.bias": f"{tensors['head']}.bias"}  # where nothing is tied, that beside the decoder is nobody's
    return WeightMap(tensors=tensors, passed_over={**PASSED_OVER, **(passed_over or {})}, free=free)


def pre_norms(model: str, *, attention: str, feed_forward: str, final: str) -> names.Names:
    """Norms before what sublayers read, named behind the layer, and the last behind the model."""
    return {
        "layers.{i}.attention_norm": f"{model}.{LAYER}.{attention}",
        "layers.{i}.feed_forward_norm": f"{model}.{LAYER}.{feed_forward}",
        "final_norm": f"{model}.{final}",
    }


def head(decoder: str, transform: str, norm: str = "LayerNorm") -> names.Names:
    """A head whose bias files hold beside the decoder, within it, or both."""
    return {
        "head.transform.dense": f"{transform}.dense",
        "head.transform.norm": f"{transform}.{norm}",
        "head": f"{decoder}.decoder",
        "head.bias": (f"{decoder}.bias", f"{decoder}.decoder.bias"),
    }


PREDICTIONS = head("cls.predictions", "cls.predictions.transform")
LM_HEAD = head("lm_head", "lm_head", "layer_norm")
