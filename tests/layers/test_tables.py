"""Tables of rows: sinusoids are their definition, and outlive a cast of the model."""

from __future__ import annotations

import math

import pytest
import torch

from nexus_universal.architecture.ends import Embedding
from nexus_universal.architecture.position import SinusoidPositions
from nexus_universal.layers.ends import UniversalEmbedding
from nexus_universal.layers.tables import SinusoidTable
from tests.helpers import same


@pytest.mark.parametrize("width", [2, 6, 7])
def test_sinusoids_are_their_definition(width: int) -> None:
    """Written out entry by entry, as arXiv 1706.03762 has it."""
    expected = [
        [(math.cos if j % 2 else math.sin)(t / 10000 ** (2 * (j // 2) / width)) for j in range(width)]
        for t in range(50)
    ]
    assert same(SinusoidTable(50, width)(torch.arange(50)[None])[0], torch.tensor(expected))


def test_a_cast_of_the_model_rounds_them_once() -> None:
    part = Embedding(vocab=9, width=6, positions=SinusoidPositions(count=40))
    with torch.device("meta"):
        embedding = UniversalEmbedding(part)
    positions = torch.arange(40)[None]
    x = torch.zeros(1, 40, 6)
    wide = embedding(x, positions)
    assert same(embedding.to(torch.bfloat16)(x.bfloat16(), positions), wide.bfloat16())
    assert same(embedding.to(torch.float32)(x, positions), wide)
    assert not list(embedding.buffers())
    with pytest.raises(IndexError):
        embedding(x[:, :1], torch.tensor([[40]]))
