"""The difference of two attentions, as one part of n."""

from __future__ import annotations

import math

from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.position import Norm


@part
class Differential(Part):
    """Differential attention (arXiv 2410.05258): o = (1 - λ₀) · norm(a - λ b), a and b being paired heads' mixtures.

    Both halves of the value heads serve every head, so that its mixture is twice as wide; a is the first half of the
    heads, b the second. λ = exp(q₁ · k₁) - exp(q₂ · k₂) + λ₀ with four learned vectors, λ₀ = 0.8 - 0.6 exp(-0.3 l) at
    layer l.
    """

    norm: Norm

    @staticmethod
    def start(layer_index: int) -> float:
        """λ₀."""
        return 0.8 - 0.6 * math.exp(-0.3 * layer_index)
