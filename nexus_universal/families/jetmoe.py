"""JetMoE (arXiv 2404.07413): experts in both sublayers, those of attention own query and output projections."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, RoutedAttention, Router
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

ATTENTION, EXPERTS = f"{names.LAYER}.self_attention", f"{names.LAYER}.mlp"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config; its epsilon is the final norm's only."""
    text = common.text(reader, context=4096, bos=1, eos=2, pad=None, std=0.01)
    embedding = common.embedding(reader, vocab=32000, width=2048, pad=text.pad)
    router = Router(score="softmax_chosen", normalise=False, weights="model")
    counts = {
        "experts": reader.count("num_local_experts", 8),
        "per_token": reader.count("num_experts_per_tok", 2),
        "router": router,
    }
    attention = RoutedAttention(
        kv_heads=reader.count("num_key_value_heads", 16),
        head_dim=reader.count("kv_channels", 128),
        rope=rotary.rope(reader.section("rope_parameters"), context=text.context),
        packing=(Packed(roles=("key", "value")),),
        **counts,
    )
    expert = FeedForward(
        width=reader.count("intermediate_size", 5632), activation=common.activation(reader, "activation_function")
    )
    experts = MixtureOfExperts(expert=expert, bias=True, sum_order="expert", **counts)
    norm = common.rms_norm(reader, 1e-6)
    depth = reader.count("num_hidden_layers", 12)
    layers = common.sequential([attention] * depth, experts, norm=replace(norm, eps=1e-6))
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


FAMILY = Family(
    model_type="jetmoe",
    title="JetMoE",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.attention.key_value": f"{ATTENTION}.kv_proj",
            "layers.{i}.attention.query": Direct(f"{ATTENTION}.experts.input_linear.weight"),
            "layers.{i}.attention.output": Direct(f"{ATTENTION}.experts.output_linear.weight"),
            "layers.{i}.attention.bias": Direct(f"{ATTENTION}.experts.bias"),
            "layers.{i}.attention.router.weight": Direct(f"{ATTENTION}.experts.router.layer.weight"),
            "layers.{i}.feed_forward.experts.gate_up": Direct(f"{EXPERTS}.input_linear.weight"),
            "layers.{i}.feed_forward.experts.down": Direct(f"{EXPERTS}.output_linear.weight"),
            "layers.{i}.feed_forward.bias": Direct(f"{EXPERTS}.bias"),
            "layers.{i}.feed_forward.router.weight": Direct(f"{EXPERTS}.router.layer.weight"),
        }
    ),
    aliases={"head_dim": "kv_channels"},
    irrelevant={
        "num_attention_heads": "follows from num_key_value_heads and num_experts_per_tok",
        "aux_loss_coef": "used in training only",
    },
    tiny=draws.TINY | {"kv_channels": 12, "num_local_experts": 8},
    draws=draws.without(draws.DENSE, "attention_bias", "hidden_act")
    | {
        "kv_channels": (12, 16),
        "activation_function": ("silu", "gelu_pytorch_tanh"),
        "num_local_experts": (8, 5),
        "num_experts_per_tok": (2, 3, 1),
        "tie_word_embeddings": (True, False),
    },
)
