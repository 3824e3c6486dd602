"""Softmax attention through torch's fused kernel, called as the reference calls it, and written out."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nexus_universal.layers.blockwise import Blocks, blockwise_attention
from nexus_universal.layers.masks import Mask


def repeat_heads(x: Float[Tensor, "batch kv_heads seq d"], times: int) -> Float[Tensor, "batch heads seq d"]:
    """Each key/value head `times` times in a row."""
    if times == 1:
        return x
    batch, heads, seq, dim = x.shape
    return x[:, :, None].expand(batch, heads, times, seq, dim).reshape(batch, heads * times, seq, dim)


def fused_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads keys d"],
    value: Float[Tensor, "batch kv_heads keys dv"],
    *,
    mask: Mask | Blocks | None,
    scale: float,
    causal: bool = True,
    broadcast: bool = False,
    bias: Float[Tensor, "batch heads seq keys"] | None = None,
) -> Float[Tensor, "batch seq heads dv"]:
    """softmax(scale · q kᵀ + bias + mask) v, heads behind the sequence in the result.

    Which of three equal forms serves grouped heads (the kernel's own, queries packed by group for a single token,
    repeated heads) follows the reference's sdpa_attention.py: they differ in bits, as does a fourth, a single key/value
    head left to `broadcast`.
    """
    batch, heads, seq, _ = query.shape
    times = heads // key.shape[1]
    if isinstance(mask, Blocks):
        key, value = repeat_heads(key, times), repeat_heads(value, times)
        return blockwise_attention(query, key, value, blocks=mask, scale=scale, bias=bias)
    grouped = False
    if times > 1 and not broadcast:
        if mask is None and key.shape[-1] == value.shape[-1] <= 256:
            grouped = True
        elif seq == 1 and not torch.compiler.is_compiling():
            query = query.reshape(batch, heads // times, times, query.shape[-1])
            if mask is not None and mask.shape[1] != 1:
                mask = mask.reshape(batch, heads // times, times, mask.shape[-1])
            if bias is not None:
                bias = bias.reshape(batch, heads // times, times, bias.shape[-1])
        else:
            key, value = repeat_heads(key, times), repeat_heads(value, times)
    mask = mask if bias is None else biased(mask, bias, seq=seq)
    out = F.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        scale=scale,
        is_causal=causal and seq > 1 and mask is None,
        enable_gqa=grouped,
    )
    return out.reshape(out.shape[0], -1, seq, value.shape[-1]).transpose(1, 2).contiguous()


def biased(mask: Mask | None, bias: Float[Tensor, "*biased"], *, seq: int) -> Float[Tensor, "*biased"]:
    """Both in one: the bias where a query may see a key, the lowest number elsewhere; without a mask it is causal."""
    if mask is None:
        mask = torch.ones(seq, bias.shape[-1], dtype=torch.bool, device=bias.device).tril() if seq > 1 else mask
    elif mask.dtype != torch.bool:
        return (bias + mask).contiguous()
    return (bias if mask is None else torch.where(mask, bias, torch.finfo(bias.dtype).min)).contiguous()


def eager_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads keys d"],
    value: Float[Tensor, "batch kv_heads keys dv"],
    *,
    mask: Float[Tensor, "batch _ seq keys"],
    scale: float,
    softcap: float | None = None,
    sinks: Float[Tensor, " heads"] | Float[Tensor, "batch heads seq one"] | None = None,
    softmax: torch.dtype | None = torch.float32,
    shifted: bool = False,
    wide: bool = False,
    bias: Float[Tensor, "batch heads seq keys"] | None = None,
) -> Float[Tensor, "batch seq heads dv"]:
    """softmax(softcap(scale · q kᵀ) + bias + mask) v, step by step.

    `sinks` are one more score per head, or per head and query, without a value. The softmax is in the dtype `softmax`;
    None, and with one sink per head, is that of the scores, which are float32 where `wide`. It is `shifted` where their
    maximum is taken off before.
    """
    times, own = query.shape[1] // key.shape[1], sinks is not None and sinks.dim() > 1
    if wide:
        query, key = query.float(), key.float()
    elif sinks is not None and not own:
        # The reference's rotation joins halves, which leaves no strides: gradients' bits show it.
        query, key = query.contiguous(), key.contiguous()
    scores = torch.matmul(query, repeat_heads(key, times).transpose(2, 3)) * scale
    if softcap is not None:
        scores = torch.tanh(scores / softcap) * softcap
    scores = (scores if bias is None else scores + bias) + mask
    if sinks is not None and own:
        scores = torch.cat([scores, sinks], dim=-1)
    elif sinks is not None:
        sink = sinks.reshape(1, -1, 1, 1).expand(query.shape[0], -1, query.shape[2], -1)
        scores, softmax = torch.cat([scores, sink], dim=-1), None
    if shifted:
        scores, softmax = scores - scores.max(dim=-1, keepdim=True).values, None
    weights = torch.softmax(scores, dim=-1, dtype=softmax)
    weights = (weights if sinks is None else weights[..., :-1]).to(value.dtype)
    return torch.matmul(weights, repeat_heads(value, times)).transpose(1, 2).contiguous()


def divided_eager_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads keys d"],
    value: Float[Tensor, "batch kv_heads keys dv"],
    *,
    mask: Float[Tensor, "batch _ seq keys"],
    scale: float,
    wide: bool = False,
) -> Float[Tensor, "batch seq heads dv"]:
    """The same with scores divided by 1/scale, in the dtype of q kᵀ: a `wide` one is float32."""
    times = query.shape[1] // key.shape[1]
    if wide:
        query, key = query.float(), key.float()
    scores = torch.matmul(query, repeat_heads(key, times).transpose(2, 3)) / (1 / scale)
    weights = torch.softmax(scores + mask, dim=-1).to(value.dtype)
    return torch.matmul(weights, repeat_heads(value, times)).transpose(1, 2).contiguous()


def added_eager_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads keys d"],
    value: Float[Tensor, "batch kv_heads keys dv"],
    *,
    mask: Float[Tensor, "batch _ seq keys"],
    scale: float,
    softmax: torch.dtype | None = torch.float32,
) -> Float[Tensor, "batch seq heads dv"]:
    """The same with mask + scale · q kᵀ as one product, which rounds once; a `softmax` of None has its dtype."""
    batch, heads, seq, _ = query.shape
    times = heads // key.shape[1]
    query, key, value = (
        role.reshape(batch * heads, -1, role.shape[-1])
        for role in (query, repeat_heads(key, times), repeat_heads(value, times))
    )
    bias = mask.expand(batch, heads, seq, -1).reshape(batch * heads, seq, -1)
    scores = torch.baddbmm(bias, query, key.transpose(1, 2), alpha=scale)
    weights = torch.softmax(scores, dim=-1, dtype=softmax).to(query.dtype)
    return torch.bmm(weights, value).unflatten(0, (batch, heads)).transpose(1, 2).contiguous()


def gated_eager_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads keys d"],
    value: Float[Tensor, "batch kv_heads keys dv"],
    *,
    mask: Float[Tensor, "batch _ seq keys"],
    scale: float,
    sinks: Float[Tensor, " heads"],
) -> Float[Tensor, "batch seq heads dv"]:
    """The same with sinks outside the softmax: what they leave, σ(log Σ exp(scores) - sink), multiplies the result."""
    times = query.shape[1] // key.shape[1]
    scores = torch.matmul(query, repeat_heads(key, times).transpose(2, 3)) * scale + mask
    left = (torch.logsumexp(scores, dim=-1) - sinks.view(1, -1, 1)).to(torch.float32).sigmoid()
    weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(query.dtype)
    mixed = torch.matmul(weights, repeat_heads(value, times))
    return (mixed * left.unsqueeze(-1).to(mixed.dtype)).transpose(1, 2).contiguous()
