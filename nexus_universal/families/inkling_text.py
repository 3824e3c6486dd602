"""Inkling (Thinking Machines): learned biases by distance, convolutions on keys, values and both residual branches."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, QueryTemperature, RelativeBias
from nexus_universal.architecture.program import Program
from nexus_universal.architecture.residual_convolution import ResidualConvolution
from nexus_universal.families.shared import common, draws, inkling, names
from nexus_universal.families.shared import inkling_tables as tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-6)
    text, embedding, spare = inkling.ends(reader, norm, context=131072, vocab=201024, width=6144, bos=1, eos=2)
    convolution = ResidualConvolution(kernel=reader.count("conv_kernel_size", 4))
    depth = reader.count("num_hidden_layers", 66)
    mixers = _mixers(reader, norm, convolution)
    dense, experts = _feed_forwards(reader)
    made: dict[tuple[str, str], Program] = {
        (kind, mlp): inkling.layer(mixer, part, norm=norm, convolution=convolution)
        for kind, mixer in mixers.items()
        for mlp, part in (("dense", dense), ("sparse", experts))
    }
    usual = tuple(index for index in range(depth) if (index + 1) % 6)
    listed = reader.indices("local_layer_ids", length=depth)
    local = usual if reader.values.get("local_layer_ids") is None else listed
    derived = tuple(tables.SLIDING if index in local else tables.FULL for index in range(depth))
    kinds = reader.names("layer_types", length=depth, known=tables.KINDS) or derived
    first = reader.take("dense_mlp_idx", 0)
    mlps = reader.names("mlp_layer_types", length=depth, known=("dense", "sparse"))
    mlps = mlps or tuple("dense" if index < first else "sparse" for index in range(depth))
    layers = (made[pair] for pair in zip(kinds, mlps, strict=True))
    divisor = reader.number("logits_mup_width_multiplier", 24.0)
    return inkling.decoder(text, embedding, layers, norm, spare=spare, input_divisor=divisor)


def _mixers(reader: ConfigReader, norm: Norm, convolution: ResidualConvolution) -> dict[str, Attention]:
    """The attention of each kind of layer."""
    window, width = reader.count("sliding_window_size", 512), reader.count("d_rel", 16)
    floor, growth = reader.count("log_scaling_n_floor", None, optional=True), reader.number("log_scaling_alpha", 0.1)
    full, sliding = (
        Attention(
            **(geometry := inkling.geometry(reader, kind, heads=64, kv_heads=kv_heads)),
            scale=1.0 / geometry["head_dim"],
            qk_norm=QueryKeyNorm(norm=norm),
            convolution=convolution,
            relative=RelativeBias(width=width, extent=window),
        )
        for kind, kv_heads in (("", 8), ("swa_", 16))
    )
    relative = RelativeBias(width=width, extent=reader.count("rel_extent", 1024))
    temperature = QueryTemperature(growth=growth, span=floor, form="log_above") if floor else None
    full = replace(full, relative=relative, temperature=temperature)
    return {tables.FULL: full, tables.SLIDING: replace(sliding, window=window)}


def _feed_forwards(reader: ConfigReader) -> tuple[FeedForward, MixtureOfExperts]:
    """A dense feed-forward and experts; where the dense one's width has a key of its own, the experts' has its."""
    width, expert = reader.count("intermediate_size", 24576), reader.count("moe_intermediate_size", 3072)
    own = reader.count("dense_intermediate_size", None, optional=True)
    dense = FeedForward(width=own or width, activation=common.activation(reader))
    router = Router(
        score="sigmoid",
        normalise=True,
        selection_bias=True,
        total="logs",
        scale=reader.number("route_scale", 8.0),
        learned_scale=True,
        logits="float32",
        weights="rounded",
        order="unsorted",
    )
    return dense, MixtureOfExperts(
        experts=reader.count("n_routed_experts", 256),
        per_token=reader.count("num_experts_per_tok", 6),
        expert=replace(dense, width=width if own else expert),
        router=router,
        always=reader.count("n_shared_experts", 2),
    )


FAMILY = Family(
    model_type="inkling_text",
    title="Inkling",
    read=read,
    weights=names.weights(tables.FIRST, passed_over={r"^model\.mtp\.": "multi-token prediction"}),
    aliases=tables.ALIASES | {"embedding_multiplier": "logits_mup_width_multiplier"},
    irrelevant=tables.FIRST_IRRELEVANT,
    rope="none",
    tiny=draws.TINY
    | tables.TINY
    | {"mlp_layer_types": ["dense", "sparse", "sparse"], "n_shared_experts": 2, "log_scaling_n_floor": 20},
    draws=tables.FIRST_DRAWS,
)
