"""What a merge method reads: the same rows of one tensor of every model, as often as it asks for them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Block:
    """Rows of one tensor of every model, in float32, and those of the base where the method has one."""

    models: Float[Tensor, "models rows *width"]
    base: Float[Tensor, " rows *width"] | None = None

    @property
    def vectors(self) -> Float[Tensor, "models rows *width"]:
        """What is merged: the differences from the base, or the tensors themselves where there is none."""
        return self.models if self.base is None else self.models - self.base

    def back(self, merged: Float[Tensor, " rows *width"]) -> Float[Tensor, " rows *width"]:
        """A merged vector in the place of a tensor."""
        return merged if self.base is None else self.base + merged


Stack = Iterable[Block]
"""All rows of one tensor, block by block, in order. It can be gone through more than once; one block is a stack."""

Combine = Callable[[Block], Float[Tensor, " rows *width"]]
"""What a method is once it has seen the whole tensor: a function of its blocks, to be called for each in order."""


def kth_largest(
    stack: Stack,
    counts: list[int],
    *,
    of: Callable[[Block], Sequence[Float[Tensor, " rows *width"]]],
) -> list[float]:
    """The `counts`th largest of what `of` gives (≥ 0) over all blocks, for each kind; exact, in constant memory.

    The bits of floats that are not negative are ordered as the floats are: their upper half is counted first, then the
    lower half of those whose upper half is the sought one's.
    """
    above, uppers = _bin_of_kth(stack, [(count, None) for count in counts], of=of)
    _, lowers = _bin_of_kth(
        stack, [(count - more, upper) for count, more, upper in zip(counts, above, uppers, strict=True)], of=of
    )
    bits = torch.tensor([upper << 16 | lower for upper, lower in zip(uppers, lowers, strict=True)], dtype=torch.int32)
    return bits.view(torch.float32).tolist()


def _bin_of_kth(
    stack: Stack,
    sought: list[tuple[int, int | None]],
    *,
    of: Callable[[Block], Sequence[Float[Tensor, " rows *width"]]],
) -> tuple[list[int], list[int]]:
    """For each kind how many lie in higher bins than the sought one, and which bin that is.

    Bins are the upper halves; within a given upper half, the lower halves.
    """
    bins = 1 << 16
    found = torch.zeros(len(sought), bins, dtype=torch.long)
    for block in stack:
        for kind, ((_, upper), values) in enumerate(zip(sought, of(block), strict=True)):
            bits = values.flatten().view(torch.int32)
            chosen = bits >> 16 if upper is None else bits[bits >> 16 == upper] & (bins - 1)
            found[kind] += torch.bincount(chosen, minlength=bins)
    above, places = [], []
    for (count, _), histogram in zip(sought, found, strict=True):
        down = histogram.flip(0).cumsum(0)
        place = int(torch.searchsorted(down, count))
        above.append(int(down[place - 1]) if place else 0)
        places.append(bins - 1 - place)
    return above, places
