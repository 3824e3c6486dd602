"""Ling 3 (Bailing): delta rules with a bounded decay per channel, latent attention with a gate per head."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import LatentAttention, OutputGate
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, YarnScaling
from nexus_universal.families.shared import channel_delta, common, deepseek, draws, names, rotary
from nexus_universal.families.shared.channel_delta import KINDS
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

PUBLISHED, HELD = f"{names.LAYER}.attention", f"{names.LAYER}.self_attn"
MIXERS = ("attention", "linear_attention")
DELTA = {"decay": "f_proj", "decay_bias": "dt_bias", "decay_log": "A_log"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=262144, vocab=157184, width=2560, eos=156895, pad=156892)
    norm, dense = common.rms_norm(reader, 1e-6), common.feed_forward(reader, 6144)
    latent = _latent_attention(reader, text.context)
    depth, every = reader.count("num_hidden_layers", 42), reader.count("layer_group_size", 6)
    delta = channel_delta.rule(
        heads=reader.count("linear_num_heads", latent.heads),
        head_dim=reader.count("linear_head_dim", reader.count("head_dim", 128)),
        kernel=reader.count("linear_conv_kernel_dim", reader.count("short_conv_kernel_size", 4)),
        norm=replace(norm, rounding="after_scale"),
        dense=dense,
        decay_floor=_floor(reader),
        stored="float32",
    )
    counts = ("num_local_experts", "n_shared_experts")
    router = deepseek.sigmoid_router(reader, scale=2.5, groups=8, kept=4)
    experts = deepseek.experts(reader, dense, router, count=512, chosen=8, width=768, keys=counts)
    derived = tuple(KINDS[(index + 1) % every == 0] for index in range(depth))
    kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
    feeding = {"dense": dense, "sparse": experts}
    layers = channel_delta.layers(reader, kinds, (delta, latent), feeding, norm=norm, dense_layers=2)
    reader.inert("tie_word_embeddings", False)
    return common.decoder(reader, replace(text, **channel_delta.START), embedding, layers, norm)


def _floor(reader: ConfigReader) -> float | None:
    floor = reader.number("kda_lower_bound", -5.0)
    return floor if reader.take("kda_safe_gate", True) else None


def _latent_attention(reader: ConfigReader, context: int | None) -> LatentAttention:
    """DeepSeek's, whose queries come from no latent; `head_dim` is the delta rule's."""
    heads = reader.count("num_attention_heads", 32)
    nope_dim, rope_dim = reader.count("qk_nope_head_dim", 128), reader.count("qk_rope_head_dim", 64)
    reader.inert("num_key_value_heads", heads, None)
    reader.inert("qk_head_dim", nope_dim + rope_dim)
    rope = rotary.rope(reader.section("rope_parameters"), context=context, pairing="interleaved_to_half")
    return LatentAttention(
        heads=heads,
        query_rank=None,
        latent_rank=reader.count("kv_lora_rank", 512),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=reader.count("v_head_dim", 128),
        latent_norm=Norm(kind="rms", eps=1e-6),
        rope=rope,
        scale_by_yarn=isinstance(rope.scaling, YarnScaling) and bool(rope.scaling.mscale_all_dim),
        biases=("latent_down", "output") if reader.take("attention_bias", False) else (),
        gate=OutputGate(per="head"),
        late_gate=True,
    )


FAMILY = Family(
    model_type="bailing_hybrid",
    title="Ling 3",
    read=read,
    weights=names.weights(
        names.experts(),
        names.shared_experts(),
        names.either(names.latent_attention(PUBLISHED), names.latent_attention(HELD)),
        names.either(
            names.separate_gated_delta(channel_delta.ROLES, module="attention"),
            names.separate_gated_delta(channel_delta.ROLES, module="self_attn"),
        ),
        {
            "embedding.tokens": ("model.word_embeddings", "model.embed_tokens"),
            **{f"layers.{{i}}.{mixer}.gate": (f"{PUBLISHED}.g_proj", f"{HELD}.g_proj") for mixer in MIXERS},
            **{f"layers.{{i}}.{mixer}.output": (f"{PUBLISHED}.dense", f"{HELD}.o_proj") for mixer in MIXERS},
            "layers.{i}.feed_forward.router.selection_bias": tuple(
                f"{names.LAYER}.mlp.gate.{name}" for name in ("expert_bias", "e_score_correction_bias")
            ),
        },
        {
            f"layers.{{i}}.linear_attention.{ours}": (f"{PUBLISHED}.{theirs}", f"{HELD}.forget_gate.{theirs}")
            for ours, theirs in DELTA.items()
        },
        passed_over=names.MULTI_TOKEN_PREDICTION,
    ),
    aliases=channel_delta.ALIASES | {"num_mtp_layers": "num_nextn_predict_layers"},
    irrelevant=deepseek.IRRELEVANT
    | {"mtp_loss_scaling_factor": TRAINING, "rope_theta": "what rope_parameters says wins, if it says anything"},
    rope_theta=6000000.0,
    tiny=draws.without(draws.TINY | draws.TINY_LATENT | draws.TINY_ROUTED, "q_lora_rank", "n_routed_experts")
    | {"num_local_experts": 8, "head_dim": 10, "layer_group_size": 2, "first_k_dense_replace": 1}
    | {"eos_token_id": 2, "pad_token_id": 3, "n_group": 4, "topk_group": 2}
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 6000000.0}},
    draws=draws.without(draws.DENSE | draws.LATENT | draws.ROUTED, "q_lora_rank", *channel_delta.UNREAD)
    | {
        **{"num_local_experts": (8, 16), "num_experts_per_tok": (3, 1), "n_group": (4, 2), "topk_group": (2, 1)},
        **{"head_dim": (10, 16), "short_conv_kernel_size": (4, 2)},
        "layer_group_size": (2, 3),
        "kda_safe_gate": (True, False),
        "kda_lower_bound": (-5.0, -1.5),
        "first_k_dense_replace": (1, 3, 0),
        "mlp_layer_types": (None, ["sparse", "dense", "sparse"]),
        "layer_types": (None, ["full_attention", "linear_attention", "full_attention"]),
        "pad_token_id": (3, 0),
    },
)
