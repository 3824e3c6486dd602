"""GLM-4-9B under its first names, written from its equations; shares no code with the package.

Held once to modelscope 1.40.2's `models/nlp/chatglm2/text_generation.py` on random weights, with and without shared
heads: hidden states differed by at most 2e-6 of the largest in float32. That file is ChatGLM2's, whose `rope_ratio`
means something else; it was 1 there. What it means in GLM-4 is held to transformers' `glm`.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

ENCODER = "transformer.encoder"


def logits(tensors: dict[str, Tensor], config: dict[str, Any], ids: Tensor) -> Tensor:
    """Logits [seq, vocab] of ids [seq]."""

    def linear(name: str, x: Tensor) -> Tensor:
        bias = tensors.get(f"{name}.bias")
        product = x @ tensors[f"{name}.weight"].T
        return product if bias is None else product + bias

    def norm(name: str, x: Tensor) -> Tensor:
        return tensors[f"{name}.weight"] * x / ((x * x).mean(-1, keepdim=True) + config["layernorm_epsilon"]).sqrt()

    def attention(name: str, x: Tensor) -> Tensor:
        heads, width = config["num_attention_heads"], config["kv_channels"]
        mixed = linear(f"{name}.query_key_value", x)
        if config["multi_query_attention"]:
            groups = config["multi_query_group_num"]
            query, key, value = mixed.split([heads * width, groups * width, groups * width], -1)
            query, key, value = (part.view(len(x), -1, width) for part in (query, key, value))
        else:
            groups = heads
            query, key, value = mixed.view(len(x), heads, 3 * width).split(width, -1)
        query, key = turned(query, config), turned(key, config)
        query = query.view(len(x), groups, heads // groups, width)
        scores = torch.einsum("qgrd,kgd->grqk", query, key) / width**0.5
        later = torch.ones(len(x), len(x), dtype=torch.bool).triu(1)
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        mixed = torch.einsum("grqk,kgd->qgrd", weights, value).reshape(len(x), heads * width)
        return linear(f"{name}.dense", mixed)

    x = tensors["transformer.embedding.word_embeddings.weight"][ids]
    for layer in range(config["num_layers"]):
        name = f"{ENCODER}.layers.{layer}"
        x = x + attention(f"{name}.self_attention", norm(f"{name}.input_layernorm", x))
        z = norm(f"{name}.post_attention_layernorm", x)
        gate, up = linear(f"{name}.mlp.dense_h_to_4h", z).chunk(2, -1)
        x = x + linear(f"{name}.mlp.dense_4h_to_h", gate * torch.sigmoid(gate) * up)
    return linear("transformer.output_layer", norm(f"{ENCODER}.final_layernorm", x))


def turned(x: Tensor, config: dict[str, Any]) -> Tensor:
    """The first half of each head, its neighbours turned in pairs."""
    half = x.shape[-1] // 2
    frequencies = (10000.0 * config["rope_ratio"]) ** -(torch.arange(0, half, 2, dtype=x.dtype) / half)
    angles = torch.arange(len(x), dtype=x.dtype)[:, None] * frequencies
    pairs = torch.view_as_complex(x[..., :half].unflatten(-1, (-1, 2)).contiguous())
    pairs = pairs * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([torch.view_as_real(pairs).flatten(-2), x[..., half:]], -1)
