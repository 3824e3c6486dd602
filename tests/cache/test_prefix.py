"""Prompts that begin alike: the longest known beginning is found, continued with the same bits, and dropped in turn."""

from __future__ import annotations

import functools
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.cache import Cache
from nexus_universal.cache.prefix import PrefixStore
from tests.helpers import ids_without_pads as ids
from tests.helpers import reference, same, universal

PLENTY = 2**30


@functools.cache
def model_of(model_type: str) -> UniversalTransformer:
    return universal(reference(model_type)).requires_grad_(False)


def read(model: UniversalTransformer, text: Tensor, *sizes: int) -> Cache:
    cache = model.new_cache()
    for piece in text[:, : sum(sizes)].split(list(sizes), dim=1):
        model(piece, cache=cache)
    return cache


def store_of(model: UniversalTransformer, *texts: Tensor, max_bytes: int = PLENTY) -> PrefixStore:
    store = PrefixStore(model.new_cache, max_bytes=max_bytes)
    for text in texts:
        store.keep(text, read(model, text, text.shape[1]))
    return store


def joined(*pieces: Tensor) -> Tensor:
    return torch.cat(pieces, dim=1)


@pytest.mark.parametrize("model_type", ["qwen3", "gemma3_text", "qwen3_next", "glm4_moe_lite", "mamba2"])
def test_a_known_beginning_continues_with_the_bits_of_its_pieces(model_type: str) -> None:
    model, system, question = model_of(model_type), ids(1, 20), ids(1, 7, seed=5)
    store = store_of(model, system)
    for _ in range(2):  # what a prompt does to its cache is not the store's
        cache = store.begin(joined(system, question))
        assert cache.length == 20
        assert same(model(question, cache=cache).logits, model(question, cache=read(model, system, 20)).logits)


def test_greedy_text_is_that_without_a_store() -> None:
    model, system = model_of("qwen3"), ids(1, 20)
    store, settings = PrefixStore(model.new_cache, max_bytes=PLENTY), {"max_new_tokens": 8, "do_sample": False}
    prompts = [joined(system, ids(1, 5, seed=seed)) for seed in (3, 4)]
    found = []
    for asked in prompts:
        cache = store.begin(asked)
        found.append(len(found) and cache.length)
        text = model.generate(asked, cache=cache, **settings)
        assert torch.equal(text, model.generate(asked, **settings))
        store.keep(text, cache)
    assert found[1] >= 20 and len(store) == 2


def test_the_longest_beginning_is_found() -> None:
    model, text = model_of("qwen3"), ids(1, 30)
    store = store_of(model, text[:, :10], text[:, :20], joined(text[:, :25], text[:, :5] + 1))
    assert store.begin(text).length == 25, "a longer text is cut where the prompt leaves it"
    assert store.begin(text[:, :15]).length == 14 and store.begin(text[:, :20]).length == 19, (
        "one token is left to read"
    )
    assert store.begin(text + 1).length == 0


def test_what_cannot_be_cut_continues_from_its_end() -> None:
    model, text = model_of("qwen3_next"), ids(1, 30)
    store = store_of(model, text[:, :10], text[:, :20])
    assert store.begin(text[:, :16]).length == 10 and store.begin(text[:, :21]).length == 20
    assert store.begin(text[:, :10]).length == 0


def test_the_least_recently_used_goes_first() -> None:
    model = model_of("qwen3")
    texts = [ids(1, 20, seed=seed) for seed in (1, 2, 3)]
    each = read(model, texts[0], 20).nbytes
    store = store_of(model, *texts[:2], max_bytes=2 * each)
    store.begin(joined(texts[0], texts[0]))
    store.keep(texts[2], read(model, texts[2], 20))
    assert [store.begin(joined(text, text)).length for text in texts] == [20, 0, 20]
    assert store.nbytes == 2 * each == 2 * store.nbytes / len(store) and len(store) == 2
    store.keep(joined(*texts), read(model, joined(*texts), 41))
    assert [store.begin(joined(text, text)).length for text in texts] == [20, 0, 20], "too large by itself: not kept"


def test_a_text_is_kept_once() -> None:
    model, text = model_of("qwen3"), ids(1, 20)
    assert len(store_of(model, text, text)) == 1


def test_a_kept_cache_is_not_the_one_that_goes_on() -> None:
    model, text = model_of("gemma3_text"), ids(1, 30)
    store, cache = PrefixStore(model.new_cache, max_bytes=PLENTY), read(model, text, 20)
    store.keep(text, cache)
    model(text[:, 20:], cache=cache)
    found = model(text[:, 20:], cache=store.begin(text)).logits
    assert same(found, model(text[:, 20:], cache=read(model, text, 20)).logits)


@pytest.mark.parametrize(
    ("do", "said"),
    [
        (lambda store, cache: store.begin(ids(2, 5)), r"\(2, 5\): a prefix is one row"),
        (lambda store, cache: store.keep(ids(2, 20), cache), r"\(2, 20\): a prefix is one row"),
        (lambda store, cache: store.keep(ids(1, 19), cache), "has read 20 positions: ids must be as many, not 19"),
    ],
)
def test_what_cannot_be_is_refused(do: Any, said: str) -> None:
    model = model_of("qwen3")
    with pytest.raises(InputError, match=said):
        do(store_of(model), read(model, ids(1, 20), 20))
