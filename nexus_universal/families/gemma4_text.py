"""Gemma 4, text: two head widths, late layers that reuse keys and values, a per-layer table, experts beside."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, draws, gemma_layers, names, reuse
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("sliding_attention", "full_attention")


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
        per_layer=None if unified else gemma_layers.table(reader, norm),
    )
    reader.inert("use_bidirectional_attention", None, "vision")
    depth = reader.count("num_hidden_layers", 30)
    listed = reader.names("layer_types", length=depth, known=KINDS)
    kinds = (*(listed or [KINDS[(index + 1) % 6 == 0] for index in range(depth)])[:-1], "full_attention")
    first = reuse.first_reusing(reader, kinds, shared=0)
    attention = gemma_layers.attention(reader, kinds, norm, text, window=1024 if unified else 512)
    mixers = reuse.reused([attention[kind] for kind in kinds], kinds, first)
    dense = common.feed_forward(reader, 9216, key="hidden_activation", act="gelu_pytorch_tanh")
    wide = replace(dense, width=2 * dense.width) if reader.take("use_double_wide_mlp", False) else dense
    experts = None if unified else gemma_layers.experts(reader, dense, norm)
    layers = (
        gemma_layers.sandwich_layer(mixer, wide if index >= first else dense, experts, embedding.per_layer, norm=norm)
        for index, mixer in enumerate(mixers)
    )
    softcap = reader.number("final_logit_softcapping", None)
    skips = "reusing" if first < depth else "head"
    return common.decoder(reader, text, embedding, layers, norm, tied=True, softcap=softcap, skips=skips)


ROPE = {
    KINDS[0]: {"rope_type": "default", "rope_theta": 10000.0},
    KINDS[1]: {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
}
SCALED = {
    KINDS[0]: {"rope_type": "linear", "rope_theta": 100.0, "factor": 2.0},
    KINDS[1]: {"rope_type": "proportional", "partial_rotary_factor": 0.5, "rope_theta": 100.0, "factor": 2.0},
}
PLAIN = {
    KINDS[0]: {"rope_type": "default", "rope_theta": 100.0},
    KINDS[1]: {"rope_type": "default", "rope_theta": 50.0},
}

FAMILY = Family(
    model_type="gemma4_text",
    title="Gemma 4 (text)",
    read=read,
    weights=names.weights(gemma_layers.sandwich(), passed_over=reuse.PASSED_OVER),
    irrelevant={
        "cache_implementation": "a default of generation",
        "expert_intermediate_size": "the reference's class does not read it",
    },
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
        "layer_types": ([*KINDS, KINDS[0]] * 2, list(KINDS * 3)),
    },
)
