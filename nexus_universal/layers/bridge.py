"""Bridges: a host's layer reads the residual of another model, through gates that are closed in the beginning."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.bridge import Bridge, CrossAttention, Similarity
from nexus_universal.architecture.ends import Text
from nexus_universal.cache import BridgeState
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.feed_forward import UniversalFeedForward
from nexus_universal.layers.linear import Linear
from nexus_universal.layers.memories import Memories
from nexus_universal.layers.norms import UniversalNorm


class UniversalBridge(nn.Module):
    """g · form(z, s): see `Bridge`. Its two kinds of beginning leave the host's residual as it is, bit by bit."""

    def __init__(self, part: Bridge, *, d_model: int, plan: CallPlan, key: str) -> None:
        super().__init__()
        self.part = part
        plan.bridges[key] = part
        self.donor_norm = UniversalNorm.of(part.donor_norm, part.donor_width) if part.donor_norm else None
        self.form = _form(part, d_model)
        self.gate = nn.Parameter(torch.empty(1)) if part.zero == "gate" else None
        self.chosen = Linear(d_model, 1) if part.gate != "scalar" else None

    def start(self, text: Text, *, depth: int) -> None:
        """Matrices normal with std 1/√fan-in: what a bridge gives must be worth a gate's opening, or its first step."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
        if self.chosen is not None:
            nn.init.zeros_(self.chosen.weight)
        if self.gate is None:
            last = self.form.down if isinstance(self.form, UniversalFeedForward) else self.form.output
            nn.init.zeros_(last.weight)  # type: ignore[union-attr, arg-type]

    def new_state(self) -> BridgeState:
        """An empty state."""
        return BridgeState()

    def forward(
        self, z: Float[Tensor, "batch seq d_hidden"], call: Call, state: BridgeState | None = None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        memories = call.memories
        if memories is None:
            return torch.full_like(z, -0.0)  # x + -0.0 has x's bits, whatever x is
        y = self._formed(z, memories, state)
        if self.gate is not None:
            y = torch.tanh(self.gate) * y
        if self.chosen is not None:
            asked = z if self.part.gate == "token" else _mean_so_far(z, memories, state)
            y = torch.sigmoid(self.chosen(asked)) * y
        return y if memories.asked is None else torch.where(memories.asked[:, None, None], y, -0.0)

    def _formed(
        self, z: Float[Tensor, "batch seq d_hidden"], memories: Memories, state: BridgeState | None
    ) -> Float[Tensor, "batch seq d_hidden"]:
        if isinstance(self.form, UniversalCrossAttention):
            states = self._normed(memories.states[self.part.donor, self.part.layer], z)
            return self.form(z, states, memories=memories, state=state)
        latest, found = memories.latest(self.part)
        latest = self._normed(latest, z)
        y = self.form(latest) if isinstance(self.form, UniversalFeedForward) else self.form(z, latest)
        return y if found is None else torch.where(found, y, 0.0)

    def _normed(self, states: Float[Tensor, "batch new width"], like: Tensor) -> Float[Tensor, "batch new width"]:
        states = states.to(like)
        return states if self.donor_norm is None else self.donor_norm(states)


class UniversalCrossAttention(nn.Module):
    """Attention of the host over the donor's states and over nothing, with a softmax of its own."""

    def __init__(self, bridge: Bridge, part: CrossAttention, *, d_model: int) -> None:
        super().__init__()
        self.bridge, self.heads, self.head_dim = bridge, part.heads, part.head_dim
        width = part.heads * part.head_dim
        self.query = Linear(d_model, width, bias=False)
        self.key = Linear(bridge.donor_width, width, bias=False)
        self.value = Linear(bridge.donor_width, width, bias=False)
        self.output_gate = Linear(d_model, width, bias=False) if part.gated else None
        self.output = Linear(width, d_model, bias=False)

    def forward(
        self,
        z: Float[Tensor, "batch seq d_hidden"],
        states: Float[Tensor, "batch new width"],
        *,
        memories: Memories,
        state: BridgeState | None,
    ) -> Float[Tensor, "batch seq d_hidden"]:
        query, key, value = (
            self._by_head(self.query(z)),
            self._by_head(self.key(states)),
            self._by_head(self.value(states)),
        )
        if state is not None:
            key, value = state.extend(key, value)
        visible = F.pad(memories.visible(self.bridge, key.shape[2]), (1, 0), value=True)
        key, value = (F.pad(each, (0, 0, 1, 0)) for each in (key, value))
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=visible, scale=self.head_dim**-0.5)
        mixed = mixed.transpose(1, 2).flatten(2)
        return self.output(mixed if self.output_gate is None else mixed * F.silu(self.output_gate(z)))

    def _by_head(self, x: Float[Tensor, "batch seq width"]) -> Float[Tensor, "batch heads seq head_dim"]:
        return x.unflatten(-1, (self.heads, self.head_dim)).transpose(1, 2)


class UniversalSimilarity(nn.Module):
    """relu(cos(h, P s) - τ) (P s - h)."""

    def __init__(self, part: Similarity, *, d_in: int, d_model: int) -> None:
        super().__init__()
        self.threshold = part.threshold
        self.output = Linear(d_in, d_model, bias=False)

    def forward(
        self, h: Float[Tensor, "batch seq d_hidden"], states: Float[Tensor, "batch seq width"]
    ) -> Float[Tensor, "batch seq d_hidden"]:
        said = self.output(states)
        return torch.relu(F.cosine_similarity(h, said, dim=-1) - self.threshold)[..., None] * (said - h)


def _form(part: Bridge, d_model: int) -> UniversalCrossAttention | UniversalSimilarity | UniversalFeedForward:
    if isinstance(part.form, CrossAttention):
        return UniversalCrossAttention(part, part.form, d_model=d_model)
    if isinstance(part.form, Similarity):
        return UniversalSimilarity(part.form, d_in=part.donor_width, d_model=d_model)
    return UniversalFeedForward(part.form, d_model=d_model, d_in=part.donor_width)


def _mean_so_far(
    z: Float[Tensor, "batch seq d_hidden"], memories: Memories, state: BridgeState | None
) -> Float[Tensor, "batch seq d_hidden"]:
    """The mean of each position's vector and of all before, pads apart; `state` goes on from earlier calls."""
    wide = z if z.dtype == torch.float64 else z.float()
    real = torch.ones_like(wide[..., :1]) if memories.own is None else memories.own[..., None].to(wide)
    totals, counts = (wide * real).cumsum(1), real.cumsum(1)
    if state is not None:
        totals, counts = state.add_up(totals, counts)
    return (totals / counts.clamp(min=1)).to(z.dtype)
