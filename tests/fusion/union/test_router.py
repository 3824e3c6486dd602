"""Who answers: as near to Bayes' choice as models that were fitted, not told, can come; and silent when unsure."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.union.registry import Capability, ModelRegistry, ModelSpec
from nexus_universal.fusion.union.router import CapabilityRouter, bits_of
from tests.fusion.union.checkpoints import DATA

LETTERS = 12


def spec(name: str, *capabilities: str, nbytes: int = 1) -> ModelSpec:
    return ModelSpec(model_id=name, capabilities=frozenset(map(Capability, capabilities)), nbytes=nbytes)


def source(seed: int) -> np.ndarray:
    """Transition probabilities of a Markov source of letters."""
    return np.random.default_rng(seed).dirichlet(np.full(LETTERS, 0.7), size=LETTERS)


def sampled(chain: np.ndarray, length: int, count: int, seed: int) -> np.ndarray:
    draw = np.random.default_rng(seed)
    text = np.zeros((count, length), dtype=np.int64)
    text[:, 0] = draw.integers(0, LETTERS, count)
    edges = chain.cumsum(axis=1)
    for at in range(1, length):
        text[:, at] = (draw.random((count, 1)) > edges[text[:, at - 1]]).sum(axis=1).clip(max=LETTERS - 1)
    return text


def spelled(row: np.ndarray) -> str:
    return "".join(chr(97 + int(letter)) for letter in row)


def by_letter(chain: np.ndarray) -> Callable[[str], float]:
    def bits(text: str) -> float:
        ids = [ord(letter) - 97 for letter in text]
        steps = sum(math.log2(chain[a, b]) for a, b in pairwise(ids))
        return math.log2(LETTERS) - steps

    return bits


def fitted_by_letter(text: np.ndarray) -> Callable[[str], float]:
    """A model of single letters, from counts."""
    counts = np.full((LETTERS, LETTERS), 0.1)
    np.add.at(counts, (text[:, :-1].ravel(), text[:, 1:].ravel()), 1)
    return by_letter(counts / counts.sum(axis=1, keepdims=True))


def fitted_by_pair(text: np.ndarray) -> Callable[[str], float]:
    """A model whose tokens are two letters: another vocabulary, and another cut of the same bytes."""
    even = text[:, : text.shape[1] // 2 * 2]
    tokens = even[:, ::2] * LETTERS + even[:, 1::2]
    first = np.full(LETTERS**2, 0.1) + np.bincount(tokens.ravel(), minlength=LETTERS**2)
    follow = np.full((LETTERS, LETTERS**2), 0.1)
    np.add.at(follow, (tokens[:, :-1].ravel() % LETTERS, tokens[:, 1:].ravel()), 1)
    first, follow = np.log2(first / first.sum()), np.log2(follow / follow.sum(axis=1, keepdims=True))

    def bits(prompt: str) -> float:
        ids = [(ord(a) - 97) * LETTERS + ord(b) - 97 for a, b in zip(prompt[::2], prompt[1::2], strict=True)]
        return -float(first[ids[0]]) - sum(float(follow[a % LETTERS, b]) for a, b in pairwise(ids))

    return bits


@pytest.mark.parametrize("length", [4, 8, 16])
@pytest.mark.parametrize("prior", [0.5, 0.9])
def test_the_choice_is_within_three_points_of_bayes(length: int, prior: float) -> None:
    """Bayes knows both sources exactly; the router has models that saw samples, with tokens of one and two letters."""
    chains = {"a": source(0), "b": source(1)}
    fitted = {
        "a": fitted_by_letter(sampled(chains["a"], 64, 1500, 5)),
        "b": fitted_by_pair(sampled(chains["b"], 64, 3000, 6)),
    }
    priors = {"a": prior, "b": 1 - prior}
    registry = ModelRegistry(spec(name, "reasoning") for name in chains)
    router = CapabilityRouter(registry, fitted, priors=priors, margin_bits=0)
    count, right, best = 1200, 0, 0
    for seed, (name, chain) in enumerate(chains.items()):
        for row in sampled(chain, length, round(count * priors[name]), 100 + seed):
            prompt = spelled(row)
            right += router.choose(prompt).name == name
            exact = {key: by_letter(each)(prompt) - math.log2(priors[key]) for key, each in chains.items()}
            best += min(exact, key=exact.__getitem__) == name
    assert max(prior, 0.7) < best / count
    assert right / count > best / count - 0.03


def test_it_abstains_where_the_margin_is_small() -> None:
    registry = ModelRegistry([spec("a", "reasoning"), spec("b", "reasoning")])
    bits = {"a": 40.0, "b": 39.5}
    router = CapabilityRouter(registry, {name: lambda _, name=name: bits[name] for name in bits})
    unsure = router.choose("12345678")
    assert (unsure.name, unsure.reason, unsure.margin) == ("a", "abstained", 0.5)
    assert unsure.bits == {"a": 41 / 8, "b": 40.5 / 8}
    bits["b"] = 38.0
    assert (router.choose("12345678").name, router.choose("12345678").reason) == ("b", "bits_per_byte")
    assert router.choose("").reason == "abstained"
    leaning = CapabilityRouter(registry, router.scorers, priors={"a": 0.99, "b": 0.01})
    assert leaning.choose("12345678").name == "a"
    assert CapabilityRouter(registry).choose("words").reason == "abstained"
    with pytest.raises(InputError, match="the prior of c must be that of a registered model"):
        CapabilityRouter(registry, priors={"c": 0.5})


def test_what_is_named_comes_first_then_rules() -> None:
    registry = ModelRegistry(
        [spec("prose", "reasoning", nbytes=5), spec("painter", "img_gen", "image_edit"), spec("ear", "asr")]
    )
    router = CapabilityRouter(registry, {name: lambda _: 1.0 for name in ("prose", "painter", "ear")})
    for asked, name, reason in (
        ("painter", "painter", "explicit"),
        ("asr", "ear", "explicit"),
        (Capability.IMAGE_EDIT, "painter", "explicit"),
        (None, "painter", "rules"),
    ):
        route = router.choose("Draw me a picture of a lamp", capability=asked)
        assert (route.name, route.reason) == (name, reason)
    assert router.choose("Why is the sky blue?").reason == "abstained"
    assert router.detect_intent("Transcribe this, then paint a picture.") == [Capability.ASR, Capability.IMG_GEN]
    steps = router.route("Transcribe this, then paint a picture.")
    assert [each.model_id for _, each in steps] == ["ear", "painter"]
    assert router.detect_intent("Why is the sky blue?") == []
    assert [each.model_id for _, each in router.route("Why is the sky blue?")] == ["prose"]
    with pytest.raises(InputError, match=r"'tts' \(known: prose, painter, ear, reasoning, image_edit, img_gen, asr\)"):
        router.choose("anything", capability="tts")
    with pytest.raises(InputError, match="'tts'"):
        router.choose("Read this aloud")


def test_the_registry_gives_the_largest_that_fits() -> None:
    registry = ModelRegistry([spec("small", "agent", nbytes=10), spec("large", "agent", nbytes=1000)])
    assert [each.model_id for each in registry.get_models_for_capability("agent")] == ["small", "large"]
    assert registry.get_optimal_model("agent").model_id == "large"
    assert registry.get_optimal_model("agent", budget_bytes=999).model_id == "small"
    assert registry["large"].vram_required_gb == 1e-6
    for call, message in (
        (lambda: registry.get_optimal_model("agent", budget_bytes=9), "agent within 9 bytes: the smallest .* takes 10"),
        (lambda: registry.get_optimal_model("tts"), r"no model has the capability tts \(there are agent\)"),
        (lambda: registry.get_optimal_model("smell"), r"capability 'smell' \(known: reasoning, vision"),
        (lambda: registry.add(spec("small")), "registered already"),
        (lambda: registry["huge"], r"model 'huge' \(known: small, large\)"),
    ):
        with pytest.raises(InputError, match=message):
            call()


@torch.no_grad()
def test_the_bits_of_a_text_are_those_of_all_its_tokens() -> None:
    model = UniversalTransformer.from_pretrained(DATA / "qwen3_tiny")
    tokenizer = AutoTokenizer.from_pretrained(DATA / "qwen3_tiny")
    text = "Return the absolute value."
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    start = model.n.text.bos
    said = model(torch.tensor([[start, *ids]])).logits[0].double().log_softmax(-1)
    wanted = -sum(float(said[at, token]) for at, token in enumerate(ids)) / math.log(2)
    assert bits_of(model, tokenizer, text) == pytest.approx(wanted, rel=1e-5)
    assert 0.2 < wanted / len(text) < 2
