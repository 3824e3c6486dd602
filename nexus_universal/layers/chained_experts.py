"""Experts, or none, chosen by a network that continues the one of the layer before."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.ends import Text
from nexus_universal.layers.call import Call
from nexus_universal.layers.experts import Experts
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.norms import UniversalNorm

MEMORY = "router"


class UniversalChainedExperts(nn.Module):
    """Σ weight · expert(x) over the one chosen expert; doing nothing is a choice, too."""

    def __init__(self, part: ChainedExperts, *, d_model: int) -> None:
        super().__init__()
        self.part = part
        self.router = ChainedRouter(part, d_model=d_model)
        self.experts = Experts(part.expert, d_model=d_model, experts=part.experts)

    def forward(self, x: Float[Tensor, "batch seq d_hidden"], call: Call) -> Float[Tensor, "batch seq d_hidden"]:
        probability, chosen = self.router(x, call)
        idle = chosen == self.part.experts  # counted with the first expert, at no weight: as the reference sorts them
        weights, chosen = probability.masked_fill(idle, 0), chosen.masked_fill(idle, 0)
        flat = x.reshape(-1, x.shape[-1])
        return self.experts(flat, weights.reshape(-1, 1), chosen.reshape(-1, 1)).view_as(x)


class ChainedRouter(nn.Module):
    """Which expert each token visits, and with what weight; what it knows stays in the call for the next layer."""

    selection_bias: Float[Tensor, " choices"]

    def __init__(self, part: ChainedExperts, *, d_model: int) -> None:
        super().__init__()
        self.down = Linear(d_model, part.width)
        self.memory_scale = nn.Parameter(torch.empty(part.width)) if part.chained else None
        self.norm = UniversalNorm.of(part.norm, part.width)
        self.first = Linear(part.width, part.width)
        self.second = Linear(part.width, part.width)
        self.last = Linear(part.width, part.experts + 1, bias=False)
        self.register_buffer("selection_bias", torch.empty(part.experts + 1, dtype=torch.float32))

    def start(self, text: Text, *, depth: int) -> None:
        """All is remembered; to choose no expert is the worst choice."""
        if self.memory_scale is not None:
            nn.init.ones_(self.memory_scale)
        self.selection_bias[-1] = -1.0

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ChainedRouter:
        """A cast of the model leaves the selection bias in float32."""
        kept = self.selection_bias
        super()._apply(fn, recurse)
        self.selection_bias = kept.to(self.selection_bias.device)
        return self

    def forward(
        self, x: Float[Tensor, "batch seq d_hidden"], call: Call
    ) -> tuple[Float[Tensor, "batch seq one"], Int[Tensor, "batch seq one"]]:
        """The weight and the number of each token's choice."""
        known = self.down(x)
        if self.memory_scale is not None:
            known = known + call.emitted[MEMORY][0] * self.memory_scale
        call.emitted[MEMORY] = (known.clone(),)
        inner = F.gelu(self.second(F.gelu(self.first(self.norm(known)))))
        probabilities = torch.softmax(self.last(inner), dim=-1)
        biased = probabilities.detach().to(torch.float32) + self.selection_bias
        chosen = torch.topk(biased, 1, dim=-1).indices
        return torch.gather(probabilities, dim=2, index=chosen), chosen
