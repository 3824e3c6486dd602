"""The indexer by blocks against the reference's own, and what it chooses against its definition."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import Tensor
from transformers.models.minimax_m3_vl.modeling_minimax_m3_vl import MiniMaxM3VLIndexer

from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.indexers import BlockIndexer
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.cache import IndexedState
from nexus_universal.layers.block_indexer import UniversalBlockIndexer
from nexus_universal.layers.call import CallPlan, MaskKind
from tests.helpers import config, pair, same

WIDTH, HEADS, SEQ = 48, 4, 43
PART = BlockIndexer(
    heads=2,
    head_dim=20,
    keep=3,
    size=8,
    norm=Norm(kind="rms", eps=1e-6, scale="one_plus_weight", rounding="after_scale"),
)
FORMS = [PART, replace(PART, near=None), replace(PART, near=2, size=5), replace(PART, keep=100), replace(PART, keep=1)]
LOWEST = {dtype: torch.finfo(dtype).min for dtype in (torch.float32, torch.bfloat16)}


def built(part: BlockIndexer, dtype: torch.dtype = torch.float32) -> tuple[UniversalBlockIndexer, CallPlan]:
    plan = CallPlan()
    index = plan.rope(Rope(theta=500.0), 16)
    ours = UniversalBlockIndexer(part, d_in=WIDTH, heads=HEADS, plan=plan, rope_index=index)
    plan.mask(MaskKind(form="always"), "mixer")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return ours.to(dtype), plan


def drawn(dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(2, SEQ, WIDTH, generator=torch.Generator().manual_seed(2)).to(dtype)


@pytest.mark.parametrize("dtype", LOWEST)
@pytest.mark.parametrize("part", FORMS)
@torch.no_grad()
def test_it_chooses_as_the_reference_does(part: BlockIndexer, dtype: torch.dtype) -> None:
    ours, plan = built(part, dtype)
    settings = {"index_head_dim": 20, "index_topk_blocks": part.keep, "index_block_size": part.size}
    settings["index_local_blocks"] = part.near or 0
    theirs = MiniMaxM3VLIndexer(config("minimax_m3_vl_text", **settings), 0).to(dtype)
    names = {"query": "q_proj", "key": "k_proj", "query_norm": "q_norm", "key_norm": "k_norm"}
    theirs.load_state_dict({f"{names[k.split('.')[0]]}.{k.split('.')[1]}": v for k, v in ours.state_dict().items()})
    x = drawn(dtype)
    call = plan.begin(x)
    mask = call.masks[0]
    assert mask is not None
    positions = torch.arange(SEQ).expand(2, -1)
    chosen = theirs(x, call.tables[0], None, positions)
    expected = theirs.build_block_mask(chosen, mask, SEQ, dtype, x.device, positions)
    found = ours(x, mask, call, None)
    assert same(found, expected)
    lowest = torch.zeros(mask.shape, dtype=dtype).masked_fill(~mask, LOWEST[dtype])
    assert same(ours(x, lowest, call, None), expected)
    assert not found.requires_grad


@torch.no_grad()
def test_the_chosen_blocks_hold_the_highest_scores() -> None:
    ours, plan = built(replace(PART, near=None))
    ours.rope_index = None
    x = drawn()
    call = plan.begin(x)
    mask = call.masks[0]
    assert mask is not None
    seen = ours(x, mask, call, None) == 0

    def normed(y: Tensor, weight: Tensor) -> Tensor:
        return y * (y.pow(2).mean(-1, keepdim=True) + 1e-6).rsqrt() * (1 + weight.double())

    query = normed((x.double() @ ours.query.weight.double().T).unflatten(-1, (2, 20)), ours.query_norm.weight)  # type: ignore[arg-type]
    key = normed(x.double() @ ours.key.weight.double().T, ours.key_norm.weight)  # type: ignore[arg-type]
    scores = torch.einsum("bshk,btk->bhst", query, key).masked_fill(~mask, float("-inf"))
    for head in range(HEADS):
        for at in (0, 7, 8, SEQ - 1):
            row = scores[0, head // 2, at, : at + 1]
            blocks = torch.stack([piece.max() for piece in row.split(8)])
            best = blocks.topk(min(3, len(blocks))).indices.tolist()
            wanted = [key // 8 in best for key in range(at + 1)]
            assert seen[0, head, at, : at + 1].tolist() == wanted
            assert not seen[0, head, at, at + 1 :].any()


@torch.no_grad()
def test_pieces_choose_among_what_is_cached() -> None:
    ours, plan = built(PART)
    x = drawn()
    state, whole = IndexedState(), plan.begin(x)
    assert whole.masks[0] is not None
    expected = ours(x, whole.masks[0], whole, None)
    for start, end in ((0, 14), (14, 15), (15, SEQ)):
        call = plan.begin(x[:, start:end], positions=torch.arange(start, end)[None])
        found = ours(x[:, start:end], whole.masks[0][:, :, start:end, :end], call, state)
        assert torch.equal(found, expected[:, :, start:end, :end])
    assert state.index is not None and state.index.shape == (2, SEQ, 20)


@pytest.mark.parametrize(
    ("path", "value", "named"),
    [
        ("indexer.heads", 3, "heads"),
        ("indexer.head_dim", 8, "head_dim"),
        ("indexer.near", 0, "near"),
        ("window", 9, "indexer"),
        ("kernel", "eager", "indexer"),
    ],
)
def test_contradictions_are_named(path: str, value: object, named: str) -> None:
    n = pair("minimax_m3_vl_text")[1].n
    with pytest.raises(InvalidArchitecture, match=named):
        n.replace(f"layers.1.attention.{path}", value)
