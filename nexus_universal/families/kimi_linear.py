"""Kimi Linear (arXiv 2510.26692): delta rules with a decay per channel, latent attention without rotation."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import Squeezed
from nexus_universal.families.shared import channel_delta, common, deepseek, draws, names
from nexus_universal.families.shared.channel_delta import KINDS, forget_gate
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=32, latent=512, nope=128, rope=64, value=128)
EXPERTS, DELTA = f"{names.LAYER}.block_sparse_moe", "layers.{i}.linear_attention"
INERT = {"moe_router_activation_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}
INERT |= {"mla_use_nope": True, "use_grouped_topk": True, "tie_word_embeddings": False}
ROTATIONS = ("rope_theta", "rope_scaling", "rope_parameters", "head_dim")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config; `linear_attn_config`, as published, wins over outer keys."""
    ends = {"context": 1048576, "vocab": 163840, "width": 2304, "bos": 163584, "eos": 163586, "pad": 163839}
    text, embedding = common.ends(reader, **ends)
    norm, dense = common.rms_norm(reader, 1e-5), common.feed_forward(reader, 9216)
    latent = deepseek.latent_attention(reader, context=None, query_rank=None, defaults=SIZES, rotated=False)
    head_dim, heads = reader.count("linear_head_dim", 128), reader.count("linear_num_heads", 32)
    kernel, depth = reader.count("linear_conv_kernel_dim", 4), reader.count("num_hidden_layers", 27)
    kinds = tuple(KINDS[index > 0 and index % 4 == 0] for index in range(depth))
    if reader.take("linear_attn_config", None, kinds=(dict, type(None))):
        inner = reader.section("linear_attn_config")
        head_dim, heads = inner.count("head_dim", head_dim), inner.count("num_heads", heads)
        kernel = inner.count("short_conv_kernel_size", kernel)
        kinds = _counted_from_one(inner, kinds)
    delta = channel_delta.rule(
        heads=heads,
        head_dim=head_dim,
        kernel=kernel,
        norm=replace(norm, rounding="after_scale"),
        dense=dense,
        low_rank=head_dim,
        cut=True,
        decay_form="written",
    )
    counts = ("num_local_experts", "n_shared_experts")
    router = deepseek.sigmoid_router(reader, scale=2.446)
    experts = deepseek.experts(reader, dense, router, count=256, chosen=8, width=1024, keys=counts)
    for key, value in INERT.items():
        reader.inert(key, value)
    kinds = reader.names("layer_types", length=depth, known=KINDS) or kinds
    feeding = {"dense": dense, "sparse": experts}
    layers = channel_delta.layers(reader, kinds, (delta, latent), feeding, norm=norm, dense_layers=1)
    return common.decoder(reader, replace(text, **channel_delta.START), embedding, layers, norm)


def _counted_from_one(inner: ConfigReader, derived: tuple[str, ...]) -> tuple[str, ...]:
    """The kind of each layer by two lists of layers, the first of which is 1; both are needed to say anything."""
    full, delta = (inner.take(key, None, kinds=(list, type(None))) for key in ("full_attn_layers", "kda_layers"))
    if full is None or delta is None:
        return derived
    together = sorted([*full, *delta]) == list(range(1, len(derived) + 1))
    inner.require(together, "full_attn_layers", full, "must name with kda_layers every layer once, counted from 1")
    return tuple(KINDS[index + 1 in full] for index in range(len(derived)))


FAMILY = Family(
    model_type="kimi_linear",
    title="Kimi Linear",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        names.separate_gated_delta(channel_delta.ROLES, module="self_attn"),
        {
            f"{DELTA}.decay.down": forget_gate("f_a_proj"),
            f"{DELTA}.decay.up": forget_gate("f_b_proj"),
            f"{DELTA}.gate.down": f"{channel_delta.MODULE}.g_a_proj",
            f"{DELTA}.gate.up": f"{channel_delta.MODULE}.g_b_proj",
            f"{DELTA}.decay_bias": forget_gate("dt_bias"),
            f"{DELTA}.decay_log": tuple(Squeezed(name, axis=(0, 1, 3)) for name in forget_gate("A_log")),
        },
        names.experts(f"{EXPERTS}.experts.{{e}}", gate="w1", up="w3", down="w2", published_router=f"{EXPERTS}.gate")
        | names.either(names.shared_experts(f"{EXPERTS}.shared_experts"), names.shared_experts())
        | names.either(names.gated(theirs=EXPERTS), names.gated()),
        {
            "layers.{i}.feed_forward.router.selection_bias": tuple(
                f"{module}.gate.e_score_correction_bias" for module in (EXPERTS, f"{names.LAYER}.mlp")
            )
        },
    ),
    aliases=channel_delta.ALIASES,
    irrelevant=deepseek.IRRELEVANT | dict.fromkeys(ROTATIONS, "no layer rotates anything"),
    rope="none",
    tiny=draws.without(draws.TINY | draws.TINY_LATENT | draws.TINY_ROUTED, "q_lora_rank", "n_routed_experts")
    | {"num_local_experts": 8, "linear_head_dim": 8, "linear_num_heads": 3, "layer_types": [*KINDS, KINDS[0]]}
    | {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 3},
    draws=draws.without(
        draws.DENSE | draws.LATENT | draws.ROUTED, "rope_parameters", "rope_interleave", "tie_word_embeddings"
    )
    | {
        "num_local_experts": (8, 4),
        "num_experts_per_tok": (3, 1),
        "n_group": (1, 2),
        "topk_group": (1,),
        "q_lora_rank": (None, 28),
        "linear_head_dim": (8, 12),
        "linear_num_heads": (3, 4),
        "linear_conv_kernel_dim": (4, 2),
        "first_k_dense_replace": (1, 3, 0),
        "mlp_layer_types": (None, ["sparse", "dense", "sparse"]),
        "layer_types": ([*KINDS, KINDS[0]], [*KINDS[::-1], KINDS[1]]),
        "pad_token_id": (3, 0),
    },
)
