"""The hand-written n's are the reference's models: as many parameters, and as many FLOPs for one token with a cache."""

from __future__ import annotations

import importlib
from typing import Any

import pytest
from hard_types import WORKS
from pieces import VOCAB

SLIDING, FULL, LINEAR = "sliding_attention", "full_attention", "linear_attention"
YARN = {"rope_type": "yarn", "original_max_position_embeddings": 64}
GEMMA4 = {
    "hidden_size": 24,
    "num_hidden_layers": 6,
    "intermediate_size": 26,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "global_head_dim": 12,
    "sliding_window": 5,
    "layer_types": [SLIDING, SLIDING, FULL] * 2,
}
CONFIGS: dict[str, dict[str, Any]] = {
    "falcon_h1": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "mamba_d_ssm": 48,
        "mamba_n_heads": 6,
        "mamba_d_head": 8,
        "mamba_n_groups": 2,
        "mamba_d_state": 10,
        "mamba_chunk_size": 16,
        "mamba_rms_norm": True,
        "mamba_norm_before_gate": False,
    },
    "longcat_flash": {
        "hidden_size": 24,
        "num_layers": 2,
        "num_attention_heads": 4,
        "ffn_hidden_size": 36,
        "q_lora_rank": 12,
        "kv_lora_rank": 10,
        "qk_nope_head_dim": 6,
        "qk_rope_head_dim": 4,
        "head_dim": 4,
        "v_head_dim": 8,
        "moe_topk": 3,
        "n_routed_experts": 5,
        "zero_expert_num": 2,
        "expert_ffn_hidden_size": 14,
    },
    "zamba2": {
        "hidden_size": 24,
        "num_hidden_layers": 7,
        "layers_block_type": [LINEAR, "hybrid", LINEAR, LINEAR, "hybrid", LINEAR, "hybrid"],
        "mamba_d_state": 10,
        "mamba_ngroups": 2,
        "n_mamba_heads": 6,
        "intermediate_size": 38,
        "num_attention_heads": 4,
        "num_mem_blocks": 2,
        "use_shared_attention_adapter": True,
        "adapter_rank": 5,
        "use_mem_rope": True,
        "chunk_size": 16,
    },
    "gemma3n_text": {
        "hidden_size": 24,
        "num_hidden_layers": 10,
        "intermediate_size": [28] * 5 + [30] * 5,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 8,
        "sliding_window": 5,
        "vocab_size_per_layer_input": 89,
        "hidden_size_per_layer_input": 6,
        "num_kv_shared_layers": 5,
        "laurel_rank": 7,
        "activation_sparsity_pattern": [0.95] * 2 + [0.0] * 8,
    },
    "gemma4_text": {
        **GEMMA4,
        "vocab_size_per_layer_input": 89,
        "hidden_size_per_layer_input": 6,
        "num_kv_shared_layers": 3,
        "use_double_wide_mlp": True,
    },
    "gemma4_text_experts": {
        **GEMMA4,
        "num_global_key_value_heads": 1,
        "attention_k_eq_v": True,
        "hidden_size_per_layer_input": 0,
        "enable_moe_block": True,
        "num_experts": 5,
        "top_k_experts": 2,
        "moe_intermediate_size": 14,
    },
    "deepseek_v32": {
        "hidden_size": 24,
        "intermediate_size": 34,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "n_shared_experts": 2,
        "n_routed_experts": 8,
        "kv_lora_rank": 10,
        "q_lora_rank": 12,
        "qk_rope_head_dim": 4,
        "v_head_dim": 8,
        "qk_nope_head_dim": 6,
        "n_group": 4,
        "topk_group": 2,
        "num_experts_per_tok": 3,
        "index_topk": 7,
        "index_head_dim": 14,
        "index_n_heads": 3,
        "first_k_dense_replace": 1,
        "max_position_embeddings": 2560,
        "rope_parameters": {**YARN, "rope_theta": 1e4, "factor": 40.0, "mscale": 1.0, "mscale_all_dim": 1.0},
    },
    "deepseek_v4": {
        "hidden_size": 24,
        "moe_intermediate_size": 18,
        "num_hidden_layers": 6,
        "num_attention_heads": 4,
        "head_dim": 16,
        "q_lora_rank": 12,
        "num_experts_per_tok": 2,
        "n_routed_experts": 6,
        "partial_rotary_factor": 0.25,
        "layer_types": [
            *["heavily_compressed_attention"] * 2,
            "compressed_sparse_attention",
            "heavily_compressed_attention",
            "compressed_sparse_attention",
            SLIDING,
        ],
        "compress_rates": {"compressed_sparse_attention": 4, "heavily_compressed_attention": 16},
        "sliding_window": 9,
        "o_groups": 2,
        "o_lora_rank": 10,
        "index_n_heads": 3,
        "index_head_dim": 8,
        "index_topk": 5,
        "max_position_embeddings": 1024,
        "rope_parameters": {**YARN, "factor": 16.0},
    },
    "kimi_linear": {
        "hidden_size": 24,
        "intermediate_size": 34,
        "moe_intermediate_size": 16,
        "num_hidden_layers": 9,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "kv_lora_rank": 10,
        "qk_rope_head_dim": 4,
        "v_head_dim": 9,
        "qk_nope_head_dim": 6,
        "num_experts_per_tok": 3,
        "num_local_experts": 8,
        "linear_head_dim": 8,
        "linear_num_heads": 3,
        "layer_types": [FULL if index in (3, 7, 8) else LINEAR for index in range(9)],
        "pad_token_id": 0,
    },
    "minimax": {
        "hidden_size": 24,
        "intermediate_size": 30,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "num_local_experts": 5,
        "block_size": 8,
        "layer_types": [LINEAR, FULL] * 2,
    },
    "jetmoe": {
        "hidden_size": 26,
        "num_hidden_layers": 3,
        "num_key_value_heads": 3,
        "kv_channels": 8,
        "intermediate_size": 30,
        "num_local_experts": 5,
    },
    "hrm_text": {
        "hidden_size": 24,
        "intermediate_size": 34,
        "num_hidden_layers": 2,
        "num_attention_heads": 3,
        "head_dim": 8,
    },
    "nemotron_h": {
        "hidden_size": 24,
        "layers_block_type": [{"M": LINEAR, "*": FULL, "-": "mlp", "E": "moe"}[letter] for letter in "MEM-M*EM"],
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 7,
        "intermediate_size": 34,
        "ssm_state_size": 10,
        "mamba_num_heads": 6,
        "mamba_head_dim": 8,
        "n_groups": 3,
        "chunk_size": 16,
        "n_routed_experts": 8,
        "moe_intermediate_size": 16,
        "moe_shared_expert_intermediate_size": 20,
        "moe_latent_size": 11,
        "num_experts_per_tok": 3,
        "n_group": 2,
        "topk_group": 1,
    },
}
UNUSED = {"longcat_flash": 2 * 2 * (2 * 14) * 24}
"""Parameters that the reference holds and never reads: gate and up rows of LongCat's two identity experts."""

works = pytest.mark.parametrize("name", WORKS)


def reference(name: str, **options: Any) -> Any:
    transformers = importlib.import_module("transformers")
    config = transformers.AutoConfig.for_model(name.removesuffix("_experts"), vocab_size=VOCAB, **CONFIGS[name])
    return transformers.AutoModelForCausalLM.from_config(config, **options)


@works
def test_it_has_the_references_number_of_parameters(name: str) -> None:
    import torch

    with torch.device("meta"):
        model = reference(name)
    counted = WORKS[name]().count().parameters
    assert counted == sum(p.numel() for p in model.parameters()) - UNUSED.get(name, 0)


@pytest.mark.slow
@works
@pytest.mark.parametrize("context", [4, 21, 34])
def test_it_has_the_references_flops(name: str, context: int) -> None:
    import torch
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    model = reference(name, dtype=torch.float32, experts_implementation="eager").eval()
    ids = torch.randint(1, 80, (1, context))
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        cache = model(ids[:, :-1], use_cache=True).past_key_values
        with counter:
            model(ids[:, -1:], past_key_values=cache, use_cache=True)
    counted = WORKS[name]().count(context=context).flops_per_token
    if name == "longcat_flash":
        identity = 2 * 3 * 24 * 14
        assert (counted - counter.get_total_flops()) % identity == 0
        assert 0 <= counted - counter.get_total_flops() <= 2 * 2 * identity
    else:
        assert counter.get_total_flops() == counted


@pytest.mark.slow
@pytest.mark.parametrize("name", [name for name in WORKS if name != "deepseek_v4"])
def test_it_remembers_as_many_bytes_as_the_reference(name: str) -> None:
    """Not DeepSeek-V4: its last layer keeps the one vector that is key and value twice, others wait for their entry."""
    import torch

    model = reference(name, dtype=torch.float32, experts_implementation="eager").eval()
    with torch.no_grad():
        cache = model(torch.randint(1, 80, (1, 32)), use_cache=True).past_key_values
    count = WORKS[name]().count(context=32)
    assert _bytes_held(cache, set()) == count.fixed_state_bytes + 32 * count.cache_bytes_per_token


def _bytes_held(held: Any, seen: set[int]) -> int:
    """Bytes of all states inside a cache; positions and lengths, which are integers, are none."""
    import torch

    if isinstance(held, torch.Tensor):
        new = held.data_ptr() not in seen and held.is_floating_point()
        seen.add(held.data_ptr())
        return held.numel() * held.element_size() if new else 0
    if isinstance(held, dict | list | tuple):
        return sum(_bytes_held(inner, seen) for inner in (held.values() if isinstance(held, dict) else held))
    if type(held).__module__.startswith("transformers") and not type(held).__name__.endswith("Config"):
        return _bytes_held(vars(held), seen)
    return 0
