"""dots3 Note: sizes of a kind of layer, said under keys of their own or layer by layer, and where a config lies."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.architecture.mixers import LatentAttention
from nexus_universal.parity.references import reference_config
from tests.helpers import config, raw

SIZES = {
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "q_lora_rank": 24,
    "kv_lora_rank": 16,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 6,
    "v_head_dim": 12,
}


def read(**values: Any) -> ArchitectureParameter:
    return ArchitectureParameter.from_huggingface(raw("dots3_note_text", **values))


def layer_by_layer(layers: dict[str, Any]) -> dict[str, Any]:
    plain = {key: value for key, value in raw("dots3_note_text").items() if not key.startswith("swa_")}
    return plain | {"per_layer_config": layers}


def mixer(n: ArchitectureParameter, layer: int) -> LatentAttention:
    found = next(n.layers[layer].branches()).part
    assert isinstance(found, LatentAttention)
    return found


@pytest.mark.parametrize("spelled", ["{}", "0{}"])
def test_sizes_layer_by_layer(spelled: str) -> None:
    given = layer_by_layer({spelled.format(index): SIZES for index in (2, 3)})
    n = ArchitectureParameter.from_huggingface(given)
    assert n == read() == ArchitectureParameter.from_huggingface(reference_config("dots3_note_text", given))
    assert (mixer(n, 3).heads, mixer(n, 3).rope_dim, mixer(n, 0).heads) == (2, 6, 4)


@pytest.mark.parametrize(
    ("layers", "complaint"),
    [
        (
            {"2": SIZES, "3": SIZES | {"v_head_dim": 10}},
            r"per_layer_config\.3 = .*every layer of sliding_attention",
        ),
        ({"2": SIZES | {"num_key_value_heads": 1}, "3": SIZES}, r"per_layer_config\.2\.num_key_value_heads = 1"),
        ({"2": SIZES | {"v_head_dim": "wide"}, "3": SIZES}, r"per_layer_config\.2\.v_head_dim = 'wide'"),
        ({"2": SIZES | {"index_topk": 3}, "3": SIZES}, r"per_layer_config\.2\.index_topk = 3"),
        ({"2": SIZES, "3": SIZES, "4": SIZES}, r"per_layer_config\.4 = "),
        ({"2": SIZES | {"head_dim": 18}, "3": SIZES}, r"per_layer_config\.2\.head_dim = 18 \(must be 16"),
    ],
)
def test_what_layers_may_not_say(layers: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UnsupportedConfig, match=f"^dots3_note_text: {complaint}"):
        ArchitectureParameter.from_huggingface(layer_by_layer(layers))


def test_a_head_of_which_the_reference_would_turn_fewer_dimensions_is_refused() -> None:
    assert int(49 * (8 / 49)) == 7
    with pytest.raises(UnsupportedConfig, match=r"head_dim = 49 \(lets 7 of 8 dimensions turn"):
        read(head_dim=49)


def test_older_names_of_full_layers() -> None:
    """They have an indexer, unless `use_dsa` or sizes given layer by layer say that they are what they are called."""
    kinds = ["full_attention", "indexed_attention", "sliding_attention", "sliding_attention"]
    older, plain = read(layer_types=kinds), read(layer_types=kinds, use_dsa=False)
    assert all(mixer(older, layer).indexer for layer in (0, 1))
    assert not any(mixer(plain, layer).indexer for layer in (0, 1))
    said = ArchitectureParameter.from_huggingface(
        layer_by_layer({"2": SIZES, "3": SIZES}) | {"layer_types": kinds, "rope_parameters": None}
    )
    assert [bool(mixer(said, layer).indexer) for layer in (0, 1)] == [False, True]


def test_a_text_model_outside_of_a_section() -> None:
    """So it is published; transformers adds a section with the same, and the section is what its class reads."""
    towers = {"vision_config": {"adapter_out_dim": 48}, "audio_config": {"adapter_out_dim": 48}}
    outside = raw("dots3_note_text") | {"model_type": "dots3_note", **towers}
    n = ArchitectureParameter.from_huggingface(outside)
    assert n == read()
    both = reference_config("dots3_note", {key: value for key, value in outside.items() if key != "model_type"})
    assert {"num_hidden_layers", "text_config"} <= both.to_dict().keys()
    assert ArchitectureParameter.from_huggingface(both) == n
    with pytest.raises(UnsupportedConfig, match=r"^dots3_note: num_hidden_layers = 4 \(text_config says otherwise"):
        ArchitectureParameter.from_huggingface(both.to_dict() | {"kv_lora_rank": 24})
    with pytest.raises(UnsupportedConfig, match=r"^dots3_note: unsloth_version = 3 "):
        ArchitectureParameter.from_huggingface(outside | {"unsloth_version": 3})


def test_one_rotation_for_all_kinds_keeps_the_base_of_full_layers() -> None:
    flat = {"rope_type": "linear", "factor": 2.0}
    n = read(rope_scaling=flat)
    assert {mixer(n, layer).rope.theta for layer in range(4)} == {80000000.0}  # type: ignore[union-attr]
    assert n == ArchitectureParameter.from_huggingface(config("dots3_note_text", rope_scaling=flat))
