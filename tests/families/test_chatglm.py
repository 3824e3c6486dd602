"""GLM-4-9B under its first names: its checkpoints, held to a definition of its own; `glm` is for tests/parity."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, UnknownModelType, UnsupportedConfig
from nexus_universal.parity.verify import verify_checkpoint
from tests.checkpoint.on_disk import tensors_of
from tests.families.borrowed import checkpoint, doubled
from tests.helpers import furthest, ids, same
from tests.references import chatglm

GLM_4_9B_CHAT: dict[str, Any] = {
    "model_type": "chatglm",
    "architectures": ["ChatGLMModel"],
    "auto_map": {"AutoModelForCausalLM": "modeling_chatglm.ChatGLMForConditionalGeneration"},
    "add_bias_linear": False,
    "add_qkv_bias": True,
    "apply_query_key_layer_scaling": True,
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "attention_softmax_in_fp32": True,
    "bias_dropout_fusion": True,
    "classifier_dropout": None,
    "eos_token_id": [151329, 151336, 151338],
    "ffn_hidden_size": 13696,
    "fp32_residual_connection": False,
    "hidden_dropout": 0.0,
    "hidden_size": 4096,
    "kv_channels": 128,
    "layernorm_epsilon": 1.5625e-07,
    "multi_query_attention": True,
    "multi_query_group_num": 2,
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_layers": 40,
    "original_rope": True,
    "pad_token_id": 151329,
    "padded_vocab_size": 151552,
    "post_layer_norm": True,
    "rmsnorm": True,
    "rope_ratio": 500,
    "seq_length": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.30.2",
    "use_cache": True,
    "vocab_size": 151552,
}


def test_the_published_config_is_the_n_of_its_successor() -> None:
    """But for q, k and v, which one matrix multiplies, and for the pad row, which is a row like any other."""
    n = ArchitectureParameter.from_huggingface(GLM_4_9B_CHAT)
    successor = ArchitectureParameter.from_huggingface(
        {"model_type": "glm", "rope_theta": 5e6, "max_position_embeddings": 131072}
    )
    plain = n.replace("layers.*.attention.packing", ())
    assert {change.path for change in plain.diff(successor)} == {"embedding.padding_row"}
    assert n.text.context == 131072 and n.eos_token_id == [151329, 151336, 151338]
    assert n.count().parameters == 9_399_951_360
    longer = {**GLM_4_9B_CHAT, "multi_query_group_num": 4, "rope_ratio": 10000, "seq_length": 1048576}
    assert ArchitectureParameter.from_huggingface(longer).rope_base == 1e8


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"rope_ratio": 500, "multi_query_group_num": 1},
        {"add_qkv_bias": False, "layernorm_epsilon": 1e-2},
        {"multi_query_attention": False},
    ],
    ids=str,
)
def test_a_published_checkpoint_is_its_definition(tmp_path: Path, changes: dict[str, Any]) -> None:
    tensors, config = checkpoint("chatglm", tmp_path / "glm", **changes)
    model = UniversalTransformer.from_pretrained(tmp_path / "glm")
    for row in ids(2, 60):
        expected = chatglm.logits(doubled(tensors), config, row)
        assert furthest(model(row[None]).logits[0].double(), expected) < 2e-5
    model.save_pretrained(tmp_path / "saved")
    saved = tensors_of(tmp_path / "saved")
    assert saved.keys() == tensors.keys()
    assert all(same(saved[name], tensors[name]) for name in tensors)


def test_names_are_the_published_ones(tmp_path: Path) -> None:
    tensors, _ = checkpoint("chatglm", tmp_path / "glm", num_layers=1)
    layer = "transformer.encoder.layers.0"
    assert set(tensors) == {
        "transformer.embedding.word_embeddings.weight",
        f"{layer}.input_layernorm.weight",
        f"{layer}.self_attention.query_key_value.weight",
        f"{layer}.self_attention.query_key_value.bias",
        f"{layer}.self_attention.dense.weight",
        f"{layer}.post_attention_layernorm.weight",
        f"{layer}.mlp.dense_h_to_4h.weight",
        f"{layer}.mlp.dense_4h_to_h.weight",
        "transformer.encoder.final_layernorm.weight",
        "transformer.output_layer.weight",
    }
    from safetensors.torch import save_file

    save_file({**tensors, "transformer.rotary_pos_emb.inv_freq": torch.ones(4)}, tmp_path / "glm" / "model.safetensors")
    model = UniversalTransformer.from_pretrained(tmp_path / "glm")
    assert list(model.passed_over) == ["transformer.rotary_pos_emb.inv_freq"]


def test_it_is_one_graph(tmp_path: Path) -> None:
    checkpoint("chatglm", tmp_path / "glm")
    model = UniversalTransformer.from_pretrained(tmp_path / "glm")
    torch._dynamo.reset()
    graph = torch.compile(model, fullgraph=True, backend="eager")
    assert same(graph(ids(2, 20)).logits, model(ids(2, 20)).logits)


def test_a_matrix_of_other_blocks_is_refused(tmp_path: Path) -> None:
    """Two groups of keys and values where the config says one."""
    checkpoint("chatglm", tmp_path / "glm")
    raw = json.loads((tmp_path / "glm" / "config.json").read_text()) | {"multi_query_group_num": 1}
    (tmp_path / "glm" / "config.json").write_text(json.dumps(raw))
    with pytest.raises(CheckpointError, match=r"query_key_value.* has shape \(128, 48\), but n asks for \(96, 48\)"):
        UniversalTransformer.from_pretrained(tmp_path / "glm")


def test_verifying_a_checkpoint_says_what_can_be_verified(tmp_path: Path) -> None:
    checkpoint("chatglm", tmp_path / "glm")
    with pytest.raises(UnknownModelType, match="nexus verify --family chatglm"):
        verify_checkpoint(tmp_path / "glm")


def test_what_older_models_mean_by_the_ratio_is_not_guessed() -> None:
    older = {"model_type": "chatglm", "padded_vocab_size": 65024, "multi_query_attention": True}
    assert ArchitectureParameter.from_huggingface({**older, "multi_query_group_num": 2}).num_kv_heads == 2
    with pytest.raises(UnsupportedConfig, match=r"rope_ratio = 50\.0 \(ChatGLM2 divides positions"):
        ArchitectureParameter.from_huggingface({**older, "rope_ratio": 50})


@pytest.mark.parametrize(
    ("key", "value"), [("rmsnorm", False), ("post_layer_norm", False), ("add_bias_linear", True), ("pre_seq_len", 8)]
)
def test_branches_that_no_checkpoint_takes_are_refused(key: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfig, match=key):
        ArchitectureParameter.from_huggingface({"model_type": "chatglm", key: value})
