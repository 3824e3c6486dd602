"""The scan of a state space (Mamba-2, arXiv 2405.21060): a chunked form for many positions, a recurrence for one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Heads = Float[Tensor, "batch seq heads p"]
Shared = Float[Tensor, "batch seq groups n"]
Steps = Float[Tensor, "batch seq heads"]
PerHead = Float[Tensor, " heads"]
Matrix = Float[Tensor, "batch heads p n"]


def chunked_scan(
    x: Heads, b: Shared, c: Shared, *, step: Steps, decay: PerHead, skip: PerHead, state: Matrix | None, chunk: int
) -> tuple[Heads, Matrix]:
    """All positions at once, `chunk` by `chunk`, in float32: s ← exp(Δ·A)·s + Δ·x bᵀ, y = s c + D x.

    `step` is Δ ≥ 0, `decay` A < 0, `skip` D. Groups of heads share b and c. Inside a chunk every pair of positions has
    its weight (state-space duality); the states at the chunks' starts come from all chunks before. Returns outputs and
    the last state.
    """
    batch, seq, heads = x.shape[:3]
    pad = -seq % chunk
    x = x.float()
    b, c = (role.float().repeat_interleave(heads // role.shape[2], dim=2, output_size=heads) for role in (b, c))
    skipped = skip[:, None] * F.pad(x, (0, 0, 0, 0, 0, pad))
    x = x * step[..., None].float()
    logs = F.pad(decay * step.float(), (0, 0, 0, pad)).reshape(batch, -1, chunk, heads).permute(0, 3, 1, 2)
    x, b, c = (F.pad(role, (0, 0, 0, 0, 0, pad)).reshape(batch, -1, chunk, heads, role.shape[-1]) for role in (x, b, c))

    summed = logs.cumsum(-1)
    between = _sums_between(logs).exp()
    weights = torch.einsum("bkihn,bkjhn->bkijh", c, b) * between.permute(0, 2, 3, 4, 1)
    inside = torch.einsum("bkijh,bkjhp->bkihp", weights, x)

    until_end = (summed[..., -1:] - summed).exp()
    written = torch.einsum("bkihn,bkihp->bkhpn", b * until_end.permute(0, 2, 3, 1)[..., None], x)
    first = torch.zeros_like(written[:, :1]) if state is None else state[:, None].to(written)
    written = torch.cat([first, written], dim=1)
    across = _sums_between(F.pad(summed[..., -1], (1, 0))).exp().transpose(1, 3)
    states = torch.einsum("bjkh,bjhpn->bkhpn", across, written)
    starts, last = states[:, :-1], states[:, -1]

    before = torch.einsum("bkihn,bkhpn->bkihp", c, starts) * summed.exp().permute(0, 2, 3, 1)[..., None]
    out = (inside + before).contiguous().reshape(batch, -1, heads, x.shape[-1]) + skipped
    return out[:, :seq], last.contiguous()


def _sums_between(logs: Float[Tensor, "*lead size"]) -> Float[Tensor, "*lead size size"]:
    """[i, j] = logs[j + 1] + … + logs[i], −∞ for j > i: summed entry by entry, since differences of sums cancel."""
    size = logs.shape[-1]
    ones = torch.ones(size, size, dtype=torch.bool, device=logs.device)
    terms = logs[..., None].expand(*logs.shape, size).masked_fill(~ones.tril(-1), 0)
    return terms.cumsum(-2).masked_fill(~ones.tril(), float("-inf"))


def single_step(
    x: Float[Tensor, "batch heads p"],
    b: Float[Tensor, "batch groups n"],
    c: Float[Tensor, "batch groups n"],
    *,
    step: Float[Tensor, "batch heads p"],
    decay: PerHead,
    skip: PerHead,
    state: Matrix,
) -> tuple[Float[Tensor, "batch heads p"], Matrix]:
    """One position, products in x's dtype and the state in float32. Returns the output and the new state."""
    batch, heads, width = x.shape
    b, c = (role.repeat_interleave(heads // role.shape[1], dim=1) for role in (b, c))
    step = step[..., None]
    kept = torch.exp(step.float() * decay[:, None, None].expand(-1, *state.shape[2:]))
    state = state * kept + step * b[:, :, None] * x[..., None]
    seen = torch.bmm(state.to(x.dtype).view(batch * heads, width, -1), c.reshape(batch * heads, -1, 1))
    return seen.view(batch, heads, width) + x * skip[:, None], state.float()
