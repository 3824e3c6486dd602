"""Masks: cell by cell against the definition, and against transformers' sdpa_mask, the case of no mask included."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from transformers.masking_utils import (
    causal_mask_function,
    chunked_causal_mask_function,
    find_packed_sequence_indices,
    packed_sequence_compatibility_function,
    sdpa_mask,
    sliding_window_causal_mask_function,
)

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache import KeyValueState, WindowState
from nexus_universal.layers.call import CallPlan
from nexus_universal.layers.masks import Extent, attention_mask
from tests.helpers import ids, pair, same

WINDOWS = [None, 1, 2, 5, 8, 100]


def extent_of(window: int | None, seen: int, new: int) -> Extent:
    """What a cache of this kind returns for `new` positions after `seen`."""
    state = KeyValueState() if window is None else WindowState(window)
    keys, offset = state.extent(seen, new)
    return Extent(queries=new, keys=keys, query_offset=seen, key_offset=offset)


@st.composite
def paddings(draw: st.DrawFn, total: int, batch: int) -> Tensor:
    """Rows padded left, right, in the middle or not at all."""
    rows = []
    for _ in range(batch):
        kind, count = draw(st.sampled_from(["none", "left", "right", "any"])), draw(st.integers(0, max(total - 1, 0)))
        row = torch.ones(total, dtype=torch.bool)
        if kind == "left":
            row[:count] = False
        elif kind == "right":
            row[total - count :] = False
        elif kind == "any":
            row = torch.tensor(draw(st.lists(st.booleans(), min_size=total, max_size=total)))
        rows.append(row)
    return torch.stack(rows)


@settings(max_examples=100)
@given(data=st.data())
def test_chunks_are_the_references(data: st.DataObject) -> None:
    """Chunks begin behind the pads of a row; a cache keeps what a window of that size keeps."""
    size, batch = data.draw(st.integers(1, 8)), data.draw(st.integers(1, 3))
    seen, new = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 9))
    pads = data.draw(st.lists(st.integers(0, seen + new - 1), min_size=batch, max_size=batch))
    padding = torch.stack([torch.arange(seen + new) >= count for count in pads])
    extent = extent_of(size, seen, new)
    ours = attention_mask(
        extent,
        batch=batch,
        device=torch.device("cpu"),
        window=size,
        padding=padding,
        positions=None,
        always=True,
        chunked=True,
    )
    theirs = sdpa_mask(
        batch_size=batch,
        q_length=new,
        kv_length=extent.keys,
        q_offset=seen,
        kv_offset=extent.key_offset,
        mask_function=chunked_causal_mask_function(size, torch.tensor(pads)),
        attention_mask=padding,
        allow_is_causal_skip=False,
    )
    assert ours is not None and torch.equal(ours, theirs)


@settings(max_examples=300)
@given(data=st.data())
def test_masks_are_the_references(data: st.DataObject) -> None:
    window = data.draw(st.sampled_from(WINDOWS))
    seen, new, batch = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 3))
    padding = data.draw(st.none() | paddings(seen + new, batch))
    extent = extent_of(window, seen, new)
    ours = attention_mask(
        extent, batch=batch, device=torch.device("cpu"), window=window, padding=padding, positions=None
    )
    theirs = sdpa_mask(
        batch,
        extent.queries,
        extent.keys,
        extent.query_offset,
        extent.key_offset,
        causal_mask_function if window is None else sliding_window_causal_mask_function(window),
        attention_mask=padding,
        local_size=window,
    )
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert same(ours, theirs)


@settings(max_examples=100)
@given(data=st.data())
def test_masks_are_the_definition(data: st.DataObject) -> None:
    """A query sees the real keys not after itself and fewer than `window` before; no mask means the causal one."""
    window = data.draw(st.sampled_from(WINDOWS))
    seen, new, batch = data.draw(st.integers(0, 9)), data.draw(st.integers(1, 9)), data.draw(st.integers(1, 2))
    padding = data.draw(st.none() | paddings(seen + new, batch))
    extent = extent_of(window, seen, new)
    found = attention_mask(
        extent, batch=batch, device=torch.device("cpu"), window=window, padding=padding, positions=None
    )
    for row in range(batch):
        for i in range(new):
            for j in range(extent.keys):
                at_query, at_key = seen + i, extent.key_offset + j
                expected = at_key <= at_query and (window is None or at_query - at_key < window)
                expected = expected and (padding is None or bool(padding[row, at_key]))
                if found is not None:
                    assert bool(found[row, 0, i, j]) == expected
                elif new > 1:  # the kernel's causal flag, aligned to the first key
                    assert extent.keys == new and (j <= i) == expected
                else:
                    assert expected


@settings(max_examples=100)
@given(
    lengths=st.lists(st.lists(st.integers(1, 5), min_size=1, max_size=3), min_size=1, max_size=2),
    start=st.sampled_from([0, 3]),
    window=st.sampled_from([None, 2, 4]),
)
def test_packed_sequences_are_kept_apart_as_in_the_reference(
    lengths: list[list[int]], start: int, window: int | None
) -> None:
    new = max(map(sum, lengths))
    rows = []
    for row in lengths:
        pieces = [*row, new - sum(row)]
        rows.append(torch.cat([torch.arange(piece) + start for piece in pieces]))
    positions = torch.stack(rows)
    ours = attention_mask(
        Extent(queries=new, keys=new, query_offset=0, key_offset=0),
        batch=len(rows),
        device=torch.device("cpu"),
        window=window,
        padding=None,
        positions=positions,
    )
    packed = find_packed_sequence_indices(positions)
    function = causal_mask_function if window is None else sliding_window_causal_mask_function(window)
    if packed is not None:
        function = packed_sequence_compatibility_function(function, positions, packed)
    theirs = sdpa_mask(len(rows), new, new, 0, 0, function, local_size=window, allow_is_causal_skip=packed is None)
    assert (ours is None) == (theirs is None)
    if ours is not None and theirs is not None:
        assert same(ours.expand_as(theirs), theirs)


def test_packed_sequences_are_computed_apart() -> None:
    """Two sequences in one row give what they give alone."""
    ours = pair("llama")[1]
    first, second = ids(1, 7, seed=3), ids(1, 9, seed=4)
    positions = torch.cat([torch.arange(7), torch.arange(9)])[None]
    with torch.no_grad():
        together = ours(torch.cat([first, second], dim=1), position_ids=positions).logits
        alone = torch.cat([ours(first).logits, ours(second).logits], dim=1)
    assert torch.allclose(together, alone, atol=1e-5)


def test_a_ready_mask_is_used_as_it_is() -> None:
    ours = pair("llama")[1]
    x = ids(2, 6)
    ready = torch.ones(6, 6, dtype=torch.bool).tril()[None, None].expand(2, 1, 6, 6)
    with torch.no_grad():
        assert torch.allclose(ours(x, attention_mask=ready).logits, ours(x).logits, atol=1e-5)
        blind = ready.clone()
        blind[:, :, 5, 2] = False
        assert not torch.allclose(ours(x, attention_mask=blind).logits[:, 5], ours(x).logits[:, 5], atol=1e-3)


@pytest.mark.parametrize("shape", [(2, 5), (2, 7), (1, 6), (2, 1)])
def test_a_mask_of_the_wrong_shape_is_refused(shape: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"attention_mask has shape .*must be \(2, 6\)"):
        pair("llama")[1](ids(2, 6), attention_mask=torch.ones(shape))


def test_a_mask_must_cover_the_cache() -> None:
    ours = pair("llama")[1]
    cache = ours.new_cache()
    ours(ids(2, 6), cache=cache)
    with pytest.raises(InputError, match=r"must be \(2, 7\)"):
        ours(ids(2, 1), attention_mask=torch.ones(2, 1), cache=cache)


@pytest.mark.parametrize("kind", [torch.long, torch.bool, torch.float32, torch.uint8])
def test_masks_of_any_type_mean_the_same(kind: torch.dtype) -> None:
    ours = pair("qwen3_next")[1]
    mask = torch.ones(2, 6, dtype=torch.long)
    mask[0, :2] = 0
    with torch.no_grad():
        expected = ours(ids(2, 6), attention_mask=mask).logits[mask.bool()]
        assert torch.equal(ours(ids(2, 6), attention_mask=mask.to(kind)).logits[mask.bool()], expected)


def test_equal_windows_share_a_mask() -> None:
    plan: CallPlan = pair("gemma3_text")[1].plan
    assert plan.windows == [16, None]
    assert pair("llama")[1].plan.windows == [None]
