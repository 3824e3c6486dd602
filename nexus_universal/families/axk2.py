"""A.X K2 (SK Telecom): DeepSeek-V3.2 whose norms and attention gate themselves, the latter from the query's latents."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import OutputGate
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import Program, residual_step
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=32, latent=128, nope=64, rope=32, value=64)
NORM = f"{names.LAYER}.input_layernorm"
MIXTURE_NORM = f"{names.LAYER}.post_attention_layernorm"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=163840, width=2048, bos=163691, eos=163691)
    norm = common.rms_norm(reader, 1e-6)
    gated = replace(norm, gate_rank=reader.count("gated_norm_rank", 16))
    attention = deepseek.latent_attention(
        reader,
        context=text.context,
        query_rank=384,
        defaults=SIZES,
        gate=OutputGate(wide="product"),
        pairing="interleaved_to_half",
    )
    reader.require(attention.query_rank is not None, "q_lora_rank", None, "must be a whole number: there is no q_proj")
    indexer = deepseek.sparse_indexer(reader, attention, heads=16, pairing="half")
    attention = replace(attention, joint_gate=True, indexer=indexer)
    dense = common.feed_forward(reader, 5120)
    for key in ("n_group", "topk_group"):  # null is one group: none
        if reader.values.get(key) is None:
            reader.values[key] = 1
    router = deepseek.sigmoid_router(reader, scale=2.5)
    router = replace(router, groups=router.groups and replace(router.groups, zeroed=True))
    experts = deepseek.experts(reader, dense, router, count=128, chosen=8, width=512)
    mixer = residual_step("attention", attention, norm=gated)
    layers = {
        "dense": Program(steps=(mixer, residual_step("feed_forward", dense, norm=norm))),
        "sparse": Program(steps=(mixer, residual_step("mixture", experts, norm=gated))),
    }
    kinds = deepseek.layer_kinds(reader, layers=48, dense_layers=1)
    reader.names("layer_types", length=len(kinds), known=("indexed_attention",))
    for key, value in {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_interleave": True}.items():
        reader.inert(key, value)
    return common.decoder(reader, text, embedding, (layers[kind] for kind in kinds), norm)


def gated_norm(ours: str, theirs: str) -> names.Names:
    """A norm and its own gate, published and held under two names each."""
    return {
        ours: f"{theirs}.norm",
        f"{ours}.gate_down": (f"{theirs}.W_down", f"{theirs}.mlp.fc1"),
        f"{ours}.gate_up": (f"{theirs}.W_up", f"{theirs}.mlp.fc2"),
    }


MIXTURE = {
    key.replace(".feed_forward.", ".mixture."): rules
    for key, rules in (names.experts() | names.shared_experts()).items()
}

FAMILY = Family(
    model_type="axk2",
    title="A.X K2",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        {
            "layers.{i}.attention.query_gate": tuple(
                f"{names.LAYER}.self_attn.{name}" for name in ("q_b_proj", "q_gate_proj")
            )
        },
        names.sparse_indexer(),
        gated_norm("layers.{i}.attention_norm", NORM),
        gated_norm("layers.{i}.mixture_norm", MIXTURE_NORM),
        MIXTURE,
        passed_over=names.MULTI_TOKEN_PREDICTION,
        wide_in_half=("*.indexer.weights.weight",),
    ),
    aliases=deepseek.ALIASES,
    irrelevant=deepseek.IRRELEVANT | {"head_dim": "the reference puts qk_rope_head_dim in its place"},
    tiny=draws.TINY
    | draws.TINY_LATENT
    | draws.TINY_ROUTED
    | draws.TINY_INDEXED
    | {"n_group": 4, "topk_group": 1, "gated_norm_rank": 4},
    draws=draws.DENSE
    | draws.without(draws.LATENT, "q_lora_rank", "rope_interleave")
    | draws.ROUTED
    | draws.INDEXED
    | {
        "n_group": (4, 2, 1),
        "topk_group": (1,),
        "gated_norm_rank": (4, 8),
        "mlp_layer_types": (None, ["sparse"] * 3, ["dense", "sparse", "dense"]),
        "first_k_dense_replace": (1, 0, 3),
        "moe_layer_freq": (1, 2),
    },
)
