"""Which keys a query may see: made once per call, or left out where the fused kernel's causal flag says the same."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nexus_universal.architecture.sparsity import BlockSparse, Strided
from nexus_universal.cache.states import Count

Mask = Bool[Tensor, "batch one queries _"] | Float[Tensor, "batch heads queries _"]
"""True where a query may see a key, or a number to add to their score."""


@dataclass(frozen=True)
class Extent:
    """The lengths of a call as one kind of layer sees them: `*_offset` is the position of the first query or key."""

    queries: int
    keys: int
    query_offset: Count
    key_offset: Count

    @property
    def placed(self) -> bool:
        """Whether the queries stand where a tensor says, among as many keys as there is room for."""
        return isinstance(self.query_offset, Tensor)

    def query_places(self, device: torch.device) -> Int[Tensor, " queries"]:
        """Where the queries stand."""
        return torch.arange(self.queries, device=device) + self.query_offset

    def key_places(self, device: torch.device) -> Int[Tensor, " keys"]:
        """Where the keys stand; before 0 where a window reaches back behind the beginning of the text."""
        return torch.arange(self.keys, device=device) + self.key_offset


def attention_mask(
    extent: Extent,
    *,
    batch: int,
    device: torch.device,
    window: int | None,
    padding: Bool[Tensor, "batch total"] | None,
    positions: Int[Tensor, "rows seq"] | None,
    always: bool = False,
    chunked: bool = False,
    sparsity: BlockSparse | Strided | None = None,
) -> Bool[Tensor, "batch one queries keys"] | None:
    """True where a query may see a key; None where `is_causal` (or a single query) needs no mask, unless `always`.

    A `chunked` window is the query's own chunk, counted from the first token that is no pad; places in the pattern of
    a `sparsity` are counted among tokens that are no pads.

    `positions` are given only where several sequences may be packed into one row: they are then kept apart. The rules
    for leaving the mask out are the reference's (masking_utils.py): another choice would take a kernel of other bits.
    """
    sequence = _packed_sequences(positions) if positions is not None else None
    if padding is not None and isinstance(extent.key_offset, int):
        missing = extent.keys + extent.key_offset - padding.shape[-1]
        if missing > 0:
            padding = torch.nn.functional.pad(padding, (0, missing))
    always = always or sparsity is not None or extent.placed
    if not always and sequence is None and _can_be_left_out(extent, window=window, padding=padding):
        return None

    query = extent.query_places(device)[None, None, :, None]
    key = extent.key_places(device)[None, None, None, :]
    real = key >= 0 if extent.placed else None
    key = key if real is None else key.clamp(min=0)
    rows = torch.arange(batch, device=device)[:, None, None, None]
    at_query, at_key = query, key
    if sequence is not None and positions is not None:
        positions = positions.expand(batch, -1)
        at_query, at_key = positions[rows, query], positions[rows, key]
    seen = at_key <= at_query if real is None else (at_key <= at_query) & real
    if window is not None and chunked:
        seen = (_chunk(at_key, window, padding) == _chunk(at_query, window, padding)) & seen
    elif window is not None:
        seen = (at_key > at_query - window) & seen
    if sequence is not None:
        sequence = sequence.expand(batch, -1)
        seen = (sequence[rows, query] == sequence[rows, key]) & seen
    if sparsity is not None:
        if sequence is None and padding is not None:
            places = _places(padding)
            at_query, at_key = places[rows, query], places[rows, key]
        seen = sparsity.sees(at_query, at_key) & seen
    if padding is not None:
        seen = seen & padding[rows, key]
    return seen.expand(batch, -1, extent.queries, extent.keys)


def _chunk(
    at: Int[Tensor, "rows one queries keys"], size: int, padding: Bool[Tensor, "batch total"] | None
) -> Int[Tensor, "_ one queries keys"]:
    """The number of the chunk that a place lies in; those of a padded row begin behind its pads."""
    if padding is None:
        return at // size
    pads = (padding.cumsum(-1) == 0).sum(-1)
    return (at - pads[:, None, None, None]) // size


def trailing(padding: Bool[Tensor, "batch total"]) -> Bool[Tensor, "batch total"]:
    """Pads behind the last real token."""
    return padding.flip(-1).cumsum(-1).flip(-1) == 0


def _places(padding: Bool[Tensor, "batch total"]) -> Int[Tensor, "batch total"]:
    """Positions among a row's tokens; those of pads behind the last one go on."""
    return (padding | trailing(padding)).cumsum(-1) - 1


def distances(
    extent: Extent, padding: Bool[Tensor, "batch total"] | None, device: torch.device
) -> Int[Tensor, "rows one queries keys"]:
    """How many positions before each query a key stands; pads do not count, but for those behind the last token."""
    queries, keys = extent.query_places(device)[None], extent.key_places(device)[None]
    if padding is not None:
        places = _places(padding)
        queries, keys = places[:, queries[0]], places[:, keys[0].clamp(min=0)]
    return (queries[:, :, None] - keys[:, None, :])[:, None]


def additive(mask: Mask, dtype: torch.dtype) -> Float[Tensor, "batch heads queries keys"]:
    """0 where a query may see a key, the lowest number of the model's dtype elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.where(mask, torch.zeros((), device=mask.device, dtype=dtype), torch.finfo(dtype).min)


def refused(mask: Bool[Tensor, "*seen"] | Float[Tensor, "*seen"]) -> Bool[Tensor, "*seen"]:
    """True where a query may not see a key, in either form of mask."""
    return ~mask if mask.dtype == torch.bool else mask < -1


def _can_be_left_out(extent: Extent, *, window: int | None, padding: Tensor | None) -> bool:
    if padding is not None and torch.compiler.is_compiling():
        return False
    if padding is not None and padding.shape[-1] > extent.keys:
        padding = padding[:, extent.key_offset : extent.key_offset + extent.keys]
    if window is not None and extent.keys >= window:
        return False
    if (extent.queries == 1 or extent.keys == extent.queries) and (padding is None or bool(padding.all())):
        return True
    if extent.query_offset != 0:
        return False
    seen, future = (None, None) if padding is None else (padding[:, : extent.queries], padding[:, extent.queries :])
    return seen is None or future is None or bool(seen.all() and not future.any())


def _packed_sequences(positions: Int[Tensor, "rows seq"]) -> Int[Tensor, "rows seq"] | None:
    """The number of the sequence each position belongs to, where positions restart; None where there is only one."""
    steps = torch.diff(positions, prepend=positions[:, :1] - 1, dim=-1)
    sequence = (steps != 1).cumsum(-1)
    if not torch.compiler.is_compiling() and bool((sequence[:, -1] == 0).all()):
        return None
    return sequence
