"""Quantised checkpoints for the tests, made by the reference's own quantiser, or of random bytes where it has none."""

from __future__ import annotations

import json
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
from tests.checkpoint.on_disk import SINGLE, changed

KEPT = ("embed_tokens", "lm_head", "mlp.gate.")
"""Matrices that published checkpoints leave as they are."""


def block_scaled(model_type: str, target: Path, *, block: Any, scale_fmt: str = "float", **config: Any) -> Path:
    """A tiny reference's checkpoint with fp8 projections, the rest in bfloat16."""
    settings = {"quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": block}
    if scale_fmt != "float":
        settings["scale_fmt"] = scale_fmt
    quantiser: Any = Fp8Quantize(
        SimpleNamespace(quantization_config=FineGrainedFP8Config(weight_block_size=block, scale_fmt=scale_fmt))
    )

    def quantise(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for name, tensor in tensors.items():
            is_kept = tensor.dim() != 2 or any(part in name for part in KEPT)
            found |= {name: tensor} if is_kept else quantiser.convert({name: tensor})
        return {
            name: t.bfloat16() if t.dtype == torch.float32 and "scale" not in name else t for name, t in found.items()
        }

    return changed(model_type, target, quantise, dtype="bfloat16", quantization_config=settings | config)


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
