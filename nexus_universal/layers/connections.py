"""How a step reads one vector from several residual streams, and writes what it makes back into all of them.

x is [batch, seq, streams, d_hidden]; in which order its memory lies is each connection's own affair.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.program import AltUp, Connection, StreamSlice
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm

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
        scaled = self.norm(x) * torch.tensor(1 / self.d_model, device=x.device).to(x.dtype)
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

    def read(self, x: StreamsOf) -> tuple[One, StreamsOf]:
        """The stream that is read, and all of them."""
        u = x[:, :, self.part.read]
        return u if self.scale is None else u * self.scale, x

    def write(self, x: StreamsOf, y: One) -> StreamsOf:
        """The streams, y added to those that are written."""
        streams, index = x.permute(2, 0, 1, 3), torch.tensor(self.part.write, device=x.device)
        return streams.index_add(0, index, y.expand(len(self.part.write), *y.shape)).permute(1, 2, 0, 3)


CONNECTIONS: dict[type, Any] = {AltUp: UniversalAltUp, StreamSlice: UniversalStreamSlice}


def connection_of(part: Connection, *, d_model: int) -> nn.Module:
    """The module that computes `part`: `read` gives the vector and what `write` will need."""
    return CONNECTIONS[type(part)](part, d_model=d_model)
