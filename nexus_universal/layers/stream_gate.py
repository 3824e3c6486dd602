"""Several residual streams made one vector by gates for each of their channels."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.stream_gate import StreamGate
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import SlicedNorm


class UniversalStreamGate(nn.Module):
    """mean_j σ(B silu(A n / streams))_j ⊙ n_j of normed streams n."""

    def __init__(self, part: StreamGate, *, streams: int, d_model: int) -> None:
        super().__init__()
        wide = streams * d_model
        self.shape = (streams, d_model)
        self.norm = SlicedNorm(part.norm, wide, slices=streams)
        self.down = Linear(wide, part.rank, bias=False)
        self.up = Linear(part.rank, wide, bias=False)

    def forward(
        self, x: Float[Tensor, "batch seq streams d_hidden"]
    ) -> tuple[Float[Tensor, "batch seq d_hidden"], Float[Tensor, "batch seq wide"]]:
        """The one vector, and the normed streams side by side."""
        normed = self.norm(x.flatten(2))
        gates = torch.sigmoid(self.up(F.silu(self.down(normed) / self.shape[0])))
        gated = gates.unflatten(-1, self.shape) * normed.unflatten(-1, self.shape)
        return gated.mean(dim=-2), normed
