"""One thread per worker and no network: tests run side by side on few cores, and nothing is downloaded."""

from __future__ import annotations

import os
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import pytest
import torch

torch.set_num_threads(1)

DATA = Path(__file__).parent / "data"


@pytest.fixture(scope="session")
def trained() -> dict[str, Path]:
    """The three checkpoints trained on docstrings, by model type."""
    return {
        "qwen3": DATA / "qwen3_tiny",
        "gemma3_text": DATA / "gemma3_tiny",
        "glm4_moe_lite": DATA / "glm4_moe_lite_tiny",
    }
