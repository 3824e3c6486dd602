"""A larger model that computes the same function (arXiv 2308.06103, 2310.07999); each step is certified by its logits.

Every function takes a `UniversalTransformer` and returns a new one with a new n. What is new reads the residual through
fresh random weights and writes zeros, so that the first step of training moves it; were both zero, nothing ever would.

Example:
    >>> larger = add_layers(widen_feed_forward(model, 4096), 2)
"""

from __future__ import annotations

from nexus_universal.fusion.growth.depth import add_layers
from nexus_universal.fusion.growth.experts import add_experts
from nexus_universal.fusion.growth.feed_forward import widen_feed_forward
from nexus_universal.fusion.growth.heads import add_heads
from nexus_universal.fusion.growth.rebuild import growth_certificate
from nexus_universal.fusion.growth.residual import widen

__all__ = [
    "add_experts",
    "add_heads",
    "add_layers",
    "growth_certificate",
    "widen",
    "widen_feed_forward",
]
