"""The sequential decoder of Llama's many relatives: each is a few numbers, and what it does differently."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.families.shared import common, rotary
from nexus_universal.families.shared.reader import ConfigReader


@dataclass(frozen=True, kw_only=True)
class Size:
    """The defaults of a reference class; `kv_heads` None means as many as heads, `head_dim` None width / heads."""

    context: int | None
    vocab: int
    width: int
    inner: int
    depth: int
    heads: int
    kv_heads: int | None = None
    head_dim: int | None = None
    bos: int | None = 1
    eos: int | list[int] | None = 2
    pad: int | None = None
    tied: bool = False


def decoder(
    reader: ConfigReader,
    size: Size,
    norm: Norm,
    *,
    normed: Literal["before", "after", "both"] = "before",
    rope: Rope | Mapping[str, Any] | None = None,
    mixers: Callable[[Attention, int], Iterable[Attention]] | None = None,
    feed_forwards: Callable[[FeedForward, int], Iterable[Part] | Part] | None = None,
    feed_forward: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    residual: float | None = None,
    head: Mapping[str, Any] | None = None,
    parallel: tuple[str, ...] = (),
    std: float = 0.02,
    **attention: Any,
) -> ArchitectureParameter:
    """The n of a config.

    `normed`: whether norms stand before what a sublayer reads, after what it gives, or both. `mixers` makes the layers'
    attentions of the plain one and the depth, `feed_forwards` what stands beside them. The mappings are fields of the
    rotation (which may be given whole), the feed-forward, the embedding and the head; `residual` multiplies what
    sublayers give. `parallel` lets both sublayers read one norm, and is the order in which they and x are added. The
    rest goes to the attention.
    """
    text = common.text(reader, context=size.context, bos=size.bos, eos=size.eos, pad=size.pad, std=std)
    embedding = common.embedding(reader, vocab=size.vocab, width=size.width, pad=text.pad, **(table or {}))
    turned = rope if isinstance(rope, Rope) else None
    if not isinstance(rope, Rope) and attention.get("rotated", True):
        turned = rotary.rope(reader.section("rope_parameters"), context=text.context, **(rope or {}))
    plain = common.attention(
        reader,
        text,
        embedding.width,
        heads=size.heads,
        kv_heads=size.kv_heads,
        head_dim=size.head_dim,
        rope=turned,
        **attention,
    )
    depth = reader.count("num_hidden_layers", size.depth)
    attentions = tuple(mixers(plain, depth) if mixers else [plain] * depth)
    inner = common.feed_forward(reader, size.inner, **(feed_forward or {}))
    if parallel:
        layers = common.parallel(attentions, inner, norm=norm, sum_order=parallel)
    else:
        layers = common.sequential(
            attentions,
            feed_forwards(inner, depth) if feed_forwards else inner,
            norm=None if normed == "after" else norm,
            output_norm=None if normed == "before" else norm,
            scale=residual,
        )
    return common.decoder(reader, text, embedding, layers, norm, tied=size.tied, **(head or {}))


def gated_biases(reader: ConfigReader, key: str = "mlp_bias") -> dict[str, Any]:
    """The biases of a gated feed-forward, if its key asks for them."""
    return {"biases": ("gate", "up", "down") if reader.take(key, False) else ()}


def plain_biases(reader: ConfigReader, *, default: bool = False, act: str = "relu2") -> dict[str, Any]:
    """A feed-forward without gate, its biases, and its activation's default."""
    return {"gated": False, "act": act, "biases": ("up", "down") if reader.take("mlp_bias", default) else ()}


def multipliers(reader: ConfigReader) -> dict[str, Any]:
    """Granite's multipliers (muP, arXiv 2203.03466) of the embedding and of what sublayers give."""
    return {
        "table": {"scale": reader.number("embedding_multiplier", 1.0), "scale_inputs": True},
        "residual": reader.number("residual_multiplier", 1.0),
    }
