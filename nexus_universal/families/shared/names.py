"""What many families share in their tensor names: tables of canonical stem → reference module, joined by `|`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from nexus_universal.checkpoint.rules import Direct, Joined, Rule, Sliced, Squeezed, Stacked, WeightMap

Rules = str | Rule | tuple[str | Rule, ...]
Names = dict[str, Rules]

LAYER = "model.layers.{i}"

LANGUAGE_MODEL = (
    {"model.": "language_model.model.", "lm_head": "language_model.lm_head"},
    {"model.": "model.language_model.", "lm_head": "lm_head"},
)
"""Where a text model lies beside towers: in files, and as transformers 5 holds it."""

LANGUAGE_MODEL_OF_TEXT_CLASS = (
    {"model.": "model.language_model.", "lm_head": "lm_head"},
    {"model.": "model.", "lm_head": "lm_head"},
)
"""The same as published, and as the class of the text model alone holds it."""

TOWERS = {r"^(model\.)?(vision_tower|audio_tower|multi_modal_projector)\.": "a tower, of which nothing is built"}

MULTI_TOKEN_PREDICTION = {r"^model\.layers\.{layers}\.": "a layer after the last: multi-token prediction"}

PASSED_OVER = {r"rotary_(pos_)?emb\.inv_freq$": "rotary buffers are computed from n"}


def weights(
    *tables: Names,
    passed_over: Mapping[str, str] | None = None,
    wide: tuple[str, ...] = (),
    wide_in_half: tuple[str, ...] = (),
    narrow: tuple[str, ...] = (),
) -> WeightMap:
    """The names of a sequential pre-norm decoder (Llama's); later tables add to them or take precedence.

    `wide`, `wide_in_half` and `narrow` are those of a `WeightMap`.
    """
    tensors = ends() | attention() | gated() | pre_norms()
    for table in tables:
        tensors |= table
    passed_over = {**PASSED_OVER, **(passed_over or {})}
    return WeightMap(tensors=tensors, passed_over=passed_over, wide=wide, wide_in_half=wide_in_half, narrow=narrow)


def either(published: Mapping[str, Rules], held: Mapping[str, Rules]) -> Names:
    """Each tensor under its published name, or else as a class of transformers holds it."""

    def several(rules: Rules) -> tuple[str | Rule, ...]:
        return rules if isinstance(rules, tuple) else (rules,)

    return {key: (*several(rules), *several(held[key])) for key, rules in published.items()}


def sliced(module: str, *roles: str) -> Names:
    """Several modules that files hold as one matrix, equal slices in this order."""
    return {role: Sliced(module, index, len(roles)) for index, role in enumerate(roles)}


def within(branch: str, table: Names) -> Names:
    """The same tensors in a program that is a branch of the layer."""
    return {key.replace("layers.{i}.", f"layers.{{i}}.{branch}.", 1): rules for key, rules in table.items()}


def relocated(weights: WeightMap, *layouts: Mapping[str, str], passed_over: Mapping[str, str]) -> WeightMap:
    """The names of a model that is part of another; each layout says where a prefix of its own names lies there."""

    def moved(rule: str | Rule, layout: Mapping[str, str]) -> str | Rule:
        if isinstance(rule, Stacked | Joined):
            return replace(rule, names=tuple(str(moved(name, layout)) for name in rule.names))
        if not isinstance(rule, str):
            return replace(rule, name=str(moved(rule.name, layout)))
        prefix = next(prefix for prefix in layout if rule.startswith(prefix))
        return layout[prefix] + rule.removeprefix(prefix)

    tensors: Names = {}
    for key, found in weights.tensors.items():
        rules = found if isinstance(found, tuple) else (found,)
        tensors[key] = tuple(moved(rule, layout) for layout in layouts for rule in rules)
    return replace(weights, tensors=tensors, passed_over={**passed_over, **weights.passed_over})


def ends(model: str = "model") -> Names:
    """Token table, final norm and head."""
    return {
        "embedding.tokens": f"{model}.embed_tokens",
        "final_norm": f"{model}.norm",
        "head": "lm_head",
    }


def attention(layer: str = LAYER, module: str = "self_attn") -> Names:
    """Separate query, key, value and output projections, and their optional norms."""
    return {
        "layers.{i}.attention.query": f"{layer}.{module}.q_proj",
        "layers.{i}.attention.key": f"{layer}.{module}.k_proj",
        "layers.{i}.attention.value": f"{layer}.{module}.v_proj",
        "layers.{i}.attention.output": f"{layer}.{module}.o_proj",
        "layers.{i}.attention.query_norm": f"{layer}.{module}.q_norm",
        "layers.{i}.attention.key_norm": f"{layer}.{module}.k_norm",
    }


def per_layer(layer: str = LAYER, model: str = "model") -> Names:
    """A per-layer token table and what layers read of it, with Gemma's names."""
    return {
        "embedding.per_layer.tokens": f"{model}.embed_tokens_per_layer",
        "embedding.per_layer.projection": f"{model}.per_layer_model_projection",
        "embedding.per_layer.norm": f"{model}.per_layer_projection_norm",
        "layers.{i}.per_layer.gate": f"{layer}.per_layer_input_gate",
        "layers.{i}.per_layer.up": f"{layer}.per_layer_projection",
        "layers.{i}.per_layer_output_norm": f"{layer}.post_per_layer_input_norm",
    }


def joined_attention(layer: str = LAYER, module: str = "self_attn") -> Names:
    """Query, key and value, held apart where they are one matrix here."""
    roles = tuple(f"{layer}.{module}.{role}_proj" for role in ("q", "k", "v"))
    return {"layers.{i}.attention.query_key_value": Joined(roles)}


def gated(ours: str = "layers.{i}.feed_forward", theirs: str = f"{LAYER}.mlp") -> Names:
    """A gated feed-forward in three matrices."""
    return {f"{ours}.{role}": f"{theirs}.{role}_proj" for role in ("gate", "up", "down")}


def plain(ours: str, theirs: str) -> Names:
    """A feed-forward without a gate."""
    return {f"{ours}.{role}": f"{theirs}.{role}_proj" for role in ("up", "down")}


def plain_experts(ours: str, theirs: str, *, published: bool) -> Names:
    """Experts without a gate: one tensor each as published, two stacks as transformers holds them."""
    if not published:
        return {f"{ours}.{role}": Direct(f"{theirs}.{role}_proj") for role in ("up", "down")}
    return {f"{ours}.{role}": Stacked((f"{theirs}.{{e}}.{role}_proj.weight",)) for role in ("up", "down")}


def pre_norms(layer: str = LAYER) -> Names:
    """The two norms of a sequential pre-norm layer."""
    return {
        "layers.{i}.attention_norm": f"{layer}.input_layernorm",
        "layers.{i}.feed_forward_norm": f"{layer}.post_attention_layernorm",
    }


def sandwich_norms(layer: str = LAYER) -> Names:
    """Gemma's four norms: before and after each sublayer."""
    return {
        "layers.{i}.attention_norm": f"{layer}.input_layernorm",
        "layers.{i}.attention_output_norm": f"{layer}.post_attention_layernorm",
        "layers.{i}.feed_forward_norm": f"{layer}.pre_feedforward_layernorm",
        "layers.{i}.feed_forward_output_norm": f"{layer}.post_feedforward_layernorm",
    }


def post_norms(layer: str = LAYER) -> Names:
    """The two norms of a layer that norms what its sublayers give and not what they read (OLMo 2)."""
    return {
        "layers.{i}.attention_output_norm": f"{layer}.post_attention_layernorm",
        "layers.{i}.feed_forward_output_norm": f"{layer}.post_feedforward_layernorm",
    }


def packed_gated(layer: str = LAYER, module: str = "mlp") -> Names:
    """A gated feed-forward whose gate and up are one matrix."""
    return {"layers.{i}.feed_forward.gate_up": f"{layer}.{module}.gate_up_proj"}


def experts(
    published: str = f"{LAYER}.mlp.experts.{{e}}",
    *,
    gate: str = "gate_proj",
    up: str = "up_proj",
    down: str = "down_proj",
    held: str = f"{LAYER}.mlp.experts",
    router: str = f"{LAYER}.mlp.gate",
    published_router: str | None = None,
    selection_bias: tuple[str | Rule, ...] = (),
) -> Names:
    """Experts as published (one tensor each) and as transformers holds them (two stacks), and their router."""
    table: Names = {
        "layers.{i}.feed_forward.experts.gate_up": (
            Stacked((f"{published}.{gate}.weight", f"{published}.{up}.weight")),
            Direct(f"{held}.gate_up_proj"),
        ),
        "layers.{i}.feed_forward.experts.down": (
            Stacked((f"{published}.{down}.weight",)),
            Direct(f"{held}.down_proj"),
        ),
        "layers.{i}.feed_forward.router.selection_bias": selection_bias or f"{router}.e_score_correction_bias",
    }
    routers = (Direct(f"{published_router}.weight"),) if published_router else ()
    table["layers.{i}.feed_forward.router.weight"] = (*routers, Direct(f"{router}.weight"))
    return table


def shared_experts(module: str = f"{LAYER}.mlp.shared_experts") -> Names:
    """The expert that every token visits."""
    return gated("layers.{i}.feed_forward.shared", module)


def latent_attention(layer: str = f"{LAYER}.self_attn") -> Names:
    """Latent attention with DeepSeek's names."""
    return {
        "layers.{i}.attention.query": f"{layer}.q_proj",
        "layers.{i}.attention.query_down": f"{layer}.q_a_proj",
        "layers.{i}.attention.query_norm": f"{layer}.q_a_layernorm",
        "layers.{i}.attention.query_up": f"{layer}.q_b_proj",
        "layers.{i}.attention.latent_down": f"{layer}.kv_a_proj_with_mqa",
        "layers.{i}.attention.latent_norm": f"{layer}.kv_a_layernorm",
        "layers.{i}.attention.latent_up": f"{layer}.kv_b_proj",
        "layers.{i}.attention.output": f"{layer}.o_proj",
    }


def sparse_indexer(module: str = f"{LAYER}.self_attn.indexer") -> Names:
    """The indexer of DeepSeek-V3.2."""
    rows = {"query": "wq_b", "key": "wk", "key_norm": "k_norm", "weights": "weights_proj"}
    return {f"layers.{{i}}.attention.indexer.{role}": f"{module}.{name}" for role, name in rows.items()}


def gated_delta(layer: str = LAYER, module: str = "linear_attn") -> Names:
    """A gated delta rule whose projections are packed by key head, and the norm before it."""
    return {
        "layers.{i}.linear_attention_norm": f"{layer}.input_layernorm",
        "layers.{i}.linear_attention.query_key_value_gate": f"{layer}.{module}.in_proj_qkvz",
        "layers.{i}.linear_attention.beta_decay": f"{layer}.{module}.in_proj_ba",
        "layers.{i}.linear_attention.convolution.weight": Squeezed(f"{layer}.{module}.conv1d.weight", axis=1),
        "layers.{i}.linear_attention.decay_log": f"{layer}.{module}.A_log",
        "layers.{i}.linear_attention.decay_bias": f"{layer}.{module}.dt_bias",
        "layers.{i}.linear_attention.norm": f"{layer}.{module}.norm",
        "layers.{i}.linear_attention.output": f"{layer}.{module}.out_proj",
    }


def separate_gated_delta(
    roles: Mapping[str, str], layer: str = LAYER, module: str = "linear_attn", ours: str = "linear_attention"
) -> Names:
    """A gated delta rule with a matrix for each of `roles`; files hold the convolutions of q, k and v apart."""
    stem, theirs = f"layers.{{i}}.{ours}", f"{layer}.{module}"
    convolutions = Joined(tuple(f"{theirs}.{role}_conv1d.weight" for role in ("q", "k", "v")), axis=1)
    return {
        f"{stem}_norm": f"{layer}.input_layernorm",
        **{f"{stem}.{role}": f"{theirs}.{name}" for role, name in roles.items()},
        f"{stem}.convolution.weight": (convolutions, Squeezed(f"{theirs}.conv1d.weight", axis=1)),
        f"{stem}.norm": f"{theirs}.o_norm",
        f"{stem}.output": f"{theirs}.o_proj",
    }


def unpacked_gated_delta(layer: str = LAYER, module: str = "linear_attn") -> Names:
    """What Qwen3.5 projects apart: query, key and value as one; gate, beta and decay each alone."""
    rows = {"query_key_value": "qkv", "gate": "z", "beta": "b", "decay": "a"}
    return {f"layers.{{i}}.linear_attention.{role}": f"{layer}.{module}.in_proj_{name}" for role, name in rows.items()}


def state_space(layer: str = LAYER, module: str = "mamba", norm: str = "input_layernorm") -> Names:
    """A state space with Mamba-2's names, and the norm before it."""
    ours, theirs = "layers.{i}.state_space", f"{layer}.{module}"
    return {
        f"{ours}_norm": f"{layer}.{norm}",
        f"{ours}.input": f"{theirs}.in_proj",
        f"{ours}.convolution.weight": Squeezed(f"{theirs}.conv1d.weight", axis=1),
        f"{ours}.convolution.bias": f"{theirs}.conv1d.bias",
        f"{ours}.decay_log": f"{theirs}.A_log",
        f"{ours}.skip": f"{theirs}.D",
        f"{ours}.step_bias": f"{theirs}.dt_bias",
        f"{ours}.norm": f"{theirs}.norm",
        f"{ours}.output": f"{theirs}.out_proj",
    }


def channel_state_space(layer: str = LAYER, module: str = "mamba", norm: str = "input_layernorm") -> Names:
    """A state space with Mamba's names, and the norm before it."""
    ours, theirs = "layers.{i}.state_space", f"{layer}.{module}"
    table = state_space(layer, module, norm)
    del table[f"{ours}.step_bias"], table[f"{ours}.norm"]
    return table | {
        f"{ours}.choose": f"{theirs}.x_proj",
        f"{ours}.step": f"{theirs}.dt_proj",
        f"{ours}.step_norm": f"{theirs}.dt_layernorm",
        f"{ours}.b_norm": f"{theirs}.b_layernorm",
        f"{ours}.c_norm": f"{theirs}.c_layernorm",
    }
