"""Banded ends against definitions that are not ours: torch's own modules, band by band."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from nexus_universal.architecture.ends import Bands, Embedding, Head
from nexus_universal.architecture.errors import InvalidArchitecture, UnsupportedPart
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.layers.adaptive import AdaptiveSoftmax, BandedTable
from nexus_universal.layers.ends import UniversalHead
from tests.helpers import ids, same

BANDS = [Bands(cutoffs=(5, 12), divisor=2.0), Bands(cutoffs=(40,)), Bands(cutoffs=(1, 2, 3), divisor=1.5)]


def randomised(module: Any, dtype: torch.dtype = torch.float32) -> Any:
    torch.manual_seed(0)
    for weight in module.parameters():
        nn.init.normal_(weight)
    return module.to(dtype)


@pytest.mark.parametrize("bands", BANDS, ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_head_is_torchs_adaptive_softmax(bands: Bands, dtype: torch.dtype) -> None:
    """`log_prob` of all tokens, the same bits, and the same gradients."""
    theirs = nn.AdaptiveLogSoftmaxWithLoss(16, 97, cutoffs=list(bands.cutoffs), div_value=bands.divisor).to(dtype)
    ours = UniversalHead.of(Head(tied=False, bands=bands), d_model=16, vocab=97).to(dtype)
    assert isinstance(ours, AdaptiveSoftmax)
    weights = [ours.first.weight, *(w for tail in ours.tails for w in tail.parameters())]
    given = [theirs.head.weight, *(w for tail in theirs.tail for w in tail.parameters())]
    for mine, other in zip(weights, given, strict=True):
        torch.nn.init.normal_(other)
        mine.data.copy_(other.data)
    x = torch.randn(2, 7, 16).to(dtype)
    expected = theirs.log_prob(x.flatten(0, 1)).unflatten(0, (2, 7))
    found = ours(x)
    assert same(found, expected)
    direction = torch.randn_like(found)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    for mine, other in zip(weights, given, strict=True):
        assert torch.allclose(mine.grad, other.grad, rtol=1e-5 if dtype == torch.float32 else 2e-2, atol=1e-4)


@pytest.mark.parametrize("width", [None, 12])
@pytest.mark.parametrize("cutoffs", [(5, 12), (40,), (1, 2, 3)])
def test_the_input_is_an_embedding_and_a_linear_per_band(cutoffs: tuple[int, ...], width: int | None) -> None:
    """Each token's row is looked up in its band alone, as fairseq's adaptive_input.py does."""
    bands = Bands(cutoffs=cutoffs, divisor=2.0, width=width)
    ours = randomised(BandedTable(Embedding(vocab=97, width=16, bands=bands), bands), torch.float64)
    edges = (0, *cutoffs, 97)
    tables = []
    for i, (start, end) in enumerate(pairwise(edges)):
        dims = int((width or 16) // 2.0**i)
        table = nn.Sequential(nn.Embedding(end - start, dims), nn.Linear(dims, 16, bias=False)).double()
        for mine, other in zip(ours.bands[i].parameters(), table.parameters(), strict=True):
            other.data.copy_(mine.data)
        tables.append(table)

    def looked_up(index: Tensor) -> Tensor:
        rows = torch.zeros(*index.shape, 16, dtype=torch.float64)
        for (start, end), table in zip(pairwise(edges), tables, strict=True):
            mine = (index >= start) & (index < end)
            rows[mine] = table(index[mine] - start)
        return rows

    index = torch.cat([torch.arange(97)[None], ids(1, 97)])
    found, expected = ours(index), looked_up(index)
    assert torch.allclose(found, expected, rtol=1e-13, atol=1e-13)
    direction = torch.randn_like(found)
    (found * direction).sum().backward()
    (expected * direction).sum().backward()
    for band, table in zip(ours.bands, tables, strict=True):
        for mine, other in zip(band.parameters(), table.parameters(), strict=True):
            assert torch.allclose(mine.grad, other.grad, rtol=1e-12, atol=1e-12)


def test_ids_outside_the_vocabulary_are_refused() -> None:
    bands = Bands(cutoffs=(5, 12))
    table = randomised(BandedTable(Embedding(vocab=20, width=16, bands=bands), bands))
    for outside in (-1, 20):
        with pytest.raises(IndexError):
            table(torch.tensor([[outside]]))


def test_the_pad_row_lies_in_the_first_band_and_gets_no_gradient() -> None:
    bands = Bands(cutoffs=(5, 12))
    table = randomised(BandedTable(Embedding(vocab=20, width=16, bands=bands, padding_row=4), bands))
    table(torch.tensor([[3, 4, 9, 15, 4]])).square().sum().backward()
    grads = [band.rows.weight.grad for band in table.bands]
    assert grads[0][3].any() and not grads[0][4].any()
    assert grads[1][4].any() and grads[2][3].any()


GOOD = Bands(cutoffs=(5, 12))


def whole(*, head: dict[str, Any] | None = None, **embedding: Any) -> ArchitectureParameter:
    """Vocabulary 20, width 16, one layer."""
    norm = Norm(kind="rms", eps=1e-6)
    return ArchitectureParameter(
        embedding=Embedding(vocab=20, width=16, **embedding),
        layers=(sequential_layer(("feed_forward", FeedForward(width=8, activation="relu")), norm=norm),),
        final_norm=norm,
        head=Head(**{"tied": False, **(head or {})}),
    )


CONTRADICTIONS: list[tuple[dict[str, Any], tuple[str, ...]]] = [
    ({"bands": Bands(cutoffs=())}, ("embedding.bands.cutoffs", "rising order")),
    ({"bands": Bands(cutoffs=(5, 5))}, ("embedding.bands.cutoffs", "(5, 5)")),
    ({"bands": Bands(cutoffs=(0, 5))}, ("embedding.bands.cutoffs", "at least 1")),
    ({"bands": Bands(cutoffs=(5, 20))}, ("embedding.bands.cutoffs", "below vocab = 20")),
    ({"bands": Bands(cutoffs=(5,), divisor=0.5)}, ("embedding.bands.divisor", "at least 1")),
    ({"bands": Bands(cutoffs=(5, 12), width=8)}, ("embedding.bands.divisor", "last of 3 bands")),
    ({"bands": GOOD, "padding_row": 5}, ("embedding.padding_row", "[0, 5)")),
    ({"head": {"bands": GOOD, "tied": True}}, ("head.tied", "must be False")),
    ({"head": {"bands": GOOD, "bias": True}}, ("head.bias", "must be False")),
    ({"head": {"bands": GOOD, "scale": 2.0}}, ("head.scale", "must be None")),
    ({"head": {"bands": GOOD, "softcap": 2.0}}, ("head.softcap", "must be None")),
    ({"head": {"bands": GOOD, "dtype": "float32"}}, ("head.dtype", "must be 'model'")),
    ({"head": {"bands": Bands(cutoffs=(5,), width=8)}}, ("head.bands.width", "None")),
    ({"head": {"bands": Bands(cutoffs=(5, 30))}}, ("head.bands.cutoffs", "below vocab = 20")),
    ({"head": {"bands": Bands(cutoffs=(5, 12), divisor=5.0)}}, ("head.bands.divisor", "no width")),
    ({"head": {"tied": True}, "bands": GOOD}, ("head.tied", "no single table")),
]


@pytest.mark.parametrize(("fields", "pieces"), CONTRADICTIONS, ids=[pieces[0] for _, pieces in CONTRADICTIONS])
def test_contradictions_are_named(fields: dict[str, Any], pieces: tuple[str, ...]) -> None:
    whole(bands=GOOD, head={"bands": GOOD}, padding_row=4).validate()
    with pytest.raises(InvalidArchitecture) as error:
        whole(**fields).validate()
    for piece in pieces:
        assert piece in str(error.value)


def test_a_scaled_banded_table_is_refused_by_name() -> None:
    with pytest.raises(UnsupportedPart, match=r"Embedding\.scale = 2\.0"):
        BandedTable(Embedding(vocab=20, width=16, bands=GOOD, scale=2.0), GOOD)
