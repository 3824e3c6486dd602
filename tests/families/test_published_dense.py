"""Mistral, Qwen2.5, Gemma, OLMo 2, Phi, GLM-4 and DeepSeek-V3 as published: their config.json, and what n must say."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_universal import ArchitectureParameter, families
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.architecture.feed_forward import ExpertGroups, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, LatentAttention, Packed
from nexus_universal.architecture.position import LongRopeScaling, Norm, Rope, YarnScaling
from tests.families.dense_configs import (
    DEEPSEEK_V3,
    GEMMA_7B,
    GLM4_0414,
    GLM4_9B,
    GLM45_AIR,
    GLM47,
    LONG_FACTORS,
    MISTRAL,
    MISTRAL_03,
    MISTRAL_NEMO,
    OLMO2,
    PHI3_MINI,
    PHI4_MINI,
    PUBLISHED,
    QWEN25_7B,
    QWEN25_SMALL,
)


def read(raw: dict[str, Any]) -> ArchitectureParameter:
    return ArchitectureParameter.from_huggingface(raw)


def attention(n: ArchitectureParameter) -> Any:
    """The mixer of all layers."""
    (part,) = {layer.steps[0].branches[0].part for layer in n.layers}
    return part


def feed_forwards(n: ArchitectureParameter) -> list[Any]:
    return [layer.steps[1].branches[0].part for layer in n.layers]


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_published_number_of_parameters(name: str) -> None:
    raw, parameters = PUBLISHED[name]
    assert read(raw).count(context=1, dtype="float32").parameters == parameters


@pytest.mark.parametrize(
    "raw", [*(raw for raw, _ in PUBLISHED.values()), GLM45_AIR, GLM47], ids=lambda raw: raw["model_type"]
)
def test_the_config_is_written_back_as_it_was(raw: dict[str, Any]) -> None:
    n = read(raw)
    assert n.to_huggingface() == raw
    assert (n.num_layers, n.d_hidden, n.d_vocab) == tuple(
        raw[key] for key in ("num_hidden_layers", "hidden_size", "vocab_size")
    )
    assert n.head.tied == raw.get("tie_word_embeddings", raw["model_type"] == "gemma")


def test_mistral_has_one_window_in_its_first_version_only() -> None:
    windows = [attention(read(raw)).window for raw in (MISTRAL, MISTRAL_03, MISTRAL_NEMO)]
    assert windows == [4096, None, None]
    assert attention(read(MISTRAL_NEMO)).head_dim == 128 != 5120 // 32


@pytest.mark.parametrize("raw", [QWEN25_SMALL, QWEN25_7B])
def test_qwen_has_biases_but_on_the_output_and_no_window(raw: dict[str, Any]) -> None:
    part = attention(read(raw))
    assert set(part.biases) == {"query", "key", "value"} and part.window is None and part.qk_norm is None


def test_gemma_means_the_tanh_form_and_scales_its_embeddings() -> None:
    n = read(GEMMA_7B)
    assert {part.activation for part in feed_forwards(n)} == {"gelu_tanh"}
    assert (n.embedding.scale, n.embedding.scale_rounding) == (3072**0.5, "model")
    assert n.final_norm == Norm(kind="rms", eps=1e-6, scale="one_plus_weight", rounding="after_scale")
    assert attention(n).head_dim == 256 != 3072 // 16


def test_olmo_2_norms_what_sublayers_give() -> None:
    n = read(OLMO2)
    for step in n.layers[0].steps:
        assert step.norm is None and step.branches[0].output_norm == n.final_norm
    part = attention(n)
    assert part.qk_norm.over == "width" and part.rope == Rope(theta=5e5, table="float32")


def test_phi_packs_its_projections() -> None:
    part = attention(read(PHI3_MINI))
    assert part.packing == (Packed(roles=("query", "key", "value")),) and not part.biases
    assert (part.rope, part.window) == (Rope(theta=1e4), 2047)
    assert all(part.packing == (Packed(roles=("gate", "up")),) for part in feed_forwards(read(PHI3_MINI)))


def test_phi_4_mini_rotates_three_quarters_of_a_head_by_longrope() -> None:
    part = attention(read(PHI4_MINI))
    assert (part.head_dim, part.rope.fraction, part.rope.dims(part.head_dim)) == (128, 0.75, 96)
    assert part.rope.scaling == LongRopeScaling(
        factor=131072 / 4096,
        short_factors=(1.0,) * 48,
        long_factors=tuple(map(float, LONG_FACTORS)),
        original_context=4096,
    )


@pytest.mark.parametrize(("raw", "sandwich"), [(GLM4_9B, False), (GLM4_0414, True)])
def test_glm_4_rotates_half_of_each_head_in_pairs(raw: dict[str, Any], sandwich: bool) -> None:
    n = read(raw)
    part = attention(n)
    assert part.rope == Rope(theta=1e4, fraction=0.5, pairing="interleaved")
    assert set(part.biases) == {"query", "key", "value"}
    for step in n.layers[0].steps:
        assert step.norm == n.final_norm
        assert step.branches[0].output_norm == (n.final_norm if sandwich else None)


@pytest.mark.parametrize(
    ("raw", "dense", "experts", "scale"), [(GLM45_AIR, 1, 128, 1.0), (GLM47, 3, 160, 2.5)], ids=["Air", "4.7"]
)
def test_glm_4_5_rotates_halves_and_routes_after_its_dense_layers(
    raw: dict[str, Any], dense: int, experts: int, scale: float
) -> None:
    n = read(raw)
    part = attention(n)
    assert isinstance(part, Attention) and part.rope == Rope(theta=1e6, fraction=0.5)
    assert set(part.biases) == {"query", "key", "value"} and (part.qk_norm is None) == (raw is GLM45_AIR)
    sparse = [isinstance(each, MixtureOfExperts) for each in feed_forwards(n)]
    assert sparse == [False] * dense + [True] * (raw["num_hidden_layers"] - dense)
    last = feed_forwards(n)[-1]
    assert (last.experts, last.per_token, last.shared.width) == (experts, 8, raw["moe_intermediate_size"])
    assert (last.router.scale, last.router.groups, last.router.selection_bias) == (scale, None, True)


def test_deepseek_v3_stretches_its_context_and_chooses_experts_by_group() -> None:
    n = read(DEEPSEEK_V3)
    part = attention(n)
    assert isinstance(part, LatentAttention) and part.scale_by_yarn
    yarn = YarnScaling(factor=40.0, original_context=4096, mscale=1.0, mscale_all_dim=1.0)
    assert part.rope == Rope(theta=1e4, pairing="interleaved_to_half", scaling=yarn)
    assert yarn.table_factor == 1.0
    assert [isinstance(each, MixtureOfExperts) for each in feed_forwards(n)] == [False] * 3 + [True] * 58
    router = feed_forwards(n)[-1].router
    assert router.groups == ExpertGroups(count=8, keep=4)
    assert (router.score, router.scale, router.sum_epsilon, router.logits) == ("sigmoid", 2.5, 1e-20, "float32")


@pytest.mark.parametrize("raw", [GLM45_AIR, GLM47, DEEPSEEK_V3], ids=["GLM-4.5-Air", "GLM-4.7", "DeepSeek-V3"])
def test_the_prediction_layer_comes_right_after_the_last(raw: dict[str, Any]) -> None:
    """model.layers.46, .92 and .61: no model's number is written down."""
    weights, last = families.find(raw["model_type"]).weights, raw["num_hidden_layers"]
    assert "prediction" in str(weights.reason_to_pass_over(f"model.layers.{last}.eh_proj.weight", layers=last))
    for index in (0, last - 1, last + 1, 10 * last):
        assert weights.reason_to_pass_over(f"model.layers.{index}.eh_proj.weight", layers=last) is None


@pytest.mark.parametrize(
    ("raw", "key", "value"),
    [
        (QWEN25_7B, "use_mrope", True),
        (PHI4_MINI, "mlp_bias", True),
        (PHI4_MINI, "lm_head_bias", True),
        (PHI4_MINI, "attention_bias", True),
        (PHI4_MINI, "full_attn_mod", 2),
        (PHI4_MINI, "interpolate_factor", 2),
        (DEEPSEEK_V3, "moe_layer_freq", 2),
    ],
)
def test_what_the_reference_overlooks_is_refused_at_other_values(raw: dict[str, Any], key: str, value: Any) -> None:
    with pytest.raises(UnsupportedConfig, match=f"{raw['model_type']}: {key} = "):
        read(raw | {key: value})
