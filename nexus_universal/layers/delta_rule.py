"""The gated delta rule (arXiv 2412.06464): a chunked form for many positions, a recurrence for one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

KeyHeads = Float[Tensor, "batch seq key_heads k"]
Heads = Float[Tensor, "batch seq heads v"]
Gates = Float[Tensor, "batch seq heads"]
Matrix = Float[Tensor, "batch heads k v"]


def _unit(x: Tensor) -> Tensor:
    """x / ‖x‖ with ε = 1e-6 under the root."""
    return x * torch.rsqrt((x * x).sum(dim=-1, keepdim=True) + 1e-6)


def _prepare(query: Tensor, key: Tensor, value: Tensor, decay: Tensor, beta: Tensor) -> tuple[Tensor, ...]:
    """Key heads repeated to the value heads; everything float32 and [batch, heads, seq, …]; q and k of unit length."""
    times = value.shape[2] // key.shape[2]
    if times > 1:
        query, key = query.repeat_interleave(times, dim=2), key.repeat_interleave(times, dim=2)
    query, key, value, decay, beta = (
        x.transpose(1, 2).to(torch.float32, memory_format=torch.contiguous_format)
        for x in (query, key, value, decay, beta)
    )
    return _unit(query), _unit(key), value, decay, beta


def chunked_delta_rule(
    query: KeyHeads, key: KeyHeads, value: Heads, *, decay: Gates, beta: Gates, state: Matrix | None, chunk: int
) -> tuple[Heads, Matrix]:
    """All positions at once, `chunk` by `chunk`; `decay` is log-space and ≤ 0. Returns outputs and the last state.

    Inside a chunk the delta rule's updates are the solution of a unit lower triangular system (UT transform); only the
    state passes from chunk to chunk.
    """
    dtype, seq = query.dtype, query.shape[1]
    query, key, value, decay, beta = _prepare(query, key, value, decay, beta)
    query = query * query.shape[-1] ** -0.5
    pad = (chunk - seq % chunk) % chunk
    query, key, value = (F.pad(x, (0, 0, 0, pad)) for x in (query, key, value))
    decay, beta = (F.pad(x, (0, pad)) for x in (decay, beta))

    value_beta = value * beta.unsqueeze(-1)
    key_beta = key * beta.unsqueeze(-1)
    query, key, key_beta, value_beta = (
        x.reshape(*x.shape[:2], -1, chunk, x.shape[-1]) for x in (query, key, key_beta, value_beta)
    )
    summed = decay.reshape(*decay.shape[:2], -1, chunk).cumsum(dim=3)

    future = torch.ones(chunk, chunk, dtype=torch.bool, device=query.device).triu(1)
    between = (summed.unsqueeze(4) - summed.unsqueeze(3)).masked_fill(future, float("-inf")).exp()
    system = (key_beta @ key.transpose(-1, -2)) * between
    inside = (query @ key.transpose(-1, -2)) * between
    decayed_key_beta = key_beta * summed.exp().unsqueeze(-1)
    new_values = torch.linalg.solve_triangular(system, value_beta, upper=False, unitriangular=True)
    old_keys = torch.linalg.solve_triangular(system, decayed_key_beta, upper=False, unitriangular=True)

    batch, heads = value.shape[:2]
    now = new_values.new_zeros(batch, heads, key.shape[-1], value.shape[-1]) if state is None else state.to(new_values)
    out = torch.zeros_like(new_values)
    query = query * summed.exp().unsqueeze(-1)
    key = key * (summed[..., -1:] - summed).exp().unsqueeze(-1)
    chunk_decay = summed[..., -1].exp()[..., None, None]
    for i in range(out.shape[2]):
        written = new_values[:, :, i] - old_keys[:, :, i] @ now
        out[:, :, i] = query[:, :, i] @ now + inside[:, :, i] @ written
        now = now * chunk_decay[:, :, i] + key[:, :, i].transpose(-1, -2) @ written
    out = out.reshape(batch, heads, -1, value.shape[-1])[:, :, :seq]
    return out.transpose(1, 2).to(dtype, memory_format=torch.contiguous_format), now


def recurrent_delta_rule(
    query: KeyHeads, key: KeyHeads, value: Heads, *, decay: Gates, beta: Gates, state: Matrix | None
) -> tuple[Heads, Matrix]:
    """One position after the other: S ← exp(g) S, S ← S + k (β (v − kᵀS))ᵀ, o = Sᵀ q. Returns outputs, last state."""
    dtype = query.dtype
    query, key, value, decay, beta = _prepare(query, key, value, decay, beta)
    query = query / (query.shape[-1] ** 0.5)
    if state is None:
        state = value.new_zeros(*value.shape[:2], key.shape[-1], value.shape[-1])
    else:
        state = state.to(value)
    out = torch.zeros_like(value)
    for i in range(value.shape[2]):
        q, k, v = query[:, :, i], key[:, :, i], value[:, :, i]
        state = state * decay[:, :, i].exp()[..., None, None]
        remembered = (state * k.unsqueeze(-1)).sum(dim=-2)
        change = (v - remembered) * beta[:, :, i].unsqueeze(-1)
        state = state + k.unsqueeze(-1) * change.unsqueeze(-2)
        out[:, :, i] = (state * q.unsqueeze(-1)).sum(dim=-2)
    return out.transpose(1, 2).contiguous().to(dtype), state
