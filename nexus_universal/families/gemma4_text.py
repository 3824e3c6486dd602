"""Gemma 4, text: two head widths, late layers that reuse keys and values, a per-layer table, experts beside."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.ends import PerLayerEmbedding
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, Router
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write, residual_step
from nexus_universal.families.shared import common, draws, names, reuse, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

LAYER = names.LAYER
KINDS = ("sliding_attention", "full_attention")
GEOMETRY = {"head_dim", "num_key_value_heads"}


def read(reader: ConfigReader, *, unified: bool = False) -> ArchitectureParameter:
    """The n of a config; `unified` is the form without a per-layer table and without experts."""
    norm = common.rms_norm(reader, 1e-6, rounding="after_scale", root="power")
    width = reader.count("hidden_size", 2304)
    text, embedding = common.ends(
        reader,
        context=262144 if unified else 131072,
        vocab=262144,
        width=2304,
        bos=2,
        eos=1,
        pad=0,
        scale=width**0.5,
        scale_rounding="model",
        per_layer=None if unified else _table(reader, norm),
    )
    reader.inert("use_bidirectional_attention", None, "vision")
    depth = reader.count("num_hidden_layers", 30)
    listed = reader.names("layer_types", length=depth, known=KINDS)
    kinds = (*(listed or [KINDS[(index + 1) % 6 == 0] for index in range(depth)])[:-1], "full_attention")
    first = reuse.first_reusing(reader, kinds, shared=0)
    attention = _attention(reader, kinds, norm, context=text.context, window=1024 if unified else 512)
    mixers = reuse.reused([attention[kind] for kind in kinds], kinds, first)
    dense = common.feed_forward(reader, 9216, key="hidden_activation", act="gelu_pytorch_tanh")
    wide = replace(dense, width=2 * dense.width) if reader.take("use_double_wide_mlp", False) else dense
    experts = None if unified else _experts(reader, dense, norm)
    table = embedding.per_layer
    per_layer = PerLayerInput(width=table.width, activation=dense.activation) if table else None
    layers = (
        _layer(mixer, wide if index >= first else dense, experts, per_layer, norm=norm)
        for index, mixer in enumerate(mixers)
    )
    softcap = reader.number("final_logit_softcapping", None)
    skips = "reusing" if first < depth else "head"
    return common.decoder(reader, text, embedding, layers, norm, tied=True, softcap=softcap, skips=skips)


def _table(reader: ConfigReader, norm: Norm) -> PerLayerEmbedding | None:
    rows, width = reader.count("vocab_size_per_layer_input", 262144), reader.take("hidden_size_per_layer_input", 256)
    return None if width == 0 else PerLayerEmbedding(vocab=rows, width=width, norm=norm, scale_rounding="none", finds_tokens=True)


def _attention(
    reader: ConfigReader, kinds: tuple[str, ...], norm: Norm, *, context: int | None, window: int
) -> dict[str, Attention]:
    """Each kind's attention: a full layer has heads of its own width, and its values may be its keys."""
    ropes = reader.section("rope_parameters")
    local, far = (rotary.rope(ropes.section(kind), context=context, nested=True, over="positions") for kind in KINDS)
    sliding = Attention(
        heads=reader.count("num_attention_heads", 8),
        kv_heads=reader.count("num_key_value_heads", 4),
        head_dim=reader.count("head_dim", 256),
        rope=local,
        window=reader.count("sliding_window", window),
        scale=1.0,
        qk_norm=QueryKeyNorm(norm=norm),
        value_norm=replace(norm, scale="none"),
        biases=common.ALL_BIASES if reader.take("attention_bias", False) else (),
    )
    head_dim = reader.count("global_head_dim", 512)
    kv_heads = reader.count("num_global_key_value_heads", None, optional=True)
    value_is_key = reader.take("attention_k_eq_v", False)
    said = reader.take("per_layer_config", None, kinds=(dict, type(None)))
    if said is not None:  # how the reference saves the two keys before it: the same for every full layer
        own = next(iter(said.values()), {})
        full_layers = {str(index): own for index, kind in enumerate(kinds) if kind == KINDS[1]} if own else {}
        if {str(index): value for index, value in said.items()} != full_layers or set(own) - GEOMETRY:
            raise reader.refuse("per_layer_config", said, "known: one head_dim and num_key_value_heads of full layers")
        head_dim, kv_heads = own.get("head_dim", sliding.head_dim), own.get("num_key_value_heads", sliding.kv_heads)
    elif not value_is_key or kv_heads is None:
        kv_heads = sliding.kv_heads
    biases = tuple(role for role in sliding.biases if role != "value" or not value_is_key)
    full = replace(sliding, head_dim=head_dim, kv_heads=kv_heads, rope=far, window=None, biases=biases)
    return {KINDS[0]: sliding, KINDS[1]: replace(full, value_is_key=value_is_key)}


def _experts(reader: ConfigReader, dense: FeedForward, norm: Norm) -> MixtureOfExperts | None:
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


def _layer(
    mixer: Attention,
    dense: FeedForward,
    experts: MixtureOfExperts | None,
    per_layer: PerLayerInput | None,
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
    if per_layer:
        steps.append(residual_step("per_layer", per_layer, norm=None, output_norm=norm))
    *before, last = steps[-1].writes
    steps[-1] = replace(steps[-1], writes=(*before, replace(last, layer_scale=True)))
    return Program(steps=tuple(steps))


DENSE = names.sandwich_norms() | {
    "layers.{i}.feed_forward_x_scale.value": f"{LAYER}.layer_scalar",
}
MORE = {
    "embedding.per_layer.tokens": "model.embed_tokens_per_layer",
    "embedding.per_layer.projection": "model.per_layer_model_projection",
    "embedding.per_layer.norm": "model.per_layer_projection_norm",
    "layers.{i}.per_layer.gate": f"{LAYER}.per_layer_input_gate",
    "layers.{i}.per_layer.up": f"{LAYER}.per_layer_projection",
    "layers.{i}.per_layer_output_norm": f"{LAYER}.post_per_layer_input_norm",
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
ROPE = {
    KINDS[0]: {"rope_type": "default", "rope_theta": 10000.0},
    KINDS[1]: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}
SCALED = {
    "sliding_attention": {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
    "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 100.0, "factor": 2.0},
}
PLAIN = {KINDS[0]: {"rope_type": "default", "rope_theta": 100.0}, KINDS[1]: {"rope_type": "default", "rope_theta": 50.0}}

FAMILY = Family(
    model_type="gemma4_text",
    title="Gemma 4 (text)",
    read=read,
    weights=names.weights(DENSE, names.gated("layers.{i}.dense"), MORE, passed_over=reuse.PASSED_OVER),
    irrelevant={"cache_implementation": "a default of generation"},
    rope="none",
    rope_default=ROPE,
    tiny=draws.without(draws.TINY, "num_hidden_layers")
    | {
        "num_hidden_layers": 6,
        "hidden_size": 64,  # its root is a number of any precision: the reference finds given rows by it
        "head_dim": 16,
        "global_head_dim": 24,
        "sliding_window": 16,
        "layer_types": [*KINDS, KINDS[0]] * 2,
        "hidden_size_per_layer_input": 12,
        "vocab_size_per_layer_input": 97,
        "num_experts": 8,
        "top_k_experts": 3,
        "moe_intermediate_size": 24,
        "pad_token_id": 0,
    },
    draws=draws.without(draws.DENSE, "rope_parameters", "hidden_act")
    | {
        "hidden_activation": ("gelu_pytorch_tanh", "silu"),
        "rope_parameters": (ROPE, SCALED, PLAIN),
        "global_head_dim": (24, 16),
        "num_global_key_value_heads": (None, 1),
        "attention_k_eq_v": (False, True),
        "num_kv_shared_layers": (0, 2, 3),
        "use_double_wide_mlp": (False, True),
        "enable_moe_block": (False, True),
        "top_k_experts": (3, 1),
        "hidden_size_per_layer_input": (12, 0),
        "vocab_size_per_layer_input": (97, 120),
        "final_logit_softcapping": (None, 30.0),
        "sliding_window": (16, 7, 128),
        "layer_types": ([*KINDS, KINDS[0]] * 2, None, list(KINDS * 3)),
    },
)
