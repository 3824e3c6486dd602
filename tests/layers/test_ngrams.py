"""Tables of hashed n-grams against the reference's own, and what tokens may say of each other."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.position import Norm
from nexus_universal.cache import NgramState
from nexus_universal.layers.call import Call
from nexus_universal.layers.ngrams import UniversalHashedNgrams
from nexus_universal.parity.references import build_reference
from tests.helpers import config, ids, same, universal

STREAMS, WIDTH, SEQ, SEPARATOR = 4, 48, 22, 5


def call(tokens: Tensor | None, **fields: Any) -> Call:
    return Call(positions=torch.arange(SEQ)[None], cache=None, tables=[], masks=[], tokens=tokens, **fields)


def inputs(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    tokens = ids(2, SEQ)
    tokens[0, 9], tokens[1, 3:5] = SEPARATOR, SEPARATOR
    x = torch.randn(2, SEQ, STREAMS, WIDTH, generator=torch.Generator().manual_seed(1))
    return x.to(dtype), tokens


@functools.cache
def pair(dtype: torch.dtype = torch.float32, order: int = 3) -> tuple[Any, UniversalHashedNgrams]:
    """The second such part of a model: its primes come after those of the first."""
    settled = config("qwen4_exp_text", ple_layer_ids=[2, 3], ngram_size=order)
    theirs = build_reference(settled, dtype=dtype, seed=0)
    ours = universal(theirs).layers[2].ngrams
    assert isinstance(ours, UniversalHashedNgrams)
    return theirs.model.layers[2].ple, ours


@pytest.mark.parametrize("order", [2, 3, 4])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_the_references(dtype: torch.dtype, order: int) -> None:
    theirs, ours = pair(dtype, order)
    found: list[tuple[Tensor, Tensor | None]] = []
    for reference in (True, False):
        x, tokens = inputs(dtype)
        x.requires_grad_()
        out = theirs(x.flatten(2), tokens, None).unflatten(-1, (STREAMS, WIDTH)) if reference else ours(x, call(tokens))
        out.backward(torch.randn(out.shape, generator=torch.Generator().manual_seed(2)).to(dtype))
        found.append((out.detach(), x.grad))
    (expected, gradient), (mine, my_gradient) = found
    assert gradient is not None and my_gradient is not None
    assert same(mine, expected)
    assert dtype == torch.bfloat16 or same(my_gradient, gradient)


@torch.no_grad()
def test_pieces_are_the_references() -> None:
    theirs, ours = pair()
    x, tokens = inputs()
    settled = config("qwen4_exp_text", ple_layer_ids=[2, 3])
    cache, state = DynamicCache(config=settled), NgramState()
    for start, end in pairwise((0, 1, 2, 9, 10, SEQ)):
        piece = x[:, start:end], tokens[:, start:end]
        expected = theirs(piece[0].flatten(2), piece[1], cache).unflatten(-1, (STREAMS, WIDTH))
        assert same(ours(piece[0], call(piece[1]), state), expected)


@torch.no_grad()
def test_nothing_is_said_across_a_separator() -> None:
    """But by the convolution, whose inputs are not told apart."""
    _, ours = pair()
    _, tokens = inputs()
    plain = ours._hashed(call(tokens), None)
    other = tokens.clone()
    other[0, :9] = (other[0, :9] + 1) % SEPARATOR
    assert torch.equal(ours._hashed(call(other), None)[0, 10:], plain[0, 10:])
    assert not torch.equal(ours._hashed(call(other), None)[0, 9:10], plain[0, 9:10])


@torch.no_grad()
def test_pads_say_nothing_to_what_follows() -> None:
    _, ours = pair()
    x, tokens = inputs()
    padding = torch.ones_like(tokens)
    padding[:, :7] = 0
    found = ours(x, call(tokens, padding=padding))
    alone = ours(x[:, 7:], call(tokens[:, 7:]))
    assert torch.allclose(found[:, 7:], alone, atol=1e-5)
    trailing = torch.zeros_like(tokens, dtype=torch.bool)
    trailing[0, 12:] = True
    padded, short = NgramState(), NgramState()
    ours(x, call(tokens, padding=(~trailing).long(), trailing=trailing), padded)
    ours(x[:1, :12], call(tokens[:1, :12]), short)
    for name, kept in short.tensors().items():
        assert torch.allclose(padded.tensors()[name][:1].double(), kept.double(), atol=1e-5), name


def test_the_numbers_follow_from_the_part() -> None:
    theirs, ours = pair()
    embedding = theirs.ple_embedding
    ours.start_hashes()
    for name, theirs_name in {
        "multipliers": "layer_multipliers",
        "rows": "ngram_heads_vocab_sizes",
        "offsets": "ngram_heads_offsets",
    }.items():
        assert torch.equal(getattr(ours, name), getattr(embedding, theirs_name)), name
    assert ours.part.rows == (23, 29, 31, 37)
    assert ours.part.stored_rows == embedding.ngram_embedding.weight.shape[0] == 120


def test_ids_are_needed() -> None:
    _, ours = pair()
    with pytest.raises(InputError, match="give input_ids"):
        ours(inputs()[0], call(None))


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("order", 1, "at least 2"),
        ("width", 25, r"a multiple of \(order - 1\) · heads = 4"),
        ("index", -1, "must not be negative"),
    ],
)
def test_contradictions_are_named(field: str, value: int, message: str) -> None:
    part = HashedNgrams(
        streams=4,
        order=3,
        heads=2,
        width=24,
        kernel=4,
        norm=Norm(kind="rms", eps=1e-6),
        separator=SEPARATOR,
        vocab=97,
        least=11,
        padded_to=8,
        seed=1,
        index=0,
    )
    assert not list(part.problems())
    ((found, said),) = replace(part, **{field: value}).problems()  # type: ignore[arg-type]
    assert found == field
    assert re.search(message, said)
