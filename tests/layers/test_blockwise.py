"""Windows and blocks computed in runs: the same as with a mask, in every kind of call, and little more than is seen."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.ends import Head
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import RelativeBias
from nexus_universal.architecture.sparsity import BlockSparse
from nexus_universal.layers import blockwise, kernels
from nexus_universal.layers.blockwise import Blocks
from nexus_universal.layers.masks import Extent, attention_mask
from tests.architecture.small import attention, layer, small
from tests.helpers import furthest, ids, widen

LENGTH, RUN = 45, 8
CLOSE = 2e-5
"""Relative to the largest logit: float32's rounding in two layers, over sums in another order."""

CASES: dict[str, dict[str, Any]] = {
    "window": {"window": 9},
    "window 1": {"window": 1},
    "window, all kept": {"window": 9, "keeps": "all"},
    "blocks": {"sparsity": BlockSparse(block=4)},
    "blocks unlike runs": {"sparsity": BlockSparse(block=5, local_blocks=3, global_blocks=2)},
    "own block": {"sparsity": BlockSparse(block=3, local_blocks=1, global_blocks=0)},
    "distances": {"window": 9, "relative": RelativeBias(width=6, extent=5)},
    "one key head": {"window": 9, "kv_heads": 1},
    "wide values": {"window": 9, "value_dim": 12},
}
cases = pytest.mark.parametrize("case", CASES)


@pytest.fixture(autouse=True)
def short_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "ROWS", RUN)


@pytest.fixture
def runs_made(monkeypatch: pytest.MonkeyPatch) -> list[Blocks]:
    """What was computed in runs."""
    made: list[Blocks] = []
    inner = blockwise.blockwise_attention

    def noted(*args: Any, blocks: Blocks, **kwargs: Any) -> Tensor:
        made.append(blocks)
        return inner(*args, blocks=blocks, **kwargs)

    monkeypatch.setattr(kernels, "blockwise_attention", noted)
    return made


def n_of(case: str) -> ArchitectureParameter:
    return small(layer(attention(**CASES[case])), layer(attention(**CASES[case]))).validate()


def pair(n: ArchitectureParameter) -> tuple[UniversalTransformer, UniversalTransformer]:
    """A model as it is, and one that does nothing but compute in runs."""
    plain, fast = (widen(UniversalTransformer(n), seed=1).eval().requires_grad_(False) for _ in range(2))
    assert isinstance(plain, UniversalTransformer) and isinstance(fast, UniversalTransformer)
    fast.plan.blockwise = True
    return plain, fast


@cases
def test_a_whole_sequence_is_the_same(case: str, runs_made: list[Blocks]) -> None:
    plain, fast = pair(n_of(case))
    assert furthest(fast(ids(2, LENGTH)).logits, plain(ids(2, LENGTH)).logits) < CLOSE
    assert len(runs_made) == 2


@cases
def test_a_prompt_in_pieces_is_the_same(case: str, runs_made: list[Blocks]) -> None:
    plain, fast = pair(n_of(case))
    cache = fast.new_cache()
    pieces = [fast(piece, cache=cache).logits for piece in ids(2, LENGTH).split([19, 1, 18, 7], dim=1)]
    assert furthest(torch.cat(pieces, dim=1), plain(ids(2, LENGTH)).logits) < CLOSE
    assert [blocks.extent.queries for blocks in runs_made] == [19, 19, 18, 18]


@pytest.mark.parametrize("kept", [1, 10, 20, 44])
def test_layers_that_skip_positions_are_the_same(kept: int, runs_made: list[Blocks]) -> None:
    """What is not asked for is left out of those layers that only reuse keys."""
    n = small(
        layer(attention(emit="kept", window=9)),
        layer(attention(reuse="kept", window=9)),
        head=Head(tied=False, skips="reusing"),
    )
    plain, fast = pair(n)
    found = fast(ids(2, LENGTH), logits_to_keep=kept).logits
    assert furthest(found, plain(ids(2, LENGTH)).logits[:, -kept:]) < CLOSE
    assert [blocks.extent.queries for blocks in runs_made] == [LENGTH, kept]


def test_pads_packed_rows_and_scores_need_a_mask(runs_made: list[Blocks]) -> None:
    plain, fast = pair(n_of("window"))
    mask = torch.ones(2, LENGTH, dtype=torch.long)
    fast(ids(2, LENGTH), attention_mask=mask)
    assert len(runs_made) == 2
    mask[0, :3] = 0
    padded = [model(ids(2, LENGTH), attention_mask=mask).logits[mask.bool()] for model in (plain, fast)]
    positions = torch.cat([torch.arange(20), torch.arange(25)])[None]
    packed = [model(ids(1, LENGTH), position_ids=positions).logits for model in (plain, fast)]
    seen: list[Tensor] = []
    for model in (plain, fast):
        with model.record("layers.*.attention.weights") as found:
            model(ids(2, LENGTH))
        seen.append(found["layers.1.attention.weights"])
    assert all(torch.equal(*both) for both in (padded, packed, seen)) and len(runs_made) == 2
    fast(ids(2, LENGTH))
    assert len(runs_made) == 4


@given(
    window=st.integers(1, 60),
    pattern=st.none() | st.builds(BlockSparse, block=st.integers(1, 9), global_blocks=st.integers(0, 3)),
    seen=st.integers(0, 30),
    new=st.integers(1, 50),
)
def test_runs_meet_all_that_is_seen_once_and_little_more(
    window: int, pattern: BlockSparse | None, seen: int, new: int
) -> None:
    offset = 0 if pattern else max(seen - window + 1, 0)
    extent = Extent(queries=new, keys=seen + new - offset, query_offset=seen, key_offset=offset)
    kind = {"window": None if pattern else window, "sparsity": pattern}
    mask = attention_mask(
        extent, batch=1, device=torch.device("cpu"), padding=None, positions=None, always=True, **kind
    )
    assert mask is not None
    found = torch.zeros(new, extent.keys, dtype=torch.long)
    for queries, spans in Blocks(extent=extent, **kind).runs():
        places = torch.cat([torch.arange(span.start, span.stop) for span in spans])
        found[queries, places] += Blocks(extent=extent, **kind).seen(queries, places).long()
        reach = window - 1 if pattern is None else pattern.block * (pattern.local_blocks + pattern.global_blocks)
        assert len(places) <= reach + RUN
    assert torch.equal(found, mask[0, 0].long())


def test_the_last_queries_are_those_of_the_whole() -> None:
    blocks = Blocks(extent=Extent(queries=30, keys=35, query_offset=7, key_offset=2), window=6)
    assert blocks.last(9).extent == Extent(queries=9, keys=35, query_offset=28, key_offset=2)
    keys = torch.arange(35)
    assert torch.equal(blocks.last(9).seen(slice(0, 9), keys), blocks.seen(slice(21, 30), keys))
