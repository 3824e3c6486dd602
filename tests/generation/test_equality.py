"""The ids are the reference's: every family, alone and padded, greedy and drawn, with and without a cache."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus_universal import UniversalTransformer
from nexus_universal.generation import encode
from nexus_universal.parity.draws import pads_leak
from nexus_universal.parity.modes import Reference, positions_of
from nexus_universal.parity.quirks import quirks
from tests.generation.support import CHECKPOINTS, DATA
from tests.helpers import MODEL_TYPES, UNTOLD, ids, pair, reference, rows, same, universal

NEW = 20
PADS = (4, 0, 1)


def batch(model_type: str = "llama", *, seed: int = 3) -> tuple[Tensor, Tensor]:
    """Three rows, padded on the left by 4, 0 and 1, or not at all where the reference takes pads for tokens."""
    drawn = ids(rows(model_type, 3), 11, seed=seed)
    mask = torch.ones_like(drawn)
    taken = model_type in UNTOLD or quirks(model_type).widens_mask or pads_leak(pair(model_type)[1].n)
    for row, pads in enumerate(() if taken else PADS):
        mask[row, :pads] = 0
    return drawn, mask


def both(
    model_type: str, drawn: Tensor, mask: Tensor | None, *, eos: Any = None, **settings: Any
) -> tuple[Tensor, Tensor]:
    """Reference's ids and ours."""
    theirs, ours = pair(model_type)
    settings = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0, **settings}
    rows = {}
    if first := Reference(theirs).first_row:  # generation begins at row 0, wherever positions begin
        rows["position_ids"] = positions_of(torch.ones_like(drawn) if mask is None else mask) + first
    seed = settings.pop("seed", None)
    if seed is not None:
        torch.manual_seed(seed)
    expected = theirs.generate(drawn, attention_mask=mask, eos_token_id=eos, **rows, **settings)
    found = ours.generate(drawn, attention_mask=mask, eos_token_id=[] if eos is None else eos, seed=seed, **settings)
    return expected, found


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize("use_cache", [True, False])
def test_greedy_ids_are_the_references(model_type: str, use_cache: bool) -> None:
    drawn, mask = batch(model_type)
    for given, masked in ((drawn[-1:], None), (drawn, mask), (drawn, torch.ones_like(mask))):
        expected, found = both(model_type, given, masked, use_cache=use_cache)
        assert same(expected, found)
        assert found.shape[1] == drawn.shape[1] + NEW


LONG_ROPE = {"rope_type": "longrope", "short_factor": [1.0, 1.2], "long_factor": [1.5, 3.0], "rope_theta": 100.0}


@pytest.mark.parametrize("start", [11, 20, 25])
@pytest.mark.parametrize("seed", range(3))
def test_a_text_that_outgrows_short_factors_is_read_anew(start: int, seed: int) -> None:
    """Phi-3 drops its cache where LongRoPE takes its long factors: before, at and behind the switch at 20."""
    theirs = reference(
        "phi3",
        seed=seed,
        head_dim=4,
        num_attention_heads=12,
        num_key_value_heads=12,
        rope_parameters=LONG_ROPE,
        original_max_position_embeddings=20,
        max_position_embeddings=80,
    )
    ours, prompt = universal(theirs), ids(2, start, seed=seed)
    settings: dict[str, Any] = {"max_new_tokens": NEW, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(prompt)
    expected = theirs.generate(prompt, attention_mask=mask, eos_token_id=None, **settings)
    assert same(expected, ours.generate(prompt, mask, eos_token_id=[], **settings))


@pytest.mark.parametrize("model_type", [name for name in MODEL_TYPES if not quirks(name).steps_alone])
def test_rows_end_at_any_of_several_ids_and_are_filled(model_type: str) -> None:
    drawn, mask, eos = next(filter(None, (ended_apart(model_type, seed) for seed in range(3, 20))))
    free = both(model_type, drawn, mask)[0][:, drawn.shape[1] :].tolist()
    expected, found = both(model_type, drawn, mask, eos=eos, pad_token_id=1)
    assert same(expected, found)
    for row, end in zip(found[:, drawn.shape[1] :].tolist(), ends(free, *eos), strict=True):
        assert row[end] in eos
        assert set(row[end + 1 :]) <= {1}


def ended_apart(model_type: str, seed: int) -> tuple[Tensor, Tensor, list[int]] | None:
    """Rows, and ids that end them all and not at once; None where a model says the same again and again."""
    drawn, mask = batch(model_type, seed=seed)
    free = both(model_type, drawn, mask)[0][:, drawn.shape[1] :].tolist()
    choices = (sorted(set(each)) for each in product(*free))
    fit = (each for each in choices if len({*ends(free, *each)}) > 1 and max(ends(free, *each)) < NEW)
    return next(((drawn, mask, eos) for eos in fit), None)


def test_without_a_pad_rows_are_filled_with_the_first_of_the_ids_that_end_them() -> None:
    drawn, mask = batch()
    free = both("llama", drawn, mask)[0][:, drawn.shape[1] :].tolist()
    eos = next([96, a] for a in free[0] if len({*ends(free, a)}) > 1)
    expected, found = both("llama", drawn, mask, eos=eos, pad_token_id=None)
    assert same(expected, found)
    assert 96 in found[:, -1]


def ends(rows: list[list[int]], *eos: int) -> list[int]:
    """Where each row meets one of `eos`."""
    return [min((place for place, token in enumerate(row) if token in eos), default=NEW) for row in rows]


def test_a_call_ends_when_all_rows_have_ended() -> None:
    drawn, _ = batch()
    free = both("llama", drawn[:1], None)[0][0, drawn.shape[1] :]
    end = next(place for place, token in enumerate(free.tolist()) if token == int(free[4]))
    expected, found = both("llama", drawn[:1], None, eos=int(free[4]))
    assert same(expected, found)
    assert found.shape[1] == drawn.shape[1] + end + 1


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.7},
        {"top_k": 5},
        {"top_k": 0, "top_p": 0.6},
        {"top_k": 0, "min_p": 0.2},
        {"temperature": 1.3, "top_k": 30, "top_p": 0.9, "min_p": 0.02, "repetition_penalty": 1.2},
    ],
    ids=lambda settings: "+".join(settings),
)
def test_drawn_ids_are_those_after_the_same_seed(model_type: str, settings: dict[str, float]) -> None:
    drawn, mask = batch(model_type)
    expected, found = both(model_type, drawn, mask, eos=[5, 9], do_sample=True, seed=7, **settings)
    assert same(expected, found)


@pytest.mark.parametrize("padded", [False, True])
def test_a_penalty_counts_the_prompt_but_not_its_pads(padded: bool) -> None:
    drawn, mask = batch()
    drawn[0, :4] = int(both("llama", drawn, mask)[0][0, 12])
    expected, found = both("llama", drawn, mask if padded else None, repetition_penalty=3.0)
    assert same(expected, found)
    assert not same(expected, both("llama", drawn, mask if padded else None)[0])


@pytest.mark.parametrize(("pad", "eos"), [(6, None), (6, [7]), (6, [7, 6]), (None, [6]), (None, None)])
def test_a_missing_mask_is_inferred_as_in_the_reference(pad: int | None, eos: list[int] | None) -> None:
    drawn, _ = batch()
    drawn[0, :4] = 6
    drawn[1, 3] = 6
    expected, found = both("qwen3", drawn, None, eos=eos, pad_token_id=pad)
    assert same(expected, found)


def test_int32_ids_and_boolean_masks_are_taken() -> None:
    drawn, mask = batch()
    theirs, ours = pair("llama")
    expected = theirs.generate(drawn, attention_mask=mask, max_new_tokens=4, eos_token_id=None, pad_token_id=0)
    assert torch.equal(ours.generate(drawn.int(), attention_mask=mask.bool(), max_new_tokens=4), expected)


def test_the_seed_leaves_torchs_own_generator_alone() -> None:
    _, ours = pair("llama")
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    first = ours.generate(ids(1, 5), do_sample=True, max_new_tokens=8, seed=11)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(ours.generate(ids(1, 5), do_sample=True, max_new_tokens=8, seed=11), first)
    assert not torch.equal(ours.generate(ids(1, 5), do_sample=True, max_new_tokens=8, seed=12), first)


def test_without_a_seed_torchs_generator_is_drawn_from() -> None:
    theirs, ours = pair("llama")
    torch.manual_seed(5)
    expected = theirs.generate(ids(1, 5), do_sample=True, max_new_tokens=8, eos_token_id=None)
    torch.manual_seed(5)
    assert torch.equal(ours.generate(ids(1, 5), do_sample=True, max_new_tokens=8, eos_token_id=[]), expected)


@pytest.mark.parametrize("name", CHECKPOINTS)
@pytest.mark.parametrize("sampled", [False, None])
def test_trained_checkpoints_go_on_as_the_reference_does(name: str, sampled: bool | None) -> None:
    """With the checkpoint's own settings where the call says nothing: its eos list, its sampling, its length."""
    theirs = AutoModelForCausalLM.from_pretrained(DATA / name).eval()
    ours = UniversalTransformer.from_pretrained(DATA / name)
    tokenizer = AutoTokenizer.from_pretrained(DATA / name)
    drawn, mask = encode(tokenizer, ["Return the", "Create a new", "This"])
    settings = {} if sampled is None else {"do_sample": sampled}
    torch.manual_seed(3)
    expected = theirs.generate(drawn, attention_mask=mask, **settings)
    assert same(expected, ours.generate(drawn, attention_mask=mask, seed=3, **settings))
