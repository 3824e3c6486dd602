"""Qwen1.5-MoE, Qwen2-MoE (arXiv 2407.10671): Qwen2's attention, softmax-routed experts and a gated shared one."""

from __future__ import annotations

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, delta, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("full_attention", "sliding_attention")


def attentions(reader: ConfigReader, full: Attention, layers: int) -> tuple[Attention, ...]:
    """Windows in the layers that are listed, or in every second one below `max_window_layers`, if they are used."""
    used, below = reader.take("use_sliding_window", False), reader.take("max_window_layers", 28)
    none = reader.take("sliding_window", 4096, kinds=(int, type(None))) == 0 and not used  # as the class writes it
    window = None if none else common.window_if_used(reader)
    derived = tuple(KINDS[used and index < below and index % 2 == 0] for index in range(layers))
    kinds = reader.names("layer_types", length=layers, known=KINDS) or derived
    return common.windowed_by(kinds, full, window, reader, needs=common.WINDOW_IF_USED)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=151936, width=2048)
    norm = common.rms_norm(reader, 1e-6)
    biases = common.INPUT_BIASES if reader.take("qkv_bias", True) else ()
    full = common.attention(reader, text, embedding.width, heads=16, kv_heads=16, biases=biases)
    dense = common.feed_forward(reader, 5632)
    normalise = reader.take("norm_topk_prob", False)
    act = common.activation(reader)
    experts = delta.experts(reader, act, count=60, chosen=4, normalise=normalise, width=1408, shared=5632)
    sparse = common.sparse_layers(reader, reader.count("num_hidden_layers", 24))
    feed_forwards = [experts if is_sparse else dense for is_sparse in sparse]
    layers = common.sequential(attentions(reader, full, len(sparse)), feed_forwards, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="qwen2_moe",
    title="Qwen1.5-MoE, Qwen2-MoE",
    read=read,
    weights=names.weights(names.experts(), delta.SHARED_EXPERT),
    tiny=draws.TINY
    | draws.TINY_EXPERTS
    | {"num_hidden_layers": 3, "norm_topk_prob": True, "shared_expert_intermediate_size": 20},
    draws=draws.without(draws.DENSE, "attention_bias")
    | draws.EXPERTS
    | draws.WINDOWED_ABOVE
    | {
        "qkv_bias": (True, False),
        "head_dim": (16, 8),
        "max_window_layers": (3, 0, 2),
        "sliding_window": (7, 24),
        "shared_expert_intermediate_size": (20, 32),
    },
)
