"""A missing key means the reference class's default: n of the bare keys is n of the reference's config object."""

from __future__ import annotations

import json
from typing import Any

import pytest
from transformers.models.auto.configuration_auto import CONFIG_MAPPING

from nexus_universal import ArchitectureParameter, families
from nexus_universal.families.shared.draws import ROPE
from tests.helpers import MODEL_TYPES, config, raw, single_changes

NEEDS: dict[tuple[str, str], dict[str, Any]] = {
    ("qwen3", "use_sliding_window"): {"max_window_layers": 1},
    ("qwen3", "sliding_window"): {"use_sliding_window": True, "max_window_layers": 1},
    ("qwen3", "max_window_layers"): {"use_sliding_window": True, "max_window_layers": 1},
    ("qwen2", "use_sliding_window"): {"max_window_layers": 1},
    ("qwen2", "sliding_window"): {"use_sliding_window": True, "max_window_layers": 1},
    ("qwen2", "max_window_layers"): {"use_sliding_window": True, "max_window_layers": 1},
    ("qwen3_moe", "sliding_window"): {"use_sliding_window": True},
    ("qwen2_moe", "sliding_window"): {"use_sliding_window": True},
    ("qwen2_moe", "max_window_layers"): {"use_sliding_window": True},
    ("dots1", "sliding_window"): {"max_window_layers": 1},
    ("cohere2_moe", "norm_topk_prob"): {"expert_selection_fn": "sigmoid"},
    ("cohere2_moe", "shared_expert_combination_strategy"): {"num_shared_experts": 1},
    ("cohere2_moe", "prefix_dense_sliding_window_pattern"): {"first_k_dense_replace": 2},
    ("cohere2_moe", "prefix_dense_intermediate_size"): {"first_k_dense_replace": 2},
    ("smollm3", "sliding_window"): {"use_sliding_window": True},
    **{
        (name, "original_max_position_embeddings"): {
            "rope_parameters": next(rope for rope in ROPE if rope["rope_type"] == "longrope")
        }
        for name in ("phi3", "phi4_multimodal")
    },
    ("lfm2", "block_multiple_of"): {"block_auto_adjust_ff_dim": True},
    ("lfm2", "block_ffn_dim_multiplier"): {"block_auto_adjust_ff_dim": True, "block_multiple_of": 24},
    ("ernie", "task_type_vocab_size"): {"use_task_id": True},
    ("jamba", "expert_layer_period"): {"num_hidden_layers": 4},
    ("falcon_h1", "mamba_norm_before_gate"): {"mamba_rms_norm": True},
    ("gemma4_text", "use_double_wide_mlp"): {"num_kv_shared_layers": 2},
    ("gemma4_unified_text", "use_double_wide_mlp"): {"num_kv_shared_layers": 2},
    ("gemma4_text", "top_k_experts"): {"enable_moe_block": True},
    ("zamba2", "rope_parameters"): {"use_mem_rope": True},
    ("inkling_text", "dense_mlp_idx"): {"mlp_layer_types": None},
    ("inkling_text", "local_layer_ids"): {"layer_types": None},
    ("falcon", "num_kv_heads"): {"new_decoder_architecture": True},
    ("falcon", "num_ln_in_parallel_attn"): {"new_decoder_architecture": True},
}
"""Keys that mean something only beside others."""


def read_both_ways(bare: dict[str, Any], settled: Any) -> None:
    ours, theirs = ArchitectureParameter.from_huggingface(bare), ArchitectureParameter.from_huggingface(settled)
    assert not ours.diff(theirs)
    assert ours == theirs
    assert ours.text == theirs.text


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_class_defaults(model_type: str) -> None:
    lacking = families.find(model_type).completes
    read_both_ways({"model_type": model_type, **lacking}, CONFIG_MAPPING[model_type](**lacking))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_tiny(model_type: str) -> None:
    read_both_ways(raw(model_type), config(model_type))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_draw(model_type: str) -> None:
    for key, value in single_changes(model_type):
        read_both_ways(raw(model_type, **{key: value}), config(model_type, **{key: value}))


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_no_draw_is_overlooked(model_type: str) -> None:
    """What changes the reference's config changes n or its text, if not by every value: some say what is so anyway."""
    seen: dict[str, bool] = {}
    for key, value in single_changes(model_type):
        companions = NEEDS.get((model_type, key), {})
        if config(model_type, **companions).to_dict() == config(model_type, **companions | {key: value}).to_dict():
            continue
        plain = ArchitectureParameter.from_huggingface(raw(model_type, **companions))
        changed = ArchitectureParameter.from_huggingface(raw(model_type, **companions | {key: value}))
        seen[key] = seen.get(key, False) or plain != changed or plain.text != changed.text
    assert not [key for key, changes in seen.items() if not changes]


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_the_written_config_is_read_alike(model_type: str, tmp_path: Any) -> None:
    """From the object, from its config.json on disk (which leaves defaults out), and from the directory: one n."""
    settled = config(model_type)
    settled.save_pretrained(tmp_path)
    n = ArchitectureParameter.from_huggingface(settled)
    assert n == ArchitectureParameter.from_huggingface(tmp_path)
    assert n == ArchitectureParameter.from_huggingface(str(tmp_path / "config.json"))
    assert n == ArchitectureParameter.from_huggingface(json.loads((tmp_path / "config.json").read_text()))
    assert json.loads(json.dumps(n.to_huggingface())) == n.to_huggingface()
    assert ArchitectureParameter.from_huggingface(n.to_huggingface()) == n
