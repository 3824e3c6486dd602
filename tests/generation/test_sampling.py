"""Each sampler is the reference's processor, bit for bit."""

from __future__ import annotations

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from nexus_universal.generation.sampling import Sampler, keep_min_p, keep_top_k, keep_top_p, penalised
from nexus_universal.generation.settings import GenerationSettings
from tests.helpers import ids, same

VOCAB = 60


def scores(seed: int, spread: float, *, ties: bool) -> torch.Tensor:
    drawn = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(seed)) * spread
    drawn = drawn.round() if ties else drawn
    drawn[1, ::3] = -torch.inf
    return drawn


CASES = {"seed": st.integers(0, 999), "spread": st.sampled_from([0.01, 1.0, 8.0]), "ties": st.booleans()}


@settings(max_examples=60, deadline=None)
@given(k=st.integers(1, 2 * VOCAB), **CASES)
def test_top_k(k: int, seed: int, spread: float, ties: bool) -> None:
    drawn = scores(seed, spread, ties=ties)
    assert same(keep_top_k(drawn, k), TopKLogitsWarper(k)(None, drawn))


@settings(max_examples=60, deadline=None)
@given(p=st.floats(0, 1), **CASES)
def test_top_p(p: float, seed: int, spread: float, ties: bool) -> None:
    drawn = scores(seed, spread, ties=ties)
    assert same(keep_top_p(drawn, p), TopPLogitsWarper(p)(None, drawn))


@settings(max_examples=60, deadline=None)
@given(p=st.floats(0, 1), **CASES)
@example(p=1.0, seed=0, spread=0.01, ties=True)
@example(p=1.0, seed=0, spread=1.0, ties=False)
def test_min_p(p: float, seed: int, spread: float, ties: bool) -> None:
    drawn = scores(seed, spread, ties=ties)
    assert same(keep_min_p(drawn, p), MinPLogitsWarper(p)(None, drawn))


@settings(max_examples=60, deadline=None)
@given(penalty=st.floats(0.1, 5), first=st.none() | st.tuples(*[st.integers(0, 8)] * 3), **CASES)
def test_repetition_penalty(
    penalty: float, first: tuple[int, ...] | None, seed: int, spread: float, ties: bool
) -> None:
    drawn, seen = scores(seed, spread, ties=ties), ids(3, 9, seed=seed, vocab=VOCAB)
    begins = None if first is None else torch.tensor(first)
    expected = RepetitionPenaltyLogitsProcessor(penalty, prompt_ignore_length=begins)(seen, drawn)
    assert same(penalised(drawn, seen, penalty=penalty, first=begins), expected)


def test_greedy_is_not_warped_but_penalised() -> None:
    drawn = torch.tensor([[3.0, 2.9, 0.0]])
    plain = GenerationSettings(temperature=0.1, top_k=1)
    assert Sampler(plain, device=drawn.device)(torch.tensor([[0]]), drawn).item() == 0
    penal = GenerationSettings(repetition_penalty=2.0)
    assert Sampler(penal, device=drawn.device)(torch.tensor([[0]]), drawn).item() == 1


@pytest.mark.parametrize(
    "settings", [GenerationSettings(do_sample=True, top_k=1), GenerationSettings(do_sample=True, top_p=0.0)]
)
def test_the_strictest_filter_leaves_the_best(settings: GenerationSettings) -> None:
    drawn = scores(0, 1.0, ties=False)
    assert torch.equal(Sampler(settings, device=drawn.device)(ids(3, 2), drawn), drawn.argmax(-1))
