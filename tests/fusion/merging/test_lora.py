"""Adapters in PEFT's files: extracted, united, and the same in PEFT's own hands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.fusion.merging.lora import Adapter, Factors, extract, union, unite
from nexus_universal.fusion.retention import Tier
from tests.fusion.merging.pairs import published, related, rewritten
from tests.fusion.merging.test_run import DATA
from tests.helpers import ids_without_pads

SOURCE = DATA / "qwen3_tiny"
TARGETS: dict[str, list[str]] = {"one": ["q_proj", "down_proj"], "two": ["q_proj", "up_proj"]}


def peft_adapter(folder: Path, targets: list[str], *, seed: int, source: Path = SOURCE, **settings: Any) -> Path:
    """What PEFT itself writes, B not zero."""
    torch.manual_seed(seed)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(source),
        LoraConfig(target_modules=targets, task_type="CAUSAL_LM", **settings),
    )
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    model.save_pretrained(folder)
    return folder


@torch.no_grad()
def peft_logits(*adapters: Path, source: Path = SOURCE) -> Tensor:
    """PEFT's logits with all adapters merged, one after the other."""
    model: Any = AutoModelForCausalLM.from_pretrained(source)
    for adapter in adapters:
        model = PeftModel.from_pretrained(model, str(adapter)).merge_and_unload()
    return model.eval()(ids_without_pads(2, 12)).logits


@pytest.mark.parametrize("settings", [{"r": 3, "lora_alpha": 7}, {"r": 4, "use_rslora": True}])
def test_a_union_is_the_sum_in_pefts_hands(settings: dict[str, Any], tmp_path: Path) -> None:
    one = peft_adapter(tmp_path / "one", TARGETS["one"], seed=1, **settings)
    two = peft_adapter(tmp_path / "two", TARGETS["two"], seed=2, r=2, alpha_pattern={"up_proj": 5})
    certificate = unite([one, two], tmp_path / "both", base=SOURCE)
    assert certificate.promised is Tier.REAL and certificate.tier <= Tier.REAL
    apart, together, plain = peft_logits(one, two), peft_logits(tmp_path / "both"), peft_logits()
    assert (apart - together).abs().max() < 1e-4 < 0.1 < (apart - plain).abs().max()
    again = Adapter.read(tmp_path / "both")
    assert {each.a.shape[0] for each in again.factors.values()} == {settings["r"], 2, settings["r"] + 2}


@given(weights=st.lists(st.floats(-3, 3), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_a_union_is_exact(weights: list[float], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    adapters = [
        Adapter({"m": Factors(torch.randn(r, 5, generator=generator), torch.randn(6, r, generator=generator))})
        for r in range(1, len(weights) + 1)
    ]
    each = [adapter.factors["m"] for adapter in adapters]
    wanted = sum(w * f.b.double() @ f.a.double() for w, f in zip(weights, each, strict=True))
    found = union(adapters, weights=weights).factors["m"]
    assert torch.allclose(found.b.double() @ found.a.double(), wanted, atol=1e-5)


@pytest.mark.parametrize("model_type", ["qwen3", "gpt2"])
def test_a_low_rank_difference_is_extracted_whole(model_type: str, tmp_path: Path) -> None:
    """Also of matrices that are stored [in, out]; PEFT adds it to the base."""
    source = published(model_type)
    generator = torch.Generator().manual_seed(0)

    def tuned(found: dict[str, Tensor]) -> dict[str, Tensor]:
        names = [name for name in found if name.endswith(("output.weight", "down.weight"))]
        noise = {
            name: torch.randn(found[name].shape[0], 2, generator=generator)
            @ torch.randn(2, found[name].shape[1], generator=generator)
            for name in names
        }
        return {name: found[name] + 0.02 * noise[name] for name in names}

    target = rewritten(source, tmp_path / "tuned", tuned)
    certificate = extract(target, source, tmp_path / "adapter", rank=2)
    assert certificate.promised is Tier.STATISTICAL and certificate.tier is Tier.REAL
    assert "100.0000% of the differences' energy is kept" in str(certificate)
    wanted = peft_logits(source=target)
    assert (peft_logits(tmp_path / "adapter", source=source) - wanted).abs().max() < 1e-4
    lossy = extract(target, source, tmp_path / "rank1", rank=1)
    assert lossy.tier is Tier.STATISTICAL and lossy.evidence[0].logits is not None


def test_what_no_adapter_holds_is_said(tmp_path: Path) -> None:
    certificate = extract(related("qwen3", tmp_path / "b"), published("qwen3"), tmp_path / "out", rank=4)
    assert "embedding.tokens.weight differs" in str(certificate) and "final_norm.weight differs" in str(certificate)


def test_adapters_that_are_more_than_factors_are_refused(tmp_path: Path) -> None:
    for index, (settings, reason) in enumerate(
        [({"use_dora": True}, "use_dora"), ({"modules_to_save": ["lm_head"]}, "modules_to_save")]
    ):
        folder = peft_adapter(tmp_path / str(index), ["q_proj"], seed=0, **settings)
        with pytest.raises(CheckpointError, match=f"{reason} = .* is more than"):
            Adapter.read(folder)
    plain = peft_adapter(tmp_path / "plain", ["q_proj"], seed=0)
    tensors = load_file(plain / "adapter_model.safetensors")
    save_file(dict(list(tensors.items())[1:]), plain / "adapter_model.safetensors")
    with pytest.raises(CheckpointError, match=r"more, or less, than B A: .*lora_[AB].weight is missing"):
        Adapter.read(plain)
    (plain / "adapter_config.json").write_text(json.dumps({"peft_type": "IA3"}))
    with pytest.raises(CheckpointError, match="IA3"):
        Adapter.read(plain)
    with pytest.raises(CheckpointError, match="holds no adapter"):
        Adapter.read(tmp_path)


def test_what_cannot_be_united_is_refused(tmp_path: Path) -> None:
    one = Adapter({"m": Factors(torch.ones(1, 5), torch.ones(6, 1))})
    with pytest.raises(InputError, match="1 adapters and 2 weights"):
        union([one], weights=[1, 2])
    with pytest.raises(InputError, match="m is"):
        union([one, Adapter({"m": Factors(torch.ones(1, 4), torch.ones(6, 1))})])
    with pytest.raises(InputError, match=r"\[in, out\]"):
        union([one, Adapter(one.factors, transposed=True)])
    Adapter({"elsewhere": Factors(torch.ones(1, 5), torch.ones(6, 1))}).write(tmp_path / "a")
    with pytest.raises(CheckpointError, match="adds to elsewhere, which is no matrix"):
        unite([tmp_path / "a"], tmp_path / "out", base=SOURCE)
    with pytest.raises(InputError, match="differ in no matrix"):
        extract(SOURCE, SOURCE, tmp_path / "out", rank=2)
    assert not (tmp_path / "out").exists()
