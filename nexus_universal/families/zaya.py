"""ZAYA1 (arXiv 2511.17127): attention over convolved queries and keys, routers that remember, gains on the residual."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.checkpoint.rules import Direct
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FULL, SLIDING = KINDS = "hybrid", "hybrid_sliding"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    wide = {"gain": True, "dtype": "float32_layers"}
    text, embedding = common.ends(reader, context=131072, vocab=262272, width=2048, bos=2, eos=106, pad=0, **wide)
    norm, depth = common.rms_norm(reader, 1e-5), reader.count("num_hidden_layers", 40)
    kinds = reader.names("layer_types", length=depth, known=KINDS) or (FULL,) * depth
    mixers = _attention(reader, kinds, context=text.context)
    experts = ChainedExperts(
        experts=reader.count("num_experts", 16),
        expert=FeedForward(width=reader.count("moe_intermediate_size", 2048), activation=common.activation(reader)),
        width=reader.count("router_hidden_size", 256),
        norm=norm,
        chained=True,
    )
    reader.inert("num_experts_per_tok", 1)
    layers = (
        Program(steps=(_step("attention", mixers[kind], norm), _step("experts", replace(experts, chained=i > 0), norm)))
        for i, kind in enumerate(kinds)
    )
    return common.decoder(reader, text, embedding, layers, norm, tied=True, bias=reader.take("lm_head_bias", False))


def _attention(reader: ConfigReader, kinds: tuple[str, ...], *, context: int | None) -> dict[str, ConvolvedAttention]:
    said = reader.section("rope_parameters")
    form = {"context": context, "takes_fraction": True, "nested": True}
    reader.require(
        set(kinds) <= set(said.values), "rope_parameters", said.values, f"a section each: {', '.join(KINDS)}"
    )
    ropes = {kind: rotary.rope(said.section(kind), **form) for kind in KINDS if kind in said.values}
    full = ConvolvedAttention(
        heads=reader.count("num_attention_heads", 8),
        kv_heads=reader.count("num_key_value_heads", 2),
        head_dim=reader.count("head_dim", 128),
        rope=ropes.get(FULL) or ropes[SLIDING],
        depthwise=reader.count("cca_time0", 2),
        grouped=reader.count("cca_time1", 2),
        bias=reader.take("attention_bias", False),
    )
    window = reader.count("sliding_window", None, optional=SLIDING not in kinds)
    return {FULL: full, SLIDING: replace(full, rope=ropes.get(SLIDING, full.rope), window=window)}


def _step(name: str, part: Part, norm: Norm) -> Step:
    terms = (Term(source=name, gain="shift_scale"), Term(source="x", gain="shift_scale"))
    branch = Branch(name=name, part=part)  # type: ignore[arg-type]
    return Step(norm=norm, branches=(branch,), writes=(Write(terms=terms),))


ATTENTION, GATE = f"{names.LAYER}.self_attn.qkv_proj", f"{names.LAYER}.mlp.gate"
MIXER = {"query": "q_proj", "key": "k_proj", "value": "v_proj_current", "late_value": "v_proj_delayed"}
MIXER |= {"depthwise": "conv_qk_depthwise", "grouped": "conv_qk_grouped"}
ROUTER = {"down": "down_proj", "memory_scale": "router_states_scale", "selection_bias": "balancing_biases"}
ROUTER |= {"norm": "router_mlp.norm", "first": "router_mlp.fc1", "second": "router_mlp.fc2"}


TENSORS: names.Names = {
    **{f"layers.{{i}}.attention.{ours}": f"{ATTENTION}.{theirs}" for ours, theirs in MIXER.items()},
    **{f"layers.{{i}}.experts.router.{ours}": f"{GATE}.{theirs}" for ours, theirs in ROUTER.items()},
    "layers.{i}.experts.router.last": f"{GATE}.router_mlp.out_proj",
    "layers.{i}.attention.key_scale": f"{names.LAYER}.self_attn.qk_norm.temp",
    "layers.{i}.experts_norm": f"{names.LAYER}.post_attention_layernorm",
    "layers.{i}.experts.experts.gate_up": Direct(f"{names.LAYER}.mlp.experts.gate_up_proj"),
    "layers.{i}.experts.experts.down": Direct(f"{names.LAYER}.mlp.experts.down_proj"),
}
for ours, name in (("weight", "scale"), ("bias", "bias")):
    TENSORS[f"embedding.gain.{ours}"] = Direct(f"model.input_hidden_states_{name}")
    for step, place in (("attention", "attention"), ("experts", "mlp")):
        for source, role in ((step, "hidden_states"), ("x", "residual")):
            theirs = f"{names.LAYER}.post_{place}_residual_scale.{role}_{name}"
            TENSORS[f"layers.{{i}}.{step}_x_{source}_gain.{ours}"] = Direct(theirs)

PARTIAL = {"rope_type": "default", "partial_rotary_factor": 0.5}
ROPE = {FULL: {**PARTIAL, "rope_theta": 5000000.0}, SLIDING: {**PARTIAL, "rope_theta": 10000.0}}

FAMILY = Family(
    model_type="zaya",
    title="ZAYA1",
    read=read,
    weights=names.weights(TENSORS),
    rope="none",
    rope_default=ROPE,
    tiny=draws.without(draws.TINY, "intermediate_size")
    | {
        **{"head_dim": 16, "num_hidden_layers": 3, "layer_types": [FULL, SLIDING, FULL], "sliding_window": 16},
        **{"moe_intermediate_size": 24, "num_experts": 5, "router_hidden_size": 20},
    },
    draws=draws.without(draws.DENSE, "rope_parameters")
    | {
        "rope_parameters": (ROPE, {FULL: ROPE[SLIDING], SLIDING: {**ROPE[FULL], "partial_rotary_factor": 1.0}}),
        "head_dim": (16, 24),
        "layer_types": ([FULL, SLIDING, FULL], None, [SLIDING, FULL, SLIDING]),
        "sliding_window": (16, 7, 128),
        **{"lm_head_bias": (False, True), "num_experts": (5, 8), "cca_time0": (2, 3, 1), "cca_time1": (2, 1, 4)},
    },
)
