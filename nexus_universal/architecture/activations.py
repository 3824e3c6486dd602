"""Roughly how many numbers a part keeps per token for its gradients: an estimate, where all else about n is exact.

What counts are inputs and outputs of matrix products, of norms and of attention. The tests hold that to what autograd
really keeps, within a factor of two. A part without a function here is taken for so many vectors of the model's width:
a recurrent mixer that computes in chunks may keep several times as many.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from typing import Any

from nexus_universal.architecture.costs import projection_rows
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, LatentAttention
from nexus_universal.architecture.program import Program, Step

UNKNOWN = 12
"""Vectors of the model's width that a part without a rule keeps: what recurrent mixers of common sizes do."""

NORM = 3
"""Vectors that a norm keeps: its input in float32, which counts twice in half precision, and the normed one."""


@singledispatch
def kept(part: Any, width: int, context: int) -> int:
    """Numbers per token that `part` keeps, reading vectors of `width`, `context` positions being visible."""
    return UNKNOWN * width


@kept.register
def _(part: Attention, width: int, context: int) -> int:
    rows = projection_rows(part)
    heads = sum(rows[role] for role in ("query", "key", "value") if role in rows)
    mixed = part.heads * part.value_width
    normed = NORM * (rows["query"] + rows.get("key", 0)) if part.qk_norm else 0
    scores = 3 * part.heads * min(context, part.window or context) if part.kernel.startswith("eager") else 0
    return width + 2 * heads + 2 * mixed + rows.get("gate", 0) + normed + scores


@kept.register
def _(part: LatentAttention, width: int, context: int) -> int:
    query, mixed = part.heads * part.head_dim, part.heads * part.value_dim
    latents = (NORM + 2) * ((part.query_rank or 0) + part.latent_rank)
    return 2 * width + latents + 5 * query + 4 * mixed


@kept.register
def _(part: FeedForward, width: int, context: int) -> int:
    return width + (4 if part.gated else 2) * part.width


@kept.register
def _(part: MixtureOfExperts, width: int, context: int) -> int:
    one = 2 * width + (5 if part.expert.gated else 2) * part.expert.width
    shared = kept(part.shared, width, context) if part.shared else 0
    return 2 * width + 4 * part.experts + (part.per_token + part.always) * one + shared


@kept.register
def _(part: Program, width: int, context: int) -> int:
    return sum(_steps(part.steps, width, context))


def _steps(steps: tuple[Step, ...], width: int, context: int) -> Iterator[int]:
    for step in steps:
        yield NORM * width * (step.norm is not None)
        for branch in step.branches:
            norms = sum(norm is not None for norm in (branch.input_norm, branch.output_norm))
            yield kept(branch.part, width, context) + NORM * width * norms
        yield NORM * width * sum(write.norm is not None for write in step.writes)
