"""The delta rule with a decay per key channel (arXiv 2510.26692): chunks of many positions, a recurrence for one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

Keys = Float[Tensor, "batch seq heads k"]
Values = Float[Tensor, "batch seq heads v"]
Gates = Float[Tensor, "batch seq heads"]
Matrix = Float[Tensor, "batch heads k v"]


def _unit(x: Tensor) -> Tensor:
    """x / ‖x‖ with ε = 1e-6 under the root."""
    return x / torch.sqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6)


def chunked_channel_delta_rule(
    query: Keys, key: Keys, value: Values, *, decay: Keys, beta: Gates, state: Matrix | None, chunk: int
) -> tuple[Values, Matrix]:
    """All positions at once, `chunk` by `chunk`; `decay` is log-space and ≤ 0. Returns outputs and the last state.

    Inside a chunk each pair of positions has a decay per channel, and the updates' triangular system is inverted row by
    row; only the state passes from chunk to chunk.
    """
    dtype, seq, pad = query.dtype, query.shape[1], -query.shape[1] % chunk
    query, key, value, beta, decay = (
        x.transpose(1, 2).contiguous().to(torch.float32) for x in (query, key, value, beta, decay)
    )
    query, key = _unit(query), _unit(key)
    batch, heads, width = *key.shape[:2], key.shape[-1]
    query = F.pad(query, (0, 0, 0, pad)) * (1 / width**0.5)
    key, value, decay = (F.pad(x, (0, 0, 0, pad)) for x in (key, value, decay))
    beta = F.pad(beta, (0, pad)).unsqueeze(-1)
    value_beta, key_beta = value * beta, key * beta
    query, key, decay, key_beta, value_beta = (
        x.reshape(batch, heads, -1, chunk, x.shape[-1]) for x in (query, key, decay, key_beta, value_beta)
    )

    summed = decay.cumsum(dim=-2)
    ones = torch.ones(chunk, chunk, dtype=torch.bool, device=query.device)
    between = summed.unsqueeze(-2) - summed.unsqueeze(-3)
    between = between.masked_fill(ones.triu(1)[..., None], float("-inf")).exp()
    system = (key_beta.unsqueeze(-2) * key.unsqueeze(-3) * between).sum(dim=-1)
    inverse = _inverse(-system.masked_fill(ones.triu(), 0))
    new_values, old_keys = inverse @ value_beta, inverse @ (key_beta * summed.exp())

    now = new_values.new_zeros(batch, heads, width, value.shape[-1]) if state is None else state.to(new_values)
    out = torch.zeros_like(new_values)
    for i in range(out.shape[2]):
        q, k, v, g = query[:, :, i], key[:, :, i], new_values[:, :, i], summed[:, :, i]
        across = (q * g.exp()) @ now
        inside = (q.unsqueeze(-2) * k.unsqueeze(-3) * between[:, :, i]).sum(dim=-1).masked_fill(ones.triu(1), 0)
        written = v - old_keys[:, :, i] @ now
        out[:, :, i] = across + inside @ written
        kept = now * g[:, :, -1].exp().unsqueeze(-1)
        now = kept + (k * (g[:, :, -1:] - g).exp()).transpose(-1, -2) @ written
    out = out.reshape(batch, heads, -1, out.shape[-1])[:, :, :seq]
    return out.transpose(1, 2).contiguous().to(dtype), now


def _inverse(lower: Float[Tensor, "*lead chunk chunk"]) -> Float[Tensor, "*lead chunk chunk"]:
    """(1 − L)⁻¹ of a strictly lower triangular L, by forward substitution in place."""
    for i in range(1, lower.shape[-1]):
        row, above = lower[..., i, :i].clone(), lower[..., :i, :i].clone()
        lower[..., i, :i] = row + (row.unsqueeze(-1) * above).sum(-2)
    return lower + torch.eye(lower.shape[-1], dtype=lower.dtype, device=lower.device)


def channel_delta_step(
    query: Keys, key: Keys, value: Values, *, decay: Keys, beta: Gates, state: Matrix
) -> tuple[Values, Matrix]:
    """One position: S ← exp(g) S with g per key channel, S ← S + k (β (v − kᵀS))ᵀ, o = Sᵀ q."""
    dtype = query.dtype
    query, key, value, decay, beta = (x[:, 0].to(torch.float32) for x in (query, key, value, decay, beta))
    query, key = _unit(query) * (1 / query.shape[-1] ** 0.5), _unit(key)
    state = state.to(value) * decay[..., None].exp()
    remembered = (state * key[..., None]).sum(dim=-2)
    state = state + key.unsqueeze(-1) * ((value - remembered) * beta[..., None]).unsqueeze(-2)
    out = (state * query.unsqueeze(-1)).sum(dim=-2)
    return out[:, None].to(dtype), state
