"""Qwen-7B of 2023, written from its equations and its checkpoint's names; shares no code with the package.

Held once to modelscope 1.40.2's `models/nlp/qwen/backbone.py` (its fused kernels absent) on random weights: hidden
states differed by at most 6e-6 of the largest in float32, for prompts on both sides of the trained length, prompts read
in chunks, cached steps, and every combination of the two flags and of biases.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor


def growth(length: int, trained: int) -> int:
    """α of the rotation's base for a prompt of this length."""
    return max(1, 2 ** math.ceil(math.log(length / trained, 2) + 1) - 1)


class QwenV1:
    """One row of text. Keys stay rotated as they were first written, with the α of the first call."""

    def __init__(self, tensors: dict[str, Tensor], config: dict[str, Any]) -> None:
        self.tensors, self.config = tensors, config
        self.past: list[tuple[Tensor, Tensor]] = []
        self.alpha = 1

    def __call__(self, ids: Tensor) -> Tensor:
        """Logits [seq, vocab] of ids [seq] that follow what was read before."""
        config = self.config
        seen = self.past[0][0].shape[0] if self.past else 0
        if not self.past and config["use_dynamic_ntk"]:
            self.alpha = growth(len(ids), config["seq_length"])
        x = self.tensors["transformer.wte.weight"][ids]
        past, self.past = self.past, []
        for layer in range(config["num_hidden_layers"]):
            name = f"transformer.h.{layer}"
            x = x + self._attention(f"{name}.attn", self._norm(f"{name}.ln_1", x), seen, past[layer] if past else None)
            z = self._norm(f"{name}.ln_2", x)
            gate = self._linear(f"{name}.mlp.w2", z)
            x = x + self._linear(f"{name}.mlp.c_proj", self._linear(f"{name}.mlp.w1", z) * gate * torch.sigmoid(gate))
        return self._linear("lm_head", self._norm("transformer.ln_f", x))

    def _linear(self, name: str, x: Tensor) -> Tensor:
        bias = self.tensors.get(f"{name}.bias")
        product = x @ self.tensors[f"{name}.weight"].T
        return product if bias is None else product + bias

    def _norm(self, name: str, x: Tensor) -> Tensor:
        spread = (x * x).mean(-1, keepdim=True) + self.config["layer_norm_epsilon"]
        return x / spread.sqrt() * self.tensors[f"{name}.weight"]

    def _attention(self, name: str, x: Tensor, seen: int, past: tuple[Tensor, Tensor] | None) -> Tensor:
        heads, width = self.config["num_attention_heads"], self.config["kv_channels"]
        times = torch.arange(seen, seen + len(x))
        query, key, value = (part.view(len(x), heads, width) for part in self._linear(f"{name}.c_attn", x).chunk(3, -1))
        query, key = self._turned(query, times), self._turned(key, times)
        if past is not None:
            key, value = torch.cat([past[0], key]), torch.cat([past[1], value])
        self.past.append((key, value))
        trained = self.config["seq_length"]
        if self.config["use_logn_attn"]:
            scales = [math.log(t + 1, trained) if t + 1 > trained else 1.0 for t in times.tolist()]
            query = query * torch.tensor(scales, dtype=x.dtype)[:, None, None]
        scores = torch.einsum("qhd,khd->hqk", query, key) / width**0.5
        later = torch.arange(len(key))[None, :] > times[:, None]
        weights = scores.masked_fill(later, float("-inf")).softmax(-1)
        mixed = torch.einsum("hqk,khd->qhd", weights, value)
        return self._linear(f"{name}.c_proj", mixed.reshape(len(x), heads * width))

    def _turned(self, x: Tensor, times: Tensor) -> Tensor:
        turned = int(x.shape[-1] * self.config["rotary_pct"])
        base = self.config["rotary_emb_base"] * self.alpha ** (turned / (turned - 2))
        frequencies = base ** -(torch.arange(0, turned, 2, dtype=x.dtype) / turned)
        turns = torch.polar(torch.ones((), dtype=x.dtype), times[:, None].to(x.dtype) * frequencies)[:, None]
        pairs = torch.complex(x[..., : turned // 2].contiguous(), x[..., turned // 2 : turned].contiguous()) * turns
        return torch.cat([pairs.real, pairs.imag, x[..., turned:]], -1)
