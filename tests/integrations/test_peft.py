"""PEFT on the one class: adapters by canonical role, packed or not, learned, saved, opened and merged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model

from nexus_universal.integrations.transformers import NexusForCausalLM, lora_targets
from tests.helpers import ids_without_pads as ids
from tests.helpers import reference, universal

ROLES: dict[str, tuple[str, ...]] = {
    "llama": ("query", "value", "up", "down"),
    "phi3": ("query", "output"),
    "gpt_neox": ("query", "up"),
    "deepseek_v3": ("query_up", "output"),
    "qwen3_next": ("query", "gate"),
    "mamba2": ("output",),
}
"""Alone and packed, latent, with a recurrence, without attention."""


def model_of(model_type: str) -> NexusForCausalLM:
    return NexusForCausalLM.of(universal(reference(model_type).eval())).eval()


def adapted(model_type: str, roles: tuple[str, ...]) -> Any:
    model = model_of(model_type)
    torch.manual_seed(1)
    return get_peft_model(model, LoraConfig(r=4, target_modules=lora_targets(model, roles), task_type="CAUSAL_LM"))


def learn(model: Any, steps: int = 5) -> list[float]:
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    losses = []
    for _ in range(steps):
        loss = model.train()(input_ids=ids(2, 12), labels=ids(2, 12)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
        losses.append(float(loss))
    model.eval()
    return losses


@pytest.mark.parametrize(("model_type", "roles"), ROLES.items())
def test_adapters_begin_as_nothing_learn_and_come_back(model_type: str, roles: tuple[str, ...], tmp_path: Path) -> None:
    plain, model = model_of(model_type), adapted(model_type, roles)
    before = plain(ids(2, 9)).logits
    assert torch.equal(model.eval()(input_ids=ids(2, 9)).logits, before)
    losses = learn(model)
    learned = model(input_ids=ids(2, 9)).logits
    assert losses[-1] < losses[0] and (learned - before).abs().max() > 1e-2
    held = [name for name, p in model.named_parameters() if p.requires_grad]
    assert held and all("lora_" in name for name in held)
    assert all(torch.isfinite(p).all() and p.abs().max() > 0 for n, p in model.named_parameters() if n in held)
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(model_of(model_type), tmp_path / "adapter").eval()
    assert torch.equal(again(input_ids=ids(2, 9)).logits, learned)
    merged = model.merge_and_unload()
    assert isinstance(merged, NexusForCausalLM)
    torch.testing.assert_close(merged(ids(2, 9)).logits, learned, rtol=1e-4, atol=1e-4)


def test_an_adapted_model_generates() -> None:
    model = adapted("llama", ("query", "value"))
    learn(model)
    text = model.generate(input_ids=ids(1, 8), attention_mask=torch.ones(1, 8), max_new_tokens=6, do_sample=False)
    logits = model(input_ids=text[:, :-1]).logits
    assert torch.equal(text[:, 8:], logits[:, 7:].argmax(-1))
