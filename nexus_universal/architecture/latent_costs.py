"""What attention over compressed keys costs; `cost` is that of `costs`, which these add to."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

from nexus_universal.architecture.costs import (
    Cost,
    Place,
    attention_products,
    cost,
    linear,
    norm_cost,
    total,
    weights,
)
from nexus_universal.architecture.mixers import CompressedAttention, LatentAttention, SparseIndexer
from nexus_universal.architecture.position import Norm


@cost.register
def _(part: LatentAttention, place: Place) -> Cost:
    latent, values, width = part.latent_rank, part.heads * part.value_dim, place.width
    if part.query_rank is None:
        query = linear(width, part.heads * part.head_dim)
    else:
        query = total(
            linear(width, part.query_rank, "query_down" in part.biases),
            norm_cost(part.latent_norm, part.query_rank),
            linear(part.query_rank * (1 + part.joint_gate), part.heads * part.head_dim),
        )
    expanded = linear(latent, part.heads * (part.nope_dim + part.value_dim))
    gate_rows = 0 if part.gate is None else part.heads * (part.value_dim if part.gate.per == "channel" else 1)
    return total(
        query,
        linear(width, latent + part.rope_dim, "latent_down" in part.biases),
        norm_cost(part.latent_norm, latent),
        norm_cost(part.rope_norm, part.rope_dim),
        replace(expanded, flops=expanded.flops * place.seen(part.window)),
        attention_products(part.heads, place.seen(part.window), part.head_dim, part.value_dim),
        linear(2 * part.query_rank if part.joint_gate and part.query_rank else width, gate_rows),
        linear(values, place.model, "output" in part.biases),
        weights(part.heads * part.sinks),
        place.remembered(latent + part.rope_dim, part.window),
        _indexer(part.indexer, part.query_rank, place) if isinstance(part.indexer, SparseIndexer) else Cost(),
    )


def _indexer(part: SparseIndexer, query_rank: int | None, place: Place) -> Cost:
    assert query_rank is not None
    return total(
        linear(query_rank, part.heads * part.head_dim),
        linear(place.width, part.head_dim),
        norm_cost(part.key_norm, part.head_dim),
        linear(place.width, part.heads),
        Cost(flops=2 * part.heads * place.context * (part.head_dim + 1)),
        place.remembered(part.head_dim, None),
    )


@cost.register
def _(part: CompressedAttention, place: Place) -> Cost:
    width, rank = part.heads * part.head_dim, part.output_groups * part.output_rank
    entries = 0 if part.rate is None else place.context // part.rate
    costs = [
        linear(place.width, part.query_rank),
        norm_cost(part.latent_norm, part.query_rank),
        linear(part.query_rank, width),
        linear(place.width, part.head_dim),
        norm_cost(part.latent_norm, part.head_dim),
        attention_products(part.heads, place.seen(part.window) + entries, part.head_dim, part.head_dim),
        weights(part.heads),
        linear(width // part.output_groups, rank),
        linear(rank, place.model),
        place.remembered(part.head_dim, part.window),
    ]
    if part.rate is not None:
        costs.append(_compressor(part.head_dim, part.latent_norm, part, place))
    if part.indexer:
        indexer = part.indexer
        costs += [
            _compressor(indexer.head_dim, indexer.key_norm, part, place),
            linear(part.query_rank, indexer.heads * indexer.head_dim),
            linear(place.width, indexer.heads),
            Cost(flops=2 * indexer.heads * indexer.head_dim * entries),
        ]
    return total(*costs)


def _compressor(head_dim: int, norm: Norm, part: CompressedAttention, place: Place) -> Cost:
    """Values and gates of the positions that wait for their entry, and of the window before where series overlap."""
    assert part.rate is not None
    series = head_dim * (2 if part.overlap else 1)
    waiting = 2 * series * (part.rate - 1) + (2 * head_dim * part.rate if part.overlap else 0)
    return total(
        linear(place.width, series),
        linear(place.width, series),
        weights(part.rate * series),
        norm_cost(norm, head_dim),
        Cost(growing=Fraction(head_dim * place.bytes, part.rate), fixed=waiting * place.bytes),
    )
