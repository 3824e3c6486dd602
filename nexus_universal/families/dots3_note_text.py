"""dots3 Note: DeepSeek-V3.2's attention with scaled latents and a gate per head; windowed layers have other sizes."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, dots3, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

FULL, INDEXED, SLIDING = KINDS = dots3.KINDS
ENDS = {"bos": 151643, "eos": 151668, "pad": 151659}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=524288, vocab=152064, width=5120, **ENDS)
    norm, dense = common.rms_norm(reader, 1e-5), common.feed_forward(reader, 13824)
    router = deepseek.sigmoid_router(reader, scale=1.0)
    experts = deepseek.experts(reader, dense, router, count=256, chosen=8, width=1536)
    shared = reader.count("shared_experts_intermediate_size", 1536) * reader.count("n_shared_experts", 1)
    feed_forwards = {"dense": dense, "sparse": replace(experts, shared=replace(dense, width=shared))}
    depth = reader.count("num_hidden_layers", 46)
    kinds = dots3.kinds(reader, depth)
    mixers = dots3.mixers(reader, kinds, context=text.context, width=embedding.width, norm=norm)
    mlps = dots3.mlps(reader, depth)
    layers = common.sequential([mixers[kind] for kind in kinds], [feed_forwards[mlp] for mlp in mlps], norm=norm)
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="dots3_note_text",
    title="dots3 Note",
    read=read,
    weights=names.weights(
        names.latent_attention(),
        {
            "layers.{i}.attention.key_rope_norm": f"{names.LAYER}.self_attn.k_rope_only_layernorm",
            "layers.{i}.attention.gate": f"{names.LAYER}.self_attn.g_proj",
        },
        names.sparse_indexer(),
        names.experts(),
        names.shared_experts(),
        passed_over=names.MULTI_TOKEN_PREDICTION | {r"^model\.mtp\.": "multi-token prediction"},
    ),
    aliases=deepseek.ALIASES
    | {
        "rope_scaling": "rope_parameters",
        "sliding_window_size": "sliding_window",
        "moe_shared_expert_intermediate_size": "shared_experts_intermediate_size",
    },
    irrelevant=deepseek.IRRELEVANT
    | {
        "mlp_bias": "the reference's feed-forward has no biases",
        "partial_rotary_factor": "the reference puts what follows from the sizes in its place",
    },
    rope="none",
    tiny=draws.TINY
    | draws.TINY_LATENT
    | draws.TINY_ROUTED
    | draws.TINY_INDEXED
    | {
        "pad_token_id": None,
        "num_hidden_layers": 4,
        "head_dim": 16,
        "shared_experts_intermediate_size": 20,
        "sliding_window": 16,
        "swa_num_attention_heads": 2,
        "swa_num_key_value_heads": 2,
        "swa_q_lora_rank": 24,
        "swa_kv_lora_rank": 16,
        "swa_head_dim": 16,
        "swa_qk_nope_head_dim": 10,
        "swa_v_head_dim": 12,
    },
    draws=draws.without(draws.DENSE, "num_key_value_heads", "rope_parameters")
    | draws.without(draws.LATENT, "q_lora_rank", "rope_interleave", "num_key_value_heads")
    | draws.ROUTED
    | draws.INDEXED
    | {
        "rope_parameters": (
            None,
            *(rope for rope in draws.ROPE if rope["rope_type"] in dots3.ROTATIONS and "truncate" not in rope),
            {kind: draws.ROPE[index] for index, kind in enumerate(KINDS)},
        ),
        "n_group": (1, 2, 4),
        "topk_group": (1,),
        "layer_types": (None, [SLIDING, INDEXED, SLIDING, SLIDING], [INDEXED] * 4),
        "use_dsa": (True, False),
        "use_sliding_window": (True, False),
        "sliding_window": (16, 7, 100),
        "q_lora_rank": (28, 20),
        "swa_v_head_dim": (12, 16),
        "swa_kv_lora_rank": (16, 24),
        "swa_rope_theta": (50000.0, 30.0),
        "first_k_dense_replace": (1, 0),
        "moe_layer_freq": (1, 2, [0, 1, 1, 0]),
        "shared_experts_intermediate_size": (20, 24),
    },
)
