"""The models that are measured: one of each kind, of a size that fits any machine, with weights made by seed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_universal import ArchitectureParameter

SHRUNK = {"vocab_size": 32768, "hidden_size": 1024, "num_hidden_layers": 12, "max_position_embeddings": 40960}


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A model by its type and what its config says beside the defaults."""

    title: str
    model_type: str
    config: dict[str, Any]

    def parameter(self) -> ArchitectureParameter:
        """Its n."""
        return ArchitectureParameter.from_huggingface({"model_type": self.model_type, **self.config})

    def weights_read(self) -> int:
        """How many weights a decoded token of one row reads; what an untied token table looks up is left out."""
        n = self.parameter()
        looked_up = 0 if n.head.tied else n.d_vocab * n.d_hidden
        return n.count(context=1).active_parameters - looked_up

    def flops_of_prompt(self, tokens: int) -> int:
        """Multiplications and additions with weights, the head's once: only the last logits are wanted."""
        n = self.parameter()
        head = n.d_vocab * n.d_hidden
        return 2 * (tokens * (self.weights_read() - head) + head)


SHAPES = {
    "dense": Shape(
        title="dense: Qwen3-0.6B's shape",
        model_type="qwen3",
        config={
            "vocab_size": 151936,
            "hidden_size": 1024,
            "intermediate_size": 3072,
            "num_hidden_layers": 28,
            "num_attention_heads": 16,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "max_position_embeddings": 40960,
            "rope_theta": 1000000.0,
            "tie_word_embeddings": True,
        },
    ),
    "experts": Shape(
        title="experts: Qwen3-MoE, shrunk",
        model_type="qwen3_moe",
        config=SHRUNK
        | {
            "num_attention_heads": 16,
            "num_key_value_heads": 4,
            "head_dim": 128,
            "num_experts": 32,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 384,
            "norm_topk_prob": True,
        },
    ),
    "latent": Shape(
        title="latent attention: GLM-4.7-Flash, shrunk",
        model_type="glm4_moe_lite",
        config=SHRUNK
        | {
            "num_attention_heads": 16,
            "num_key_value_heads": 16,
            "q_lora_rank": 512,
            "kv_lora_rank": 512,
            "qk_nope_head_dim": 192,
            "qk_rope_head_dim": 64,
            "v_head_dim": 256,
            "intermediate_size": 4096,
            "moe_intermediate_size": 384,
            "n_routed_experts": 32,
            "num_experts_per_tok": 4,
            "n_shared_experts": 1,
        },
    ),
    "hybrid": Shape(
        title="hybrid: Qwen3-Next, shrunk",
        model_type="qwen3_next",
        config=SHRUNK
        | {
            "num_attention_heads": 8,
            "num_key_value_heads": 2,
            "head_dim": 256,
            "linear_num_key_heads": 8,
            "linear_num_value_heads": 16,
            "num_experts": 16,
            "num_experts_per_tok": 4,
            "moe_intermediate_size": 512,
            "shared_expert_intermediate_size": 512,
        },
    ),
}


def make_checkpoint(shape: Shape, directory: Path) -> int:
    """Write bfloat16 weights with the reference's own classes; returns their bytes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    settled = AutoConfig.for_model(shape.model_type, **shape.config)
    model = AutoModelForCausalLM.from_config(settled, dtype=torch.bfloat16)
    model.save_pretrained(directory)
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
