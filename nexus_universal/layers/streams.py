"""Several residual streams: how the embedding fills them, and how they become one vector again."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Streams, Text
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import bare_rms, reciprocal
from nexus_universal.layers.stream_gate import UniversalStreamGate

StreamsOf = Float[Tensor, "batch seq streams d_hidden"]
One = Float[Tensor, "batch seq d_hidden"]


class UniversalStreams(nn.Module):
    """Both ends of the streams, as the part says."""

    def __init__(self, part: Streams, *, d_model: int) -> None:
        super().__init__()
        self.part = part
        further = range(1, part.count)
        if part.fill == "project":
            self.fills = nn.ModuleList(Linear(d_model, d_model, bias=False) for _ in further)
        if part.merge == "mean":
            self.merges = nn.ModuleList(Linear(d_model, d_model, bias=False) for _ in further)
        elif part.gate:
            self.gate = UniversalStreamGate(part.gate, streams=part.count, d_model=d_model)
        else:
            self.weight = nn.Parameter(torch.empty(part.count, part.count * d_model))
            self.bias = nn.Parameter(torch.empty(part.count))
            self.scale = nn.Parameter(torch.empty(1))

    def start(self, text: Text, *, depth: int) -> None:
        """Shares as their biases say; of a late norm, hardly of x and all alike."""
        if self.part.merge == "weigh":
            nn.init.constant_(self.scale, 0.01 if self.part.late_norm else 1.0)
            nn.init.constant_(self.bias, -math.log(max(self.part.count - 1, 1)) if self.part.late_norm else 0.0)

    def fill(self, x: One) -> StreamsOf:
        """The streams that the first layer reads."""
        if self.part.fill == "copy":
            return x.unsqueeze(2).expand(-1, -1, self.part.count, -1).contiguous()
        return torch.stack(self._rescaled(x, [x] * len(self.fills), self.fills)).permute(1, 2, 0, 3)

    def merge(self, x: StreamsOf) -> One:
        """What the final norm reads."""
        if self.part.gate:
            return self.gate(x)[0]
        if self.part.norm_eps is not None:
            read, norm_eps = x.flatten(2).float(), self.part.norm_eps
            if self.part.late_norm:
                rows = F.linear(read, self.weight.float()) * reciprocal(read, norm_eps)
            else:
                rows = F.linear(bare_rms(read, norm_eps), self.weight.float())
            shares = torch.sigmoid(rows * self.scale.float() + self.bias.float()) + self.part.eps
            return (shares.unsqueeze(-1) * x).sum(dim=2).to(x.dtype)
        first, *others = x.permute(2, 0, 1, 3).unbind(0)
        return torch.stack(self._rescaled(first, others, self.merges)).mean(dim=0)

    def _rescaled(self, first: One, others: list[Tensor], projections: nn.ModuleList) -> list[Tensor]:
        """The first stream, and projections of the others scaled to its RMS."""
        target = torch.mean(first**2, dim=-1, keepdim=True) ** 0.5
        streams = [first]
        for other, project in zip(others, projections, strict=True):
            projected = project(other)
            rms = torch.sqrt(torch.mean(projected**2, dim=-1, keepdim=True).clamp(min=self.part.eps))
            streams.append(projected * target / rms)
        return streams
