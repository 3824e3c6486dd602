"""Keys that raise or lower their own scores, and of which only some are seen (arXiv 2508.02124)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.dynamic_mask import DynamicMask
from nexus_universal.layers.kernels import repeat_heads
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.masks import Mask, refused


class UniversalDynamicMask(nn.Module):
    """exp(a · softplus(W v)) where a query may see a key and the key is among the best; the lowest number elsewhere."""

    def __init__(self, part: DynamicMask, *, kv_heads: int, value_width: int) -> None:
        super().__init__()
        self.part = part
        self.rate = nn.Parameter(torch.empty(kv_heads))
        self.step = Linear(kv_heads * value_width, kv_heads, bias=part.bias)

    def forward(
        self, value: Float[Tensor, "batch kv_heads keys d"], mask: Mask, *, heads: int
    ) -> Float[Tensor, "batch heads queries keys"]:
        """What is added to the scores, given the values of all keys and who may see whom."""
        lowest = torch.finfo(value.dtype).min
        step = self.step(value.transpose(1, 2).reshape(value.shape[0], value.shape[2], -1))
        bias = torch.exp(self.rate * F.softplus(step)).transpose(-1, -2)
        bias = bias[:, :, None].expand(-1, -1, mask.shape[2], -1).masked_fill(refused(mask), lowest)
        if bias.shape[-1] > self.part.keep:
            best = torch.topk(bias, self.part.keep, dim=-1, sorted=False).indices
            lost = torch.ones_like(bias, dtype=torch.bool).scatter(-1, best, False)
            bias = bias.masked_fill(lost, lowest)
        return repeat_heads(bias, heads // bias.shape[1])
