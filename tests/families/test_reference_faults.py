"""Where the reference reads a config otherwise than it says: faults of docs/REFERENCE_FAULTS.md, on both sides."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.errors import UnsupportedConfig
from tests.helpers import config, raw

PLAIN = {"rope_type": "default", "rope_theta": 10000.0}


def frequencies(**changes: Any) -> torch.Tensor:
    """What the reference's full layers rotate by."""
    return Gemma3RotaryEmbedding(config("gemma3_text", **copy.deepcopy(changes))).full_attention_inv_freq


def test_an_old_type_key_is_overlooked() -> None:
    """Gemma 3 with v4's `{"type": "linear"}`: the reference fills in the default type first and scales nothing."""
    old, new = ({key: "linear", "factor": 8.0} for key in ("type", "rope_type"))
    assert torch.equal(frequencies(rope_scaling=old), frequencies())
    assert torch.equal(frequencies(rope_scaling=new), frequencies() / 8.0)
    with pytest.raises(UnsupportedConfig, match=r"rope_parameters\.full_attention\.factor = 8\.0"):
        ArchitectureParameter.from_huggingface(raw("gemma3_text", rope_scaling=old))


def test_a_nested_truncate_is_looked_for_in_the_wrong_place() -> None:
    """YaRN's `truncate` under a layer type: the reference looks beside the layer types, where it never stands."""
    yarn = {"rope_type": "yarn", "rope_theta": 500.0, "factor": 4.0, "original_max_position_embeddings": 16}
    nested = {"sliding_attention": PLAIN, "full_attention": yarn}
    rounded = {"sliding_attention": PLAIN, "full_attention": yarn | {"truncate": False}}
    assert torch.equal(frequencies(rope_parameters=rounded), frequencies(rope_parameters=nested))
    with pytest.raises(UnsupportedConfig, match=r"rope_parameters\.full_attention\.truncate = False"):
        ArchitectureParameter.from_huggingface(raw("gemma3_text", rope_parameters=rounded))


def test_a_config_class_writes_into_what_it_is_given() -> None:
    """A dict of rotary settings handed to two configs carries the first one's defaults into the second."""
    shared = {"rope_type": "default", "rope_theta": 500.0}
    config("qwen3_next")  # the helper copies; here the class itself is called
    type(config("qwen3_next"))(rope_parameters=shared)
    assert shared == {"rope_type": "default", "rope_theta": 500.0, "partial_rotary_factor": 0.25}
    mine = {"rope_type": "default", "rope_theta": 500.0}
    ArchitectureParameter.from_huggingface({"model_type": "qwen3_next", "rope_parameters": mine})
    assert mine == {"rope_type": "default", "rope_theta": 500.0}
