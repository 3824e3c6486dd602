"""Merges of differences from a base ("task vectors"): thinned out, agreed upon in sign, weighed and added."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nexus_universal.fusion.merging.blocks import Block, Combine, Stack, kth_largest

Vectors = Float[Tensor, "models rows *width"]
Thin = Callable[[Vectors], Vectors]
"""Which entries of differences are kept, and what they are multiplied by."""

NEGLIGIBLE = 1e-8


def task_arithmetic(stack: Stack, *, weight: Sequence[float], normalize: bool, scale: float) -> Combine:
    """base + λ Σ w_i δ_i (arXiv 2212.04089)."""
    return _summed(lambda vectors: vectors, weight, normalize=normalize, scale=scale, elect=False)


def ties(stack: Stack, *, weight: Sequence[float], density: Sequence[float], normalize: bool, scale: float) -> Combine:
    """Trim each δ_i to its largest entries, elect a sign per entry, and merge those that agree (arXiv 2306.01708)."""
    return _summed(_largest(stack, density), weight, normalize=normalize, scale=scale, elect=True)


def dare(
    stack: Stack,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    normalize: bool,
    rescale: bool,
    scale: float,
    elect: bool,
    generator: torch.Generator,
) -> Combine:
    """Keep each entry with probability `density`, divided by it where `rescale` (arXiv 2311.03099)."""
    thin = partial(_drawn, chances=[torch.tensor(share) for share in density], rescale=rescale, generator=generator)
    return _summed(thin, weight, normalize=normalize, scale=scale, elect=elect)


def della(
    stack: Stack,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    epsilon: Sequence[float],
    normalize: bool,
    rescale: bool,
    scale: float,
    elect: bool,
    generator: torch.Generator,
) -> Combine:
    """Keep entries by their rank in the row, with probability density ∓ epsilon, divided by it (arXiv 2406.11617)."""

    def thin(vectors: Vectors) -> Vectors:
        chances = [_by_rank(v, d, e) for v, d, e in zip(vectors, density, epsilon, strict=True)]
        return _drawn(vectors, chances=chances, rescale=rescale, generator=generator)

    return _summed(thin, weight, normalize=normalize, scale=scale, elect=elect)


def breadcrumbs(
    stack: Stack,
    *,
    weight: Sequence[float],
    density: Sequence[float],
    gamma: Sequence[float],
    normalize: bool,
    scale: float,
    elect: bool,
) -> Combine:
    """Drop the `gamma` largest of each δ_i as outliers, and the smallest until `density` is left (arXiv 2312.06795)."""
    return _summed(_largest(stack, density, gamma), weight, normalize=normalize, scale=scale, elect=elect)


def sce(stack: Stack, *, select_topk: float) -> Combine:
    """Select entries that differ most between models, weigh models by their energy, erase minorities (2408.07990)."""
    selected = _most_varied(stack, select_topk)
    energies = torch.zeros(())
    for block in stack:
        energies = energies + (block.vectors * selected(block)).flatten(1).double().square().sum(1)
    total = float(energies.sum())
    shares = energies / total if total > 0 else torch.full_like(energies, 1 / len(energies))

    def combine(block: Block) -> Tensor:
        vectors = block.vectors * selected(block)
        agreeing = _agreeing(vectors)
        weights = _along(shares.float(), vectors) * agreeing
        return block.back((vectors * weights).sum(0) / weights.sum(0).clamp(min=1e-6))

    return combine


def nearswap(stack: Stack, *, t: float) -> Combine:
    """Move the base towards the other model, by `t` at most: where they are nearer than that they swap."""
    return lambda block: block.back(block.vectors[0].clamp(min=-max(t, 0.0), max=max(t, 0.0)))


def _summed(thin: Thin, weight: Sequence[float], *, normalize: bool, scale: float, elect: bool) -> Combine:
    """base + λ Σ w_i δ_i of what is kept, over what of Σ w_i is kept where `normalize`."""
    weights = torch.tensor(weight, dtype=torch.float32)

    def combine(block: Block) -> Tensor:
        vectors = thin(block.vectors)
        weighed = vectors * _along(weights, vectors)
        divisor = _along(weights, vectors)
        if elect:
            agreeing = _agreeing(weighed)
            weighed, divisor = weighed * agreeing, divisor * agreeing
        merged = weighed.sum(0)
        if normalize:
            total = divisor.sum(0)
            merged = merged / torch.where(total.abs() < NEGLIGIBLE, torch.ones_like(total), total)
        return block.back(merged * scale)

    return combine


def _agreeing(vectors: Vectors) -> Bool[Tensor, "models rows *width"]:
    """Entries that have the sign of the sum over models; a sum of zero is positive, an entry of zero never agrees."""
    positive = vectors.sum(0) >= 0
    return torch.where(positive, vectors > 0, vectors < 0)


def _along(weights: Float[Tensor, " models"], vectors: Vectors) -> Tensor:
    """One number per model, to multiply its vector by."""
    return weights.view(-1, *(1,) * (vectors.dim() - 1))


def _largest(stack: Stack, density: Sequence[float], gamma: Sequence[float] | None = None) -> Thin:
    """Keep that share of each model's entries, the largest but for a share `gamma` of outliers."""
    size = sum(block.models[0].numel() for block in stack)
    outliers = gamma or [0.0] * len(density)
    kept = [min(size, max(1, int(share * size))) if share > 0 else 0 for share in density]
    above = [min(int(share * size), size - count) for share, count in zip(outliers, kept, strict=True)]
    if min(kept) == size:
        return lambda vectors: vectors
    ranks = [max(1, count + more) for count, more in zip(kept, above, strict=True)] + [max(1, more) for more in above]
    found = kth_largest(stack, ranks, of=lambda block: 2 * list(block.vectors.abs()))
    low = [edge if count else float("inf") for edge, count in zip(found, kept, strict=False)]
    high = [edge if more else float("inf") for edge, more in zip(found[len(kept) :], above, strict=True)]

    def thin(vectors: Vectors) -> Vectors:
        sizes = vectors.abs()
        return vectors * ((sizes >= _along(torch.tensor(low), vectors)) & (sizes < _along(torch.tensor(high), vectors)))

    return thin


def _drawn(vectors: Vectors, *, chances: Sequence[Tensor], rescale: bool, generator: torch.Generator) -> Vectors:
    """Each entry kept with its chance, over which it is divided where `rescale`."""
    kept = []
    for vector, chance in zip(vectors, chances, strict=True):
        mask = torch.rand(vector.shape, generator=generator) < chance
        kept.append(vector * mask / chance.clamp(min=NEGLIGIBLE) if rescale else vector * mask)
    return torch.stack(kept)


def _by_rank(vector: Float[Tensor, "*rows columns"], density: float, epsilon: float) -> Tensor:
    """Chances from density − epsilon for the smallest entry of a row to density + epsilon for its largest."""
    if density >= 1 or density <= 0:
        return torch.tensor(min(max(density, 0.0), 1.0))
    ranks = vector.abs().argsort(dim=-1).argsort(dim=-1)
    return density - epsilon + 2 * epsilon * ranks / max(vector.shape[-1] - 1, 1)


def _most_varied(stack: Stack, share: float) -> Callable[[Block], Tensor]:
    """Where the models' variance is among the largest; `share` of the places where it is not zero."""
    if share >= 1:
        return lambda block: torch.ones(())
    varied = sum(int(_variance(block).count_nonzero()) for block in stack)
    count = int(varied * share)
    if count <= 0:
        return lambda block: torch.zeros(())
    [edge] = kth_largest(stack, [count], of=lambda block: [_variance(block)])
    return lambda block: _variance(block) >= edge


def _variance(block: Block) -> Float[Tensor, " rows *width"]:
    return block.vectors.var(dim=0, unbiased=False)
