"""gpt-oss (arXiv 2508.10925): sinks, every second layer windowed, YaRN, experts with biases and a clamped gate."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Transposed
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("sliding_attention", "full_attention")
MLP = f"{names.LAYER}.mlp"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=201088, width=2880)
    norm = common.rms_norm(reader, 1e-5, rounding="after_scale")
    biases = common.ALL_BIASES if reader.take("attention_bias", True) else ()
    full = common.attention(
        reader, text, embedding.width, heads=64, kv_heads=8, head_dim=64, biases=biases, sinks=True, kernel="eager"
    )
    windowed = replace(full, window=reader.count("sliding_window", 128))
    depth = reader.count("num_hidden_layers", 36)
    kinds = reader.names("layer_types", length=depth, known=KINDS) or (KINDS * depth)[:depth]
    mixers = [windowed if kind == "sliding_attention" else full for kind in kinds]
    reader.inert("swiglu_alpha", 1.702)
    width = reader.count("intermediate_size", 2880)
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 128),
        per_token=reader.count("num_experts_per_tok", 4),
        expert=FeedForward(
            width=width,
            activation="gelu_quick",
            biases=("gate", "up", "down"),
            packing=(Packed(roles=("gate", "up"), groups=width),),
            gate_limit=reader.number("swiglu_limit", 7.0),
            up_shift=1.0,
        ),
        router=Router(score="softmax_chosen", normalise=False, bias=True, weights="model"),
    )
    layers = common.sequential(mixers, experts, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="gpt_oss",
    title="gpt-oss",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.attention.sinks": f"{names.LAYER}.self_attn.sinks",
            "layers.{i}.feed_forward.router": f"{MLP}.router",
            "layers.{i}.feed_forward.experts.gate_up": Transposed(f"{MLP}.experts.gate_up_proj"),
            "layers.{i}.feed_forward.experts.gate_up_bias": f"{MLP}.experts.gate_up_proj_bias",
            "layers.{i}.feed_forward.experts.down": Transposed(f"{MLP}.experts.down_proj"),
            "layers.{i}.feed_forward.experts.down_bias": f"{MLP}.experts.down_proj_bias",
        },
        wide_in_half=("*norm.weight",),
    ),
    aliases={"num_experts": "num_local_experts"},
    irrelevant={
        "hidden_act": "the experts' clamped gate is fixed",
        "experts_per_token": "another name of num_experts_per_tok that the reference does not read",
        "initial_context_length": "rope_parameters says it",
    },
    rope_theta=150000.0,
    rope_default={
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "truncate": False,
        "original_max_position_embeddings": 4096,
    },
    tiny=draws.TINY
    | {
        "num_hidden_layers": 3,
        "intermediate_size": 24,
        "head_dim": 16,
        "sliding_window": 16,
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "swiglu_limit": 1.5,
    },
    draws=draws.without(draws.DENSE, "hidden_act", "attention_bias")
    | {
        "attention_bias": (True, False),
        "head_dim": (16, 8),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, ["full_attention", "sliding_attention", "full_attention"]),
        "num_local_experts": (8, 5),
        "num_experts_per_tok": (3, 1, 4),
        "swiglu_limit": (1.5, 7.0, 0.4),
    },
)
