"""Zamba (arXiv 2405.16712): Mamba in heads, and one block of attention that a few layers share."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.recurrences import ChannelStateSpace
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names, shared_block, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("linear_attention", "hybrid")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    step_range = state_space.step_range(reader)
    text = common.text(reader, context=4096, bos=1, eos=2, pad=0, step_range=step_range)
    embedding = common.embedding(reader, vocab=32000, width=3712, pad=text.pad)
    norm, width = common.rms_norm(reader, 1e-5), embedding.width
    reader.inert("attention_hidden_size", 2 * width, None)
    heads = reader.count("num_attention_heads", 16)
    head_dim = reader.count("attention_head_dim", optional=True) or 2 * width // heads
    attention = common.attention(
        reader,
        text,
        2 * width,
        heads=heads,
        kv_heads=16,
        head_dim=head_dim,
        rotated=False,
        biases=(),
        scale=(head_dim / 2) ** -0.5,
    )
    mixer = ChannelStateSpace(
        width=reader.count("mamba_expand", 2) * width,
        state_dim=reader.count("mamba_d_state", 16),
        rank=state_space.rank(reader, "mamba_dt_rank", width),
        convolution=reader.count("mamba_d_conv", 4),
        activation=common.activation(reader, "hidden_mamba_act"),
        convolution_bias=reader.take("mamba_conv_bias", True),
        biases=state_space.projection_biases(reader),
        heads=reader.count("n_mamba_heads", 2),
    )
    block = shared_block.block(attention, common.feed_forward(reader, 14848, act="gelu"), norm)
    layers = shared_block.layers(reader, _kinds(reader), mixer, block, norm=norm)
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


def _kinds(reader: ConfigReader) -> tuple[str, ...]:
    """What each layer is: listed, or the third and then one in every period has the block."""
    depth = reader.count("num_hidden_layers", 76)
    period, offset = reader.count("attn_layer_period", 6), reader.take("attn_layer_offset", 4)
    reader.require(0 <= offset < period, "attn_layer_offset", offset, f"must lie in [0, {period})")
    later = (KINDS[index % period == offset] for index in range(depth - 3))
    kinds = reader.names("layers_block_type", length=depth, known=KINDS) or (KINDS[0], *KINDS, *later)
    reader.require("hybrid" in kinds and len(kinds) == depth, "layers_block_type", list(kinds), "needs a 'hybrid'")
    return kinds


def _mixer(layer: str) -> names.Names:
    ours, theirs = "layers.{i}.state_space", f"{layer}.mamba"
    heads = {"choose": "x_proj_weight", "step_weight": "dt_proj_weight", "step_bias": "dt_proj_bias"}
    return names.channel_state_space(layer) | {f"{ours}.{role}": f"{theirs}.{name}" for role, name in heads.items()}


FAMILY = Family(
    model_type="zamba",
    title="Zamba",
    read=read,
    weights=WeightMap(
        tensors=shared_block.tensors(_mixer, "shared_transf", {r: f"{r}_proj" for r in ("gate", "up", "down")}),
        passed_over=shared_block.REPEATED,
        wide=("*.decay_log",),
    ),
    aliases={"layer_types": "layers_block_type", "head_dim": "attention_head_dim"},
    irrelevant={
        **state_space.IRRELEVANT,
        **dict.fromkeys(("use_mamba_kernels", "use_associative_scan"), "says how, not what is computed"),
    },
    rope="none",
    tiny=draws.without(draws.TINY, "num_key_value_heads")
    | {"num_key_value_heads": 4, "mamba_d_state": 10, "mamba_dt_rank": 5, "num_hidden_layers": 5}
    | {"attn_layer_period": 2, "attn_layer_offset": 0},
    draws={
        **{key: draws.DENSE[key] for key in ("rms_norm_eps", "tie_word_embeddings")},
        "hidden_act": ("gelu", "silu"),
        "hidden_mamba_act": ("silu", "gelu"),
        "num_key_value_heads": (4, 2),
        "attention_head_dim": (None, 16),
        "layers_block_type": (None, ["hybrid", "mamba", "hybrid", "mamba", "hybrid"]),
        "attn_layer_offset": (0, 1),
        "n_mamba_heads": (2, 1, 4),
        "mamba_d_state": (10, 16),
        "mamba_d_conv": (4, 2),
        "mamba_expand": (2, 1),
        "mamba_dt_rank": (5, "auto"),
        "mamba_conv_bias": (True, False),
        "mamba_proj_bias": (False, True),
        "pad_token_id": (0, None),
    },
)
