"""Checkpoints by seed for the tests of unions: independent models, fine-tunes, copies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nexus_universal import ArchitectureParameter, UniversalTransformer

DATA = Path(__file__).parents[2] / "data"
IDS = torch.randint(3, 1024, (2, 24), generator=torch.Generator().manual_seed(0))
CONFIG: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 1024,
    "hidden_size": 128,
    "intermediate_size": 512,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "tie_word_embeddings": True,
}
"""A megaparameter: the manifest is as nothing beside it."""


def seeded(directory: Path, seed: int, dtype: torch.dtype = torch.bfloat16, **changes: Any) -> Path:
    """A checkpoint of Gaussian weights."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = UniversalTransformer(ArchitectureParameter.from_huggingface(CONFIG | changes))
    model.to(dtype).save_pretrained(directory)
    return directory


def fine_tuned(source: Path, directory: Path, step: float, seed: int = 9) -> Path:
    """The same model, every number moved by `step` of its tensor's standard deviation."""
    model = UniversalTransformer.from_pretrained(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in model.named_slots():
            wide = tensor.float()
            tensor.copy_(wide + step * wide.std() * torch.randn(wide.shape, generator=generator))
    model.save_pretrained(directory)
    return directory


def size(directory: Path) -> int:
    """Bytes of the weights on the disk."""
    return sum(file.stat().st_size for file in directory.glob("*.safetensors"))
