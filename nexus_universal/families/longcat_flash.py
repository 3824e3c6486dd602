"""LongCat-Flash (arXiv 2509.01322): two attentions and dense networks per layer, experts beside, some doing nothing."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import LatentAttention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write, residual_step
from nexus_universal.checkpoint.rules import Direct, Leading, Stacked
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=64, latent=512, nope=128, rope=64, value=128)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=131072, width=6144, bos=1, eos=2)
    norm, dense = common.rms_norm(reader, 1e-5), common.feed_forward(reader, 12288)
    latent = partial(deepseek.latent_attention, reader, context=text.context, defaults=SIZES)
    attention = latent(query_rank=1536, pairing="interleaved_to_half")
    ranks = reader.count("q_lora_rank", 1536), attention.latent_rank
    scales = [(embedding.width / rank) ** 0.5 for rank in ranks]
    attention = replace(attention, query_scale=scales[0], latent_scale=scales[1])
    identities = reader.take("zero_expert_num", 256)
    reader.require(identities >= 0, "zero_expert_num", identities, "must not be negative")
    experts = MixtureOfExperts(
        experts=reader.count("n_routed_experts", 512),
        per_token=reader.count("num_experts_per_tok", 12),
        expert=replace(dense, width=reader.count("moe_intermediate_size", 2048)),
        router=Router(
            score="softmax",
            normalise=False,
            selection_bias=True,
            scale=reader.number("routed_scaling_factor", 6.0),
            logits="float32",
            order="unsorted",
        ),
        identity_experts=identities,
        sum_order="loop",
        views="behind",
    )
    layers = [_layer(attention, dense, experts, norm)] * reader.count("num_layers", 28)
    return common.decoder(reader, text, embedding, layers, norm)


def _layer(attention: LatentAttention, dense: FeedForward, experts: MixtureOfExperts, norm: Norm) -> Program:
    """What the experts make of the first network's input is added behind the second one."""
    x, first, second, held = (Term(source=name) for name in ("x", "dense_0", "dense_1", "m"))
    both = Branch(name="feed_forward", part=experts), Branch(name="dense_0", part=dense)
    writes = Write(terms=(x, first)), Write(terms=(Term(source="feed_forward"),), register="m")
    shortcut = Step(norm=norm, branches=both, writes=writes)
    last = replace(residual_step("dense_1", dense, norm=norm), writes=(Write(terms=(x, second, held)),))
    attentions = (residual_step(f"attention_{turn}", attention, norm=norm) for turn in range(2))
    return Program(steps=(next(attentions), shortcut, next(attentions), last))


def _tensors() -> names.Names:
    layer, experts = names.LAYER, f"{names.LAYER}.mlp.experts"
    gate_up = Stacked((f"{experts}.{{e}}.gate_proj.weight", f"{experts}.{{e}}.up_proj.weight"))
    down = Stacked((f"{experts}.{{e}}.down_proj.weight",))
    table: names.Names = {
        "layers.{i}.feed_forward_norm": f"{layer}.post_attention_layernorm.0",
        "layers.{i}.dense_1_norm": f"{layer}.post_attention_layernorm.1",
        "layers.{i}.feed_forward.router.weight": Direct(f"{layer}.mlp.router.classifier.weight"),
        "layers.{i}.feed_forward.router.selection_bias": f"{layer}.mlp.router.e_score_correction_bias",
        "layers.{i}.feed_forward.experts.gate_up": (gate_up, Leading(f"{experts}.gate_up_proj")),
        "layers.{i}.feed_forward.experts.down": (down, Direct(f"{experts}.down_proj")),
    }
    for turn in range(2):
        mixer = names.latent_attention(f"{layer}.self_attn.{turn}")
        table |= {key.replace("attention", f"attention_{turn}"): rule for key, rule in mixer.items()}
        table |= names.gated(f"layers.{{i}}.dense_{turn}", f"{layer}.mlps.{turn}")
        table[f"layers.{{i}}.attention_{turn}_norm"] = f"{layer}.input_layernorm.{turn}"
    return table


FAMILY = Family(
    model_type="longcat_flash",
    title="LongCat-Flash",
    read=read,
    weights=names.weights(
        _tensors(),
        passed_over={
            r"^model\.mtp\.": "multi-token prediction",
            r"\.mlp\.experts\.\d+\.(gate|up)_proj\.": "rows that transformers keeps for experts that do nothing",
        },
        wide_in_half=("*.router.weight",),
    ),
    aliases={
        "num_local_experts": "n_routed_experts",
        "moe_topk": "num_experts_per_tok",
        "ffn_hidden_size": "intermediate_size",
        "expert_ffn_hidden_size": "moe_intermediate_size",
    },
    rope_theta=10000000.0,
    tiny=draws.without(draws.TINY, "num_hidden_layers", "num_key_value_heads")
    | draws.TINY_LATENT
    | {
        "num_layers": 2,
        **{"head_dim": 8, "moe_intermediate_size": 24},
        "n_routed_experts": 8,
        "zero_expert_num": 0,  # the reference opens no file without rows for them
        "num_experts_per_tok": 5,
    },
    draws=draws.without(draws.DENSE, "num_key_value_heads")
    | {
        "num_layers": (2, 1),
        "q_lora_rank": (28, 20),
        **{"v_head_dim": (16, 20), "zero_expert_num": (0, 4, 1)},
        "num_experts_per_tok": (5, 2, 8),
        "n_routed_experts": (8, 5),
        "routed_scaling_factor": (6.0, 1.5),
    },
)
