"""The way back: from n to a config, for every family, without any family saying how."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.architecture.ends import Origin
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.families.shared import inverse
from nexus_universal.parity.draws import completed, draw_configs
from nexus_universal.parity.references import load_reference

DRAWS = 3
LONE_SHARE = [0.0, 0.0, 0.0, 0.0, 0.7, 0.0]


def read(model_type: str, config: dict[str, Any]) -> ArchitectureParameter:
    return ArchitectureParameter.from_huggingface({**config, "model_type": model_type})


def tiny(model_type: str, **values: Any) -> ArchitectureParameter:
    family = families.find(model_type)
    return read(model_type, completed(family, {**family.tiny, **values}))


NOT_FOUND = {
    "cohere_compass_text": (0, 1, 2),
    "laguna": (1, 2),
    "recurrent_gemma": (0, 1, 2),
    "zamba2": (0, 1, 2),
    **dict.fromkeys(("ernie4_5_moe", "gemma4", "gemma4_unified", "inkling_text", "jamba"), (1,)),
    **dict.fromkeys(("llama4", "llama4_text", "olmo_hybrid"), (1,)),
    **dict.fromkeys(("beam", "inkling2_text", "qwen4_exp", "qwen4_exp_text", "zamba"), (2,)),
}
"""Draws of which no config is found without their origin: several keys would have to change at once.

The search tries keys one by one and in pairs (families/shared/inverse.py); one that changes a list of layers together
with the sections that name them would find these.
"""

SOUGHT = [
    pytest.param(name, draw, marks=pytest.mark.slow if draw else ())
    for name in families.model_types()
    for draw in range(DRAWS)
    if draw not in NOT_FOUND.get(name, ())
]


@pytest.mark.parametrize(("model_type", "draw"), SOUGHT)
def test_a_config_is_found_for_an_n_that_has_none(model_type: str, draw: int) -> None:
    n = read(model_type, draw_configs(families.find(model_type), DRAWS, seed=7)[draw])
    config = replace(n, origin=Origin()).to_huggingface(family=model_type)
    found = ArchitectureParameter.from_huggingface(config)
    assert found == n
    assert found.text == n.text


@pytest.mark.parametrize(
    ("model_type", "path", "value", "expected"),
    [
        ("llama", "layers.*.attention.rope.theta", 5e5, {"rope_parameters": {"rope_theta": 5e5}}),
        ("llama", "layers.*.feed_forward.width", 96, {"intermediate_size": 96}),
        ("mixtral", "layers.*.mixer.window", 9, {"sliding_window": 9}),
        ("gemma3_text", "head.softcap", 20.0, {"final_logit_softcapping": 20.0}),
        ("gemma3_text", "layers.*.attention.scale", 0.125, {"query_pre_attn_scalar": 64}),
        ("gpt2", "layers.*.feed_forward.activation", "relu", {"activation_function": "relu"}),
        ("qwen3_next", "layers.*.linear_attention.convolution", 3, {"linear_conv_kernel_dim": 3}),
        ("gemma3n_text", "layers.2.block.feed_forward.width", 64, {"intermediate_size": [80, 80, 64, 80, 80, 80]}),
        ("gemma3n_text", "layers.4.block.feed_forward.sparsity", 0.7, {"activation_sparsity_pattern": LONE_SHARE}),
        ("minicpm3", "head.input_divisor", 48 / 7, {"dim_model_base": 7}),
    ],
)
def test_only_what_was_changed_changes(model_type: str, path: str, value: Any, expected: dict[str, Any]) -> None:
    n = tiny(model_type)
    config, changed = n.to_huggingface(), n.replace(path, value).to_huggingface()
    different = {key: found for key, found in changed.items() if config.get(key) != found}
    assert different.keys() == expected.keys()
    for key, wanted in expected.items():
        found = different[key]
        assert wanted.items() <= found.items() if isinstance(wanted, dict) else found == wanted


def test_layers_that_are_picked_one_by_one() -> None:
    """A list of one name per layer is found from what each layer is."""
    n = tiny("gemma3_text")
    kinds = {layer.steps[0].branches[0].part.window is None: layer for layer in n.layers}  # type: ignore[union-attr]
    order = (True, True, False, True, False, False, False)
    changed = replace(n, layers=tuple(kinds[full] for full in order))
    assert changed.to_huggingface()["layer_types"] == [
        "full_attention" if full else "sliding_attention" for full in order
    ]


def test_a_search_that_has_read_enough_ends_and_says_what_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inverse, "TRIES", 3)
    with pytest.raises(UnsupportedConfig, match=r"no config of this family expresses layers\.1\.attention\.window"):
        tiny("qwen3").replace("layers.1.attention.window", 7).to_huggingface()


def test_two_keys_that_only_help_together() -> None:
    """Qwen's window needs `use_sliding_window`, a width and a first layer at once."""
    config = tiny("qwen3").replace("layers.1.attention.window", 7).to_huggingface()
    assert (config["use_sliding_window"], config["sliding_window"]) == (True, 7)


@pytest.mark.parametrize(("slow", "fast", "depth"), [(1, 5, 2), (3, 1, 2), (2, 2, 2), (1, 1, 6)])
def test_a_depth_that_is_a_product(slow: int, fast: int, depth: int) -> None:
    """Twelve layers come of several loops; no key says twelve."""
    config = {"H_cycles": slow, "L_cycles": fast, "num_hidden_layers": depth}
    n = replace(tiny("hrm_text", **config), origin=Origin())
    found = n.to_huggingface(family="hrm_text")
    assert len(n.layers) == 12
    assert {key: found.get(key, {"H_cycles": 2, "L_cycles": 3}.get(key)) for key in config} == config


def test_what_a_family_cannot_say_is_named() -> None:
    with pytest.raises(UnsupportedConfig, match=r"llama: no config of this family expresses head\.softcap"):
        tiny("llama").replace("head.softcap", 30.0).to_huggingface()
    with pytest.raises(UnsupportedConfig, match="mixtral: no config of this family expresses"):
        tiny("llama").to_huggingface(family="mixtral")
    with pytest.raises(UnsupportedConfig, match="name a family"):
        replace(tiny("llama"), origin=Origin()).to_huggingface()


def test_one_familys_n_in_anothers_words() -> None:
    """A plain Qwen3-MoE without experts in any layer is a Qwen3."""
    n = tiny("qwen3_moe", mlp_only_layers=[0, 1])
    config = n.to_huggingface(family="qwen3")
    assert config["model_type"] == "qwen3"
    assert ArchitectureParameter.from_huggingface(config) == n


def test_transformers_opens_a_model_whose_n_was_changed(tmp_path: Path) -> None:
    n = tiny("llama").replace("layers.*.attention.rope.theta", 700.0).replace("layers.*.feed_forward.width", 56)
    model = UniversalTransformer(n).eval()
    model.save_pretrained(tmp_path / "changed")
    reference = load_reference(tmp_path / "changed", dtype=torch.float32)
    ids = torch.randint(0, n.d_vocab, (2, 30))
    assert torch.equal(model(ids).logits, reference(ids).logits)
