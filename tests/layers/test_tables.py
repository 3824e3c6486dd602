"""Tables of rows: sinusoids are their definition, and outlive a cast of the model."""

from __future__ import annotations

import math

import pytest
import torch
from transformers.models.trocr.modeling_trocr import TrOCRSinusoidalPositionalEmbedding

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
    assert same(SinusoidTable(SinusoidPositions(count=50), width)(torch.arange(50)[None])[0], torch.tensor(expected))


def test_sinusoids_lie_as_their_layout_says() -> None:
    """An odd width has one more sine; the two halves may change places, and a row may be empty."""
    turns = SinusoidTable(SinusoidPositions(count=50), 7)(torch.arange(50)[None])[0]
    sines, cosines = turns[:, 0::2], turns[:, 1::2]
    for layout, halves in (("sin_cos", (sines, cosines)), ("cos_sin", (cosines, sines))):
        part = SinusoidPositions(count=50, layout=layout, zero=3)  # type: ignore[arg-type]
        expected = torch.cat(halves, dim=-1)
        expected[3] = 0
        assert same(SinusoidTable(part, 7)(torch.arange(50)[None])[0], expected)


def test_closed_sinusoids_are_the_references() -> None:
    """fairseq's: from a period of 2π to one of 20000π, both included."""
    part = SinusoidPositions(count=50, layout="sin_cos", closed=True, zero=1)
    expected = TrOCRSinusoidalPositionalEmbedding.get_embedding(50, 12, 1)
    assert same(SinusoidTable(part, 12)(torch.arange(50)[None])[0], expected)
    assert float(expected[7, 5]) == pytest.approx(math.sin(7e-4))


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
