"""A small model of the commonest kind, to be bent by tests."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_universal.architecture.ends import Embedding, Head
from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write, residual_step

NORM = Norm(kind="rms", eps=1e-6)


def attention(**fields: Any) -> Attention:
    return Attention(**{"heads": 4, "kv_heads": 2, "head_dim": 8, "rope": Rope(theta=1e4), **fields})


def feed_forward(**fields: Any) -> FeedForward:
    return FeedForward(**{"width": 48, "activation": "silu", **fields})


def experts(**fields: Any) -> MixtureOfExperts:
    router = Router(score="softmax", normalise=True)
    plain = {"experts": 6, "per_token": 2, "expert": feed_forward(width=12), "router": router}
    return MixtureOfExperts(**{**plain, **fields})


def layer(mixer: Any = None, network: Any = None) -> Program:
    return Program(
        steps=(
            residual_step("attention", mixer or attention(), norm=NORM),
            residual_step("feed_forward", network or feed_forward(), norm=NORM),
        )
    )


def small(*layers: Program, tied: bool = False, **fields: Any) -> ArchitectureParameter:
    """Width 24, vocabulary 97, two layers where none are given."""
    plain = {
        "embedding": Embedding(vocab=97, width=24),
        "layers": layers or 2 * (layer(),),
        "final_norm": NORM,
        "head": Head(tied=tied),
    }
    return ArchitectureParameter(**{**plain, **fields})


def stepped(*steps: Step, **fields: Any) -> ArchitectureParameter:
    """One layer of these steps."""
    return small(Program(steps=steps), **fields)


def step(part: Any = None, *, name: str = "attention", **fields: Any) -> Step:
    """x = x + attention(x), or what `fields` say."""
    writes = (Write(terms=(Term(source="x"), Term(source=name))),)
    return Step(**{"branches": (Branch(name=name, part=part or attention()),), "writes": writes, **fields})


def refused(n: ArchitectureParameter, *pieces: str) -> None:
    """Validation fails with one line that holds all `pieces`."""
    with pytest.raises(InvalidArchitecture) as error:
        n.validate()
    message = str(error.value)
    for piece in pieces:
        assert piece in message, message
    assert "\n" not in message
