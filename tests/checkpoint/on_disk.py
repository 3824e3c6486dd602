"""Checkpoints on disk for the tests: written once per family by the reference itself, changed in copies."""

from __future__ import annotations

import copy
import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import logging

from nexus_universal import UniversalTransformer
from tests.helpers import config, ids, pair, same

logging.disable_progress_bar()
SINGLE = "model.safetensors"
_SCRATCH = tempfile.TemporaryDirectory(prefix="nexus-tests-")


@cache
def published(model_type: str) -> Path:
    """What the tiny reference's `save_pretrained` writes. Read only."""
    directory = Path(_SCRATCH.name) / model_type
    pair(model_type)[0].save_pretrained(directory)
    if model_type == "mllama":  # of the text model's own config, which is saved, no Auto class knows
        config(model_type, dtype="float32").save_pretrained(directory)
    return directory


def tensors_of(directory: Path) -> dict[str, Tensor]:
    """All tensors of the safetensors files of a directory, copied."""
    found: dict[str, Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        with safe_open(path, "pt") as file:
            found |= {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    return found


def changed(
    model_type: str,
    target: Path,
    tensors: Callable[[dict[str, Tensor]], dict[str, Tensor] | None] = lambda tensors: tensors,
    **config: Any,
) -> Path:
    """A copy of the published checkpoint with other tensors (a function edits or replaces them) and config keys."""
    shutil.copytree(published(model_type), target)
    kept = tensors_of(target)
    kept = tensors(kept) or kept
    save_file({name: tensor.contiguous() for name, tensor in kept.items()}, target / SINGLE, metadata={"format": "pt"})
    raw = json.loads((target / "config.json").read_text()) | config
    (target / "config.json").write_text(json.dumps(raw))
    return target


@torch.no_grad()
def logits_of(model: Any) -> Tensor:
    """Logits of either side, computed from a copy of its own in memory.

    On CPU the bits of a narrow product (a gate with one row) depend on how its weight is aligned, and a mapped file
    aligns as it happens. Two loaders of one file agree; weights from two places are compared after a copy.
    """
    twin = copy.deepcopy(model)
    plain = {} if isinstance(model, UniversalTransformer) else {"use_cache": False}
    return twin(ids(2, 20), **plain).logits


def same_logits(model: UniversalTransformer, model_type: str) -> bool:
    """Whether a loaded model gives the reference's bits."""
    return same(logits_of(model), logits_of(pair(model_type)[0]))
