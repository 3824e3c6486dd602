"""How several streams become one vector, channel by channel."""

from __future__ import annotations

from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


@part
class StreamGate(Part):
    """The mean over streams of σ(B silu(A n / streams))_j ⊙ n_j, where n_j = norm_j(x_j) (Qwen4-Exp).

    A and B, of `rank`, read and gate all streams at once, and each stream's norm has weights of its own.
    """

    rank: int
    norm: Norm
