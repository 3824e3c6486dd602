"""Saying clearly what a module does not compute yet."""

from __future__ import annotations

from typing import Any

from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.part import Part


def refuse_unless(part: Part, **plain: Any) -> None:
    """Raise for the first field of `part` whose value is not the one named.

    Raises:
        UnsupportedPart: naming the part, the field, its value and the value that is computed.
    """
    for name, value in plain.items():
        found = getattr(part, name)
        if found != value:
            kind = type(part).__name__
            raise UnsupportedPart(f"no module computes {kind}.{name} = {found!r} yet (computed: {value!r})")
