"""Zamba2 (arXiv 2411.15242): Mamba-2, and blocks of attention that layers share in turn, each use with adapters."""

from __future__ import annotations

from dataclasses import replace
from math import inf

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Adapter
from nexus_universal.architecture.recurrences import StateSpace
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import common, draws, names, rotary, shared_block, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

PATTERN = "M" + 7 * "MMMMMH" + "MMMMH" + "MMMH" + "MM"
KINDS = ("linear_attention", "hybrid")
DERIVED = ("attention_hidden_size", "attention_head_dim", "kv_channels", "num_query_groups")
BLOCK = f"{names.LAYER}.shared_transformer"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    step_range = state_space.step_range(reader)
    text = common.text(reader, context=4096, bos=1, eos=2, pad=0, step_range=step_range)
    text = replace(text, context=16384) if reader.take("use_long_context", False) else text
    embedding = common.embedding(reader, vocab=32000, width=2560, pad=text.pad)
    norm, width, heads = common.rms_norm(reader, 1e-5), embedding.width, reader.count("num_attention_heads", 32)
    head_dim, rotated = 2 * width // heads, reader.take("use_mem_rope", False)
    for key, value in zip(DERIVED, (2 * width, head_dim, width // heads, heads), strict=True):
        reader.inert(key, value)
    rope = rotary.rope(reader.section("rope_parameters"), context=text.context)
    form = {"rotated": rotated, "rope": rope, "biases": (), "scale": (head_dim / 2) ** -0.5, "head_dim": head_dim}
    attention = common.attention(reader, text, 2 * width, heads=heads, **form)
    biased = reader.take("add_bias_linear", False)
    feed_forward = FeedForward(
        width=reader.count("intermediate_size", optional=True) or 4 * width,
        activation=common.activation(reader, default="gelu"),
        packing=(Packed(roles=("gate", "up")),),
        biases=("gate", "up", "down") if biased else (),
    )
    block = shared_block.block(attention, feed_forward, norm)
    targets = ["feed_forward.gate_up"]
    if reader.take("use_shared_attention_adapter", False):
        targets = [*(f"attention.{role}" for role in ("query", "key", "value")), *targets]
        fits, needed = attention.kv_heads * head_dim == 2 * width, "needs num_key_value_heads = num_attention_heads"
        reader.require(fits, "use_shared_attention_adapter", True, needed)
    adapters = tuple(Adapter(target=target, rank=reader.count("adapter_rank", 128)) for target in targets)
    mixer = _mixer(reader, width, step_range[0], biases=("input", "output") if biased else ())
    shared = {"blocks": reader.count("num_mem_blocks", 1), "adapters": adapters}
    kinds = _kinds(reader)
    reader.inert("hybrid_layer_ids", [index for index, kind in enumerate(kinds) if kind == "hybrid"])
    layers = shared_block.layers(reader, kinds, mixer, block, norm=norm, **shared)
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


def _mixer(reader: ConfigReader, width: int, shortest: float, **biases: tuple[str, ...]) -> StateSpace:
    heads, groups = reader.count("n_mamba_heads", 8), reader.count("mamba_ngroups", 1)
    inner = reader.count("mamba_expand", 2) * width
    reader.inert("mamba_headdim", inner // heads)
    return StateSpace(
        heads=heads,
        head_dim=inner // heads,
        state_dim=reader.count("mamba_d_state", 64),
        groups=groups,
        convolution=reader.count("mamba_d_conv", 4),
        norm=Norm(kind="rms", eps=1e-5),
        norm_groups=groups,
        time_step=(shortest, inf),
        chunk=reader.count("chunk_size", 256),
        **biases,  # type: ignore[arg-type]
    )


def _kinds(reader: ConfigReader) -> tuple[str, ...]:
    """What each layer is: listed, or as in the 54 of the class's default."""
    depth = reader.count("num_hidden_layers", 54)
    kinds = reader.names("layers_block_type", length=depth, known=KINDS)
    reader.require(kinds is not None or depth == 54, "num_hidden_layers", depth, "known without layers_block_type: 54")
    return kinds or tuple(KINDS[letter == "H"] for letter in PATTERN)[:depth]


ADAPTED = {f"attention.{role}": f"self_attn.linear_{role[0]}" for role in ("query", "key", "value")}
ADAPTED |= {"feed_forward.gate_up": "feed_forward.gate_up_proj"}
ADAPTERS: names.Names = {
    f"shared.layers.{{i}}.{ours}_adapters.{{i}}.{matrix}": f"{BLOCK}.{theirs}_adapter_list.{{i}}.{place}"
    for ours, theirs in ADAPTED.items()
    for place, matrix in enumerate(("down", "up"))
}
FEEDING = {"gate_up": "gate_up_proj", "down": "down_proj"}
TENSORS = shared_block.tensors(names.state_space, "shared_transformer", FEEDING) | ADAPTERS

FAMILY = Family(
    model_type="zamba2",
    title="Zamba2",
    read=read,
    weights=WeightMap(tensors=TENSORS, passed_over=shared_block.REPEATED),
    aliases={"layer_types": "layers_block_type", "head_dim": "attention_head_dim"},
    irrelevant={
        **state_space.IRRELEVANT,
        **dict.fromkeys(("use_mamba_kernels", "use_mem_eff_path"), "says how, not what is computed"),
        "use_conv_bias": "the reference's class does not read it",
    },
    tiny=draws.without(draws.TINY, "num_key_value_heads", "num_hidden_layers")
    | {"layers_block_type": ["mamba", "hybrid", "hybrid", "mamba", "hybrid"], "num_hidden_layers": 5}
    | {"n_mamba_heads": 6, "mamba_d_state": 10, "chunk_size": 32, "adapter_rank": 5, "num_mem_blocks": 2},
    draws=draws.without(draws.DENSE, "attention_bias", "num_key_value_heads")
    | {
        "hidden_act": ("gelu", "silu"),
        "num_mem_blocks": (2, 1, 3),
        **dict.fromkeys(("use_mem_rope", "use_long_context", "add_bias_linear"), (False, True)),
        **{"use_shared_attention_adapter": (False, True), "adapter_rank": (5, 3)},
        **{"mamba_ngroups": (1, 2, 3), "mamba_d_state": (10, 16)},
        **{"mamba_d_conv": (4, 2), "mamba_expand": (2, 1), "chunk_size": (32, 7, 128)},
        **{"time_step_min": (0.001, 0.3), "pad_token_id": (0, None)},
    },
)
