"""What each part costs, from its equations alone: parameters, multiply-adds and remembered bytes for one token.

FLOPs are those that `torch.utils.flop_counter` counts: 2 per multiply-add of matrix products, attention and
convolutions. Elementwise work (norms, activations, and states that are updated elementwise) is not among them.
A part adds a function here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import singledispatch
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, RoutedAttention
from nexus_universal.architecture.mixers import Attention, LowRank
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Linear
from nexus_universal.architecture.recurrences import GatedDeltaRule, LightningAttention
from nexus_universal.architecture.residual_convolution import DynamicConvolution, ResidualConvolution
from nexus_universal.architecture.sparsity import TopK

XIELU_WEIGHTS = 2
FLOAT32_BYTES = 4
INTEGER_BYTES = 8


@dataclass(frozen=True, slots=True)
class Cost:
    """What a part costs; `idle` are the parameters of experts that a token does not visit."""

    parameters: int = 0
    idle: int = 0
    flops: int = 0
    growing: Fraction = Fraction(0)
    fixed: int = 0

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.parameters + other.parameters,
            self.idle + other.idle,
            self.flops + other.flops,
            self.growing + other.growing,
            self.fixed + other.fixed,
        )

    def without_weights(self) -> Cost:
        """The same computation with weights that are counted elsewhere."""
        return replace(self, parameters=0, idle=0)


@dataclass(frozen=True, slots=True)
class Place:
    """Where a part stands: the width it reads, the width it gives, positions visible, bytes of an element."""

    width: int
    model: int
    context: int
    bytes: int

    def seen(self, window: int | None) -> int:
        """How many positions a query meets, itself included."""
        return self.context if window is None else min(self.context, window)

    def remembered(self, width: int, window: int | None) -> Cost:
        """State of `width` elements per position, all positions or those that a window reaches back to."""
        if window is None:
            return Cost(growing=Fraction(width * self.bytes))
        return Cost(fixed=(window - 1) * width * self.bytes)


def total(*costs: Cost) -> Cost:
    """The sum of costs."""
    return sum(costs, Cost())


def linear(width_in: int, width_out: int, bias: bool = False) -> Cost:
    """A matrix product with a weight of its own."""
    return Cost(parameters=width_in * width_out + width_out * bias, flops=2 * width_in * width_out)


def weights(count: int) -> Cost:
    """Learned numbers that enter elementwise."""
    return Cost(parameters=count)


def norm_cost(norm: Norm | None, width: int) -> Cost:
    """The weight and bias of a norm over `width`."""
    if norm is None:
        return Cost()
    gate = linear(width, norm.gate_rank) + linear(norm.gate_rank, width) if norm.gate_rank else Cost()
    return weights(width * ((norm.scale != "none") + norm.bias)) + gate


def convolution_cost(channels: int, kernel: int, place: Place, *, bias: bool = False) -> Cost:
    """A causal depthwise convolution whose state keeps `kernel` inputs, so that a token computes two outputs."""
    return Cost(
        parameters=channels * kernel + channels * bias,
        flops=2 * 2 * channels * kernel,
        fixed=channels * kernel * place.bytes,
    )


def residual_convolution_cost(part: ResidualConvolution | DynamicConvolution, channels: int, place: Place) -> Cost:
    """A convolution beside a residual path, its state in float32; one with dynamic taps is multiplied elementwise."""
    whole = convolution_cost(channels, part.kernel, replace(place, bytes=FLOAT32_BYTES))
    return whole if isinstance(part, ResidualConvolution) else replace(whole, flops=0)


def additions(part: Attention, place: Place) -> Iterator[Cost]:
    """What stands before and beside the scores: norms, convolutions, limits and biases by distance."""
    if part.apart:
        yield from [norm_cost(part.apart, place.width)] * 3
    for head in (part.head_dim, part.value_width) if part.convolution else ():
        yield residual_convolution_cost(part.convolution, part.kv_heads * head, place)  # type: ignore[arg-type]
        if isinstance(part.convolution, DynamicConvolution):
            yield linear(place.width, part.kv_heads * part.convolution.kernel)
    if part.length_limit is not None:
        yield weights(part.heads * part.head_dim)
    if part.relative:
        profiles = part.relative.width * part.relative.extent
        yield Cost(parameters=profiles, flops=2 * part.heads * profiles)
        yield weights(part.heads * part.relative.width * (part.relative.length_limit is not None))


def attention_products(heads: int, keys: int, key_dim: int, value_dim: int) -> Cost:
    """Scores and mixture of one query per head."""
    return Cost(flops=2 * heads * keys * (key_dim + value_dim))


def projection_rows(part: Any) -> dict[str, int]:
    """The rows of each input projection of a part, by role; packed projections under their common name as well."""
    if isinstance(part, Attention):
        rows = {"query": part.heads * part.head_dim}
        if not part.reuse:
            rows["key"] = part.kv_heads * part.head_dim
        if not part.reuse and not part.value_is_key:
            rows["value"] = part.kv_heads * part.value_width
        if part.relative:
            rows["relative"] = part.heads * part.relative.width
        if part.gate:
            rows["gate"] = part.heads * (part.value_width if part.gate.per == "channel" else 1)
        if part.projected_sinks:
            rows["sink"] = part.heads
    elif isinstance(part, FeedForward):
        rows = dict.fromkeys(part.projections if part.gated else ("up",), part.width)
    elif isinstance(part, LightningAttention):
        rows = dict.fromkeys(part.projections, part.heads * part.head_dim)
    elif isinstance(part, RoutedAttention):
        rows = dict.fromkeys(part.projections, part.kv_heads * part.head_dim)
    elif isinstance(part, GatedDeltaRule):
        keys, values = part.key_heads * part.key_dim, part.value_heads * part.value_dim
        rows = {"query": keys, "key": keys, "value": values, "gate": values, "beta": part.value_heads}
        rows["decay"] = part.value_heads * (part.key_dim if part.decay == "channel" else 1)
    else:
        return {}
    return rows | {packed.name: sum(rows[role] for role in packed.roles) for packed in part.packing}


def _projections(part: Any, place: Place, *roles: str) -> Cost:
    rows, biases = projection_rows(part), getattr(part, "biases", ())
    return total(
        *(linear(place.width, rows[role], role in biases) for role in roles or part.projections if role in rows)
    )


@singledispatch
def cost(part: Any, place: Place) -> Cost:
    """What `part` costs at `place`, its own weights included."""
    raise NotImplementedError(f"no cost is known for {type(part).__name__}")


@cost.register
def _(part: Attention, place: Place) -> Cost:
    width, kv_width = part.heads * part.head_dim, part.kv_heads * part.head_dim
    window = None if part.keeps == "all" else part.window  # what is kept is multiplied, masked or not
    seen = place.seen(window)
    place = replace(place, width=place.model) if part.apart else place
    costs = [
        _projections(part, place),
        attention_products(part.heads, seen, part.head_dim, part.value_width),
        linear(part.heads * part.value_width, place.model, "output" in part.biases),
        weights(part.heads * (part.sinks + bool(part.gate and part.gate.head_bias))),
        norm_cost(part.inner_norm, part.heads * part.value_width),
    ]
    if part.differential:  # two mixtures of the same queries and keys, each a product of its own
        costs += [
            attention_products(part.heads, seen, part.head_dim, part.value_width),
            weights(4 * part.head_dim),
            norm_cost(part.differential.norm, 2 * part.head_dim),
        ]
    costs += additions(part, place)
    if isinstance(part.sparsity, TopK) and seen > part.sparsity.keys:  # scores once more, to choose by
        costs.append(attention_products(part.heads, seen, part.head_dim, 0))
    if part.dynamic_mask:
        step = linear(part.kv_heads * part.value_width, part.kv_heads, part.dynamic_mask.bias)
        costs += [weights(part.kv_heads), replace(step, flops=step.flops * seen)]
    if part.indexer:
        indexer = part.indexer
        costs += [
            linear(place.width, (indexer.heads + 1) * indexer.head_dim),
            norm_cost(indexer.norm, 2 * indexer.head_dim),
            Cost(flops=2 * indexer.heads * indexer.head_dim * indexer.compared(place.context)),
            Cost(growing=Fraction(indexer.head_dim * place.bytes + INTEGER_BYTES * indexer.placed)),
        ]
    if part.qk_norm:
        wide = part.qk_norm.over == "width" or part.qk_norm.own
        widths = (width, kv_width) if wide else (part.head_dim, part.head_dim)
        costs += [norm_cost(part.qk_norm.norm, each) for each in (widths[:1] if part.reuse else widths)]
    if not part.reuse:
        remembered = kv_width + part.kv_heads * part.value_width
        costs += [
            norm_cost(part.value_norm, part.value_width),
            place.remembered(remembered, window),
        ]
    return total(*costs)


@cost.register
def _(part: GatedDeltaRule, place: Place) -> Cost:
    rows = projection_rows(part)
    low_rank = ("gate", "decay") if part.low_rank else ()
    single = _projections(part, place, *(role for role in part.projections if role not in low_rank))
    rank = part.low_rank or place.width
    factored = [linear(place.width, rank) + linear(rank, rows[role]) for role in low_rank]
    channels = rows["query"] + rows["key"] + rows["value"]
    return total(
        single,
        *factored,
        convolution_cost(channels, part.convolution, place),
        weights(part.value_heads + rows["decay"]),
        norm_cost(part.norm, part.value_dim),
        linear(rows["value"], place.model),
        Cost(fixed=part.value_heads * part.key_dim * part.value_dim * FLOAT32_BYTES),
    )


@cost.register
def _(part: LightningAttention, place: Place) -> Cost:
    width, state = part.heads * part.head_dim, part.heads * part.head_dim**2
    return total(
        _projections(part, place),
        norm_cost(part.norm, width),
        Cost(flops=2 * 2 * state, fixed=state * place.bytes),
        linear(width, place.model),
    )


@cost.register
def _(part: RoutedAttention, place: Place) -> Cost:
    width, keys = part.kv_heads * part.head_dim, place.context
    expert = linear(place.width, width) + linear(width, place.model)
    return total(
        _projections(part, place),
        _chosen(expert, part.experts, part.per_token),
        linear(place.width, part.experts, part.router.bias),
        attention_products(part.heads, keys, part.head_dim, part.head_dim),
        weights(place.model),
        place.remembered(2 * width, None),
    )


def _chosen(expert: Cost, experts: int, per_token: int, *, all_run: bool = False) -> Cost:
    """What experts cost of which a token visits some; where `all_run` the others do, too, on zeros."""
    visited = min(per_token, experts)
    return Cost(
        parameters=experts * expert.parameters,
        idle=(experts - visited) * expert.parameters,
        flops=(experts if all_run else visited) * expert.flops,
    )


@cost.register
def _(part: FeedForward, place: Place) -> Cost:
    return total(
        _projections(part, place),
        weights(XIELU_WEIGHTS * (part.activation == "xielu")),
        norm_cost(part.inner_norm, part.width),
        linear(part.width, place.model, "down" in part.biases),
    )


@cost.register
def _(part: MixtureOfExperts, place: Place) -> Cost:
    inner, router = part.latent or place.width, part.router
    costs = [
        _chosen(
            cost(part.expert, replace(place, width=inner, model=part.latent or place.model)),
            part.experts,
            part.per_token,
            all_run=part.weighs == "inputs",
        ),
        linear(place.width, part.experts + part.identity_experts + part.always, router.bias),
        weights(place.width * router.input_scale + part.experts * router.expert_scale + place.model * part.bias),
        weights(router.learned_scale),
        *[cost(part.expert, place)] * part.always,
        norm_cost(router.input_norm, place.width),
        norm_cost(part.expert_norm, place.width),
    ]
    if part.latent:
        costs += [
            linear(place.width, part.latent, part.latent_bias),
            linear(part.latent, place.model, part.latent_bias),
        ]
    if part.shared:
        costs.append(cost(part.shared, place))
    if part.shared_gate:
        costs.append(linear(place.width, 1))
    return total(*costs)


@cost.register
def _(part: LowRank, place: Place) -> Cost:
    return linear(place.width, part.rank) + linear(part.rank, place.model)


@cost.register
def _(part: PerLayerInput, place: Place) -> Cost:
    return linear(place.width, part.width) + linear(part.width, place.model)


@cost.register
def _(part: Linear, place: Place) -> Cost:
    return linear(place.width, place.model, part.bias)
