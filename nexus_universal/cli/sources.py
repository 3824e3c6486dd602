"""From what a person names to an n: a checkpoint, a config file, or a bare model type."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import InputError, NexusError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.serial import TAG
from nexus_universal.architecture.source import find_file, load_json, read_config
from nexus_universal.checkpoint.quantisation import CONFIG_KEYS, quantisation_of


@dataclass(frozen=True)
class Read:
    """An n with the name it was asked for by; `quantised` says how a quantised checkpoint is."""

    name: str
    n: ArchitectureParameter
    quantised: str | None = None


def read_source(source: str, *, ignore_keys: Sequence[str] = (), revision: str | None = None) -> Read:
    """The n of a path or a repo id; where neither is meant, of a model type's default config.

    Raises:
        NexusError: nothing is there, it is not JSON, or its config cannot be read.
    """
    path, hub = Path(source), of_hub(source, revision)
    if not path.exists() and source in registry.known_families():
        return read_family(source)
    if is_union(source):
        from nexus_universal.fusion.union.archive import Archive

        return Read(source, Archive(path).n)
    if path.is_file():
        raw = load_json(path)
        if TAG in raw:
            return Read(source, ArchitectureParameter.from_json(path.read_text(encoding="utf-8")))
    else:
        raw = read_config(source, **hub)
    n = ArchitectureParameter.from_huggingface(raw, ignore_keys=ignore_keys)
    return Read(source, n, quantised=_quantisation(raw))


def read_family(model_type: str) -> Read:
    """The n of the config that a model type has when nothing is set.

    Raises:
        UnknownModelType: naming the nearest known one.
    """
    return Read(model_type, registry.family(model_type).example())


def left_out(n: ArchitectureParameter) -> list[str]:
    """What the config speaks of and n does not, such as a vision tower."""
    family = n.origin.family
    return list(registry.family(family).left_out) if family in registry.known_families() else []


def one_of(source: str | None, family: str | None) -> str:
    """Whichever of the two is given.

    Raises:
        InputError: both or neither.
    """
    if (source is None) == (family is None):
        raise InputError("give either a SOURCE (a directory, repo id or config.json) or --family TYPE")
    named = source if source is not None else family
    assert named is not None
    return named


def local_directory(source: str) -> Path | None:
    """The directory of a local checkpoint; None where it must be a repo id.

    Raises:
        CheckpointError: it looks like a path, but nothing is there.
    """
    path = Path(source)
    if path.is_dir():
        return path
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") != 1:
        find_file(source, "config.json")
    return None


def is_union(source: str) -> bool:
    """Whether it is a file that `nexus union` wrote."""
    if not Path(source).is_file() or source.endswith(".json"):
        return False
    from nexus_universal.fusion.union.archive import is_union

    return is_union(source)


def has_branches(source: str, capability: str | None) -> bool:
    """Whether it is a union, of which a capability may be named.

    Raises:
        InputError: a capability of anything else.
    """
    found = is_union(source)
    if capability is not None and not found:
        raise InputError(f"--capability {capability} names a model of a union file, and {source} is none")
    return found


def of_hub(source: str, revision: str | None) -> dict[str, Any]:
    """What the hub is asked with.

    Raises:
        InputError: a revision of something that is no repo.
    """
    if revision is None:
        return {}
    if not may_be_repo(source):
        raise InputError(f"--revision {revision} speaks of a repo on the hub, and {source} is none")
    return {"revision": revision}


def may_be_repo(source: str) -> bool:
    """Whether it has the form of a repo id and nothing of that name lies here."""
    return source.count("/") == 1 and not source.startswith(("/", ".", "~")) and not Path(source).exists()


def _quantisation(raw: dict[str, Any]) -> str | None:
    """How the weights are quantised; of a method that does not load, what the config says of it."""
    try:
        found = quantisation_of(raw)
    except NexusError:
        config = next(raw[key] for key in CONFIG_KEYS if raw.get(key))
    else:
        return str(found) if found is not None else None
    method = config.get("quant_method") if isinstance(config, dict) else None
    bits = config.get("bits") if isinstance(config, dict) else None
    return f"{method or 'unknown method'}{f', {bits} bits' if bits else ''}"
