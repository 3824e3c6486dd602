"""What a prompt must be before anything is computed: checked ids, a mask, and positions derived from it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.generation.settings import GenerationSettings


@dataclass(frozen=True, slots=True)
class Prompt:
    """`mask` is None where every token is real; `limit` is the length, prompt included, at which generation ends."""

    ids: Int[Tensor, "batch seq"]
    mask: Int[Tensor, "batch seq"] | None
    positions: Int[Tensor, "batch seq"]
    limit: int

    @property
    def first(self) -> Int[Tensor, " batch"] | None:
        """The place of each row's first real token."""
        return None if self.mask is None else (self.mask != 0).int().argmax(dim=1)


def prepare(n: ArchitectureParameter, ids: Tensor, mask: Tensor | None, settings: GenerationSettings) -> Prompt:
    """Check ids, mask and lengths; infer a missing mask from pads; derive positions from it.

    Raises:
        InputError: one line that names what is wrong and what would be right.
    """
    check_ids(ids, n.d_vocab)
    inferred = mask is None
    mask = _infer_mask(ids, settings) if mask is None else _checked_mask(mask, ids)
    _check_rows(mask, inferred=inferred)
    longest = int(mask.sum(dim=1).max())
    limit = settings.limit(ids.shape[1], n.text.context)
    _check_lengths(n, longest, new=limit - ids.shape[1])
    fill = settings.fill
    if ids.shape[0] > 1 and settings.eos and fill is not None and not 0 <= fill < n.d_vocab:
        raise InputError(f"finished rows are filled with {fill}, not in [0, {n.d_vocab}): pass pad_token_id")
    positions = (mask.long().cumsum(-1) - 1).masked_fill(mask == 0, 0)
    return Prompt(ids=ids, mask=None if bool((mask == 1).all()) else mask, positions=positions, limit=limit)


def check_ids(ids: object, vocab: int) -> None:
    """Token ids are a [batch, seq] tensor of whole numbers in the vocabulary.

    Raises:
        InputError: anything else.
    """
    if not isinstance(ids, Tensor):
        raise InputError(f"input_ids must be a tensor [batch, seq] of whole numbers, not {type(ids).__name__}")
    if ids.dim() != 2:
        raise InputError(f"input_ids have shape {tuple(ids.shape)}, must be (batch, seq)")
    if ids.dtype not in (torch.int64, torch.int32):
        raise InputError(f"input_ids are {ids.dtype}, must be torch.int64 or torch.int32")
    if ids.numel() == 0:
        raise InputError(f"input_ids have shape {tuple(ids.shape)}: the prompt is empty, it needs at least one token")
    least, most = int(ids.min()), int(ids.max())
    if not 0 <= least <= most < vocab:
        raise InputError(
            f"input_ids hold {least if least < 0 else most}, outside the vocabulary: must lie in [0, {vocab})"
        )


def _infer_mask(ids: Int[Tensor, "batch seq"], settings: GenerationSettings) -> Int[Tensor, "batch seq"]:
    """Pads are masked, unless the pad also ends texts: it may be part of one then (the reference's rule)."""
    pad = settings.fill
    if pad is None or pad in settings.eos or not bool((ids == pad).any()):
        return torch.ones_like(ids, dtype=torch.int64)
    return ids.ne(pad).long()


def _checked_mask(mask: Tensor, ids: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    if not isinstance(mask, Tensor):
        raise InputError(f"attention_mask must be a tensor (batch, seq), not {type(mask).__name__}")
    if mask.shape != ids.shape:
        raise InputError(f"attention_mask has shape {tuple(mask.shape)}, must be that of input_ids, {tuple(ids.shape)}")
    mask = mask.to(device=ids.device)
    if not bool(((mask == 0) | (mask == 1)).all()):
        raise InputError("attention_mask must hold 1 for real tokens and 0 for pads, nothing else")
    return mask.long()


def _check_rows(mask: Int[Tensor, "batch seq"], *, inferred: bool) -> None:
    """Every row must end in a real token: its logits are what the next one is chosen from."""
    source = "the pads in input_ids (pass attention_mask if they are text)" if inferred else "attention_mask"
    for row, ends in enumerate((mask[:, -1] == 1).tolist()):
        if not ends and not bool(mask[row].any()):
            raise InputError(f"row {row} has no real token, by {source}")
        if not ends:
            raise InputError(f"row {row} is padded on the right, by {source}: pad on the left to generate")


def _check_lengths(n: ArchitectureParameter, longest: int, *, new: int) -> None:
    context = n.text.context
    learned = n.embedding.positions
    if context is not None and longest > context:
        raise InputError(f"the prompt has {longest} tokens, the context is {context}")
    # The last new token is never fed back, so it needs no position.
    if learned is not None and longest + new - 1 > (count := learned.reach):
        raise InputError(
            f"the prompt has {longest} tokens and {new} new ones are asked for, but the context is {count}, by "
            f"{n.pos_embedding_type} positions: there is room for {count - longest + 1}"
        )
