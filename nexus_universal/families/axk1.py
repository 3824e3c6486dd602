"""A.X K1 (SK Telecom): DeepSeek-V3 with a norm on what a mixture of experts gives."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import Program, residual_step
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=64, latent=512, nope=128, rope=64, value=128)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=32768, vocab=163840, width=7168, bos=163691, eos=163691)
    norm = common.rms_norm(reader, 1e-6)
    attention = deepseek.latent_attention(reader, context=text.context, query_rank=1536, defaults=SIZES)
    reader.require(attention.query_rank is not None, "q_lora_rank", None, "must be a whole number: there is no q_proj")
    dense = common.feed_forward(reader, 18432)
    router = deepseek.sigmoid_router(reader, scale=2.5, groups=8, kept=4)
    experts = deepseek.experts(reader, dense, router, count=192, chosen=8, width=2048)
    mixer = residual_step("attention", attention, norm=norm)
    layers = {
        "dense": Program(steps=(mixer, residual_step("feed_forward", dense, norm=norm))),
        "sparse": Program(steps=(mixer, residual_step("feed_forward", experts, norm=norm, output_norm=norm))),
    }
    kinds = deepseek.layer_kinds(reader, layers=61, dense_layers=1)
    return common.decoder(reader, text, embedding, (layers[kind] for kind in kinds), norm)


FAMILY = Family(
    model_type="axk1",
    title="A.X K1",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        names.experts(),
        names.shared_experts(),
        {
            "layers.{i}.feed_forward_output_norm": (
                f"{names.LAYER}.post_mlp_layernorm",
                f"{names.LAYER}.mlp.post_mlp_layernorm",
            )
        },
        passed_over={
            **names.MULTI_TOKEN_PREDICTION,
            r"post_mlp_layernorm\.weight$": "dense layers hold a norm that nothing reads",
        },
    ),
    aliases=deepseek.ALIASES,
    irrelevant=deepseek.IRRELEVANT,
    tiny=draws.TINY | draws.TINY_LATENT | draws.TINY_ROUTED | {"n_group": 4, "topk_group": 2},
    draws=draws.DENSE
    | draws.without(draws.LATENT, "q_lora_rank")
    | draws.ROUTED
    | {
        "n_group": (4, 2),
        "topk_group": (2, 1),
        "mlp_layer_types": (None, ["sparse"] * 3, ["dense", "sparse", "dense"]),
        "first_k_dense_replace": (1, 0, 3),
        "moe_layer_freq": (1, 2),
    },
)
