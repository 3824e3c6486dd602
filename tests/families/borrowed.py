"""Checkpoints of types that transformers has no class for: random tensors under the published names."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer, families
from nexus_universal.checkpoint.save import published_tensors
from tests.helpers import widen


def checkpoint(model_type: str, directory: Path, **changes: Any) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Write one with wide weights; returns its tensors and its config."""
    family = families.find(model_type)
    config = {**family.tiny, **changes}
    model = widen(UniversalTransformer(ArchitectureParameter.from_huggingface({"model_type": model_type, **config})))
    tensors = published_tensors(model, family.weights)
    directory.mkdir()
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    (directory / "config.json").write_text(json.dumps({"model_type": model_type, **config}))
    return tensors, config


def doubled(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.to(torch.float64) for name, tensor in tensors.items()}
