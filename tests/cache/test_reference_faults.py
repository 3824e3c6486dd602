"""Where the reference itself breaks a law that ours holds: each fault of docs/REFERENCE_FAULTS.md, shown on both sides.

A test that fails here may mean that transformers has been mended: then the ledger's entry goes, and ours is compared.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from nexus_universal.parity.modes import Reference
from tests.helpers import furthest, ids, pair, reference, universal

NEAR, FAR = 1e-4, 1e-2
"""Relative differences: rounding stays below the one, a fault above the other."""


def theirs_continued(model: Any, prompt: Tensor, mask: Tensor, more: Tensor) -> Tensor:
    """The reference's logits of `more` after a padded prompt, positions derived from the mask."""
    side = Reference(model)
    cache = side.new_cache()
    side(prompt, mask=mask, positions=(mask.cumsum(-1) - 1).clamp(min=0), cache=cache)
    whole = torch.cat([mask, torch.ones_like(more)], dim=1)
    after = mask.sum(-1, keepdim=True) + torch.arange(more.shape[1])
    return side(more, mask=whole, positions=after, cache=cache)


def ours_continued(model: Any, prompt: Tensor, mask: Tensor, more: Tensor) -> Tensor:
    cache = model.new_cache()
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    model(prompt, attention_mask=mask, position_ids=positions, cache=cache)
    whole = torch.cat([mask, torch.ones_like(more)], dim=1)
    after = mask.sum(-1, keepdim=True) + torch.arange(more.shape[1])
    return model(more, attention_mask=whole, position_ids=after, cache=cache).logits


@torch.no_grad()
@pytest.mark.parametrize("new", [1, 4])
def test_recurrent_states_move_on_pads_behind_the_last_token(new: int) -> None:
    """Qwen3-Next, a right-padded prompt: the reference's state decays on pads, and its convolution takes them in."""
    theirs, ours = pair("qwen3_next")
    length, pads = 9, 5
    prompt, more = ids(1, length + pads), ids(1, new, seed=2)
    mask = torch.ones(1, length + pads, dtype=torch.long)
    mask[:, length:] = 0
    alone = torch.cat([prompt[:, :length], more], dim=1)
    expected = theirs(alone, use_cache=False).logits[:, length:]
    assert furthest(ours(alone).logits[:, length:], expected) == 0
    assert furthest(theirs_continued(theirs, prompt, mask, more), expected) > FAR
    assert furthest(ours_continued(ours, prompt, mask, more), expected) < NEAR


@torch.no_grad()
@pytest.mark.parametrize("new", [1, 4])
def test_a_state_space_decays_on_pads_behind_the_last_token(new: int) -> None:
    """Mamba-2, a right-padded prompt: the reference zeroes x, B and C on pads, but not the time step."""
    theirs, ours = pair("mamba2")
    length, pads = 9, 5
    prompt, more = ids(1, length + pads), ids(1, new, seed=2)
    mask = torch.ones(1, length + pads, dtype=torch.long)
    mask[:, length:] = 0
    alone = torch.cat([prompt[:, :length], more], dim=1)
    expected = theirs(alone, use_cache=False).logits[:, length:]
    assert furthest(ours(alone).logits[:, length:], expected) == 0
    assert furthest(theirs_continued(theirs, prompt, mask, more), expected) > FAR
    assert furthest(ours_continued(ours, prompt, mask, more), expected) < NEAR


@torch.no_grad()
@pytest.mark.parametrize("biased", [False, True])
def test_a_bias_leaks_from_pads_into_the_tokens_after_them(biased: bool) -> None:
    """Mamba-2, a left-padded row: with `use_bias` the reference's convolution reads the bias of the pads before it."""
    theirs = reference("mamba2", use_bias=biased)
    ours = universal(theirs)
    rows, mask = ids(1, 14), torch.ones(1, 14, dtype=torch.long)
    mask[:, :5] = 0
    expected = theirs(rows[:, 5:], use_cache=False).logits
    found = theirs(rows, attention_mask=mask, use_cache=False).logits[:, 5:]
    assert furthest(found, expected) > FAR if biased else furthest(found, expected) < NEAR
    assert furthest(ours(rows[:, 5:]).logits, expected) == 0
    assert furthest(ours(rows, attention_mask=mask).logits[:, 5:], expected) < NEAR


@torch.no_grad()
@pytest.mark.parametrize("bounded", [False, True])
def test_a_bounded_time_step_is_unbounded_step_by_step(bounded: bool) -> None:
    """Mamba-2 with `time_step_limit`: steps are no scan of one position. Ours does the same, bit for bit."""
    theirs = reference("mamba2", time_step_limit=[0.3, 0.9] if bounded else [0.0, float("inf")])
    ours = universal(theirs)
    side, cache, kept = Reference(theirs), Reference(theirs).new_cache(), ours.new_cache()
    pieces = ids(1, 20).split([10, *[1] * 10], dim=1)
    stepped = torch.cat([side(piece, cache=cache) for piece in pieces], dim=1)
    found = torch.cat([ours(piece, cache=kept).logits for piece in pieces], dim=1)
    expected = theirs(ids(1, 20), use_cache=False).logits
    assert furthest(stepped, expected) > FAR if bounded else furthest(stepped, expected) < NEAR
    assert torch.equal(found, stepped) and torch.equal(ours(ids(1, 20)).logits, expected)


@torch.no_grad()
def test_left_padding_is_right_on_both_sides() -> None:
    """The control: padded on the left, both continue as the row alone does."""
    theirs, ours = pair("qwen3_next")
    prompt, more = ids(1, 14), ids(1, 1, seed=2)
    mask = torch.ones(1, 14, dtype=torch.long)
    mask[:, :5] = 0
    expected = theirs(torch.cat([prompt[:, 5:], more], dim=1), use_cache=False).logits[:, 9:]
    assert furthest(theirs_continued(theirs, prompt, mask, more), expected) < NEAR
    assert furthest(ours_continued(ours, prompt, mask, more), expected) < NEAR


@torch.no_grad()
def test_windows_count_pads_between_tokens() -> None:
    """Gemma 3, a right-padded prompt continued past the window: the reference's window spans slots, pads included."""
    theirs = reference("gemma3_text", num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=8)
    ours = universal(theirs)
    length, pads = 9, 5
    prompt, more = ids(1, length + pads), ids(1, 1, seed=2)
    mask = torch.ones(1, length + pads, dtype=torch.long)
    mask[:, length:] = 0
    expected = theirs(torch.cat([prompt[:, :length], more], dim=1), use_cache=False).logits[:, length:]
    assert furthest(theirs_continued(theirs, prompt, mask, more), expected) > FAR
    with pytest.raises(ValueError, match="a right-padded batch cannot be continued past a window of 8"):
        ours_continued(ours, prompt, mask, more)


@torch.no_grad()
def test_a_dynamic_rope_remembers_the_longest_call() -> None:
    """Dynamic NTK: after one long call the reference gives other logits for a medium one; ours depends on the call."""
    rope = {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}
    theirs = reference("llama", rope_parameters=rope, max_position_embeddings=16)
    ours = universal(theirs)
    medium, long = ids(1, 24), ids(1, 60)
    before = theirs(medium, use_cache=False).logits
    theirs(long, use_cache=False)
    assert furthest(theirs(medium, use_cache=False).logits, before) > FAR
    assert furthest(ours(medium).logits, before) == 0
    ours(long)
    assert furthest(ours(medium).logits, before) == 0


@torch.no_grad()
def test_a_cast_rounds_the_frequencies(tmp_path: Path) -> None:
    """`.to(bfloat16)` rounds the reference's inv_freq; loaded in bfloat16 it is whole. Ours is whole either way."""
    theirs = reference("llama")
    theirs.save_pretrained(tmp_path / "model")
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=torch.bfloat16).eval()
    ours = universal(theirs).to(torch.bfloat16)
    expected = loaded(ids(1, 60), use_cache=False).logits
    assert not torch.equal(theirs.to(torch.bfloat16)(ids(1, 60), use_cache=False).logits, expected)
    assert torch.equal(ours(ids(1, 60)).logits, expected)


def test_a_false_return_dict_breaks_the_reference() -> None:
    """`"return_dict": false` in a config: the reference's forward reads a field of a tuple; ours does not mind."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

    from nexus_universal import ArchitectureParameter
    from tests.helpers import config

    settled = config("llama", return_dict=False)
    with pytest.raises(AttributeError, match="last_hidden_state"):
        MODEL_FOR_CAUSAL_LM_MAPPING[type(settled)](settled)(ids(1, 3))
    assert ArchitectureParameter.from_huggingface(settled) == pair("llama")[1].n
