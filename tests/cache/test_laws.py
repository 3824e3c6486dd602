"""Laws of the cache and of batches, for every family: how a sequence is cut, padded or ordered changes nothing.

Each tolerance is the model's own noise: eight times what float64 weights change in a full forward pass.
"""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from tests.helpers import MODEL_TYPES, STEADY, reference, universal
from tests.helpers import ids_without_pads as ids

CASES: dict[str, tuple[str, dict[str, Any]]] = {
    **{model_type: (model_type, STEADY.get(model_type, {})) for model_type in MODEL_TYPES},
    **{name: (name, {"seed": 1}) for name in ("qwen3_5_moe", "qwen3_5_moe_text")},  # no router of it sits on a tie
    "gemma3_text, window 1": ("gemma3_text", {"sliding_window": 1, "num_hidden_layers": 2}),
    "gemma3_text, window 2": ("gemma3_text", {"sliding_window": 2, "num_hidden_layers": 6}),
    "cohere2, window 7": ("cohere2", {"sliding_window": 7}),
    "qwen3, window 7": ("qwen3", {"use_sliding_window": True, "sliding_window": 7, "max_window_layers": 1}),
    "mixtral, window 7": ("mixtral", {"sliding_window": 7}),
    "qwen3_next, kernel 2": ("qwen3_next", {"linear_conv_kernel_dim": 2, "num_hidden_layers": 2}),
    "qwen3_next, recurrent only": ("qwen3_next", {"layer_types": ["linear_attention"] * 2, "num_hidden_layers": 2}),
    "mamba2, biases": ("mamba2", {"use_bias": True, "conv_kernel": 2, "chunk_size": 7}),
    "llama, yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 100.0,
                "factor": 4.0,
                "original_max_position_embeddings": 8,
            }
        },
    ),
}
LENGTH = 40
cases = pytest.mark.parametrize("case", CASES)


@functools.cache
def model_of(case: str) -> UniversalTransformer:
    model_type, changes = CASES[case]
    return universal(reference(model_type, **changes)).requires_grad_(False)


@functools.cache
def whole(case: str) -> Tensor:
    """Logits of two rows in one piece."""
    return model_of(case)(ids(2, LENGTH)).logits


@functools.cache
def tolerance(case: str) -> float:
    wide = copy.deepcopy(model_of(case)).double()
    return 8 * float((wide(ids(2, LENGTH)).logits - whole(case).double()).abs().max())


def far(case: str, left: Tensor, right: Tensor) -> float:
    return float((left.double() - right.double()).abs().max()) / tolerance(case)


def has_experts(case: str) -> bool:
    """Where experts choose rows, pads and later tokens decide how many rows one product has: not the same bits."""
    return any("experts" in name for name, _ in model_of(case).named_parameters())


def positions_of(mask: Tensor) -> Tensor:
    return (mask.long().cumsum(-1) - 1).clamp(min=0)


cuts = st.lists(st.integers(1, LENGTH), min_size=1, max_size=6).map(
    lambda sizes: [size for size in sizes if size] + [1] * LENGTH
)


def cut(sizes: list[int]) -> list[int]:
    """Piece sizes that sum to LENGTH."""
    pieces, left = [], LENGTH
    for size in sizes:
        size = min(size, left)
        if size:
            pieces.append(size)
        left -= size
    return pieces


def test_the_noise_is_small_and_not_zero() -> None:
    for case in CASES:
        assert 0 < tolerance(case) < 1e-3 * float(whole(case).abs().max()), case


@cases
@settings(max_examples=6)
@given(sizes=cuts)
def test_any_cutting_gives_the_whole(case: str, sizes: list[int]) -> None:
    """Prefill and steps, or chunks of any size, equal one full forward pass."""
    model, cache = model_of(case), model_of(case).new_cache()
    pieces = [model(piece, cache=cache).logits for piece in ids(2, LENGTH).split(cut(sizes), dim=1)]
    assert far(case, torch.cat(pieces, dim=1), whole(case)) <= 1
    assert cache.length == LENGTH


@cases
@settings(max_examples=5)
@given(lengths=st.lists(st.integers(1, LENGTH), min_size=2, max_size=3), left=st.booleans())
def test_a_ragged_batch_gives_what_its_rows_give_alone(case: str, lengths: list[int], left: bool) -> None:
    model, rows = model_of(case), ids(len(lengths), LENGTH, seed=7)
    mask = padded(lengths, left=left)
    out = model(rows, attention_mask=mask, position_ids=positions_of(mask)).logits
    for row, length in enumerate(lengths):
        alone = model(rows[row : row + 1, mask[row].bool()]).logits[0]
        assert alone.shape[0] == length
        assert far(case, out[row, mask[row].bool()], alone) <= 1


def padded(lengths: list[int], *, left: bool, total: int = LENGTH) -> Tensor:
    slots = torch.arange(total)[None]
    counts = torch.tensor(lengths)[:, None]
    return ((slots >= total - counts) if left else (slots < counts)).long()


@cases
@settings(max_examples=4)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=2),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_a_left_padded_batch_continues_like_its_rows(case: str, lengths: list[int], sizes: list[int]) -> None:
    model, prompt = model_of(case), 12
    rows, more = ids(2, prompt, seed=7), ids(2, sum(sizes), seed=8)
    mask, cache, outs = padded(lengths, left=True, total=prompt), model.new_cache(), []
    model(rows, attention_mask=mask, position_ids=positions_of(mask), cache=cache)
    for piece in more.split(sizes, dim=1):
        mask = torch.cat([mask, torch.ones_like(piece)], dim=1)
        outs.append(
            model(piece, attention_mask=mask, position_ids=positions_of(mask)[:, -piece.shape[1] :], cache=cache).logits
        )
    for row in range(2):
        sequence = torch.cat([rows[row, prompt - lengths[row] :], more[row]])[None]
        alone = model(sequence).logits[0, lengths[row] :]
        assert far(case, torch.cat(outs, dim=1)[row], alone) <= 1


@cases
@settings(max_examples=4)
@given(
    lengths=st.lists(st.integers(1, 12), min_size=2, max_size=2),
    sizes=st.lists(st.integers(1, 3), min_size=1, max_size=4),
)
def test_a_right_padded_batch_continues_like_its_rows_or_is_refused(
    case: str, lengths: list[int], sizes: list[int]
) -> None:
    """Recurrent states do not move on pads; a window that would count pads as tokens is refused instead."""
    model, prompt = model_of(case), max(lengths)
    rows, more = ids(2, prompt, seed=7), ids(2, sum(sizes), seed=8)
    mask, cache, outs = padded(lengths, left=False, total=prompt), model.new_cache(), []
    seen = torch.tensor(lengths)[:, None]
    model(rows, attention_mask=mask, position_ids=positions_of(mask), cache=cache)
    window = min(filter(None, model.plan.windows), default=None)
    for piece in more.split(sizes, dim=1):
        mask = torch.cat([mask, torch.ones_like(piece)], dim=1)
        arguments = {
            "attention_mask": mask,
            "position_ids": seen + torch.arange(piece.shape[1])[None],
            "cache": cache,
        }
        inner = min(lengths) < max(lengths)
        if inner and window is not None and mask.shape[1] > window:
            before = cache.length
            with pytest.raises(InputError, match=f"window of {window}"):
                model(piece, **arguments)
            assert cache.length == before
            return
        outs.append(model(piece, **arguments).logits)
        seen = seen + piece.shape[1]
    for row in range(2):
        sequence = torch.cat([rows[row, : lengths[row]], more[row]])[None]
        alone = model(sequence).logits[0, lengths[row] :]
        assert far(case, torch.cat(outs, dim=1)[row], alone) <= 1


@cases
@pytest.mark.parametrize("left", [True, False])
def test_what_a_pad_holds_changes_nothing(case: str, left: bool) -> None:
    model, mask = model_of(case), padded([LENGTH, 9, 23], left=left)
    outs = []
    for noise in (0, 5):
        rows = torch.where(mask.bool(), ids(3, LENGTH, seed=7), ids(3, LENGTH, seed=noise))
        outs.append(model(rows, attention_mask=mask, position_ids=positions_of(mask)).logits[mask.bool()])
    assert far(case, *outs) <= 1
    assert has_experts(case) or torch.equal(*outs)


@cases
def test_the_future_changes_nothing(case: str) -> None:
    model = model_of(case)
    later = torch.cat([ids(2, LENGTH)[:, :17], ids(2, LENGTH, seed=9)[:, 17:]], dim=1)
    found, expected = model(later).logits[:, :17], whole(case)[:, :17]
    assert far(case, found, expected) <= 1
    assert has_experts(case) or torch.equal(found, expected)


@cases
def test_a_permuted_batch_gives_permuted_logits(case: str) -> None:
    model, order = model_of(case), torch.tensor([2, 0, 3, 1])
    rows = ids(4, 23, seed=7)
    assert far(case, model(rows[order]).logits, model(rows).logits[order]) <= 1


@cases
def test_tokens_do_change_something(case: str) -> None:
    """The laws above would hold in a model that ignores its input."""
    changed = ids(2, LENGTH).clone()
    changed[:, 17] = (changed[:, 17] + 1) % 97
    differs = (model_of(case)(changed).logits - whole(case)).abs().amax(-1) > tolerance(case)
    assert not bool(differs[:, :17].any()) and bool(differs[:, 17].all())
    assert case == "gemma3_text, window 1" or bool(differs[:, 18:].any())


@pytest.mark.parametrize("window", [1, 2, 5, 16])
def test_a_window_counts_the_token_itself(window: int) -> None:
    """One windowed layer: token t feels token t − window + 1 and none before it."""
    model = universal(
        reference("gemma3_text", num_hidden_layers=1, layer_types=["sliding_attention"], sliding_window=window)
    ).requires_grad_(False)
    base, at = ids(1, 30), 5
    changed = base.clone()
    changed[0, at] = (changed[0, at] + 1) % 97
    felt = (model(base).logits != model(changed).logits).any(-1)[0]
    assert felt.nonzero().flatten().tolist() == list(range(at, at + window))


def test_layers_of_one_window_may_keep_what_they_will() -> None:
    """A mask spans what its layers keep: one for all of them would be too short for those that keep all."""
    model = universal(reference("mixtral", sliding_window=7))
    other = UniversalTransformer(model.n.replace("layers.0.attention.keeps", "all"))
    other.load_state_dict(model.state_dict())
    tokens, cache = ids(2, LENGTH), other.new_cache()
    with torch.no_grad():
        parts = [other(part, cache=cache).logits for part in tokens.split(15, dim=1)]
        assert (torch.cat(parts, dim=1) - model(tokens).logits).abs().max() < 1e-4
