"""What connections of several streams cost; `cost` is that of `recurrence_costs`, which these add to."""

from __future__ import annotations

from nexus_universal.architecture.costs import Cost, Place, linear, norm_cost, total, weights
from nexus_universal.architecture.program import AltUp, ChannelGatedStreams, GatedStreams, HyperConnection, StreamSlice
from nexus_universal.architecture.recurrence_costs import cost
from nexus_universal.architecture.stream_gate import StreamGate


@cost.register
def _(part: HyperConnection, place: Place) -> Cost:
    maps = (2 + part.streams) * part.streams
    return total(
        linear(part.streams * place.model, maps, bias=True),
        weights(3),
        Cost(flops=2 * part.streams**2 * place.model),
    )


@cost.register
def _(part: AltUp, place: Place) -> Cost:
    streams, width = part.streams, place.model
    router = linear(width, streams)
    return total(
        router + router.without_weights(),
        norm_cost(part.norm, width),
        linear(streams, streams**2),
        linear(streams, streams),
        Cost(flops=2 * streams**2 * width),
    )


@cost.register
def _(part: StreamSlice, place: Place) -> Cost:
    return weights(place.model * part.read_scale)


@cost.register
def _(part: GatedStreams, place: Place) -> Cost:
    return linear(part.streams * place.model, 2 * part.streams, bias=True) + weights(2)


@cost.register
def _(part: ChannelGatedStreams, place: Place) -> Cost:
    return gate_cost(part.gate, part.streams, place.model) + linear(part.streams * place.model, part.streams)


def gate_cost(part: StreamGate, streams: int, width: int) -> Cost:
    """What it costs to make one vector of streams of a width."""
    wide = streams * width
    return total(norm_cost(part.norm, wide), linear(wide, part.rank), linear(part.rank, wide))
