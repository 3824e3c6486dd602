"""Which keys attention may see, chosen block by block."""

from __future__ import annotations

from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


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
