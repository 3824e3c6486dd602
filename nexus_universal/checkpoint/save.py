"""From parameters back to files: written beside the target and renamed when complete, so never half."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from nexus_universal.checkpoint.files import INDEX, SINGLE
from nexus_universal.checkpoint.load import disassemble, idle_layers, slots
from nexus_universal.checkpoint.rules import Sliced, WeightMap, names_of
from nexus_universal.checkpoint.stream import SHARD_BYTES, new_directory

TOKENIZER = (
    "tokenizer*",
    "*.model",
    "*.tiktoken",
    "vocab.*",
    "merges.txt",
    "added_tokens.json",
    "special_tokens_map.json",
    "chat_template*",
    "tekken.json",
)


def published_tensors(
    model: nn.Module, weights: WeightMap, *, carried: Mapping[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """All tensors under the family's published names and layouts, contiguous, their bytes unchanged.

    `carried` are tensors that nothing is computed with, in the model's dtype if the family keeps them.
    """
    dtype = next(model.parameters()).dtype
    idle = idle_layers(model)
    kept = {name: tensor for name, tensor in (carried or {}).items() if weights.carries(name, idle=idle)}
    tensors = {name: tensor.to(dtype) for name, tensor in kept.items()}
    slices: dict[str, dict[int, Tensor]] = {}
    held = slots(model)
    for name, slot in held.items():
        rules, indices = weights.rules(name, tied="head.weight" not in held)
        names = names_of(rules[0], indices=indices, experts=slot.shape[0] if slot.dim() else 1)
        parts = disassemble(slot.detach(), rules[0], names, rows=_rows_apart(model, name))
        if isinstance(rules[0], Sliced):
            slices.setdefault(names[0], {})[rules[0].index] = parts[names[0]]
        else:
            tensors.update(parts)
    tensors |= {name: torch.cat([parts[index] for index in sorted(parts)]) for name, parts in slices.items()}
    return {name: tensor.contiguous() for name, tensor in tensors.items()}


def _rows_apart(model: nn.Module, name: str) -> tuple[int, ...]:
    """The rows of each of several tensors that a file holds apart and a module as one; it says them, if any."""
    return getattr(model.get_submodule(name.rpartition(".")[0]), "parts", ())


def canonical_tensors(model: nn.Module) -> tuple[dict[str, Tensor], list[str]]:
    """All tensors under canonical names; those held as a transposed view are stored as they lie, and listed."""
    tensors: dict[str, Tensor] = {}
    transposed: list[str] = []
    for name, slot in slots(model).items():
        tensor = slot.detach()
        if not tensor.is_contiguous() and tensor.dim() > 1 and tensor.mT.is_contiguous():
            transposed.append(name)
            tensor = tensor.mT
        tensors[name] = tensor.contiguous()
    return tensors, transposed


def tokenizer_files(directory: Path) -> list[Path]:
    """A checkpoint's files that speak of its tokenizer and chat template."""
    return sorted({file for pattern in TOKENIZER for file in directory.glob(pattern) if file.is_file()})


def write_directory(
    directory: Path,
    tensors: Mapping[str, Tensor],
    *,
    documents: Mapping[str, dict[str, Any]],
    metadata: Mapping[str, str],
    companions: Iterable[Path] = (),
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write tensors (sharded above `shard_bytes`), JSON documents and copies of other files as one new directory.

    Raises:
        CheckpointError: the directory exists and is not empty, or the disk refuses.
    """
    with new_directory(directory) as beside:
        _write_tensors(beside, tensors, metadata=metadata, shard_bytes=shard_bytes)
        for name, document in documents.items():
            write_document(beside / name, document)
        for file in companions:
            shutil.copyfile(file, beside / file.name)


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Write one indented JSON file."""
    path.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")


def _write_tensors(
    directory: Path, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str], shard_bytes: int
) -> None:
    from safetensors.torch import save_file

    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in tensors.items():
        size = tensor.numel() * tensor.element_size()
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += size
    if len(shards) == 1:
        save_file(shards[0], directory / SINGLE, metadata=dict(metadata))
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file_name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(shard, directory / file_name, metadata=dict(metadata))
        weight_map |= dict.fromkeys(shard, file_name)
    total = sum(tensor.numel() * tensor.element_size() for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (directory / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
