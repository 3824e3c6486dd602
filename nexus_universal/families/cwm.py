"""Code World Model (arXiv 2510.02387): Llama 3 with a window in three layers of four, the first of them full."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=131072,
    vocab=128256,
    width=6144,
    inner=21504,
    depth=64,
    heads=48,
    kv_heads=8,
    head_dim=128,
    bos=128000,
    eos=[128001, 128008, 128009],
)
CYCLE = ("full_attention", *("sliding_attention",) * 3)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""

    def mixers(full: Attention, depth: int) -> Iterable[Attention]:
        sliding = replace(full, window=reader.count("sliding_window", 8192))
        return common.windowed(common.cycled_types(reader, depth, CYCLE), full, sliding=sliding)

    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-5),
        mixers=mixers,
        feed_forward=dense.gated_biases(reader),
        biases=(),
    )


FAMILY = Family(
    model_type="cwm",
    title="Code World Model",
    read=read,
    weights=names.weights(),
    irrelevant={"pretraining_tp": "split products in training; transformers no longer reads it"},
    rope_theta=1000000.0,
    rope_default={
        "rope_type": "llama3",
        "factor": 16.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
    },
    tiny=draws.TINY | {"num_hidden_layers": 5, "head_dim": 16, "sliding_window": 16, "eos_token_id": 3},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (16, 8),
        "mlp_bias": (False, True),
        "sliding_window": (16, 7, 128),
        "layer_types": (None, [*CYCLE[1:], *CYCLE[:2]]),
    },
)
