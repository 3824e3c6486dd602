"""Models with towers: their text model is built, what belongs to towers is passed over by rule, and said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.architecture.ends import Origin
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.cli import sources
from nexus_universal.families.shared import names
from nexus_universal.parity.references import build_reference, reference_config
from tests.helpers import ids, raw, same

COMPOSITES = [
    name for name in families.model_types() if families.find(name).saved_as and not families.find(name).reference
]
NESTED = [name for name in COMPOSITES if families.find(name).sections]


def tiny(model_type: str) -> dict[str, Any]:
    return {"model_type": model_type, **families.find(model_type).tiny}


def saved(model_type: str, directory: Path) -> Any:
    """The whole reference, towers too, on disk."""
    family = families.find(model_type)
    config = reference_config(model_type, family.tiny)
    model = build_reference(config, dtype=torch.float32, seed=3)
    model.save_pretrained(directory)
    return model


@pytest.mark.parametrize("model_type", COMPOSITES)
def test_a_whole_checkpoint_loads_and_says_what_it_left_out(model_type: str, tmp_path: Path) -> None:
    theirs = saved(model_type, tmp_path)
    ours = UniversalTransformer.from_pretrained(tmp_path).eval()
    tokens = ids(2, 20)
    assert same(ours(tokens).logits, theirs(tokens).logits)
    inside = {name for name in load_file(tmp_path / "model.safetensors") if name not in ours.passed_over}
    assert ours.passed_over and all("tower" in why or "left out" in why for why in ours.passed_over.values())
    assert len(inside) >= len(list(ours.parameters()))
    assert sources.left_out(ours.n) == list(families.find(model_type).left_out)


@pytest.mark.parametrize("model_type", COMPOSITES)
def test_it_is_saved_as_the_text_model_that_it_is(model_type: str, tmp_path: Path) -> None:
    """No tower's weights are there: a config that speaks of one would let transformers draw it at random."""
    saved(model_type, tmp_path / "whole")
    ours = UniversalTransformer.from_pretrained(tmp_path / "whole").eval()
    ours.save_pretrained(tmp_path / "text")
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "text", output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    assert theirs.config.model_type == families.find(model_type).saved_as
    assert same(theirs.eval()(ids(2, 20)).logits, ours(ids(2, 20)).logits)


@pytest.mark.parametrize("model_type", NESTED)
def test_older_files_hold_the_text_model_elsewhere(model_type: str, tmp_path: Path) -> None:
    theirs = saved(model_type, tmp_path)
    older, held = names.LANGUAGE_MODEL
    renamed = {}
    for name, tensor in load_file(tmp_path / "model.safetensors").items():
        prefix = next((prefix for prefix, place in held.items() if name.startswith(place)), None)
        moved = name if prefix is None else older[prefix] + name.removeprefix(held[prefix])
        renamed[moved.removeprefix("model.") if prefix is None else moved] = tensor
    save_file(renamed, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = UniversalTransformer.from_pretrained(tmp_path).eval()
    assert same(ours(ids(2, 20)).logits, theirs(ids(2, 20)).logits)


@pytest.mark.parametrize("model_type", NESTED)
def test_the_text_model_is_that_of_its_own_family(model_type: str) -> None:
    section = families.find(model_type).sections["text_config"]
    n = ArchitectureParameter.from_huggingface(tiny(model_type))
    alone = ArchitectureParameter.from_huggingface(raw(section.family.model_type))
    assert n.layers == alone.layers
    assert n.embedding == alone.embedding


@pytest.mark.parametrize("model_type", NESTED)
def test_the_section_is_accounted_for_key_by_key(model_type: str) -> None:
    config, text = tiny(model_type), tiny(model_type)["text_config"]
    with pytest.raises(UnsupportedConfig, match=rf"^{model_type}: text_config\.unsloth_version = 3 "):
        ArchitectureParameter.from_huggingface(config | {"text_config": text | {"unsloth_version": 3}})
    with pytest.raises(UnsupportedConfig, match=rf"^{model_type}: text_config\.model_type = 'another'"):
        ArchitectureParameter.from_huggingface(config | {"text_config": text | {"model_type": "another"}})
    with pytest.raises(UnsupportedConfig, match=rf"^{model_type}: text_config\.is_encoder_decoder = True"):
        ArchitectureParameter.from_huggingface(config | {"text_config": text | {"is_encoder_decoder": True}})
    known = text | {"temperature": 3.0, "_name_or_path": "somewhere", "is_encoder_decoder": False}
    plain, same_n = (ArchitectureParameter.from_huggingface(config | {"text_config": t}) for t in (text, known))
    assert plain == same_n


@pytest.mark.parametrize("model_type", NESTED)
def test_a_change_is_written_into_the_section(model_type: str) -> None:
    config = tiny(model_type)
    n = ArchitectureParameter.from_huggingface(config).replace("layers.*.attention.rope.theta", 700.0)
    found = n.to_huggingface()
    assert {key for key in config if found[key] != config[key]} == {"text_config"}
    text = found["text_config"]
    assert {key for key in config["text_config"] if text.get(key) != config["text_config"][key]} <= {"rope_parameters"}
    assert ArchitectureParameter.from_huggingface(found) == n
    assert ArchitectureParameter.from_huggingface(replace(n, origin=Origin()).to_huggingface(family=model_type)) == n


def test_beside_a_tower_the_reference_caps_no_logits() -> None:
    config = tiny("gemma3")
    capped = config | {"text_config": config["text_config"] | {"final_logit_softcapping": 3.0}}
    assert ArchitectureParameter.from_huggingface(capped).head.softcap is None


def test_what_is_said_outside_wins() -> None:
    n = ArchitectureParameter.from_huggingface(
        tiny("got_ocr2") | {"eos_token_id": [7, 8], "torch_dtype": "bfloat16", "tie_word_embeddings": False}
    )
    assert (n.text.eos, n.text.dtype, n.head.tied) == ((7, 8), "bfloat16", False)
