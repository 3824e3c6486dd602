"""DeepSeek-V4 as it is published: old keys beside those of transformers 5, and names that transformers renames."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.families.shared.compressed import HEAVY, SLIDING, SPARSE
from tests.checkpoint.on_disk import changed
from tests.helpers import config, ids, pair, raw, same

YARN = {"factor": 4, "beta_fast": 32, "beta_slow": 1, "original_max_position_embeddings": 16}
NESTED = {"main": {"rope_type": "default"}, "compress": {"type": "yarn", **YARN}}
OLD: dict[str, dict[str, Any]] = {
    "ratios": {"layer_types": None, "compress_ratios": [0, 4, 128, 0, 0]},
    "both lists": {"compress_ratios": [128, 4, 0, 4, 0], "compress_rates": {SPARSE: 2, HEAVY: 8}},
    "rates": {"compress_rate_csa": 2, "compress_rate_hca": 8},
    "scaling": {"rope_scaling": {"type": "yarn", **YARN}, "rope_theta": 500, "compress_rope_theta": 700},
    "two rotations": {"rope_parameters": NESTED, "rope_theta": 500, "partial_rotary_factor": 0.25},
}


@pytest.mark.parametrize("changes", OLD.values(), ids=OLD)
def test_old_keys_mean_what_the_reference_makes_of_them(changes: dict[str, Any]) -> None:
    found = ArchitectureParameter.from_huggingface(raw("deepseek_v4", **changes))
    assert found == ArchitectureParameter.from_huggingface(config("deepseek_v4", **changes))
    assert found != pair("deepseek_v4")[1].n


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"compress_ratios": [0, 4, 128, 4]}, r"compress_ratios = \[0, 4, 128, 4\] \(must be \[128, 4, 0, 4\]"),
        ({"compress_ratios": [128, 4, 8, 4]}, r"compress_ratios\[2\] = 8 \(known: 0, 4, 128\)"),
        ({"compress_ratios": [128, 4, 0]}, r"len\(compress_ratios\) = 3 \(must be the number of layers, 4\)"),
        (
            {"rope_scaling": {"type": "yarn", **YARN}, "rope_parameters": {"rope_type": "default"}},
            r"rope_parameters = .* \(known: None\)",
        ),
        ({"topk_method": "greedy"}, r"topk_method = 'greedy' \(known: 'noaux_tc'\)"),
    ],
)
def test_what_disagrees_is_refused_by_name(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UnsupportedConfig, match=message):
        ArchitectureParameter.from_huggingface(raw("deepseek_v4", **changes))


def test_a_change_is_written_in_the_old_spelling() -> None:
    old = raw("deepseek_v4", layer_types=None, compress_ratios=[0, 4, 128, 0], rope_theta=500) | {
        "rope_scaling": {"type": "yarn", **YARN}
    }
    n = ArchitectureParameter.from_huggingface(old)
    faster = n.replace("layers.*.attention.rope.scaling.factor", 8.0)
    faster = faster.replace("layers.*.attention.indexer.rope.scaling.factor", 8.0)
    assert faster.to_huggingface() == old | {"rope_scaling": {"type": "yarn", **YARN, "factor": 8.0}}


def as_published(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """What transformers writes, under the names of deepseek-ai/DeepSeek-V4-Flash; a layer for prediction beside it."""
    renamed: dict[str, Tensor] = {"mtp.0.norm.weight": torch.ones(3)}
    names = {"embed_tokens": "embed", "hc_head.hc_": "hc_head_", "attn.norm.": "attn.kv_norm."}
    for name, tensor in tensors.items():
        name = name.removeprefix("model.")
        for theirs, published in names.items():
            name = name.replace(theirs, published)
        renamed[name] = tensor
    return renamed


def test_published_names_are_read(tmp_path: Path) -> None:
    directory = changed("deepseek_v4", tmp_path / "model", as_published)
    theirs, report = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not report["missing_keys"] and not report["unexpected_keys"]
    ours, x = UniversalTransformer.from_pretrained(directory), ids(2, 40)
    assert ours.passed_over == {"mtp.0.norm.weight": "multi-token prediction"}
    with torch.no_grad():
        assert same(ours(x).logits, theirs.eval()(x, use_cache=False).logits)
        assert same(ours(x).logits, pair("deepseek_v4")[1](x).logits)


def test_layers_are_named_as_the_old_list_says() -> None:
    """43 layers of 44 numbers: the last one speaks of prediction."""
    n = ArchitectureParameter.from_huggingface(
        {"model_type": "deepseek_v4", "num_hidden_layers": 3, "compress_ratios": [0, 4, 128, 0]}
    )
    named = ArchitectureParameter.from_huggingface(
        {"model_type": "deepseek_v4", "num_hidden_layers": 3, "layer_types": [SLIDING, SPARSE, HEAVY]}
    )
    assert n == named
