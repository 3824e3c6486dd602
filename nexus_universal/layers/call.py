"""What all layers of one call share: positions, rotary tables, masks and the cache, settled once above the layers.

A `CallPlan` is filled while the model is built: every mixer registers what it will need. `begin` then computes each of
those once per call, and the layers only look them up.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nexus_universal.architecture.bridge import Bridge
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.position import Alibi, QueryTemperature, Rope, SteppedScaling
from nexus_universal.architecture.sparsity import BlockSparse, Strided
from nexus_universal.cache import Cache, FirstLength, KeyValueState, State
from nexus_universal.cache.states import Count
from nexus_universal.layers.alibi import UniversalAlibi
from nexus_universal.layers.blockwise import Blocks
from nexus_universal.layers.masks import Extent, Mask, additive, attention_mask, distances
from nexus_universal.layers.memories import Memories
from nexus_universal.layers.rope import Tables, UniversalRoPE


@dataclass(slots=True)
class Call:
    """One forward call. `padding` is set only where a recurrent mixer must skip pads; 1 marks a real token."""

    positions: Int[Tensor, "rows seq"]
    cache: Cache | None
    tables: list[Tables]
    masks: list[Mask | Blocks | None]
    padding: Tensor | None = None
    trailing: Bool[Tensor, "batch seq"] | None = None
    """Pads behind the last real token of a row: a recurrent state must not move on them."""
    emitted: dict[str, tuple[Tensor, ...]] = field(default_factory=dict)
    """Keys and values that a layer keeps for later ones, by name."""
    tokens: Int[Tensor, "batch seq"] | None = None
    per_layer: Float[Tensor, "batch seq layers width"] | None = None
    """What each layer reads of the per-layer token embedding."""
    dtype: torch.dtype = torch.float32
    """The model's, in which steps work where the residual is wider."""
    query_growth: dict[int | QueryTemperature, Float[Tensor, "rows one seq one"]] = field(default_factory=dict)
    """What queries are multiplied by, by the rule that says so of a position: a logarithm's base, or a temperature."""
    distances: dict[int, Tensor] = field(default_factory=dict)
    """How far before each query a key stands, by the kind of mask that says which keys there are."""

    memories: Memories | None = None
    """What bridges read of other models; None where there are none, or all are bypassed."""

    def only_last(self, count: int) -> Call:
        """The same call for the last `count` positions, in layers that keep no state."""
        last = slice(-count, None)
        return replace(
            self,
            positions=self.positions[:, last],
            tables=[(cos[:, last], sin[:, last]) for cos, sin in self.tables],
            masks=[mask.last(count) if isinstance(mask, Blocks) else _last(mask, count) for mask in self.masks],
            tokens=None if self.tokens is None else self.tokens[:, last],
            per_layer=None if self.per_layer is None else self.per_layer[:, last],
            query_growth={rule: growth[:, :, last] for rule, growth in self.query_growth.items()},
            distances={index: found[:, :, last] for index, found in self.distances.items()},
        )


@dataclass(frozen=True, slots=True)
class MaskKind:
    """What a kind of layer needs of its mask: a window or a pattern, one always there, numbers to add, biases per head.

    `keeps` says how many keys the mask spans: of two layers with one window, one may keep all.
    """

    window: int | None = None
    keeps: Literal["window", "all"] = "window"
    chunked: bool = False
    form: Literal["omissible", "always", "additive"] = "omissible"
    alibi: Alibi | None = None
    heads: int = 0
    scale: float = 1.0
    sparsity: BlockSparse | Strided | None = None

    def blocks(self, extent: Extent) -> Blocks | None:
        """What says the same without a mask, where that is worth while."""
        if self.form != "omissible" or self.alibi or self.chunked or isinstance(self.sparsity, Strided):
            return None
        blocks = Blocks(extent=extent, window=self.window, sparsity=self.sparsity)
        return blocks if blocks.worthwhile else None


class CallPlan:
    """What every call needs, found out when the model is built; `wide` where the residual is float32 in any model."""

    def __init__(self, *, wide: bool = False) -> None:
        self.wide = wide
        self.ropes: list[UniversalRoPE] = []
        self.mask_kinds: list[MaskKind] = []
        self.mask_keys: list[str | None] = []
        self.biases: dict[MaskKind, UniversalAlibi] = {}
        self.growths: set[int | QueryTemperature] = set()
        self.measured: set[int] = set()
        """The kinds of mask whose layers ask how far keys are."""
        self.recurrent = False
        self.blockwise = False
        """Whether long calls without pads get no mask where few keys are seen, but are computed in blocks."""
        self.looked_into = 0
        """By how many `with` blocks points are read or replaced at the moment."""
        self.bridges: dict[str, Bridge] = {}
        """By place."""
        self.reads_tokens = False
        """Whether something needs the ids even of embeddings that a caller gives instead."""

    @property
    def windows(self) -> list[int | None]:
        """The window of every kind of mask."""
        return [kind.window for kind in self.mask_kinds]

    @contextmanager
    def being_looked_into(self) -> Iterator[None]:
        """For the time of a `with` block, no step that was recorded before stands for its modules."""
        self.looked_into += 1
        try:
            yield
        finally:
            self.looked_into -= 1

    def rope(self, part: Rope, head_dim: int) -> int:
        """The index of this rotation's tables; equal rotations share them."""
        for index, known in enumerate(self.ropes):
            if known.part == part and known.head_dim == head_dim:
                return index
        self.ropes.append(UniversalRoPE(part, head_dim=head_dim))
        return len(self.ropes) - 1

    def new_states(self) -> dict[str, State]:
        """Empty states of what is settled above the layers: lengths that a rotation keeps to."""
        kept = (i for i, rope in enumerate(self.ropes) if isinstance(rope.part.scaling, SteppedScaling))
        return {f"rope.{index}": FirstLength() for index in kept}

    def _first_lengths(
        self, index: int, positions: Int[Tensor, "rows seq"], batch: int, cache: Cache | None
    ) -> Int[Tensor, " batch"] | None:
        if cache is None or not isinstance(self.ropes[index].part.scaling, SteppedScaling):
            return None
        state = cache[f"rope.{index}"]
        assert isinstance(state, FirstLength)
        return state.settle((positions.amax(-1) + 1).expand(batch))

    def mask(self, window: int | MaskKind | None, key: str | None) -> int:
        """The index of the causal mask of this kind; `key` names a state that tells how many keys it spans."""
        kind = window if isinstance(window, MaskKind) else MaskKind(window=window)
        if kind not in self.mask_kinds:
            self.mask_kinds.append(kind)
            self.mask_keys.append(key)
            if kind.alibi:
                self.biases[kind] = UniversalAlibi(kind.alibi, heads=kind.heads, scale=kind.scale)
        return self.mask_kinds.index(kind)

    def begin(
        self,
        x: Float[Tensor, "batch seq d_hidden"],
        *,
        mask: Tensor | None = None,
        positions: Int[Tensor, "rows seq"] | None = None,
        cache: Cache | None = None,
    ) -> Call:
        """Settle positions, tables and masks for one call.

        Raises:
            InputError: a mask or a cache that does not fit the call.
        """
        batch, new = x.shape[:2]
        seen = cache.seen if cache is not None else 0
        if cache is not None and cache.length and cache.rows not in (None, batch):
            raise InputError(
                f"the cache holds {cache.rows} rows, the call has {batch}: Cache.select picks and repeats rows"
            )
        given = positions
        if positions is None:
            positions = (torch.arange(new, device=x.device) + seen).unsqueeze(0)
        total = cache.spanned(new) if cache is not None else new
        if mask is not None and mask.dim() == 2 and mask.shape != (batch, total):
            expected = f"({batch}, {total})"
            raise InputError(
                f"attention_mask has shape {tuple(mask.shape)}, must be {expected}: past and new positions"
            )
        tables = [
            rope(positions, x.dtype, self._first_lengths(index, positions, batch, cache))
            for index, rope in enumerate(self.ropes)
        ]
        growth = {rule: _growth(rule, positions) for rule in self.growths}
        real = mask.to(device=x.device, dtype=torch.bool) if mask is not None and mask.dim() == 2 else None
        extents = {index: self._extent(index, seen=seen, new=new, cache=cache) for index in self.measured}
        apart = {index: distances(extent, real, x.device) for index, extent in extents.items()}
        settled = {"tables": tables, "dtype": x.dtype, "query_growth": growth, "distances": apart}
        if mask is not None and mask.dim() == 4:
            masks = [self._finished(index, mask, x, seen=seen, cache=cache) for index in range(len(self.mask_kinds))]
            return Call(positions=positions, cache=cache, masks=masks, **settled)

        if cache is not None and real is not None and isinstance(seen, int) and not torch.compiler.is_compiling():
            self.refuse_inner_pads(real)
        may_be_packed = given if mask is None and cache is None else None
        masks: list[Mask | Blocks | None] = []
        in_blocks = self.blockwise and new > 1 and may_be_packed is None and not torch.compiler.is_compiling()
        in_blocks = in_blocks and (real is None or bool(real.all()))
        for index, kind in enumerate(self.mask_kinds):
            extent = self._extent(index, seen=seen, new=new, cache=cache)
            if in_blocks and (blocks := kind.blocks(extent)):
                masks.append(blocks)
                continue
            seeing = attention_mask(
                extent,
                batch=batch,
                device=x.device,
                window=kind.window,
                chunked=kind.chunked,
                sparsity=kind.sparsity,
                padding=real,
                positions=may_be_packed,
                always=kind.form != "omissible" or kind.alibi is not None,
            )
            masks.append(self._finished(index, seeing, x, seen=seen, cache=cache, padding=real))
        call = Call(positions=positions, cache=cache, masks=masks, **settled)
        if self.recurrent and mask is not None and new > 1:
            self._mark_pads(call, mask[:, -new:])
        return call

    def _finished(
        self,
        index: int,
        mask: Mask | None,
        x: Tensor,
        *,
        seen: Count,
        cache: Cache | None,
        padding: Bool[Tensor, "batch total"] | None = None,
    ) -> Mask | None:
        """The mask in the form that its layers add to their scores."""
        kind = self.mask_kinds[index]
        if mask is None or (kind.form == "omissible" and kind.alibi is None):
            return mask
        if kind.alibi:
            extent = self._extent(index, seen=seen, new=x.shape[1], cache=cache)
            return self.biases[kind].masked(mask, extent, padding, x.dtype)
        return additive(mask, x.dtype) if kind.form == "additive" else mask

    def _extent(self, index: int, *, seen: Count, new: int, cache: Cache | None) -> Extent:
        key = self.mask_keys[index]
        if cache is None or key is None:
            return Extent(queries=new, keys=new, query_offset=0, key_offset=0)
        state = cache[key]
        assert isinstance(state, KeyValueState)
        keys, offset = state.extent(seen, new)
        return Extent(queries=new, keys=keys, query_offset=seen, key_offset=offset)

    def refuse_inner_pads(self, real: Bool[Tensor, "batch total"]) -> None:
        """A window counts slots, not tokens: pads between a row's tokens would silently shorten it.

        Raises:
            InputError: such pads where a window is shorter than what the cache has seen.
        """
        window = min((window for window in self.windows if window is not None), default=None)
        if window is None or real.shape[-1] <= window:
            return
        starts = (real[:, 1:] & ~real[:, :-1]).sum(-1) + real[:, 0]
        if bool((starts > 1).any()):
            raise InputError(f"a right-padded batch cannot be continued past a window of {window}: pad on the left")

    @staticmethod
    def _mark_pads(call: Call, mask: Tensor) -> None:
        """A mask of ones changes nothing and is left out, as the reference does."""
        if not torch.compiler.is_compiling() and bool(torch.all(mask == 1)):
            return
        call.padding = mask.contiguous()
        real = mask.bool()
        behind = real.flip(-1).cumsum(-1).flip(-1) == 0
        if torch.compiler.is_compiling() or bool(behind.any()):
            call.trailing = behind


def _last(mask: Mask | None, count: int) -> Mask | None:
    return None if mask is None else mask[:, :, -count:]


def _growth(rule: int | QueryTemperature, positions: Int[Tensor, "rows seq"]) -> Float[Tensor, "rows one seq one"]:
    """What queries at these positions are multiplied by: log_rule(t + 1), but no less than 1, or a temperature."""
    if isinstance(rule, int):  # in float64 first, as a table of Python numbers would be
        grown = (positions + 1).double().log() / math.log(rule)
        return grown.clamp(min=1.0).float()[:, None, :, None]
    if rule.form == "log":
        grown = 1 + rule.growth * torch.log(1 + torch.floor(positions / rule.span))
    elif rule.form == "log_above":
        grown = 1.0 + rule.growth * torch.log(((positions + 1).float() / rule.span).clamp(min=1.0))
    elif rule.form == "log_next":
        grown = torch.log1p(torch.floor((positions.float() + 1.0) / rule.span)) * rule.growth + 1.0
    else:
        grown = torch.exp(rule.growth * torch.log1p((positions.float() + 1) / rule.span))
    return grown[:, None, :, None]
