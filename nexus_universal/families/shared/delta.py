"""Decoders that mix gated delta rules with gated softmax attention (Qwen3-Next and Qwen3.5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Activation, Attention, OutputGate, Packed, QueryKeyNorm
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Program, sequential_layer
from nexus_universal.architecture.recurrences import GatedDeltaRule
from nexus_universal.families.shared import common, names, rotary
from nexus_universal.families.shared.reader import ConfigReader

PATTERN: dict[str, Any] = {"other": "linear_attention", "pattern_key": "full_attention_interval", "full_every": 4}

SHARED_EXPERT: names.Names = {
    "layers.{i}.feed_forward.shared_gate": f"{names.LAYER}.mlp.shared_expert_gate",
    **names.gated("layers.{i}.feed_forward.shared", f"{names.LAYER}.mlp.shared_expert"),
}

NAMES: names.Names = {"layers.{i}.attention.query_gate": f"{names.LAYER}.self_attn.q_proj", **SHARED_EXPERT}

PASSED_OVER = {r"^mtp\.": "multi-token prediction"}

TINY: dict[str, Any] = {
    "num_hidden_layers": 4,
    "head_dim": 16,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 12,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}

DRAWS: dict[str, tuple[Any, ...]] = {
    "head_dim": (16, 32),
    "linear_num_value_heads": (4, 2),
    "linear_conv_kernel_dim": (4, 2),
    "layer_types": (None, ["linear_attention", "full_attention"] * 2, ["full_attention", "linear_attention"] * 2),
}


def norm(reader: ConfigReader) -> Norm:
    """An RMSNorm whose weight is what is added to one."""
    return common.rms_norm(reader, 1e-6, scale="one_plus_weight", rounding="after_scale")


def attention(reader: ConfigReader, text: Text, width: int, *, norm: Norm, kv_heads: int) -> Attention:
    """Softmax attention whose queries are stored with the gates of their heads."""
    rotation = reader.section("rope_parameters")
    for key in ("mrope_section", "mrope_interleaved"):
        rotation.take(key, None)  # which dimensions turn by an image's rows and columns: a text's are the same number
    return common.attention(
        reader,
        text,
        width,
        heads=16,
        kv_heads=kv_heads,
        head_dim=256,
        rope=rotary.rope(rotation, context=text.context, takes_fraction=True),
        biased=("query", "key", "value", "gate", "output"),
        qk_norm=QueryKeyNorm(norm=norm),
        gate=OutputGate(),
        packing=(Packed(roles=("query", "gate"), groups=reader.count("num_attention_heads", 16)),),
    )


def key_heads(reader: ConfigReader) -> int:
    """How many heads of keys a delta rule has."""
    return reader.count("linear_num_key_heads", 16)


def delta_rule(reader: ConfigReader, *, eps: float, act: Activation, packing: tuple[Packed, ...]) -> GatedDeltaRule:
    """The gated delta rule of a layer."""
    return GatedDeltaRule(
        key_heads=key_heads(reader),
        value_heads=reader.count("linear_num_value_heads", 32),
        key_dim=reader.count("linear_key_head_dim", 128),
        value_dim=reader.count("linear_value_head_dim", 128),
        convolution=reader.count("linear_conv_kernel_dim", 4),
        norm=Norm(kind="rms", eps=eps),
        activation=act,
        packing=packing,
    )


def experts(
    reader: ConfigReader,
    act: Activation,
    *,
    count: int,
    chosen: int,
    normalise: bool,
    width: int = 512,
    shared: int = 512,
) -> MixtureOfExperts:
    """Experts and a shared one with a gate of its own."""
    return MixtureOfExperts(
        experts=reader.count("num_experts", count),
        per_token=reader.count("num_experts_per_tok", chosen),
        expert=FeedForward(width=reader.count("moe_intermediate_size", width), activation=act),
        router=Router(score="softmax", normalise=normalise, weights="model"),
        shared=FeedForward(width=reader.count("shared_expert_intermediate_size", shared), activation=act),
        shared_gate=True,
    )


def layer(kind: str, mixers: Mapping[str, Part], feed_forward: Part, norm: Norm) -> Program:
    """A layer of one kind: `mixers` has one under each name of `layer_types`."""
    name = "attention" if kind == "full_attention" else kind
    return sequential_layer((name, mixers[kind]), ("feed_forward", feed_forward), norm=norm)


def inert(reader: ConfigReader) -> None:
    """Keys of Qwen3.5's published configs that the reference does not read, at the values that it computes."""
    for key, value in {"attn_output_gate": True, "output_gate_type": "swish", "mamba_ssm_dtype": "float32"}.items():
        reader.inert(key, value)
