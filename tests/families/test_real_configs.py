"""Published config.json files, as they are: each becomes an n, proven at a shrunken width, or is refused by name.

They come from the PyPI package aiconfigurator-core, which `make setup` unpacks beside the environment.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal import ArchitectureParameter, families
from nexus_universal.architecture.ends import Embedding
from nexus_universal.architecture.errors import UnknownModelType, UnsupportedConfig
from nexus_universal.architecture.paths import leaves
from nexus_universal.families.shared.reader import IRRELEVANT
from nexus_universal.parity.draws import asked, completed, longest_sample
from nexus_universal.parity.modes import MODES, Ours, compare, sample
from nexus_universal.parity.prove import Pair
from nexus_universal.parity.references import reference_config

PACKAGE = Path(__file__).resolve().parents[2] / ".venv" / "published" / "aiconfigurator_core" / "model_configs"
CONFIGS = {
    path.name.removesuffix("_config.json"): json.loads(path.read_text(encoding="utf-8"))
    for path in sorted(PACKAGE.glob("*_config.json"))
    if not path.name.endswith("_quant_config.json")
}
KNOWN = {name: raw for name, raw in CONFIGS.items() if raw["model_type"] in families.model_types()}
UNKNOWN = {name: raw for name, raw in CONFIGS.items() if name not in KNOWN}

REFUSED: dict[str, str] = {}
"""Published configs of known types that are refused, and the key that the refusal names."""


def test_the_configs_are_there() -> None:
    assert len(CONFIGS) == 89, f"{PACKAGE} holds {len(CONFIGS)} configs: run `make setup`"
    assert len(KNOWN) >= 23


def without_quantisation(raw: dict[str, Any]) -> dict[str, Any]:
    """What decides n: quantisation is the checkpoint's business."""
    return {key: value for key, value in raw.items() if key not in ("quantization_config", "compression_config")}


@pytest.mark.parametrize("name", KNOWN)
def test_a_published_config_becomes_n(name: str) -> None:
    """With nothing left over, and written back as it was."""
    raw = KNOWN[name]
    if name in REFUSED:
        with pytest.raises(UnsupportedConfig, match=REFUSED[name]):
            ArchitectureParameter.from_huggingface(raw)
        return
    n, text = ArchitectureParameter.from_huggingface(raw), raw.get("text_config", raw)
    assert n.num_layers == (text.get("num_hidden_layers") or len(text["layers_block_type"]))
    assert n.d_hidden == text["hidden_size"]
    assert n.to_huggingface() == raw


@pytest.mark.parametrize("name", UNKNOWN)
def test_a_config_of_an_unknown_type_is_refused_by_name(name: str) -> None:
    with pytest.raises(UnknownModelType, match=f"model_type '{UNKNOWN[name]['model_type']}' is not known"):
        ArchitectureParameter.from_huggingface(UNKNOWN[name])


def shrunken(raw: dict[str, Any]) -> dict[str, Any]:
    """The same model with a tiny config's sizes: every flag, factor, epsilon and activation stays as published."""
    family = families.find(raw["model_type"])
    config = {key: value for key, value in without_quantisation(raw).items() if key not in IRRELEVANT}
    if "text_config" in family.sections:
        towers = [key for key, value in config.items() if key != "text_config" and isinstance(value, dict)]
        text = shrunken(raw["text_config"])
        ids = {key: value for key, value in family.tiny.items() if type(value) is int}
        return {key: value for key, value in config.items() if key not in towers} | ids | {"text_config": text}
    pad = None if raw.get("pad_token_id") is None else 0
    sizes = {key for key, value in family.tiny.items() if type(value) is int and raw.get(key) != 0}  # 0: none is there
    config |= {key: value for key, value in family.tiny.items() if key in sizes or key not in raw}
    config |= {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": pad}
    if "num_hidden_layers" in family.tiny:
        config["num_hidden_layers"] = max(family.tiny["num_hidden_layers"], 1 + config.get("first_k_dense_replace", 0))
    else:  # one layer of each kind
        pattern = raw.get("hybrid_override_pattern")
        kinds = {"hybrid_override_pattern": "".join(dict.fromkeys(pattern))} if pattern else {}
        kinds = kinds or {"layers_block_type": list(dict.fromkeys(raw["layers_block_type"]))}
        config = {key: value for key, value in config.items() if key not in ("num_hidden_layers", "layers_block_type")}
        config |= kinds
    for heads in ("num_attention_heads", "num_key_value_heads", "head_dim", "v_head_dim"):
        window_heads = f"swa_{heads}"
        if window_heads in raw:
            config[window_heads] = raw[window_heads] * config.get(heads, 1) // raw[heads]
    if "attention_head_dim" in raw:
        config["attention_head_dim"] = config["head_dim"]
    for key in ("layer_types", "mlp_layer_types"):
        if isinstance(raw.get(key), list):
            config[key] = [*raw[key][: config["num_hidden_layers"] - 1], raw[key][-1]]
    if "attn_type_list" in raw:  # all alike
        config["attn_type_list"] = raw["attn_type_list"][: config["num_hidden_layers"]]
    if "hybrid_layer_pattern" in raw:  # one layer of each kind
        kinds = list(dict.fromkeys(zip(raw["hybrid_layer_pattern"], raw["moe_layer_freq"], strict=True)))
        config["hybrid_layer_pattern"], config["moe_layer_freq"] = map(list, zip(*kinds, strict=True))
        config["layer_types"] = [("full_attention", "sliding_attention")[windowed] for windowed, _ in kinds]
        config["mlp_layer_types"] = [("dense", "sparse")[routed] for _, routed in kinds]
        config["num_hidden_layers"] = len(kinds)
    if "rotary_dim" in raw and "head_dim" in raw:
        config["rotary_dim"] = raw["rotary_dim"] * config["head_dim"] // raw["head_dim"]
    if "qk_head_dim" in raw:
        config["qk_head_dim"] = config["qk_nope_head_dim"] + config["qk_rope_head_dim"]
    config = {key: value for key, value in config.items() if family.aliases.get(key) not in family.tiny}
    if "index_topk_freq" in family.tiny:
        config["index_topk_freq"] = raw.get("index_topk_freq", 1)
    if raw.get("n_group") == 1:
        config |= {"n_group": 1, "topk_group": 1}
    if isinstance(raw.get("indexer_types"), list):  # one layer of each kind
        kinds = list(dict.fromkeys(zip(raw["indexer_types"], raw["mlp_layer_types"], strict=True)))
        config["indexer_types"], config["mlp_layer_types"] = map(list, zip(*kinds, strict=True))
        config["num_hidden_layers"] = len(kinds)
    if isinstance(raw.get("compress_ratios"), list):  # one layer of each kind, and an eighth of what turns
        hashed, ratios = raw["num_hash_layers"], raw["compress_ratios"][: raw["num_hidden_layers"]]
        kinds = list(dict.fromkeys((ratio, index < hashed) for index, ratio in enumerate(ratios)))
        config["compress_ratios"] = [ratio for ratio, _ in kinds]
        config |= {"num_hidden_layers": len(kinds), "num_hash_layers": sum(by_token for _, by_token in kinds)}
        config |= {key: raw[key] // 8 for key in ("head_dim", "qk_rope_head_dim", "index_head_dim")}
        del config["layer_types"]
    for key in ("rope_scaling", "rope_parameters"):
        if isinstance(raw.get(key), dict) and "original_max_position_embeddings" in raw[key]:
            config[key] = {**raw[key], "original_max_position_embeddings": 16}
    if config.get("sliding_window"):
        config["sliding_window"] = 16
    return completed(family, config)


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in REFUSED])
def test_it_is_proven_at_a_shrunken_width(name: str) -> None:
    raw = KNOWN[name]
    theirs = reference_config(raw["model_type"], shrunken(raw))
    n = ArchitectureParameter.from_huggingface(theirs)
    pair = Pair.built(theirs, n, dtype=torch.float32, seed=3)
    drawn = sample(n.d_vocab, length=longest_sample(n, wanted=80), batch=2, seed=3, pad=n.text.pad)
    with torch.no_grad():
        for mode, run in MODES.items():
            subject = asked(n, mode, drawn)
            found = compare(run(pair.reference, subject), run(Ours(pair.model), subject))
            assert found.equal, f"{mode} differs by {found.max_difference}"


def fingerprint(part: Any) -> frozenset[tuple[str, Any]]:
    """What a part is but for its sizes: whole numbers and tuples are left out."""
    return frozenset((path, None if type(v) in (int, tuple) else (v,)) for path, v in leaves(part, "_"))


def relative(embedding: Embedding) -> Embedding:
    """Without the scale where it is the root of the width."""
    return replace(embedding, scale=None) if embedding.scale == embedding.width**0.5 else embedding


@pytest.mark.parametrize("name", [name for name in KNOWN if name not in REFUSED])
def test_shrinking_keeps_what_is_no_size(name: str) -> None:
    """The proof above is of the published model: every kind of layer, flag, factor and epsilon is in it."""
    raw = KNOWN[name]
    published = ArchitectureParameter.from_huggingface(raw)
    small = ArchitectureParameter.from_huggingface({**shrunken(raw), "model_type": raw["model_type"]})
    assert {*map(fingerprint, small.layers)} == {*map(fingerprint, published.layers)}
    assert small.head == published.head
    assert small.final_norm == published.final_norm
    assert fingerprint(relative(small.embedding)) == fingerprint(relative(published.embedding))
