"""What every part of n is: a frozen, slotted, keyword-only dataclass that is known by its class name."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

PARTS: dict[str, type[Part]] = {}

T = TypeVar("T", bound="type[Part]")


class Part:
    """Base of all parts of n. A subclass is declared with `@part` and holds data only."""

    __slots__ = ()
    role: ClassVar[str] = "other"
    """What the part does in a block: "mixer", "feed_forward" or "other". Paths such as `layers.*.mixer` use it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Yield `(field, what is wrong and what would be right)` for contradictions between fields."""
        yield from ()


@dataclass_transform(frozen_default=True, kw_only_default=True)
def part(cls: T) -> T:
    """Turn a class into a part of n and make it known to JSON under its name."""
    made: Any = dataclasses.dataclass(frozen=True, slots=True, kw_only=True)(cls)
    PARTS[made.__name__] = made
    return made


@part
class ByLayer(Part):
    """A number that depends on the layer's index i: `value / (i + 1)` or `value * (i + 1)`.

    A rule rather than a list, so that equal layers stay equal and a deep n reads in a few lines.
    """

    rule: Literal["divide", "multiply"]
    value: float

    def at(self, layer_index: int) -> float:
        """The number at layer `layer_index` (counted from 0)."""
        return self.value / (layer_index + 1) if self.rule == "divide" else self.value * (layer_index + 1)
