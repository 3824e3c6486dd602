"""What people do with a transformers model, done with the one class behind it, beside the reference itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    DynamicCache,
    StoppingCriteria,
    Trainer,
    TrainingArguments,
    pipeline,
)

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.integrations.transformers import NexusConfig, NexusForCausalLM, lora_targets
from tests.helpers import ids_without_pads as ids
from tests.helpers import reference, universal

TRAINED = Path(__file__).parents[1] / "data" / "qwen3_tiny"
KINDS = ("llama", "gemma3_text", "qwen3_next", "deepseek_v3", "mamba2")
"""Every key, a window, a recurrence, a latent, a state space alone."""

kinds = pytest.mark.parametrize("model_type", KINDS)


def both(model_type: str) -> tuple[Any, NexusForCausalLM]:
    """The reference, and the same weights behind a PreTrainedModel of ours."""
    theirs = reference(model_type).eval()
    return theirs, NexusForCausalLM.of(universal(theirs)).eval()


class AfterSix(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return torch.full((input_ids.shape[0],), input_ids.shape[1] >= 12 + 6)


STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3},
    "sampled": {"do_sample": True, "temperature": 0.8, "top_k": 20},
    "several": {"do_sample": True, "num_return_sequences": 3},
    "sampled beams": {"do_sample": True, "num_beams": 2, "length_penalty": 0.7},
    "stopped": {"stopping_criteria": [AfterSix()]},
    "without a cache": {"use_cache": False},
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@kinds
def test_a_strategy_gives_the_references_text(model_type: str, strategy: str) -> None:
    theirs, ours = both(model_type)
    settings = {"max_new_tokens": 10, "do_sample": False, "pad_token_id": 0, **STRATEGIES[strategy]}
    found = []
    for model in (theirs, ours):
        torch.manual_seed(3)
        found.append(model.generate(ids(2, 12), attention_mask=torch.ones(2, 12, dtype=torch.long), **settings))
    assert torch.equal(*found)
    assert found[0].shape[1] > 12


@pytest.mark.parametrize("drafts", [{"prompt_lookup_num_tokens": 4}, {"assistant": True}])
@kinds
def test_assisted_text_is_greedy_text(model_type: str, drafts: dict[str, Any]) -> None:
    """Windows and recurrences go back into the middle of a call: every refused draft crops the cache."""
    _, ours = both(model_type)
    prompt = ids(1, 6).repeat(1, 3)
    settings: dict[str, Any] = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0}
    mask = torch.ones_like(prompt)
    greedy = ours.generate(prompt, attention_mask=mask, **settings)
    if "assistant" in drafts:
        other = NexusForCausalLM.of(universal(reference(model_type, seed=5).eval())).eval()
        drafts = {"assistant_model": other}
    assert torch.equal(ours.generate(prompt, attention_mask=mask, **settings, **drafts), greedy)


def test_a_left_padded_batch_is_generated_as_the_reference_does() -> None:
    theirs, ours = both("llama")
    prompt, mask = ids(2, 12), torch.ones(2, 12, dtype=torch.long)
    mask[0, :5] = 0
    texts = [
        model.generate(prompt, attention_mask=mask, max_new_tokens=8, do_sample=False, pad_token_id=0)
        for model in (theirs, ours)
    ]
    assert torch.equal(*texts)


@pytest.mark.parametrize(
    "strategy", [{}, {"num_beams": 2}, {"prompt_lookup_num_tokens": 4}], ids=["", "beams", "drafts"]
)
@kinds
def test_with_a_static_cache_texts_are_the_same(model_type: str, strategy: dict[str, Any]) -> None:
    _, ours = both(model_type)
    steady = NexusForCausalLM.of(universal(reference(model_type).eval()).optimize(cache="static")).eval()
    prompt = ids(1, 6).repeat(1, 3)
    settings: dict[str, Any] = {"max_new_tokens": 14, "do_sample": False, "pad_token_id": 0, **strategy}
    texts = [model.generate(prompt, attention_mask=torch.ones_like(prompt), **settings) for model in (ours, steady)]
    assert torch.equal(*texts)
    if not strategy:
        found = steady.generate(prompt, **settings, eos_token_id=None, return_dict_in_generate=True)
        assert found.past_key_values.cache.bound is not None


def test_the_cache_is_given_back_and_goes_on() -> None:
    _, ours = both("gemma3_text")
    prompt = ids(1, 12)
    mask = torch.ones_like(prompt)
    settings: dict[str, Any] = {"do_sample": False, "eos_token_id": 96, "return_dict_in_generate": True}
    first = ours.generate(prompt, attention_mask=mask, max_new_tokens=5, **settings)
    more = ours.generate(
        first.sequences,
        attention_mask=torch.ones_like(first.sequences),
        past_key_values=first.past_key_values,
        max_new_tokens=5,
        **settings,
    )
    whole = ours.generate(prompt, attention_mask=mask, max_new_tokens=10, **settings)
    assert torch.equal(more.sequences, whole.sequences)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"cache_implementation": "static"}, "cache_implementation = 'static': must be None"),
        ({"past_key_values": DynamicCache()}, "past_key_values is a DynamicCache: must be a NexusCache"),
    ],
)
def test_another_cache_is_refused(settings: dict[str, Any], message: str) -> None:
    _, ours = both("llama")
    with pytest.raises(InputError, match=message):
        ours.generate(ids(1, 5), max_new_tokens=2, **settings)


@kinds
def test_loss_and_gradients_are_the_references(model_type: str) -> None:
    theirs, ours = both(model_type)
    labels = ids(2, 16).clone()
    labels[0, :4] = -100
    losses = [model.train()(ids(2, 16), labels=labels).loss for model in (theirs, ours)]
    assert torch.equal(*losses)
    for loss in losses:
        loss.backward()
    expected = sum(p.grad.double().square().sum() for p in theirs.parameters() if p.grad is not None)
    found = sum(p.grad.double().square().sum() for p in ours.parameters() if p.grad is not None)
    assert torch.allclose(torch.as_tensor(found), torch.as_tensor(expected), rtol=1e-6)


@pytest.mark.parametrize("model_type", [*KINDS, "gemma3n_text", "zamba2", "hrm_text", "minimax"])
def test_checkpointed_gradients_are_the_same_bits(model_type: str) -> None:
    """Layers that hand keys, streams or states to later ones are computed anew on the way back, too."""
    _, ours = both(model_type)
    ours.train()
    gradients = []
    for checkpointed in (False, True):
        if checkpointed:
            ours.gradient_checkpointing_enable()
        ours.zero_grad()
        calls = 0

        def count(*_: Any) -> None:
            nonlocal calls
            calls += 1

        with ours.model.layers[-1].register_forward_pre_hook(count):
            ours(ids(2, 12), labels=ids(2, 12)).loss.backward()
        assert calls == 1 + checkpointed
        gradients.append({name: p.grad.clone() for name, p in ours.named_parameters() if p.grad is not None})
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    assert all(torch.equal(gradient, gradients[1][name]) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3", "mamba2"])
def test_auto_classes_open_the_nexus_format(model_type: str, tmp_path: Path) -> None:
    _, ours = both(model_type)
    ours.save_pretrained(tmp_path / "saved")
    config = AutoConfig.from_pretrained(tmp_path / "saved")
    assert isinstance(config, NexusConfig) and config.parameter == ours.model.n
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved")
    assert isinstance(again, NexusForCausalLM) and not again.training
    torch.testing.assert_close(again(ids(2, 9)).logits, ours(ids(2, 9)).logits)  # a file's alignment moves last bits
    assert ArchitectureParameter.from_huggingface(config) == ours.model.n


def test_auto_classes_open_an_n_without_a_family(tmp_path: Path) -> None:
    n = universal(reference("llama")).n.replace("layers.1.attention.window", 5).replace("head.softcap", 3.0)
    model = NexusForCausalLM(NexusConfig.of(n))
    model.save_pretrained(tmp_path / "saved")
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", dtype="bfloat16")
    assert again.dtype == torch.bfloat16 and again.model.n == n


def test_any_checkpoint_is_opened_as_a_transformers_model() -> None:
    ours = NexusForCausalLM.from_pretrained(TRAINED)
    theirs = AutoModelForCausalLM.from_pretrained(TRAINED)
    assert torch.equal(ours(ids(1, 9)).logits, theirs(ids(1, 9)).logits)
    assert ours.generation_config.eos_token_id == theirs.generation_config.eos_token_id


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(InputError, match="device_map names several devices: must be one"):
        NexusForCausalLM.from_pretrained(TRAINED, device_map={"model.layers.0": 0, "model.head": 1})
    for name, value in (("quantization_config", 8), ("attn_implementation", "flash_attention_2"), ("dtypo", "float32")):
        with pytest.raises(InputError, match=f"from_pretrained: {name} = .* is not known"):
            NexusForCausalLM.from_pretrained(TRAINED, **{name: value})
    model = NexusForCausalLM.from_pretrained(TRAINED, torch_dtype=torch.float64, low_cpu_mem_usage=True)
    assert model.dtype == torch.float64
    with pytest.raises(InputError, match="save_pretrained: push_to_hub = True is not known"):
        model.save_pretrained("nowhere", push_to_hub=True)
    with pytest.raises(InputError, match="output_attentions: read activation points instead"):
        model(ids(1, 3), output_attentions=True)
    with pytest.raises(InputError, match="is not reset"):
        model(ids(1, 3)).past_key_values.reset()
    with pytest.raises(InputError, match=r"no module multiplies 'querry' \(there are: down, gate, key"):
        lora_targets(universal(reference("llama")), ["querry"])


def test_a_pipeline_writes_what_the_references_does() -> None:
    tokenizer = AutoTokenizer.from_pretrained(TRAINED)
    texts = []
    for model in (AutoModelForCausalLM.from_pretrained(TRAINED), NexusForCausalLM.from_pretrained(TRAINED)):
        write = pipeline("text-generation", model=model, tokenizer=tokenizer)
        texts.append(write("Once upon a time", max_new_tokens=16, do_sample=False)[0]["generated_text"])
    assert texts[0] == texts[1] and len(texts[0]) > len("Once upon a time")


class Tokens(torch.utils.data.Dataset):
    """One text, over and over."""

    def __len__(self) -> int:
        return 64

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        row = ids(1, 16)[0]
        return {"input_ids": row, "labels": row.clone()}


def test_the_trainer_learns_saves_and_goes_on(tmp_path: Path) -> None:
    """Gradient checkpointing included; what it saves is a nexus checkpoint."""
    transformers.set_seed(0)
    model = NexusForCausalLM(NexusConfig.of(universal(reference("qwen3")).n))
    said = TrainingArguments(
        output_dir=str(tmp_path / "run"),
        max_steps=20,
        per_device_train_batch_size=2,
        learning_rate=3e-3,
        logging_steps=1,
        save_steps=10,
        report_to=[],
        gradient_checkpointing=True,
        use_cpu=True,
        disable_tqdm=True,
    )
    trainer = Trainer(model=model, args=said, train_dataset=Tokens())
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert losses[-1] < 0.6 * losses[0]
    saved = UniversalTransformer.from_pretrained(tmp_path / "run" / "checkpoint-20")
    assert torch.equal(saved(ids(1, 8)).logits, model.eval()(ids(1, 8)).logits)
