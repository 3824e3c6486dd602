"""The branches of a fused model beside the one that holds them: who computes a call, and how logits are joined."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.fusion import Fusion
from nexus_universal.cache import Cache


class Members(nn.ModuleDict):
    """The other branches by name; a model that stands alone has none.

    What holds it is a branch itself, `own` by name, and is handed in where it takes part.
    """

    def __init__(self, fusion: Fusion | None, build: Callable[[Any], nn.Module]) -> None:
        super().__init__({member.name: build(member.n) for member in fusion.members} if fusion else {})
        self.fusion = fusion
        self.own = fusion.name if fusion else None
        self.asked: bool | Bool[Tensor, " batch"] = True
        """Whether the own branch's bridges are crossed, or in which rows of a batch; else they are bypassed."""

    @property
    def names(self) -> tuple[str, ...]:
        """All branches, the own one first."""
        return () if self.own is None else (self.own, *self)

    def routed(self, capability: str | None) -> Literal["own", "other", "joined"]:
        """Who computes a call: what holds this, another branch alone, or all of them."""
        if capability == self.own or (capability is None and self.fusion and self.fusion.join == "route"):
            return "own"
        return "joined" if capability is None else "other"

    def find(self, capability: str | None, own: nn.Module) -> Any:
        """The model of a branch.

        Raises:
            InputError: there is none of this name.
        """
        if capability not in self.names:
            known = ", ".join(self.names) or "none: this model is not fused"
            raise InputError(f"capability {capability!r} (known: {known})")
        return own if capability == self.own else self[capability]

    def joined(
        self, own: nn.Module, input_ids: Int[Tensor, "batch seq *branches"] | None, cache: Cache | None, **call: Any
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """What all compute, each of the same ids or of its own; `cache` holds a part for each."""
        assert self.fusion is not None
        found: list[Tensor] = []
        for index, name in enumerate(self.names):
            ids = input_ids[..., index] if input_ids is not None and input_ids.dim() == 3 else input_ids
            part = cache.part(name) if cache is not None else None
            found.append(self.find(name, own)(ids, cache=part, capability=name if name == self.own else None, **call))
            if cache is not None and part is not None and len(found) == len(self.names):
                cache.length = part.length
        logits = [each.logits for each in found]  # type: ignore[attr-defined]
        return mixed(logits, self.fusion.shares) if self.fusion.join == "mixture" else side_by_side(logits)


def mixed(
    logits: Sequence[Float[Tensor, "batch kept d_vocab"]], shares: Sequence[float]
) -> Float[Tensor, "batch kept d_vocab"]:
    """log Σ w_i softmax(logits_i), in float32: the branches' predictions are weighed, not their scores."""
    said = [each.float().log_softmax(-1) + math.log(share) for each, share in zip(logits, shares, strict=True)]
    return torch.stack(said).logsumexp(0).to(logits[0].dtype)


def side_by_side(logits: Sequence[Float[Tensor, "batch kept _"]]) -> Float[Tensor, "batch kept all_vocabs"]:
    """The readout of a direct sum: every branch's logits behind those of the one before."""
    widest = max((each.dtype for each in logits), key=lambda dtype: dtype.itemsize)
    return torch.cat([each.to(widest) for each in logits], dim=-1)
