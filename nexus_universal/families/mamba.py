"""Mamba (arXiv 2312.00752): state spaces alone, a decay per channel and state, summed in float32."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.architecture.recurrences import ChannelStateSpace
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, names, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader


def read(reader: ConfigReader, inner_norm: Norm | None = None) -> ArchitectureParameter:
    """The n of a config; `inner_norm` norms what the scan is chosen by (FalconMamba)."""
    text = common.text(
        reader,
        context=None,
        bos=0,
        eos=0,
        pad=0,
        std=0.1,
        step_range=state_space.step_range(reader),
        uniform_output=True,
        shrunk_output=reader.take("rescale_prenorm_residual", False),
    )
    residual = "float32" if reader.take("residual_in_fp32", True) else "model"
    embedding = common.embedding(reader, vocab=50280, width=768, pad=None, dtype=residual)
    norm = Norm(kind="rms", eps=reader.take("layer_norm_epsilon", 1e-5))
    width = reader.count("expand", 2) * embedding.width
    depth = reader.count("num_hidden_layers", 32)
    inert = {"intermediate_size": width, "d_inner": width, "d_model": embedding.width, "n_layer": depth}
    for key, value in {**inert, "rms_norm": True, "ssm_cfg": {}}.items():
        reader.inert(key, value)
    for key in ("attn_implementation", "_attn_implementation"):
        reader.inert(key, None, "eager")
    mixer = ChannelStateSpace(
        width=width,
        state_dim=reader.count("state_size", 16),
        rank=state_space.rank(reader, "time_step_rank", embedding.width),
        convolution=reader.count("conv_kernel", 4),
        inner_norm=inner_norm,
        activation=common.activation(reader),
        convolution_bias=reader.take("use_conv_bias", True),
        biases=("input", "output") if reader.take("use_bias", False) else (),
    )
    layers = [sequential_layer(("state_space", mixer), norm=norm)] * depth
    return common.decoder(reader, text, embedding, layers, norm, tied=True, dtype="float32")


FAMILY = Family(
    model_type="mamba",
    title="Mamba",
    read=read,
    weights=WeightMap(
        tensors={"embedding.tokens": "backbone.embeddings", "final_norm": "backbone.norm_f", "head": "lm_head"}
        | names.channel_state_space("backbone.layers.{i}", "mixer", "norm"),
    ),
    irrelevant={
        **dict.fromkeys(("use_mambapy", "use_associative_scan", "fused_add_norm"), "says how, not what is computed"),
        **dict.fromkeys(("time_step_init_scheme", "time_step_scale", "pad_vocab_size_multiple"), TRAINING),
    },
    rope="none",
    tiny={"vocab_size": 97, "hidden_size": 48, "num_hidden_layers": 2, "state_size": 10, "time_step_rank": 5},
    draws={key: values for key, values in state_space.PLAIN_DRAWS.items() if key not in ("n_groups", "chunk_size")}
    | {
        "state_size": (10, 16),
        "expand": (2, 1),
        "hidden_act": ("silu", "gelu"),
        "time_step_rank": (5, "auto"),
        "residual_in_fp32": (True, False),
        "tie_word_embeddings": (True, False),
        "num_hidden_layers": (2, 3),
    },
)
