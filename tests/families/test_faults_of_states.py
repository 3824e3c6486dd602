"""Where references that keep states of their own go wrong: faults of docs/REFERENCE_FAULTS.md, on both sides."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.parity.own_states import Given
from tests.helpers import built, config, furthest, ids, pair, raw, reference, same, universal


def in_pieces(model: UniversalTransformer, x: Tensor, *sizes: int) -> Tensor:
    cache = model.new_cache()
    return torch.cat([model(piece, cache=cache).logits for piece in x.split(list(sizes), dim=1)], dim=1)


@torch.no_grad()
def test_single_steps_mix_the_rows_of_a_batch() -> None:
    """RWKV: a step of three rows is nine rows, three of them right; ours goes on as each row does alone."""
    theirs, ours = pair("rwkv")
    x = ids(3, 13)
    whole, states = theirs(x, use_cache=False).logits, theirs(x[:, :12], use_cache=True).state
    alone = theirs(x[:1, 12:], state=Given(states).row(0).states, use_cache=True).logits
    assert furthest(alone, whole[:1, 12:]) < 1e-5
    states = theirs(x[:, :12], use_cache=True).state
    assert furthest(theirs(x[:, 12:], state=states, use_cache=True).logits[:, -1], whole[:, 12]) > 1e-2
    assert furthest(in_pieces(ours, x, 12, 1), whole) < 1e-5


@torch.no_grad()
def test_a_model_that_was_called_is_saved_as_another(tmp_path: Path) -> None:
    """RWKV divides weights in place, saves them so, and divides them again when it is loaded."""
    theirs: Any = reference("rwkv", rescale_every=1)
    ours, x = universal(theirs), ids(1, 12)
    before = theirs(x, use_cache=False).logits
    theirs.save_pretrained(tmp_path / "theirs")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "theirs").eval()
    assert furthest(again(x, use_cache=False).logits, before) > 1e-2
    assert same(ours(x).logits, before)
    ours.save_pretrained(tmp_path / "ours")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "ours").eval()
    assert same(again(x, use_cache=False).logits, before)
    assert same(UniversalTransformer.from_pretrained(tmp_path / "ours")(x).logits, before)


@torch.no_grad()
@pytest.mark.parametrize("model_type", ["rwkv", "xlstm"])
def test_masks_are_not_read(model_type: str) -> None:
    """Pads before a row are tokens like others."""
    theirs, ours = pair(model_type)
    x, mask = ids(1, 24), torch.ones(1, 24, dtype=torch.long)
    mask[:, :6] = 0
    alone = theirs(x[:, 6:], use_cache=False).logits
    masked = theirs(x, attention_mask=mask, use_cache=False).logits
    assert same(masked, theirs(x, use_cache=False).logits)
    assert furthest(masked[:, 6:], alone) > 1e-2
    assert furthest(ours(x, attention_mask=mask).logits[:, 6:], alone) < 1e-4


@torch.no_grad()
def test_chunks_of_half_precision_need_states() -> None:
    """xLSTM without a cache starts from float32 zeros, which nothing in bfloat16 multiplies with."""
    theirs = reference("xlstm").to(torch.bfloat16)
    ours, x = pair("xlstm")[1], ids(2, 40)
    with pytest.raises(RuntimeError, match="same dtype"):
        theirs(x, use_cache=False)
    expected = theirs(x, use_cache=True).logits
    half = universal(theirs)
    assert same(half(x).logits, expected)
    assert furthest(expected, ours(x).logits) < 0.5


@torch.no_grad()
def test_widths_that_are_no_multiples_of_64_have_no_states() -> None:
    """xLSTM rounds the widths of its states up and not those of what they hold."""
    theirs = reference("xlstm", qk_dim_factor=1.0)
    ours, x = universal(theirs), ids(1, 20)
    assert same(ours(x).logits, theirs(x, use_cache=False).logits)
    with pytest.raises(RuntimeError, match="must match"):
        theirs(x, use_cache=True)
    assert furthest(in_pieces(ours, x, 17, 1, 1, 1), ours(x).logits) < 1e-4


@torch.no_grad()
def test_a_long_text_passes_through_bfloat16() -> None:
    """xLSTM reads texts beyond `max_inference_chunksize` in pieces, between which states are bfloat16 in any model."""
    theirs, x = reference("xlstm", max_inference_chunksize=16), ids(1, 48)
    ours = universal(theirs)
    assert furthest(theirs(x, use_cache=True).logits, ours(x).logits) < 1e-4
    assert furthest(theirs(x, use_cache=False).logits, ours(x).logits) > 1e-3


def test_fused_weights_cannot_be_built() -> None:
    """xLSTM fills a bias of all gates where there is room for half of them."""
    with pytest.raises(RuntimeError, match="must match the size"):
        built(config("xlstm", weight_mode="fused"))
    with pytest.raises(UnsupportedConfig, match="weight_mode = 'fused'"):
        ArchitectureParameter.from_huggingface(raw("xlstm", weight_mode="fused"))


def test_a_head_that_is_said_to_be_tied() -> None:
    """xLSTM's class names no tied weights: its head is its own, whatever the config says."""
    theirs: Any = built(config("xlstm", tie_word_embeddings=True))
    assert theirs.lm_head.weight is not theirs.get_input_embeddings().weight
    with pytest.raises(UnsupportedConfig, match="tie_word_embeddings = True"):
        ArchitectureParameter.from_huggingface(raw("xlstm", tie_word_embeddings=True))
