"""Reading a step's vector from several registers by attention over them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.ends import Text
from nexus_universal.layers.norms import bare_rms
from nexus_universal.layers.support import KeepsFloat32

EPS = 1e-6


class AttendedRead(KeepsFloat32):
    """Each learned query's mixture of the normed registers, in float32; several side by side make up the `width`."""

    in_float32 = ("query",)

    def __init__(self, *, queries: int, width: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(width) if queries == 1 else torch.empty(queries, width // queries))

    def start(self, text: Text, *, depth: int) -> None:
        """All alike."""
        nn.init.zeros_(self.query)

    def forward(self, registers: list[Float[Tensor, "batch seq width"]]) -> Float[Tensor, "batch seq joined"]:
        normed = bare_rms(torch.cat([each.unsqueeze(-2) for each in registers], dim=-2).float(), EPS)
        width = normed.shape[-1]
        query = self.query.float().view(-1, width).expand(*normed.shape[:-2], -1, -1)
        return F.scaled_dot_product_attention(query, normed, normed, scale=width**-0.5).flatten(-2)
