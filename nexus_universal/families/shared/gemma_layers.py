"""Layers of Gemma 3n and Gemma 4, and how their tensors are named."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import PerLayerEmbedding, Text
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, Router
from nexus_universal.architecture.mixers import Attention, LowRank, QueryKeyNorm
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import (
    AltUp,
    Branch,
    Program,
    Read,
    Step,
    StreamSlice,
    Term,
    Write,
    residual_step,
)
from nexus_universal.families.shared import common, names, rotary
from nexus_universal.families.shared.reader import ConfigReader

LAYER = names.LAYER


def table(reader: ConfigReader, norm: Norm) -> PerLayerEmbedding | None:
    """Gemma 4's per-layer table; None where its width is 0."""
    rows, width = reader.count("vocab_size_per_layer_input", 262144), reader.take("hidden_size_per_layer_input", 256)
    if width < 0:
        raise reader.refuse("hidden_size_per_layer_input", width, "must not be negative")
    if not width:
        return None
    return PerLayerEmbedding(vocab=rows, width=width, norm=norm, scale_rounding="none", finds_tokens=True)


def attention(
    reader: ConfigReader, kinds: tuple[str, ...], norm: Norm, text: Text, *, window: int
) -> dict[str, Attention]:
    """Gemma 4's, by kind: a full layer has heads of its own width, and its values may be its keys."""
    ropes = reader.section("rope_parameters")
    local, far = (
        rotary.rope(ropes.section(f"{kind}_attention"), context=text.context, nested=True, over="positions")
        for kind in ("sliding", "full")
    )
    sliding = common.attention(
        reader,
        text,
        0,
        heads=8,
        kv_heads=4,
        head_dim=256,
        rope=local,
        window=reader.count("sliding_window", window),
        scale=1.0,
        qk_norm=QueryKeyNorm(norm=norm),
        value_norm=replace(norm, scale="none"),
    )
    value_is_key = reader.take("attention_k_eq_v", False)
    head_dim, kv_heads = _full_geometry(reader, kinds, sliding, has_own_heads=value_is_key)
    biases = tuple(role for role in sliding.biases if role != "value" or not value_is_key)
    full = replace(sliding, head_dim=head_dim, kv_heads=kv_heads, rope=far, window=None, biases=biases)
    return {"sliding_attention": sliding, "full_attention": replace(full, value_is_key=value_is_key)}


def _full_geometry(
    reader: ConfigReader, kinds: tuple[str, ...], sliding: Attention, *, has_own_heads: bool
) -> tuple[int, int]:
    """Gemma 4's head width and number of key/value heads in full layers.

    `per_layer_config` is how the reference saves them once it has read the other two keys.

    Raises:
        UnsupportedConfig: full layers that are not all alike, or other settings of a layer's own.
    """
    head_dim = reader.count("global_head_dim", 512)
    kv_heads = reader.count("num_global_key_value_heads", None, optional=True)
    said = reader.take("per_layer_config", None, kinds=(dict, type(None)))
    if said is None:
        return head_dim, kv_heads if has_own_heads and kv_heads else sliding.kv_heads
    own = next(iter(said.values()), {})
    full = {str(index): own for index, kind in enumerate(kinds) if kind == "full_attention"} if own else {}
    if {str(index).lstrip("0") or "0": value for index, value in said.items()} != full or set(own) - {
        "head_dim",
        "num_key_value_heads",
    }:
        raise reader.refuse("per_layer_config", said, "known: one head_dim and num_key_value_heads of full layers")
    return own.get("head_dim", sliding.head_dim), own.get("num_key_value_heads", sliding.kv_heads)


def experts(reader: ConfigReader, dense: FeedForward, norm: Norm) -> MixtureOfExperts | None:
    """Gemma 4's experts, whose router reads the residual through a norm of its own; None where it has none."""
    settings = ("num_experts", "top_k_experts", "moe_intermediate_size")
    counts = [reader.count(key, None, optional=True) for key in settings]
    if not reader.take("enable_moe_block", False):
        return None
    for key, found in zip(settings, counts, strict=True):
        reader.require(found is not None, key, found, "enable_moe_block needs it")
    router = Router(
        score="softmax", normalise=True, input_norm=replace(norm, scale="none"), input_scale=True, expert_scale=True
    )
    experts, per_token, width = (found or 1 for found in counts)
    expert = replace(dense, width=width)
    return MixtureOfExperts(experts=experts, per_token=per_token, expert=expert, router=router, expert_norm=norm)


def sandwich_layer(
    mixer: Attention,
    dense: FeedForward,
    experts: MixtureOfExperts | None,
    table: PerLayerEmbedding | None,
    *,
    norm: Norm,
) -> Program:
    """Sandwich norms; experts read what the dense network reads; a number of the layer's own at the end."""
    feeding = residual_step("feed_forward", dense, norm=norm, output_norm=norm)
    if experts:
        both = (
            Branch(name="dense", part=dense, input_norm=norm, output_norm=norm),
            Branch(name="experts", part=experts, output_norm=norm),
        )
        total = Write(terms=(Term(source="dense"), Term(source="experts")), register="f", norm=norm)
        feeding = Step(branches=both, writes=(total, Write(terms=(Term(source="x"), Term(source="f")))))
    steps = [residual_step("attention", mixer, norm=norm, output_norm=norm), feeding]
    if table:
        per_layer = PerLayerInput(width=table.width, activation=dense.activation)  # type: ignore[arg-type]
        steps.append(residual_step("per_layer", per_layer, norm=None, output_norm=norm))
    *before, last = steps[-1].writes
    steps[-1] = replace(steps[-1], writes=(*before, replace(last, layer_scale=True)))
    return Program(steps=tuple(steps))


def updated_layer(
    attention: Attention, feed_forward: FeedForward, laurel: LowRank, narrow: int, altup: AltUp, *, scaled: bool
) -> Program:
    """A block around the active stream; then what the per-layer table says is added to the other streams."""
    norm = altup.norm
    augmented = Step(
        norm=norm,
        branches=(Branch(name="laurel", part=laurel, output_norm=norm),),
        writes=(_write("v", "laurel", register="l"), _write("v", register="z")),
    )
    mixing = Step(
        read=Read(registers=("z",)),
        branches=(Branch(name="attention", part=attention, output_norm=norm),),
        writes=(replace(_write("x", "attention", "l"), divisor=2**0.5),),
    )
    feeding = residual_step("feed_forward", feed_forward, norm=norm, output_norm=norm)
    block = Branch(name="block", part=Program(steps=(augmented, mixing, feeding)))
    per_layer = PerLayerInput(width=narrow, activation=feed_forward.activation)  # type: ignore[arg-type]
    others = StreamSlice(read=altup.active, write=tuple(range(1, altup.streams)), read_scale=scaled)
    return Program(
        steps=(
            Step(connection=altup, branches=(block,), writes=(_write("block"),)),
            Step(
                connection=others,
                branches=(Branch(name="per_layer", part=per_layer, output_norm=norm),),
                writes=(_write("per_layer"),),
            ),
        )
    )


def _write(*terms: str, register: str = "x") -> Write:
    return Write(terms=tuple(Term(source=term) for term in terms), register=register)


def sandwich() -> names.Names:
    """Gemma 4's layer."""
    return (
        names.sandwich_norms()
        | names.gated("layers.{i}.dense")
        | names.per_layer()
        | {
            "layers.{i}.feed_forward_x_scale.value": f"{LAYER}.layer_scalar",
            "layers.{i}.per_layer_x_scale.value": f"{LAYER}.layer_scalar",
            "layers.{i}.dense_input_norm": f"{LAYER}.pre_feedforward_layernorm",
            "layers.{i}.dense_output_norm": f"{LAYER}.post_feedforward_layernorm_1",
            "layers.{i}.dense_f_write_norm": f"{LAYER}.post_feedforward_layernorm",
            "layers.{i}.dense_x_scale.value": f"{LAYER}.layer_scalar",
            "layers.{i}.experts_output_norm": f"{LAYER}.post_feedforward_layernorm_2",
            "layers.{i}.experts.expert_norm": f"{LAYER}.pre_feedforward_layernorm_2",
            "layers.{i}.experts.router.weight": f"{LAYER}.router.proj.weight",
            "layers.{i}.experts.router.input_scale": f"{LAYER}.router.scale",
            "layers.{i}.experts.router.expert_scale": f"{LAYER}.router.per_expert_scale",
            "layers.{i}.experts.experts.gate_up": f"{LAYER}.experts.gate_up_proj",
            "layers.{i}.experts.experts.down": f"{LAYER}.experts.down_proj",
        }
    )


def updated() -> names.Names:
    """Gemma 3n's layer and streams."""
    block = (
        names.attention()
        | names.gated()
        | names.sandwich_norms()
        | {
            "layers.{i}.laurel_norm": f"{LAYER}.input_layernorm",
            "layers.{i}.laurel.down": f"{LAYER}.laurel.linear_left",
            "layers.{i}.laurel.up": f"{LAYER}.laurel.linear_right",
            "layers.{i}.laurel_output_norm": f"{LAYER}.laurel.post_laurel_norm",
        }
    )
    altup = {
        "norm": "router_norm",
        "router": "modality_router",
        "predict": "prediction_coefs",
        "correct": "correction_coefs",
    }
    return (
        names.within("block", block)
        | names.per_layer()
        | {
            "layers.{i}.per_layer_connection.scale": f"{LAYER}.altup.correct_output_scale",
            "streams.fills.{i}": "model.altup_projections.{i}",
            "streams.merges.{i}": "model.altup_unembed_projections.{i}",
            **{f"layers.{{i}}.block_connection.{ours}": f"{LAYER}.altup.{theirs}" for ours, theirs in altup.items()},
        }
    )
