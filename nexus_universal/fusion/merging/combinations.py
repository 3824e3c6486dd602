"""Merges that are sums of whole tensors with weights that follow from the tensors' inner products alone."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.merging.blocks import Block, Combine, Stack

PARALLEL = 0.9995
"""Above this cosine an arc is its chord, and sin(angle) too small to divide by."""


def linear(stack: Stack, *, weight: Sequence[float], normalize: bool) -> Combine:
    """Σ w_i x_i, divided by Σ w_i where `normalize` (model soups, arXiv 2203.05482)."""
    total = sum(weight)
    if normalize and total == 0:
        raise InputError(f"linear: weights {list(weight)} sum to zero; they must not where normalize = true")
    return weighted_sum([w / total for w in weight] if normalize else list(weight))


def slerp(stack: Stack, *, t: float) -> Combine:
    """The point `t` of the way along the arc from the first tensor to the second one (Shoemake 1985).

    x = sin((1 − t)θ)/sin θ · x₀ + sin(tθ)/sin θ · x₁, θ the angle between them; the chord where they are parallel.
    """
    products = inner_products(stack)
    lengths = products.diagonal().sqrt()
    cosine = float(products[0, 1] / (lengths[0] * lengths[1])) if lengths.min() > 0 else 1.0
    if abs(cosine) > PARALLEL:
        return weighted_sum([1 - t, t])
    angle = math.acos(cosine)
    return weighted_sum([math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)])


def karcher(stack: Stack, *, max_iter: int, tol: float) -> Combine:
    """The directions' Riemannian mean on the sphere, times the mean length (Karcher 1977; arXiv 2603.04972)."""
    products = inner_products(stack)
    return weighted_sum(_spherical_mean(products, [1.0] * len(products), steps=max_iter, tol=tol))


def multislerp(stack: Stack, *, weight: Sequence[float], normalize_weights: bool, eps: float) -> Combine:
    """The direction of the directions' weighted mean, times the mean length; of differences where there is a base.

    The published step in the plane that touches the sphere there is none: the weighted tangents add up to zero.
    """
    total = sum(weight) if normalize_weights else 1.0
    if total == 0:
        raise InputError(f"multislerp: weights {list(weight)} sum to zero")
    shares = [w / total for w in weight]
    return weighted_sum(_spherical_mean(inner_products(stack), shares, steps=0, tol=eps))


def model_stock(stack: Stack) -> Combine:
    """base + t · mean difference, t = k cos θ / (1 + (k − 1) cos θ), θ between differences (arXiv 2403.19522)."""
    products = inner_products(stack)
    count = len(products)
    lengths = products.diagonal().sqrt()
    cosines = products / (lengths[:, None] * lengths).clamp(min=1e-6)
    cosine = float((cosines.sum() - cosines.diagonal().sum()) / (count * (count - 1)))
    spread = 1 + (count - 1) * cosine
    ratio = count * cosine / spread if abs(spread) > 1e-6 else 0.0
    return weighted_sum([ratio / count] * count)


def passthrough(stack: Stack, *, scale: float) -> Combine:
    """The only tensor, times `scale`."""
    return weighted_sum([scale])


def inner_products(stack: Stack) -> Float[Tensor, "models models"]:
    """The products of every pair of vectors, in float64."""
    total: Tensor | float = 0.0
    for block in stack:
        rows = block.vectors.flatten(1).double()
        total = total + rows @ rows.T
    assert isinstance(total, Tensor)
    return total


def weighted_sum(weights: Sequence[float]) -> Combine:
    """Σ w_i x_i, written so that equal tensors give themselves, bit for bit, and so does a tensor of weight 1.

    With k the largest weight: (Σ w_i) x_k + Σ_{i≠k} w_i (x_i − x_k).
    """
    anchor = max(range(len(weights)), key=lambda index: abs(weights[index]))
    total = sum(weights)
    total = 1.0 if math.isclose(total, 1.0, rel_tol=1e-9) else total

    def combine(block: Block) -> Tensor:
        vectors = block.vectors
        out = vectors[anchor] * total
        for index, weight in enumerate(weights):
            if index != anchor and weight:
                out += weight * (vectors[index] - vectors[anchor])
        return block.back(out)

    return combine


def _spherical_mean(
    products: Float[Tensor, "models models"],
    shares: Sequence[float],
    *,
    steps: int,
    tol: float,
) -> list[float]:
    """Weights of the tensors in the mean of their directions, times the mean of their lengths.

    A point is written as a sum of directions, whose products are all that is needed. Every step follows the mean of
    the arcs to them.
    """
    lengths = products.diagonal().sqrt()
    told = lengths > tol
    if not told.any():
        return [1.0 if index == 0 else 0.0 for index in range(len(shares))]
    share = torch.tensor(shares, dtype=torch.float64) * told
    share = share / share.sum()
    safe = torch.where(told, lengths, 1.0)
    cosines = (products / (safe[:, None] * safe)).clamp(-1, 1)

    def length(point: Tensor) -> float:
        return math.sqrt(max(float(point @ cosines @ point), 0.0))

    if length(share) < tol:
        raise InputError("the directions cancel out: no mean lies between opposite tensors of equal weight")
    point = share / length(share)
    for _ in range(steps):
        dots = (cosines @ point).clamp(-1, 1)
        angles = torch.arccos(dots)
        pull = share * torch.where(angles > tol, angles / angles.sin(), 1.0)
        tangent = pull - (pull * dots).sum() * point
        far = length(tangent)
        if far < tol:
            break
        point = math.cos(far) * point + math.sin(far) / far * tangent
        point = point / length(point)
    mean_length = float((torch.tensor(shares, dtype=torch.float64) * lengths).sum() / sum(shares))
    return (point * mean_length / safe * told).tolist()
