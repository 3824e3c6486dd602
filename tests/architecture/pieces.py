"""Short ways to write what the works are made of."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.feed_forward import (
    ExpertGroups,
    FeedForward,
    MixtureOfExperts,
    Router,
)
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import (
    Branch,
    Program,
    Step,
    Term,
    Write,
    residual_step,
)

VOCAB = 97


def rms(eps: float = 1e-5) -> Norm:
    return Norm(kind="rms", eps=eps)


def wide_rms(eps: float = 1e-6) -> Norm:
    """The weight multiplied in float32, then rounded."""
    return Norm(kind="rms", eps=eps, rounding="after_scale")


def bare_rms(eps: float = 1e-6) -> Norm:
    return Norm(kind="rms", eps=eps, scale="none")


def swiglu(width: int) -> FeedForward:
    return FeedForward(width=width, activation="silu")


def write(*terms: str | Term, **fields: Any) -> Write:
    return Write(terms=tuple(t if isinstance(t, Term) else Term(source=t) for t in terms), **fields)


def branch(name: str, part: Any, **fields: Any) -> Branch:
    return Branch(name=name, part=part, **fields)


def layer(*steps: Step, share: str | None = None) -> Program:
    return Program(steps=steps, share=share)


def pre_norm(norm: Norm, **parts: Part) -> Program:
    """x = x + part(norm(x)), once per part."""
    return layer(*(residual_step(name, part, norm=norm) for name, part in parts.items()))


def deepseek_experts(
    *, experts: int, per_token: int, groups: ExpertGroups | None, scale: float, **fields: Any
) -> MixtureOfExperts:
    return MixtureOfExperts(
        experts=experts,
        per_token=per_token,
        router=Router(
            score="sigmoid",
            normalise=True,
            selection_bias=True,
            groups=groups,
            sum_epsilon=1e-20,
            scale=scale,
            logits="float32",
            order="unsorted",
        ),
        **fields,
    )
