"""What parts cost that are made of several others; `cost` is that of `connection_costs`, which these add to."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.bridge import Bridge, CrossAttention, Similarity
from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.connection_costs import cost
from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.costs import (
    INTEGER_BYTES,
    Cost,
    Place,
    attention_products,
    linear,
    norm_cost,
    residual_convolution_cost,
    total,
    weights,
)
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.residual_convolution import ResidualConvolution


@cost.register
def _(part: ConvolvedAttention, place: Place) -> Cost:
    queries, keys = part.heads * part.head_dim, part.kv_heads * part.head_dim
    channels = queries + keys
    return total(
        linear(place.width, queries, part.bias),
        linear(place.width, keys, part.bias),
        linear(place.width, keys // 2, part.bias),
        linear(place.width, keys // 2, part.bias),
        weights(channels * (part.depthwise + 1) + channels * (part.head_dim * part.grouped + 1) + part.kv_heads),
        Cost(flops=2 * channels * (part.depthwise * part.grouped + part.head_dim * part.grouped)),
        Cost(fixed=(channels * part.reach + keys // 2) * place.bytes),
        attention_products(part.heads, place.seen(part.window), part.head_dim, part.head_dim),
        place.remembered(2 * keys, part.window),
        linear(queries, place.model, part.bias),
    )


@cost.register
def _(part: ResidualConvolution, place: Place) -> Cost:
    return residual_convolution_cost(part, place.width, place)


@cost.register
def _(part: ChainedExperts, place: Place) -> Cost:
    width, expert = part.width, cost(part.expert, place)
    return total(
        replace(expert, parameters=part.experts * expert.parameters, idle=(part.experts - 1) * expert.parameters),
        linear(place.width, width, True),
        weights(width * part.chained),
        norm_cost(part.norm, width),
        linear(width, width, True),
        linear(width, width, True),
        linear(width, part.experts + 1),
    )


@cost.register
def _(part: HashedNgrams, place: Place) -> Cost:
    wide = part.streams * place.model
    return total(
        weights(part.stored_rows * part.width // part.tables),
        linear(part.width, wide),
        linear(part.width, place.model),
        norm_cost(part.norm, 3 * wide),
        Cost(parameters=wide * part.kernel, flops=2 * wide * part.kernel),
        Cost(fixed=wide * part.reach * place.bytes + (part.order - 1) * INTEGER_BYTES),
    )


@cost.register
def _(part: Bridge, place: Place) -> Cost:
    donor = replace(place, width=part.donor_width)
    chosen = linear(place.width, 1, bias=True)
    return total(
        cost(part.form, donor),
        norm_cost(part.donor_norm, part.donor_width),
        weights(part.zero == "gate"),
        chosen if part.gate != "scalar" else Cost(),
    )


@cost.register
def _(part: CrossAttention, place: Place) -> Cost:
    width, nothing = part.heads * part.head_dim, 1
    return total(
        linear(place.model, width),
        linear(place.width, 2 * width),
        attention_products(part.heads, place.context + nothing, part.head_dim, part.head_dim),
        linear(place.model, width) if part.gated else Cost(),
        linear(width, place.model),
        place.remembered(2 * width, None),
    )


@cost.register
def _(part: Similarity, place: Place) -> Cost:
    return linear(place.width, place.model)
