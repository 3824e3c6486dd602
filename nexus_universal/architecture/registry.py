"""The registry that families fill: from a config's `model_type` to whoever can read it, without importing the rest."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

from nexus_universal.architecture.errors import UnknownModelType, UnsupportedConfig

if TYPE_CHECKING:
    from nexus_universal.architecture.parameter import ArchitectureParameter


class Readable(Protocol):
    """What the registry needs to know of a family."""

    model_type: str
    saved_as: str | None

    def parameter(self, raw: dict[str, Any], *, ignore_keys: tuple[str, ...] = ()) -> ArchitectureParameter: ...

    def config(self, n: ArchitectureParameter) -> dict[str, Any]: ...


NEAR = 3
"""So many names are suggested for an unknown one."""

_find: Callable[[str], Any] | None = None
_names: Callable[[], tuple[str, ...]] = tuple
_refused: Mapping[str, str] = {}


def fill(find: Callable[[str], Any], names: Callable[[], tuple[str, ...]], refused: Mapping[str, str]) -> None:
    """Set where families come from: `find(model_type)` loads one, `names()` lists all, `refused` says why some are not.

    Called once by the package.
    """
    global _find, _names, _refused
    _find, _names, _refused = find, names, refused


def known_families() -> tuple[str, ...]:
    """Every model type that a family describes, sorted."""
    return _names()


def family(model_type: str) -> Any:
    """The family of a model type.

    Raises:
        UnknownModelType: naming the nearest known type, or the reason why this one is refused.
    """
    names = known_families()
    if model_type in _refused:
        raise UnknownModelType(f"model_type {model_type!r} is refused: it {_refused[model_type]}")
    if _find is None or model_type not in names:
        longer = [name for name in names if model_type and name.startswith(model_type)]
        near = longer[:NEAR] or difflib.get_close_matches(model_type, names, n=NEAR, cutoff=0.5)
        hint = f"did you mean {' or '.join(map(repr, near))}? " if near else ""
        raise UnknownModelType(
            f"model_type {model_type!r} is not known ({hint}`nexus families` lists all {len(names)} that are)"
        )
    return _find(model_type)


def family_of(raw: dict[str, Any]) -> Any:
    """The family that a raw config names.

    Raises:
        UnsupportedConfig: the config has no `model_type`.
    """
    model_type = raw.get("model_type")
    if not isinstance(model_type, str):
        raise UnsupportedConfig("config.json has no model_type: it must name a family, such as 'llama'")
    return family(model_type)


def saved_as(model_type: str | None) -> str | None:
    """The type that a model of this one is saved as, where that is another: a text model without its towers."""
    return _find(model_type).saved_as if _find is not None and model_type in known_families() else None
