"""Mamba-2 (arXiv 2405.21060): state spaces alone, one to a layer, summed in float32."""

from __future__ import annotations

from math import inf

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, names, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    step_range = state_space.step_range(reader)
    text = common.text(reader, context=None, bos=0, eos=2, pad=1, std=0.1, step_range=step_range, uniform_output=True)
    residual = "float32" if reader.take("residual_in_fp32", True) else "model"
    embedding = common.embedding(reader, vocab=32768, width=4096, pad=None, dtype=residual)
    norm = Norm(kind="rms", eps=reader.take("layer_norm_epsilon", 1e-5))
    heads, head_dim = reader.count("num_heads", 128), reader.count("head_dim", 64)
    expand = reader.count("expand", 2)
    fits = embedding.width * expand == heads * head_dim
    reader.require(fits, "expand", expand, "times hidden_size must be num_heads · head_dim")
    reader.inert("intermediate_size", heads * head_dim)
    reader.inert("rms_norm", True)
    for key in ("attn_implementation", "_attn_implementation"):
        reader.inert(key, None, "eager")
    mixer = state_space.plain(
        reader,
        heads=heads,
        head_dim=head_dim,
        state_dim=reader.count("state_size", 128),
        norm=norm,
        activation=common.activation(reader),
        time_step=state_space.time_step_limit(reader),
        chunk=256,
    )
    layers = [sequential_layer(("state_space", mixer), norm=norm)] * reader.count("num_hidden_layers", 64)
    return common.decoder(reader, text, embedding, layers, norm, dtype="float32")


FAMILY = Family(
    model_type="mamba2",
    title="Mamba-2, Codestral Mamba",
    read=read,
    weights=WeightMap(
        tensors={"embedding.tokens": "backbone.embeddings", "final_norm": "backbone.norm_f", "head": "lm_head"}
        | names.state_space("backbone.layers.{i}", "mixer", "norm"),
    ),
    irrelevant={
        "time_step_rank": "the rank of Mamba-1's Δ, which Mamba-2 does not have",
        "norm_before_gate": "an old key that no version reads: the norm is behind the gate",
        **dict.fromkeys(("rescale_prenorm_residual", "time_step_init_scheme", "time_step_scale"), TRAINING),
    },
    rope="none",
    tiny={
        "vocab_size": 97,
        "hidden_size": 48,
        "num_hidden_layers": 2,
        "num_heads": 6,
        "head_dim": 16,
        "state_size": 10,
        "n_groups": 2,
        "chunk_size": 32,
    },
    draws=state_space.PLAIN_DRAWS
    | {
        "state_size": (10, 16),
        "hidden_act": ("silu", "gelu"),
        "residual_in_fp32": (True, False),
        "time_step_limit": ([0.0, inf], [0.3, 0.9]),
        "tie_word_embeddings": (False, True),
        "num_hidden_layers": (2, 3),
    },
)
