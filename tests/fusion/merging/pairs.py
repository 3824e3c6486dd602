"""Checkpoints of the same n with other weights, on disk: what there is to merge."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from nexus_universal import UniversalTransformer
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.checkpoint.opened import open_checkpoint
from nexus_universal.checkpoint.stream import row_count
from nexus_universal.fusion.merging.alignment import Arrangement
from nexus_universal.fusion.merging.symmetries import symmetries
from tests.checkpoint.on_disk import changed, published
from tests.helpers import ids_without_pads

TEXT = "Return the first item of the list that is not None, or the default if there is none such.\n" * 4


def related(model_type: str, target: Path, *, seed: int = 1, share: float = 0.3) -> Path:
    """A model of the same n whose floating tensors have moved by so much of their spread: a fine-tuned sibling."""
    generator = torch.Generator().manual_seed(seed)

    def moved(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: x + share * x.float().std(unbiased=False).nan_to_num(1.0) * torch.randn(x.shape, generator=generator)
            if x.is_floating_point()
            else x
            for name, x in tensors.items()
        }

    return changed(model_type, target, moved)


def rewritten(source: Path, target: Path, change: Callable[[dict[str, Tensor]], dict[str, Tensor]]) -> Path:
    """A checkpoint with other tensors, by canonical name, in the family's own layout."""
    model = UniversalTransformer.from_pretrained(source)
    for name, tensor in change(slots(model)).items():
        put(model, name, tensor.detach().clone())
    model.save_pretrained(target, tokenizer_from=source)
    return target


def permuted(source: Path, target: Path, *, seed: int = 0) -> tuple[Path, dict[str, int]]:
    """A twin that computes the same with its units in other places, and how many of each kind have moved."""
    arrangement = Arrangement(open_checkpoint(source, UniversalTransformer))
    generator = torch.Generator().manual_seed(seed)
    for symmetry in symmetries(arrangement.opened.model):
        units = symmetry.axes[0].positions.shape[0]
        order = torch.randperm(units, generator=generator)
        arrangement.move(symmetry, order.roll(1) if torch.equal(order, torch.arange(units)) else order)
    held = arrangement.opened.slots
    moved = {name: arrangement.read(name, 0, row_count(slot)).view(slot.shape) for name, slot in held.items()}
    return rewritten(source, target, lambda tensors: moved), dict(arrangement.moved)


@torch.no_grad()
def logits(directory: Path) -> Tensor:
    """What a checkpoint computes of some ids, from a copy in memory: bits depend on how a mapped file is aligned."""
    return copy.deepcopy(UniversalTransformer.from_pretrained(directory))(ids_without_pads(2, 12)).logits


def tensors(directory: Path) -> dict[str, Tensor]:
    """A checkpoint's tensors by canonical name."""
    model = UniversalTransformer.from_pretrained(directory)
    return {name: slot.detach() for name, slot in slots(model).items()}


__all__ = ["TEXT", "logits", "permuted", "published", "related", "rewritten", "tensors"]
