"""Forms of fused attention that are faster on a CPU than torch's kernel for bfloat16, and within rounding of it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from nexus_universal.layers.blockwise import Blocks
from nexus_universal.layers.kernels import fused_attention
from nexus_universal.layers.masks import Mask

BLOCK = 128
"""So many queries look at a time: what they may not see is not multiplied, and the scores stay in the cache."""


def swift_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads keys d"],
    value: Float[Tensor, "batch kv_heads keys dv"],
    *,
    mask: Mask | Blocks | None,
    scale: float,
    broadcast: bool = False,
    bias: Float[Tensor, "batch heads seq keys"] | None = None,
) -> Float[Tensor, "batch seq heads dv"]:
    """`fused_attention`; bfloat16 on a CPU by two other forms where they serve.

    torch's kernel multiplies small blocks there: a single query is faster in float32, its keys widened, and a whole
    text by a few large products.
    """
    seq, given = query.shape[2], {"scale": scale, "broadcast": broadcast}
    slow = query.device.type == "cpu" and query.dtype == torch.bfloat16 and not torch.compiler.is_compiling()
    if slow and not isinstance(mask, Blocks):
        if seq == 1:
            added, bias = (each if each is None or each.dtype == torch.bool else each.float() for each in (mask, bias))
            mixed = fused_attention(query.float(), key.float(), value.float(), mask=added, bias=bias, **given)
            return mixed.to(query.dtype)
        if mask is None and bias is None and key.shape[2] == seq:
            return blocked_attention(query, key, value, scale=scale)
    return fused_attention(query, key, value, mask=mask, bias=bias, **given)


def blocked_attention(
    query: Float[Tensor, "batch heads seq d"],
    key: Float[Tensor, "batch kv_heads seq d"],
    value: Float[Tensor, "batch kv_heads seq dv"],
    *,
    scale: float,
) -> Float[Tensor, "batch seq heads dv"]:
    """Causal attention block by block of queries, written out; the heads of a group are rows of one product."""
    batch, heads, seq, _ = query.shape
    query, key, value = (query * scale).unflatten(1, (key.shape[1], -1)), key.contiguous(), value.contiguous()
    future = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=query.device).triu(1)
    mixed = query.new_empty(batch, seq, heads, value.shape[-1])
    for start in range(0, seq, BLOCK):
        end = min(start + BLOCK, seq)
        rows = query[:, :, :, start:end]
        scores = (rows.flatten(2, 3) @ key[:, :, :end].transpose(-1, -2)).unflatten(2, rows.shape[2:4])
        scores[..., start:].masked_fill_(future[: end - start, : end - start], float("-inf"))
        weights = F.softmax(scores, dim=-1).flatten(2, 3)
        seen = (weights @ value[:, :, :end]).unflatten(2, rows.shape[2:4])
        mixed[:, start:end] = seen.flatten(1, 2).transpose(1, 2)
    return mixed
