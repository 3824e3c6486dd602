"""What a call's bridges read: the donors' residuals, and how far into them each of the host's positions may see."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nexus_universal.architecture.bridge import Bridge
from nexus_universal.architecture.errors import InputError
from nexus_universal.cache import BridgeState, Cache, State


@dataclass(frozen=True, slots=True)
class DonorInput:
    """What a donor reads that does not read the host's ids: the same text in its own tokens, pads behind them.

    `read` says how many of them are read whole where each of the host's tokens ends.
    """

    input_ids: Int[Tensor, "batch donor_seq"]
    read: Int[Tensor, "batch seq"]
    attention_mask: Int[Tensor, "batch donor_seq"] | None = None


@dataclass(slots=True)
class Memories:
    """The donors' new states by name and layer; `read` counts the states that a position may see, earlier calls' too.

    `real` marks those that are no pads, and `own` the host's new positions; `asked` are the rows that want a donor.
    """

    states: dict[tuple[str, int], Float[Tensor, "batch new width"]]
    read: dict[str, Int[Tensor, "rows seq"]]
    real: dict[str, Bool[Tensor, "batch total"] | None]
    own: Bool[Tensor, "batch seq"] | None
    asked: Bool[Tensor, " batch"] | None

    def visible(self, bridge: Bridge, keys: int) -> Bool[Tensor, "rows one seq keys"]:
        """Which of the donor's states each position sees."""
        read, real = self.read[bridge.donor], self.real[bridge.donor]
        seen = torch.arange(keys, device=read.device) < read[..., None]
        return (seen if real is None else seen & real[:, None])[:, None]

    def latest(self, bridge: Bridge) -> tuple[Float[Tensor, "batch seq width"], Bool[Tensor, "batch seq one"] | None]:
        """The last state that each position may see, and whether there is one; None where there always is."""
        states = self.states[bridge.donor, bridge.layer]
        if bridge.align == "position":
            return states, None
        last = self.read[bridge.donor][..., None] - 1
        index = last.clamp(min=0).expand(-1, -1, states.shape[-1])
        return states.gather(1, index), last >= 0


def donor_states(bridges: Mapping[str, Bridge], members: Any) -> dict[str, State]:
    """What donors that read along remember; one that is given a text of its own remembers nothing."""
    names = dict.fromkeys(bridge.donor for bridge in bridges.values() if bridge.align == "position")
    return {f"donors.{name}.{key}": state for name in names for key, state in members[name].new_cache().states.items()}


def remembered(
    bridges: Mapping[str, Bridge],
    members: Any,
    input_ids: Int[Tensor, "batch seq"] | None,
    *,
    mask: Tensor | None,
    positions: Int[Tensor, "rows seq"] | None,
    cache: Cache | None,
    donors: Mapping[str, DonorInput] | None,
) -> Memories | None:
    """Run the donors of a call as far as its bridges reach; None where these are bypassed.

    Raises:
        InputError: embeddings instead of ids, a ready mask, packed sequences, a cache beside a text of the donor's own,
            or one that a donor has not followed from the first position on.
    """
    names = dict.fromkeys(bridge.donor for bridge in bridges.values())
    states = [] if cache is None else [state for key in bridges if isinstance(state := cache[key], BridgeState)]
    if members.asked is False:
        for state in states:
            state.behind = True
        return None
    if input_ids is None:
        raise InputError(f"input_ids are needed: {', '.join(names)} cannot read this model's embeddings")
    _refuse_what_mixes_rows(mask, positions)
    if any(state.behind for state in states):
        raise InputError(f"this cache was filled while bridges were bypassed: {', '.join(names)} has not read it all")
    real = None if mask is None else mask.bool()
    seen, new = cache.length if cache is not None else 0, input_ids.shape[1]
    asked = members.asked if isinstance(members.asked, Tensor) else None
    found = Memories(states={}, read={}, real={}, own=None if real is None else real[:, -new:], asked=asked)
    for name in names:
        reads = [bridge for bridge in bridges.values() if bridge.donor == name]
        ask: dict[str, Any] = {"after": {bridge.layer for bridge in reads}}
        if reads[0].align == "byte":
            given = _given(name, donors, cache, input_ids)
            residuals = members[name].residuals(given.input_ids, attention_mask=given.attention_mask, **ask)
            found.read[name] = given.read
            found.real[name] = None if given.attention_mask is None else given.attention_mask.bool()
        else:
            part = cache.part(f"donors.{name}") if cache is not None else None
            ask |= {"attention_mask": mask, "position_ids": positions, "cache": part}
            residuals = members[name].residuals(input_ids, **ask)
            found.read[name] = (torch.arange(new, device=input_ids.device) + seen + 1)[None]
            found.real[name] = real
        found.states |= {(name, layer): state for layer, state in residuals.items()}
    return found


def _refuse_what_mixes_rows(mask: Tensor | None, positions: Tensor | None) -> None:
    if mask is not None and mask.dim() != 2:
        raise InputError(f"attention_mask has {mask.dim()} dimensions: beside bridges it must have 2, batch and keys")
    if mask is None and positions is not None and bool((positions.diff(dim=-1) <= 0).any()):
        raise InputError("position_ids start anew within a row: bridges do not keep packed sequences apart")


def _given(
    name: str, donors: Mapping[str, DonorInput] | None, cache: Cache | None, input_ids: Int[Tensor, "batch seq"]
) -> DonorInput:
    if cache is not None:
        raise InputError(f"{name} is aligned by byte and reads whole texts: call without a cache")
    if donors is None or name not in donors:
        raise InputError(f"{name} is aligned by byte: donors={{{name!r}: DonorInput(…)}} must say what it reads")
    given = donors[name]
    if given.read.shape != input_ids.shape:
        expected = tuple(input_ids.shape)
        raise InputError(f"donors[{name!r}].read has shape {tuple(given.read.shape)}, must be {expected}: per position")
    if int(given.read.max()) > given.input_ids.shape[1] or int(given.read.min()) < 0:
        raise InputError(
            f"donors[{name!r}].read counts up to {int(given.read.max())} of {given.input_ids.shape[1]} tokens"
        )
    return given
