"""Would the proof notice? Faults are planted in n, one at a time; each must be called wrong and found where it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nexus_universal import ArchitectureParameter, families
from nexus_universal.architecture.errors import InputError
from nexus_universal.parity.certificate import Certificate
from nexus_universal.parity.draws import completed, longest_sample
from nexus_universal.parity.modes import sample
from nexus_universal.parity.prove import Pair, prove
from nexus_universal.parity.references import reference_config

SCALED = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
LLAMA3 = {"rope_parameters": {"rope_theta": 500.0, **SCALED, "original_max_position_embeddings": 16}}

FAULTS: list[tuple[str, dict[str, Any], str, Any, str]] = [
    # family, config, the field that is wrong, its wrong value, the component that first leaves the floor
    ("llama", LLAMA3, "layers.*.attention.rope.scaling", None, "layers.0.attention.output"),
    ("llama", {}, "layers.*.attention.rope.theta", 11000.0, "layers.0.attention.output"),
    ("llama", {}, "layers.1.attention.rope.pairing", "interleaved", "layers.1.attention.output"),
    ("llama", {"rms_norm_eps": 1e-3}, "layers.0.steps.0.norm.eps", 1e-5, "layers.0.attention_norm"),
    ("llama", {}, "final_norm.eps", 1e-2, "final_norm"),
    ("llama", {}, "layers.*.feed_forward.activation", "gelu", "layers.0.feed_forward.down"),
    ("llama", {}, "layers.*.attention.scale", 0.3, "layers.0.attention.output"),
    ("gemma3_text", {}, "embedding.scale", 7.0, "embedding.tokens"),
    ("gemma3_text", {}, "layers.0.attention.window", 15, "layers.0.attention.output"),
    ("gemma3_text", {}, "layers.0.attention.window", 17, "layers.0.attention.output"),
    ("gemma3_text", {}, "final_norm.scale", "weight", "final_norm"),
    ("gemma3_text", {"final_logit_softcapping": 30.0}, "head.softcap", None, ""),
    ("gpt2", {}, "layers.*.feed_forward.activation", "relu", "layers.0.feed_forward.down"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "layers.*.attention.scale", None, "layers.1.attention.output"),
    ("cohere2", {}, "head.scale", 0.0626, ""),
    ("cohere2", {}, "layers.3.attention.window", 16, "layers.3.attention.output"),
    ("mixtral", {}, "layers.*.feed_forward.router.normalise", False, "layers.1.attention_norm"),
    ("mixtral", {}, "layers.1.feed_forward.per_token", 3, "final_norm"),
    ("qwen3", {}, "layers.0.attention.qk_norm.when", "after_rope", "layers.0.attention.query_norm"),
    ("glm4_moe_lite", {}, "layers.*.feed_forward.router.scale", 1.0, "layers.2.attention_norm"),
    ("glm4_moe_lite", {}, "layers.*.attention.latent_norm.eps", 1e-2, "layers.0.attention.query_norm"),
    ("glm4_moe_lite", {}, "layers.1.attention.rope.pairing", "half", "layers.1.attention.output"),
    ("qwen3_next", {}, "layers.0.linear_attention.norm.eps", 1e-1, "layers.0.linear_attention.norm"),
    ("qwen3_next", {}, "layers.3.attention.rope.fraction", 0.5, "layers.3.attention.output"),
    ("qwen3_next", {}, "layers.0.linear_attention.gate_activation", "sigmoid", "layers.0.linear_attention.norm"),
]


def certificate_of(model_type: str, config: dict[str, Any], path: str, value: Any) -> Certificate:
    """The certificate of a model whose n is wrong in one field, with the reference's weights."""
    family = families.find(model_type)
    full = completed(family, {**family.tiny, **config})
    theirs = reference_config(model_type, full)
    right = ArchitectureParameter.from_huggingface(theirs)
    wrong = right.replace(path, value)
    assert wrong != right
    pair = Pair.built(theirs, wrong, dtype=torch.float32, seed=1)
    drawn = sample(right.d_vocab, length=longest_sample(right, wanted=80), batch=2, seed=1)
    certificate = Certificate("planted", model_type, wrong.signature, "float32")
    prove(certificate, pair, drawn, config=full)
    return certificate


@pytest.mark.parametrize(("model_type", "config", "path", "value", "component"), FAULTS)
def test_planted_fault_is_found(model_type: str, config: dict[str, Any], path: str, value: Any, component: str) -> None:
    certificate = certificate_of(model_type, config, path, value)
    assert certificate.verdict == "wrong", certificate.to_markdown()
    assert not certificate.proven
    assert f"{component} " in certificate.divergence or not component, certificate.divergence
    assert certificate.failing_config


def test_a_window_that_right_pads_would_shorten_is_refused() -> None:
    """The reference goes on silently with fewer tokens in the window; ours says so."""
    family = families.find("gemma3_text")
    theirs = reference_config("gemma3_text", completed(family, family.tiny))
    model = Pair.built(theirs, ArchitectureParameter.from_huggingface(theirs), dtype=torch.float32, seed=0).model
    ids = torch.randint(0, 97, (2, 30))
    mask = torch.ones_like(ids)
    mask[1, 12:] = 0
    cache = model.new_cache()
    model(ids, mask, cache=cache)
    with pytest.raises(InputError, match="window of 16: pad on the left"):
        model(ids[:, :1], torch.cat([mask, torch.ones(2, 1)], dim=1), cache=cache)
