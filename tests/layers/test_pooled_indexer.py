"""The indexer of blocks against the reference's own, and what it chooses against its definition."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal.cache import PlacedState
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.call import Call
from nexus_universal.parity.references import build_reference
from tests.helpers import config, same, universal

WIDTH, SEQ, LAYER = 48, 23, 3
CAUSAL = torch.ones(SEQ, SEQ, dtype=torch.bool).tril().expand(2, 1, -1, -1)


@functools.cache
def pair(dtype: torch.dtype = torch.float32) -> tuple[Any, UniversalAttention]:
    theirs = build_reference(config("qwen4_exp_text", indexer_budget=8), dtype=dtype, seed=0)
    ours = universal(theirs).layers[LAYER].attention
    assert isinstance(ours, UniversalAttention)
    return theirs.model, ours


def inputs(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, SEQ, WIDTH, generator=torch.Generator().manual_seed(1)).to(dtype)


def begun(ours: UniversalAttention, x: Tensor, positions: Tensor) -> Call:
    return ours.plan.begin(x, positions=positions)


def masks() -> dict[str, Tensor]:
    """Whole rows, pads before or behind or within them, and two texts in one row."""
    before, behind, within = (torch.ones(2, SEQ, dtype=torch.bool) for _ in range(3))
    before[0, :6], behind[0, -5:], within[1, 7:13] = False, False, False
    texts = torch.zeros(2, SEQ, dtype=torch.long)
    texts[:, 9:] = 1
    packed = (texts[:, None, :, None] == texts[:, None, None, :]) & CAUSAL
    padded = {"before": before, "behind": behind, "within": within}
    return {"whole": CAUSAL, "packed": packed} | {name: CAUSAL & kept[:, None, None] for name, kept in padded.items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", masks())
@torch.no_grad()
def test_it_chooses_as_the_reference_does(kind: str, dtype: torch.dtype) -> None:
    model, ours = pair(dtype)
    x, mask, positions = inputs(dtype), masks()[kind], torch.arange(SEQ).expand(2, -1) + torch.tensor([[0], [3]])
    assert ours.indexer is not None
    tables = model.rotary_emb(x, positions[None].expand(3, -1, -1))
    expected = mask & model.layers[LAYER].self_attn.indexer(x, tables, mask, None)
    found = ours.indexer(x, mask, begun(ours, x, positions), None)
    assert same(found, expected)
    assert int(found.sum()) < int(mask.sum()), "it leaves nothing out"


@torch.no_grad()
def test_pieces_choose_among_what_is_cached() -> None:
    _, ours = pair()
    x, state, indexer = inputs(), PlacedState(), ours.indexer
    assert indexer is not None
    positions = torch.arange(SEQ)[None]
    expected = indexer(x, CAUSAL, begun(ours, x, positions), None)
    for start, end in ((0, 3), (3, 14), (14, 15), (15, SEQ)):
        call = begun(ours, x[:, start:end], positions[:, start:end])
        found = indexer(x[:, start:end], CAUSAL[:, :, start:end, :end], call, state)
        assert torch.equal(found, expected[:, :, start:end, :end])
    assert state.index is not None and state.index.shape == (2, SEQ, 32)
    assert state.positions is not None and torch.equal(state.positions, positions.expand(2, -1))
    state.crop(4, seen=SEQ)
    assert state.index.shape == (2, 4, 32) and state.positions.shape == (2, 4)


@torch.no_grad()
def test_the_chosen_blocks_have_the_highest_scores() -> None:
    """Two blocks of four keys, and those behind the last whole block."""
    _, ours = pair()
    x, indexer = inputs(), ours.indexer
    assert indexer is not None
    kept = indexer(x, CAUSAL, begun(ours, x, torch.arange(SEQ)[None]), None)[:, 0]
    for query in range(SEQ):
        whole, tail = divmod(query + 1, 4)
        blocks = kept[:, query, : 4 * whole].unflatten(-1, (whole, 4)) if whole else kept.new_zeros(2, 0, 4)
        assert bool((blocks.all(-1) == blocks.any(-1)).all())
        assert blocks.any(-1).sum(-1).tolist() == [min(2, whole)] * 2
        assert bool(kept[:, query, 4 * whole : query + 1].all()) and tail == query + 1 - 4 * whole


@torch.no_grad()
def test_an_additive_mask_is_narrowed_alike() -> None:
    _, ours = pair()
    x, indexer = inputs(), ours.indexer
    assert indexer is not None
    call, lowest = begun(ours, x, torch.arange(SEQ)[None]), torch.finfo(torch.float32).min
    narrowed = indexer(x, CAUSAL, call, None)
    added = indexer(x, torch.zeros(CAUSAL.shape).masked_fill(~CAUSAL, lowest), call, None)
    assert torch.equal(added == 0, narrowed) and float(added.min()) == lowest


@torch.no_grad()
def test_without_a_whole_block_nothing_is_left_out() -> None:
    _, ours = pair()
    x, indexer = inputs()[:, :3], ours.indexer
    assert indexer is not None
    mask = CAUSAL[:, :, :3, :3]
    assert indexer(x, mask, begun(ours, x, torch.arange(3)[None]), None) is mask
