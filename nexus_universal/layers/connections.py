"""How a step reads one vector from several residual streams, and writes what it makes back into all of them.

x is [batch, seq, streams, d_hidden]; in which order its memory lies is each connection's own affair.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.program import (
    AltUp,
    ChannelGatedStreams,
    Connection,
    GatedStreams,
    HyperConnection,
    StreamSlice,
)
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm, bare_rms, reciprocal
from nexus_universal.layers.stream_gate import UniversalStreamGate
from nexus_universal.layers.support import rounded

StreamsOf = Float[Tensor, "batch seq streams d_hidden"]
One = Float[Tensor, "batch seq d_hidden"]


class UniversalAltUp(nn.Module):
    """Alternating updates (arXiv 2301.13310): all streams are predicted, one is worked on, its error corrects all."""

    def __init__(self, part: AltUp, *, d_model: int) -> None:
        super().__init__()
        self.part, self.d_model = part, d_model
        self.norm = UniversalNorm.of(part.norm, d_model)
        self.router = Linear(d_model, part.streams, bias=False)
        self.predict = Linear(part.streams, part.streams**2, bias=False)
        self.correct = Linear(part.streams, part.streams, bias=False)

    def _mixture(self, x: One) -> Float[Tensor, "batch seq streams"]:
        scaled = self.norm(x) * rounded(1 / self.d_model, x)
        return torch.tanh(self.router(scaled).float()).type_as(x)

    def read(self, x: StreamsOf) -> tuple[One, Float[Tensor, "streams batch seq d_hidden"]]:
        """The active stream's prediction, and the predictions of all."""
        streams, count = x.permute(2, 0, 1, 3), self.part.streams
        mixture = self._mixture(streams[self.part.active])
        weights = self.predict(mixture).unflatten(-1, (count, count)).transpose(2, 3)
        predicted = torch.matmul(streams.permute(1, 2, 3, 0), weights).permute(3, 0, 1, 2)
        predicted += streams  # in place as the reference does: the product then gets a gradient that lies as it does
        predicted = predicted.contiguous()
        return predicted[self.part.active], predicted

    def write(self, predicted: Float[Tensor, "streams batch seq d_hidden"], y: One) -> StreamsOf:
        """Every prediction plus its share of the error of the active one."""
        mixture = self._mixture(y)
        error = (y - predicted[self.part.active]).repeat(self.part.streams, 1, 1, 1)
        shares = (self.correct(mixture) + 1.0).permute(2, 0, 1).unsqueeze(-1)
        return (error * shares + predicted).contiguous().permute(1, 2, 0, 3)


class UniversalStreamSlice(nn.Module):
    """Reads one stream and adds to some."""

    def __init__(self, part: StreamSlice, *, d_model: int) -> None:
        super().__init__()
        self.part = part
        self.scale = nn.Parameter(torch.empty(d_model)) if part.read_scale else None
        self._written: dict[torch.device, Tensor] = {}

    def read(self, x: StreamsOf) -> tuple[One, StreamsOf]:
        """The stream that is read, and all of them."""
        u = x[:, :, self.part.read]
        return u if self.scale is None else u * self.scale, x

    def write(self, x: StreamsOf, y: One) -> StreamsOf:
        """The streams, y added to those that are written."""
        if x.device not in self._written:
            self._written[x.device] = torch.tensor(self.part.write, device=x.device)
        streams, added = x.permute(2, 0, 1, 3), y.expand(len(self.part.write), *y.shape)
        return streams.index_add(0, self._written[x.device], added).permute(1, 2, 0, 3)


class UniversalHyperConnection(nn.Module):
    """Manifold-constrained hyper-connections (DeepSeek-V4): streams are collapsed, and mixed by a Sinkhorn matrix."""

    def __init__(self, part: HyperConnection, *, d_model: int) -> None:
        super().__init__()
        self.part = part
        rows = (2 + part.streams) * part.streams
        self.weight = nn.Parameter(torch.empty(rows, part.streams * d_model))
        self.bias = nn.Parameter(torch.empty(rows))
        self.scale = nn.Parameter(torch.empty(3))

    def start(self, text: Text, *, depth: int) -> None:
        """Biases as they are."""
        nn.init.ones_(self.scale)

    def read(self, x: StreamsOf) -> tuple[One, tuple[Tensor, ...]]:
        """The weighed sum of the streams; and how what is made of it goes back, the mixing matrix, and the streams."""
        count, eps = self.part.streams, self.part.eps
        sizes = [count, count, count * count]
        rows = F.linear(bare_rms(x.reshape(*x.shape[:2], -1).float(), self.part.norm_eps), self.weight.float())
        (pre, post, mix), (pre_bias, post_bias, mix_bias) = rows.split(sizes, dim=-1), self.bias.split(sizes)
        pre_scale, post_scale, mix_scale = self.scale.unbind(0)
        mix, mix_bias = mix.unflatten(-1, (count, count)), mix_bias.view(count, count)
        pre = torch.sigmoid(pre * pre_scale + pre_bias) + eps
        post = 2 * torch.sigmoid(post * post_scale + post_bias)
        mix = torch.softmax(mix * mix_scale + mix_bias, dim=-1) + eps
        mix = mix / (mix.sum(dim=-2, keepdim=True) + eps)
        for _ in range(self.part.iterations - 1):
            mix = mix / (mix.sum(dim=-1, keepdim=True) + eps)
            mix = mix / (mix.sum(dim=-2, keepdim=True) + eps)
        return (pre.unsqueeze(-1) * x).sum(dim=2).to(x.dtype), (post, mix, x)

    def write(self, kept: tuple[Tensor, ...], y: One) -> StreamsOf:
        """y into every stream, and the streams into each other."""
        post, mix, x = kept
        mixed = torch.matmul(mix.to(x.dtype).transpose(-1, -2), x)
        return post.to(x.dtype).unsqueeze(-1) * y.unsqueeze(-2) + mixed


class UniversalGatedStreams(nn.Module):
    """Streams are collapsed by gates, and each gets its share of what is made of them."""

    def __init__(self, part: GatedStreams, *, d_model: int) -> None:
        super().__init__()
        self.part = part
        self.weight = nn.Parameter(torch.empty(2 * part.streams, part.streams * d_model))
        self.bias = nn.Parameter(torch.empty(2 * part.streams))
        self.scale = nn.Parameter(torch.empty(2))

    def start(self, text: Text, *, depth: int) -> None:
        """Gates hardly look at x; what is read is a stream's share of all."""
        nn.init.constant_(self.scale, 0.01)
        self.bias[: self.part.streams] = -math.log(max(self.part.streams - 1, 1))

    def read(self, x: StreamsOf) -> tuple[One, tuple[Tensor, ...]]:
        """The weighed sum of the streams; and each one's share of what is made of it, and the streams."""
        count, eps = self.part.streams, self.part.eps
        flat = x.flatten(2).float()
        rows = F.linear(flat, self.weight.float()) * reciprocal(flat, self.part.norm_eps)
        (pre_bias, post_bias), (pre_scale, post_scale) = self.bias.split(count), self.scale.unbind(0)
        pre, post = rows.split(count, dim=-1)
        pre = torch.sigmoid(pre * pre_scale + pre_bias) + eps
        post = self.part.magnitude * torch.sigmoid(post * post_scale + post_bias) + eps
        return torch.sum(pre.unsqueeze(-1) * x, dim=2).to(x.dtype), (post, x)

    def write(self, kept: tuple[Tensor, ...], y: One) -> StreamsOf:
        """The streams, each with its share of y."""
        post, x = kept
        return (post.float().unsqueeze(-1) * y.float().unsqueeze(-2) + x.float()).to(x.dtype)


class UniversalChannelGatedStreams(nn.Module):
    """Streams are collapsed channel by channel, and each gets its share of what is made of them."""

    def __init__(self, part: ChannelGatedStreams, *, d_model: int) -> None:
        super().__init__()
        self.part = part
        self.gate = UniversalStreamGate(part.gate, streams=part.streams, d_model=d_model)
        self.inject = Linear(part.streams * d_model, part.streams, bias=False)

    def read(self, x: StreamsOf) -> tuple[One, tuple[Tensor, ...]]:
        """The one vector; and each stream's share of what is made of it, and the streams."""
        u, normed = self.gate(x)
        return u, (2 * torch.sigmoid(self.inject(normed) / self.part.streams), x)

    def write(self, kept: tuple[Tensor, ...], y: One) -> StreamsOf:
        """The streams, each with its share of y."""
        post, x = kept
        return x + y.unsqueeze(-2) * post.unsqueeze(-1)


CONNECTIONS: dict[type, Any] = {
    ChannelGatedStreams: UniversalChannelGatedStreams,
    GatedStreams: UniversalGatedStreams,
    AltUp: UniversalAltUp,
    HyperConnection: UniversalHyperConnection,
    StreamSlice: UniversalStreamSlice,
}


def connection_of(part: Connection, *, d_model: int) -> nn.Module:
    """The module that computes `part`: `read` gives the vector and what `write` will need."""
    return CONNECTIONS[type(part)](part, d_model=d_model)
