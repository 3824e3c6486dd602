"""What recurrences cost; `cost` is that of `costs`, which these add to."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.costs import (
    FLOAT32_BYTES,
    Cost,
    Place,
    convolution_cost,
    linear,
    norm_cost,
    total,
    weights,
)
from nexus_universal.architecture.latent_costs import cost
from nexus_universal.architecture.recurrences import (
    ChannelStateSpace,
    DecayedAverage,
    GatedLinearRecurrence,
    MatrixMemory,
    ShiftedFeedForward,
    ShortConvolution,
    StateSpace,
)


@cost.register
def _(part: StateSpace, place: Place) -> Cost:
    inner, state = part.heads * part.head_dim, part.heads * part.head_dim * part.state_dim
    convolved = inner + 2 * part.groups * part.state_dim
    return total(
        linear(place.width, inner + convolved + part.heads, "input" in part.biases),
        convolution_cost(convolved, part.convolution, place, bias=part.convolution_bias),
        weights(3 * part.heads),
        norm_cost(part.norm, inner),
        Cost(flops=2 * state, fixed=state * FLOAT32_BYTES),
        linear(inner, place.model, "output" in part.biases),
    )


@cost.register
def _(part: ShortConvolution, place: Place) -> Cost:
    return total(
        linear(place.width, 3 * place.width, part.bias),
        convolution_cost(place.width, part.kernel, place, bias=part.bias),
        linear(place.width, place.model, part.bias),
    )


@cost.register
def _(part: ChannelStateSpace, place: Place) -> Cost:
    state, chosen = part.width * part.state_dim, part.rank + 2 * part.state_dim
    return total(
        linear(place.width, 2 * part.width, "input" in part.biases),
        convolution_cost(part.width, part.convolution, place, bias=part.convolution_bias),
        linear(part.width, chosen),
        norm_cost(part.inner_norm, chosen),
        linear(part.rank, part.width, bias=True),
        weights(state + part.width),
        Cost(flops=2 * state, fixed=state * FLOAT32_BYTES),
        linear(part.width, place.model, "output" in part.biases),
    )


@cost.register
def _(part: GatedLinearRecurrence, place: Place) -> Cost:
    channels = part.width // part.heads
    return total(
        *2 * [linear(place.width, part.width, bias=True)],
        replace(convolution_cost(part.width, part.convolution, place, bias=True), flops=0),  # a token's is elementwise
        *2 * part.heads * [linear(channels, channels, bias=True)],
        weights(part.width),
        Cost(fixed=part.width * FLOAT32_BYTES),
        linear(part.width, place.model, bias=True),
    )


@cost.register
def _(part: DecayedAverage, place: Place) -> Cost:
    return total(
        *3 * [linear(place.width, place.width)],
        weights(5 * place.width),
        Cost(fixed=place.width * (3 * FLOAT32_BYTES + place.bytes)),
        linear(place.width, place.model),
    )


@cost.register
def _(part: ShiftedFeedForward, place: Place) -> Cost:
    return total(
        linear(place.width, part.width),
        linear(place.width, place.model),
        weights(2 * place.width),
        Cost(fixed=place.width * place.bytes),
        linear(part.width, place.model),
    )


@cost.register
def _(part: MatrixMemory, place: Place) -> Cost:
    keys, values, state = part.heads * part.key_dim, part.heads * part.value_dim, part.key_dim * part.value_dim
    return total(
        *2 * [linear(place.width, keys)],
        *2 * [linear(place.width, values)],
        *2 * [linear(place.width, part.heads, bias=True)],
        Cost(
            flops=part.heads * (2 * 2 * state + 2 * part.key_dim),
            fixed=part.heads * (state + part.key_dim + 1) * place.bytes,
        ),
        norm_cost(part.norm, values),
        linear(values, place.model),
    )
