"""Which keys an attention may see, chosen by scores that are cheaper than its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar, Literal

from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm, Rope


@part
class SparseIndexer(Part):
    """DeepSeek sparse attention: cheap scores choose, per query, the `keep` keys that attention may see.

    score_ts = Σ_h w_th · heads^-0.5 · relu(q_th · k_s · head_dim^-0.5), causal, in float32: q from the query latent,
    k and w from x. `scale_on` "weights" moves head_dim^-0.5 out of the relu to w (other bits). `emit` names the
    chosen set so that later layers can reuse it. `rope_dim` are the leading dimensions that turn, None all.
    """

    heads: int
    head_dim: int
    keep: int
    key_norm: Norm
    rope: Rope | None = None
    scale_on: Literal["scores", "weights"] = "scores"
    emit: str | None = None
    rope_dim: int | None = None

    def problems(self) -> Iterator[tuple[str, str]]:
        if self.rope_dim is not None and not (self.rope and self.rope_dim <= self.head_dim):
            yield "rope_dim", f"needs a rope, and must not exceed head_dim = {self.head_dim}"
        elif self.rope:
            name = "head_dim" if self.rope_dim is None else "rope_dim"
            yield from self.rope.problems_in_head(self.rope_dim or self.head_dim, width=name, kept=True)


@part
class ReusedIndices(Part):
    """The keys that an earlier layer's indexer chose and emitted under the name `reuse` (GLM-5)."""

    reuse: str


@part
class BlockIndexer(Part):
    """Cheap scores choose, per query, the `keep` blocks of `size` keys that groups of heads may see (MiniMax-M3).

    Keys count from the first that a query sees. score_b = max over the keys s of a block of q_h · k_s, in float32, with
    q_h = norm(W_h x) and k = norm(W x), both turned as the attention's heads are. Each of the `heads` chooses for as
    many heads of the attention; the query's own block and those before it, `near` in all if any, come first whatever
    they score.
    """

    heads: int
    head_dim: int
    keep: int
    size: int
    norm: Norm
    near: int | None = 1

    placed: ClassVar[bool] = False

    def compared(self, context: int) -> int:
        """With how much a query at `context` positions is compared."""
        return context


@part
class PooledIndexer(Part):
    """Cheap scores choose, per query, the `keep` blocks of keys that attention may see (Qwen4-Exp).

    The keys that a query sees are cut into blocks of `rate`, from the first on; those behind the last whole block are
    always seen. score_tb = Σ_h relu(q_th · k_b) · head_dim^-0.5 in float32, with q_h = norm(W_h x) and k_b the norm of
    the mean of W x over the block; both turn as the attention's heads do, a block as its first position.
    """

    heads: int
    head_dim: int
    keep: int
    rate: int
    norm: Norm

    placed: ClassVar[bool] = True

    def compared(self, context: int) -> int:
        """With how much a query at `context` positions is compared."""
        return context // self.rate
