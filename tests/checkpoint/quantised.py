"""Quantised checkpoints for the tests, made by the reference's own quantiser, or of random bytes where it has none."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import FineGrainedFP8Config
from transformers.integrations.finegrained_fp8 import Fp8Quantize

from nexus_universal.checkpoint.dequantise import DequantisedStore
from nexus_universal.checkpoint.files import TensorStore
from nexus_universal.checkpoint.quantisation import quantisation_of
from tests.checkpoint.on_disk import SINGLE, tensors_of
from tests.helpers import reference

KEPT = ("embed_tokens", "lm_head", "mlp.gate.")
"""Matrices that published checkpoints leave as they are."""

SIZES: dict[str, dict[str, Any]] = {
    "deepseek_v3": {"first_k_dense_replace": 1},  # experts in what is tiny, too
    "gpt_oss": {"hidden_size": 64, "intermediate_size": 32},  # whole blocks of 32
}


def written(model_type: str, target: Path, quantise: Callable[[str, Tensor], dict[str, Tensor]], **config: Any) -> Path:
    """A tiny reference's checkpoint, each tensor given to `quantise`; what stays in float32 is cast to bfloat16."""
    model: Any = reference(model_type, **SIZES.get(model_type, {}))
    model.save_pretrained(target)
    tensors: dict[str, Tensor] = {}
    for name, tensor in tensors_of(target).items():
        found = quantise(name, tensor)
        plain = name if len(found) == 1 else None
        tensors |= {key: value.bfloat16() if key == plain else value for key, value in found.items()}
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, target / SINGLE, {"format": "pt"})
    raw = {key: value for key, value in config_of(target).items() if key != "dtype"}
    (target / "config.json").write_text(json.dumps(raw | config))
    return target


def block_scaled(model_type: str, target: Path, *, block: Any, scale_fmt: str = "float", **config: Any) -> Path:
    """A checkpoint with fp8 projections, by the reference's quantiser; it leaves what `block` does not divide."""
    settings = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
    if scale_fmt != "float":
        settings["scale_fmt"] = scale_fmt
    reads = SimpleNamespace(quantization_config=FineGrainedFP8Config(weight_block_size=block, scale_fmt=scale_fmt))
    quantiser: Any = Fp8Quantize(reads)

    def quantise(name: str, tensor: Tensor) -> dict[str, Tensor]:
        is_kept = tensor.dim() != 2 or any(part in name for part in KEPT)
        return {name: tensor} if is_kept else quantiser.convert({name: tensor})

    return written(model_type, target, quantise, dtype="bfloat16", quantization_config=settings | config)


def packed(target: Path, **config: Any) -> Path:
    """A checkpoint of GPT-OSS as published: experts in MXFP4, the rest in bfloat16, no dtype in the config."""

    def pack(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if not name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            return {name: tensor}
        experts, d_in, d_out = tensor.shape
        blocks, scales = random_packed(experts, d_out, d_in // 32, seed=d_in)
        return {f"{name}_blocks": blocks, f"{name}_scales": scales}

    skipped = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
    settings = {"quant_method": "mxfp4", "modules_to_not_convert": skipped, **config}
    return written("gpt_oss", target, pack, quantization_config=settings)


def scaled_names(tensors: dict[str, Tensor]) -> list[str]:
    """The weights that have a scale."""
    return [name for name in tensors if f"{name}_scale_inv" in tensors]


def random_values(*shape: int, seed: int = 0) -> Tensor:
    """Every e4m3 number but the two that are none."""
    codes = torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))
    return codes.where((codes & 127) != 127, 0).view(torch.float8_e4m3fn)


def random_packed(experts: int, rows: int, blocks: int, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """MXFP4 blocks and scales: any byte is two numbers, and any scale byte near 127 one of a usual size."""
    generator = torch.Generator().manual_seed(seed)
    packed = torch.randint(0, 256, (experts, rows, blocks, 16), dtype=torch.uint8, generator=generator)
    return packed, torch.randint(118, 128, (experts, rows, blocks), dtype=torch.uint8, generator=generator)


def store_of(
    directory: Path, tensors: dict[str, Tensor], dtype: torch.dtype = torch.bfloat16, **config: Any
) -> DequantisedStore:
    """The store of a file with these tensors and this quantisation."""
    directory.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, directory / SINGLE)
    rule = quantisation_of({"quantization_config": config})
    assert rule is not None
    return DequantisedStore(TensorStore.open(directory), rule, dtype=dtype)


def config_of(directory: Path) -> dict[str, Any]:
    """The raw config of a directory."""
    return json.loads((directory / "config.json").read_text())
