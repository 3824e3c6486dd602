"""Inkling 2 (Thinking Machines): residuals read by attention over blocks, bounded heads, sinks from x, dynamic taps."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, OutputGate
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, QueryTemperature, RelativeBias
from nexus_universal.architecture.program import Program, Read, Step, Term, Write
from nexus_universal.architecture.residual_convolution import DynamicConvolution, ResidualConvolution
from nexus_universal.families.shared import common, draws, inkling, names
from nexus_universal.families.shared import inkling_tables as tables
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-6, rounding="after_scale")
    defaults = {"context": 1048576, "vocab": 201024, "width": 4608, "eos": 200006}
    text, embedding, spare = inkling.ends(reader, norm, unpadded=200058, **defaults)
    convolution = ResidualConvolution(kernel=reader.count("conv_kernel_size", 4), divided=True)
    depth = reader.count("num_hidden_layers", 48)
    mixers, experts = _mixers(reader, norm, convolution), _experts(reader)
    derived = tuple(tables.SLIDING if (index + 1) % 6 else tables.FULL for index in range(depth))
    kinds = reader.names("layer_types", length=depth, known=tables.KINDS) or derived
    every = reader.count("n_layers_per_attn_res_block", 6)
    layers = tuple(
        inkling.layer(
            mixers[kind],
            experts,
            norm=norm,
            convolution=convolution,
            reads=(_over(index, every, queries=3 if mixers[kind].apart else 1), _over(index + 1, every)),
            begun=None if index % every else f"block_{index // every}",
            rounded=True,
        )
        for index, kind in enumerate(kinds)
    )
    merge = Step(read=_over(depth, every), branches=(), writes=(Write(terms=(Term(source="u"),)),))
    layers = (*layers[:-1], Program(steps=(*layers[-1].steps, merge)))
    cap = reader.number("final_logit_softcapping", 30.0)
    return inkling.decoder(text, embedding, layers, norm, spare=spare, softcap=cap, dtype="float32_capped")


def _over(index: int, every: int, *, queries: int = 1) -> Read:
    """Attention over the blocks put away by the layers before this one, if any, and the block at work."""
    blocks = (f"block_{number}" for number in range(-(-index // every)))
    return Read(registers=(*blocks, "x"), join="attend", queries=queries) if index else Read()


def _mixers(reader: ConfigReader, norm: Norm, convolution: ResidualConvolution) -> dict[str, Attention]:
    """The attention of each kind of layer."""
    window, limit = reader.count("sliding_window_size", 1024), reader.number("qk_l2_clip_threshold", 22.627416997969522)
    most = reader.number("rel_l2_clip_threshold", 8.0)
    relative = RelativeBias(width=reader.count("d_rel", 16), extent=window, length_limit=most, grown="mixing")
    floor, growth = reader.count("log_scaling_n_floor", 128000), reader.number("log_scaling_alpha", 0.1)
    common.written_out(reader, "eager")
    full, sliding = (
        Attention(
            **inkling.geometry(reader, kind, heads=48, kv_heads=8),
            kernel="eager",
            gate=OutputGate(wide="product"),
            convolution=convolution,
            relative=relative,
            length_limit=limit,
            projected_sinks=True,
            value_norm=replace(norm, scale="none"),
        )
        for kind in ("", "swa_")
    )
    full = replace(
        full,
        apart=norm,
        convolution=DynamicConvolution(kernel=convolution.kernel),
        relative=replace(relative, extent=reader.count("rel_extent", 1024)),
        temperature=QueryTemperature(growth=growth, span=floor, form="log_above"),
    )
    return {tables.FULL: full, tables.SLIDING: replace(sliding, window=window)}


def _experts(reader: ConfigReader) -> MixtureOfExperts:
    caps = reader.number("mlp_gate_softcap", 4.0), reader.number("mlp_up_softcap", 25.0)
    return MixtureOfExperts(
        experts=reader.count("n_routed_experts", 384),
        per_token=reader.count("num_experts_per_tok", 8),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 2304), activation="silu", softcaps=caps),
        router=Router(
            score=reader.take("scoring_func", "sigmoid", known=("sigmoid",)),
            normalise=True,
            selection_bias=True,
            sum_epsilon=1e-20,
            scale=reader.number("route_scale", 8.0),
            logits="float32",
            stored="float32",
            order="unsorted",
        ),
    )


FAMILY = Family(
    model_type="inkling2_text",
    title="Inkling 2",
    read=read,
    weights=names.weights(names.either(tables.PUBLISHED, names.weights(tables.SECOND).tensors)),
    aliases=tables.ALIASES | {"intermediate_size": "moe_intermediate_size", "routed_scaling_factor": "route_scale"},
    irrelevant=tables.IRRELEVANT | {"hidden_act": tables.UNREAD},
    rope="none",
    tiny=draws.without(draws.TINY, "intermediate_size")
    | tables.TINY
    | {"n_layers_per_attn_res_block": 2, "log_scaling_n_floor": 20, "unpadded_vocab_size": 97},
    draws=tables.SECOND_DRAWS,
)
