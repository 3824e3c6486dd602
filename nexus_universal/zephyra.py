"""Zephyra Fusion under the names of its document: thin constructors of the one class.

What the document leaves open (cutoffs, direction, head, the meaning of `src_pos`) is chosen here, and docs/ZEPHYRA.md
says why. Every `dropout` is taken and has no effect: it belongs to training, and n describes what a model computes.
"""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.ends import Bands, Embedding, Head, Text
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, SinusoidPositions
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.checkpoint.initialise import initialise
from nexus_universal.layers.adaptive import BandedTable
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.block import UniversalTransformerBlock
from nexus_universal.layers.feed_forward import UniversalFeedForward
from nexus_universal.transformer import CausalOutput, UniversalTransformer

NORM = Norm(kind="layer", eps=1e-5, bias=True, rounding="native")
DIVISOR = 4.0


def proportional_cutoffs(vocab: int) -> tuple[int, ...]:
    """Bands in the proportion 1 : 2 : 10, that of the 20k, 40k and 200k words of arXiv 1809.10853."""
    return tuple(sorted({vocab // 13, 3 * vocab // 13} - {0}))


def parameter(
    n_src_vocab: int,
    d_word_vec: int,
    n_layers: int,
    n_head: int,
    d_k: int,
    d_v: int,
    d_model: int,
    d_inner: int,
    *,
    n_position: int = 200,
    cutoffs: Sequence[int] | None = None,
) -> ArchitectureParameter:
    """The n of a Zephyra Fusion of these sizes; `cutoffs` None are `proportional_cutoffs`.

    Raises:
        InvalidArchitecture: sizes that contradict each other, such as a cutoff beyond the vocabulary.
    """
    edges = proportional_cutoffs(n_src_vocab) if cutoffs is None else tuple(cutoffs)
    return ArchitectureParameter(
        embedding=Embedding(
            vocab=n_src_vocab,
            width=d_model,
            positions=SinusoidPositions(count=n_position),
            bands=Bands(cutoffs=edges, divisor=DIVISOR, width=d_word_vec),
        ),
        layers=(_layer(n_head, d_k, d_v, d_inner),) * n_layers,
        final_norm=None,
        head=Head(tied=False, bands=Bands(cutoffs=edges, divisor=DIVISOR)),
        text=Text(context=n_position),
    ).validate()


def _layer(n_head: int, d_k: int, d_v: int, d_inner: int) -> Program:
    return Program(
        steps=(
            _post_norm_step("attention", _attention(n_head, d_k, d_v)),
            _post_norm_step("feed_forward", _feed_forward(d_inner)),
        )
    )


def _post_norm_step(name: str, part: Attention | FeedForward) -> Step:
    write = Write(terms=(Term(source="x"), Term(source=name)), norm=NORM)
    return Step(branches=(Branch(name=name, part=part),), writes=(write,))


def _attention(n_head: int, d_k: int, d_v: int) -> Attention:
    return Attention(
        heads=n_head, kv_heads=n_head, head_dim=d_k, value_dim=d_v, biases=("query", "key", "value", "output")
    )


def _feed_forward(d_inner: int) -> FeedForward:
    return FeedForward(width=d_inner, activation="relu", gated=False, biases=("up", "down"))


class ScaledDotProductAttention(nn.Module):
    """softmax(q kᵀ / temperature) v."""

    def __init__(self, temperature: float, attn_dropout: float = 0.1) -> None:
        super().__init__()
        self.temperature = temperature

    def forward(
        self,
        q: Float[Tensor, "*heads seq d_k"],
        k: Float[Tensor, "*heads keys d_k"],
        v: Float[Tensor, "*heads keys d_v"],
        mask: Tensor | None = None,
    ) -> Float[Tensor, "*heads seq d_v"]:
        """`mask` is True where a query may see a key."""
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, scale=1 / self.temperature)


class MultiHeadAttention(UniversalAttention):
    """Causal self-attention of x [batch, seq, d_model], without the residual and its norm: those are the block's."""

    def __init__(self, n_head: int, d_model: int, d_k: int, d_v: int, dropout: float = 0.1) -> None:
        super().__init__(_attention(n_head, d_k, d_v), d_model=d_model)
        initialise(self, Text())


class PositionwiseFeedForward(UniversalFeedForward):
    """W₂ relu(W₁ x + b₁) + b₂, without the residual and its norm: those are the block's."""

    def __init__(self, d_in: int, d_hid: int, dropout: float = 0.1) -> None:
        super().__init__(_feed_forward(d_hid), d_model=d_in)
        initialise(self, Text())


class ZephyraFusionBlock(UniversalTransformerBlock):
    """x ← LN(x + attention(x));  x ← LN(x + feed_forward(x))."""

    def __init__(self, d_model: int, d_inner: int, n_head: int, d_k: int, d_v: int, dropout: float = 0.1) -> None:
        super().__init__(_layer(n_head, d_k, d_v, d_inner), d_model=d_model)
        initialise(self, Text())


class AdaptiveInput(BandedTable):
    """Token rows [batch, seq, embedding_dim], the rarer bands narrower inside and each projected (arXiv 1809.10853)."""

    def __init__(self, num_embeddings: int, embedding_dim: int, cutoffs: Sequence[int]) -> None:
        bands = Bands(cutoffs=tuple(cutoffs), divisor=DIVISOR)
        super().__init__(Embedding(vocab=num_embeddings, width=embedding_dim, bands=bands), bands)
        initialise(self, Text())


class ZephyraFusion(UniversalTransformer):
    """The one class with a Zephyra's n, called as `model(src_seq, src_pos)`.

    Example:
        >>> model = ZephyraFusion(1000, 64, n_layers=2, n_head=4, d_k=16, d_v=16, d_model=64, d_inner=128)
        >>> model(torch.tensor([[1, 2, 3]]), torch.tensor([[0, 1, 2]])).logits.exp().sum(-1)
        tensor([[1., 1., 1.]])
    """

    def __init__(
        self,
        n_src_vocab: int,
        d_word_vec: int,
        n_layers: int,
        n_head: int,
        d_k: int,
        d_v: int,
        d_model: int,
        d_inner: int,
        dropout: float = 0.1,
        n_position: int = 200,
        *,
        cutoffs: Sequence[int] | None = None,
    ) -> None:
        """Build with random weights; `parameter` gives the same n without a model.

        Raises:
            InvalidArchitecture: sizes that contradict each other, such as a cutoff beyond the vocabulary.
        """
        sizes = (n_src_vocab, d_word_vec, n_layers, n_head, d_k, d_v, d_model, d_inner)
        super().__init__(parameter(*sizes, n_position=n_position, cutoffs=cutoffs))

    def forward(  # type: ignore[override]
        self,
        src_seq: Int[Tensor, "batch seq"] | None = None,
        src_pos: Int[Tensor, "rows seq"] | None = None,
        **call: Any,
    ) -> CausalOutput:
        """`UniversalTransformer.forward` with the document's two arguments: ids, and positions counted from 0."""
        named = {"input_ids": src_seq, "position_ids": src_pos}
        return super().forward(**{name: given for name, given in named.items() if given is not None}, **call)

    @classmethod
    def from_pretrained(cls, source: str | PathLike[str], **options: Any) -> UniversalTransformer:
        """What `save_pretrained(…, format="nexus")` wrote; it comes back as a plain `UniversalTransformer`."""
        return UniversalTransformer.from_pretrained(source, **options)
