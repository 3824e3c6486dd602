"""transformers' continuous batching over the one class: packed, paged requests give the texts that they give alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ContinuousBatchingConfig, GenerationConfig

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.integrations.paged import Pages
from nexus_universal.integrations.transformers import NexusForCausalLM
from tests.helpers import ROOT, ids, reference, universal

GREEDY = GenerationConfig(max_new_tokens=10, do_sample=False, eos_token_id=-1, pad_token_id=0)
KINDS = {
    "full attention": "qwen3",
    "windows among full attention": "gemma3_text",
    "windows and sinks": "gpt_oss",
    "one window everywhere": "mistral",
    "keys and values of an earlier layer": "gemma3n_text",
    "experts": "mixtral",
    "softcap": "gemma2",
    "learned positions": "gpt2",
    "temperature by position": "ministral3",
}


def prompts() -> list[list[int]]:
    """Of several lengths, the longest cut by the batch; two begin with the same page."""
    drawn = [ids(1, length, seed=length)[0].tolist() for length in (5, 23, 40)]
    return [*drawn, drawn[2][:20] + drawn[1][:9]]


def batched(model: Any, asked: list[list[int]], **settings: Any) -> list[list[int]]:
    """New tokens of every request, by `generate_batch`: pages of 16 positions, 32 tokens to a call."""
    pages = ContinuousBatchingConfig(**{"num_blocks": 64, "page_size": 16, "max_batch_tokens": 32, **settings})
    found = model.generate_batch(inputs=asked, generation_config=GREEDY, continuous_batching_config=pages)
    assert len(found) == len(asked) and not any(each.error for each in found.values())
    return [each.generated_tokens for each in found.values()]


def alone(model: Any, asked: list[list[int]]) -> list[list[int]]:
    return [_greedy(model, torch.tensor([each]))[0, len(each) :].tolist() for each in asked]


def _greedy(model: Any, tokens: Tensor) -> Tensor:
    return model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=GREEDY)


@pytest.mark.parametrize("model_type", KINDS.values(), ids=KINDS)
def test_texts_are_those_of_the_reference_and_of_each_request_alone(model_type: str) -> None:
    theirs = reference(model_type)
    ours = NexusForCausalLM.of(universal(theirs))
    found = batched(ours, prompts())
    assert found == batched(theirs, prompts()) == alone(theirs, prompts())
    assert found == alone(ours, prompts()), "generate goes on as before"
    assert len({tuple(text) for text in found}) > 1, "texts that are all alike show nothing"


def test_few_pages_and_many_requests() -> None:
    """Requests wait for pages, and are put off while others run."""
    ours = NexusForCausalLM.of(universal(reference("gemma3_text")))
    asked = [ids(1, 3 + seed, seed=seed)[0].tolist() for seed in range(12)]
    assert batched(ours, asked, num_blocks=5, max_batch_tokens=16) == alone(ours, asked)


def test_an_optimised_model_and_a_trained_one() -> None:
    model = UniversalTransformer.from_pretrained(ROOT / "tests" / "data" / "gemma3_tiny").optimize()
    asked = [ids(1, length, seed=length, vocab=1024)[0].tolist() for length in (7, 50, 90)]
    ours = NexusForCausalLM.of(model)
    assert batched(ours, asked) == alone(ours, asked)


@pytest.mark.parametrize(
    ("model_type", "changes", "said"),
    [
        ("qwen3_next", {}, r"layers\.0\.linear_attention is a GatedDeltaRule: use generate"),
        ("glm4_moe_lite", {}, r"layers\.0\.attention is a LatentAttention: use generate"),
        ("bloom", {}, "an Attention with alibi"),
        ("llama4_text", {}, "an Attention with chunked"),
        ("doge", {}, "an Attention with dynamic_mask"),
        ("gpt_neo", {}, "a window that keeps = 'all'"),
        ("gemma4_text", {}, r"key/value heads of one number and width.* n has \[\(2, 16\), \(2, 24\)\]"),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 100.0, "factor": 2.0}}, "DynamicScaling"),
    ],
)
def test_what_pages_cannot_serve_is_refused_by_name(model_type: str, changes: dict[str, Any], said: str) -> None:
    ours = NexusForCausalLM.of(universal(reference(model_type, **changes)))
    with pytest.raises(InputError, match=f"^continuous batching: .*{said}"):
        ours.generate_batch(inputs=[[1, 2]], generation_config=GREEDY)


def test_pages_are_said_as_a_config_says_them() -> None:
    theirs = reference("gemma3_text")
    found, expected = Pages.of(universal(theirs).n).said, theirs.config
    assert found == {name: getattr(expected, name) for name in found}


def test_the_reference_confuses_the_turns_of_a_loop() -> None:
    """Each cycle of HRM-Text writes over the pages of the one before it; ours keeps them apart."""
    theirs = reference("hrm_text")
    ours = NexusForCausalLM.of(universal(theirs))
    assert batched(ours, prompts()) == alone(theirs, prompts()) != batched(theirs, prompts())
