"""Published checkpoints whose attention or scalars have a form of their own: their config.json, and what n must say."""

from __future__ import annotations

from typing import Any

import pytest

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.architecture.feed_forward import MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.position import Rope, YarnScaling

GEMMA2: dict[str, Any] = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 16,
    "num_hidden_layers": 42,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "sliding_window_size": 4096,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 256000,
}
GRANITE: dict[str, Any] = {
    "architectures": ["GraniteForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.1,
    "attention_multiplier": 0.0078125,
    "bos_token_id": 0,
    "embedding_multiplier": 12.0,
    "eos_token_id": 0,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 12800,
    "logits_scaling": 16.0,
    "max_position_embeddings": 4096,
    "mlp_bias": False,
    "model_type": "granite",
    "num_attention_heads": 32,
    "num_hidden_layers": 40,
    "num_key_value_heads": 8,
    "pad_token_id": 0,
    "residual_multiplier": 0.22,
    "rms_norm_eps": 1e-05,
    "rope_scaling": None,
    "rope_theta": 10000,
    "tie_word_embeddings": True,
    "use_cache": True,
    "vocab_size": 49155,
}
GPT_OSS: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "use_cache": True,
    "vocab_size": 201088,
}
FALCON_7B: dict[str, Any] = {
    "alibi": False,
    "apply_residual_connection_post_layernorm": False,
    "architectures": ["FalconForCausalLM"],
    "attention_dropout": 0.0,
    "bias": False,
    "bos_token_id": 11,
    "eos_token_id": 11,
    "hidden_dropout": 0.0,
    "hidden_size": 4544,
    "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05,
    "model_type": "falcon",
    "multi_query": True,
    "new_decoder_architecture": False,
    "num_attention_heads": 71,
    "num_hidden_layers": 32,
    "parallel_attn": True,
    "torch_dtype": "bfloat16",
    "use_cache": True,
    "vocab_size": 65024,
}
FALCON_40B: dict[str, Any] = {key: value for key, value in FALCON_7B.items() if key != "multi_query"} | {
    "hidden_size": 8192,
    "new_decoder_architecture": True,
    "num_attention_heads": 128,
    "num_hidden_layers": 60,
    "num_kv_heads": 8,
}
FALCON_RW_1B: dict[str, Any] = FALCON_7B | {
    "alibi": True,
    "bias": True,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_size": 2048,
    "multi_query": False,
    "num_attention_heads": 32,
    "num_hidden_layers": 24,
    "parallel_attn": False,
    "vocab_size": 50304,
}


def attentions(raw: dict[str, Any]) -> list[Attention]:
    n = ArchitectureParameter.from_huggingface(raw)
    return [b.part for layer in n.layers for b in layer.branches() if isinstance(b.part, Attention)]


@pytest.mark.parametrize(
    ("raw", "parameters"),
    [
        (GEMMA2, 9_241_705_984),
        (GRANITE, 8_170_848_256),
        (GPT_OSS, 20_914_757_184),
        (FALCON_7B, 6_921_720_704),
        (FALCON_RW_1B, 1_311_625_216),
    ],
    ids=["gemma-2-9b", "granite-3.0-8b", "gpt-oss-20b", "falcon-7b", "falcon-rw-1b"],
)
def test_the_published_number_of_parameters(raw: dict[str, Any], parameters: int) -> None:
    n = ArchitectureParameter.from_huggingface(raw)
    assert n.count().parameters == parameters
    assert n.to_huggingface() == raw


def test_gemma_2_caps_scores_and_logits_and_windows_every_second_layer() -> None:
    for index, part in enumerate(attentions(GEMMA2)):
        assert (part.window, part.softcap, part.kernel) == (None if index % 2 else 4096, 50.0, "eager")
        assert (part.scale, part.rope) == (256**-0.5, Rope(theta=1e4))
    assert ArchitectureParameter.from_huggingface(GEMMA2).head.softcap == 30.0


def test_granite_has_four_multipliers() -> None:
    n = ArchitectureParameter.from_huggingface(GRANITE)
    assert (n.embedding.scale, n.embedding.scale_inputs, n.head.divisor, n.head.scale) == (12.0, True, 16.0, None)
    assert {part.scale for part in attentions(GRANITE)} == {0.0078125}
    writes = [write for layer in n.layers for step in layer.steps for write in step.writes]
    assert {tuple(term.scale for term in write.terms) for write in writes} == {(None, 0.22)}


def test_gpt_oss_has_sinks_and_a_clamped_gate() -> None:
    for index, part in enumerate(attentions(GPT_OSS)):
        assert (part.window, part.sinks, part.kernel) == (None if index % 2 else 128, True, "eager")
        assert part.rope and isinstance(part.rope.scaling, YarnScaling) and not part.rope.scaling.truncate
    n = ArchitectureParameter.from_huggingface(GPT_OSS)
    found = {b.part for layer in n.layers for b in layer.branches() if isinstance(b.part, MixtureOfExperts)}
    (part,) = found
    assert (part.experts, part.per_token, part.router.score, part.router.bias) == (32, 4, "softmax_chosen", True)
    expert = part.expert
    assert (expert.gate_limit, expert.up_shift, expert.activation) == (7.0, 1.0, "gelu_quick")
    assert expert.packing == (Packed(roles=("gate", "up"), groups=2880),)


def test_falcons_three_layers() -> None:
    seven, forty, rw = (attentions(raw)[0] for raw in (FALCON_7B, FALCON_40B, FALCON_RW_1B))
    assert [(p.heads, p.kv_heads, p.packing[0].groups) for p in (seven, forty, rw)] == [
        (71, 1, 1),
        (128, 8, 8),
        (32, 32, 32),
    ]
    assert [p.alibi is None for p in (seven, forty, rw)] == [p.rope is not None for p in (seven, forty, rw)]
    assert rw.alibi and rw.alibi.scaled and rw.alibi.rounding == "bfloat16" and rw.late_bias
    layers = [ArchitectureParameter.from_huggingface(raw).layers[0] for raw in (FALCON_7B, FALCON_40B, FALCON_RW_1B)]
    assert [len(layer.steps) for layer in layers] == [1, 1, 2]
    assert [layer.steps[0].norm is None for layer in layers] == [False, True, False]
    assert all(branch.input_norm for branch in layers[1].branches())


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"parallel_attn": False, "new_decoder_architecture": True}, "parallel_attn = False"),
        ({"num_ln_in_parallel_attn": 2}, "num_ln_in_parallel_attn = 2"),
        ({"num_ln_in_parallel_attn": 3, "new_decoder_architecture": True}, "num_ln_in_parallel_attn = 3"),
        ({"multi_query": False, "num_kv_heads": 2}, "num_kv_heads = 2"),
        ({"num_attention_heads": 70}, "num_attention_heads = 70"),
    ],
)
def test_what_the_reference_cannot_compute_is_refused(changes: dict[str, Any], named: str) -> None:
    with pytest.raises(UnsupportedConfig, match=f"falcon: {named}"):
        ArchitectureParameter.from_huggingface(FALCON_7B | changes)


def test_another_slope_of_the_experts_gate_is_refused() -> None:
    ArchitectureParameter.from_huggingface(GPT_OSS | {"swiglu_alpha": 1.702})
    with pytest.raises(UnsupportedConfig, match=r"gpt_oss: swiglu_alpha = 1\.5"):
        ArchitectureParameter.from_huggingface(GPT_OSS | {"swiglu_alpha": 1.5})
