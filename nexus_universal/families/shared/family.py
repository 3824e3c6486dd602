"""What a family is: a reader of configs and a table of weights, both as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, TypeVar

from nexus_universal.architecture.ends import Origin
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared.inverse import RecordingReader, solve
from nexus_universal.families.shared.reader import ConfigReader
from nexus_universal.families.shared.spelling import normalised, respelled

R = TypeVar("R", bound=ConfigReader)


@dataclass(frozen=True, kw_only=True)
class Reference:
    """Another type, whose class computes the same.

    For a type without a class in transformers, or with one that other packages build (a tower of timm's).
    `config` says a config in that type's keys; the family's weights name that class's tensors beside the published
    ones. What the class does not compute (beyond a trained length; in half precision, unless it `rounds_alike`) the
    family's own tests have to prove.
    """

    model_type: str
    config: Callable[[Mapping[str, Any]], dict[str, Any]]
    rounds_alike: bool = True


@dataclass(frozen=True, kw_only=True)
class Section:
    """Another family's whole config within a config, and what it says where it is missing."""

    family: Family
    default: Mapping[str, Any] = field(default_factory=dict)

    def read(self, reader: ConfigReader, key: str) -> ArchitectureParameter:
        """The n of the config under `key`."""
        inner = reader.config(key, irrelevant=self.family.irrelevant)
        inner.inert("model_type", self.family.model_type)
        return self.family.read(inner)


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type.

    `tiny` is a small config for proofs, `draws` the values that a proof may give to its keys, the plain one first.
    `aliases` are other spellings of keys; `irrelevant` are keys that change no logit, with the reason. `rope_default`
    is what a config without rotary settings means. `completes` is what the class's default config lacks to be a model.
    `sections` are other families' whole configs within this one's, `left_out` names what the config speaks of and n
    does not (a vision tower); what is left is `saved_as` this type.
    """

    model_type: str
    title: str
    read: Callable[[ConfigReader], ArchitectureParameter]
    weights: WeightMap
    tiny: Mapping[str, Any]
    draws: Mapping[str, tuple[Any, ...]]
    aliases: Mapping[str, str] = field(default_factory=dict)
    irrelevant: Mapping[str, str] = field(default_factory=dict)
    rope: Literal["flat", "by_layer_type", "none"] = "flat"
    rope_theta: float | Mapping[str, float] = 10000.0
    partial_rotary_factor: float | None = None
    rope_default: Mapping[str, Any] | None = None
    completes: Mapping[str, Any] = field(default_factory=dict)
    reference: Reference | None = None
    sections: Mapping[str, Section] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()
    saved_as: str | None = None

    def parameter(self, raw: Mapping[str, Any], *, ignore_keys: tuple[str, ...] = ()) -> ArchitectureParameter:
        """n of a raw config; every key is accounted for.

        Raises:
            UnsupportedConfig: a key or value that this family cannot express.
            InvalidArchitecture: values that contradict each other.
        """
        reader = self._reader(ConfigReader, self._normalised(raw), spelled_as=raw, ignore_keys=ignore_keys)
        n = self.read(reader)
        ignored = reader.finish()
        origin = Origin(family=self.model_type, config=json.dumps(raw), ignored_keys=ignored)
        return replace(n, origin=origin).validate()

    def example(self) -> ArchitectureParameter:
        """The n of the class's default config, with what `completes` adds where that alone is no model."""
        return self.parameter({"model_type": self.model_type, **self.completes})

    def config(self, n: ArchitectureParameter) -> dict[str, Any]:
        """A config of this family that `parameter` reads as n: the one it was read from, with what has changed since.

        Raises:
            UnsupportedConfig: naming what of n no config of this family says.
        """
        origin = n.origin if n.origin.family == self.model_type and n.origin.config else None
        raw = json.loads(origin.config or "{}") if origin else {"model_type": self.model_type}
        ignored = origin.ignored_keys if origin else ()

        def read(values: dict[str, Any]) -> tuple[ArchitectureParameter, RecordingReader]:
            reader = self._reader(RecordingReader, values, spelled_as=raw, ignore_keys=ignored)
            try:
                return self.read(reader), reader
            except (KeyError, IndexError, TypeError, ValueError) as error:  # of what does not hold nothing can be made
                if not reader.broken:
                    raise
                raise UnsupportedConfig(f"{self.model_type}: {sorted(reader.broken)} cannot be") from error

        start = self._normalised(raw)
        found = solve(n, start, read=read)
        if found == start:
            config = raw
        else:
            config = self._respelled(raw, start, found)
        nearest = read(self._normalised(config))[0]
        if nearest != n:
            changes = "; ".join(str(change) for change in nearest.diff(n)[:3])
            raise UnsupportedConfig(f"{self.model_type}: no config of this family expresses {changes}")
        self.parameter(config, ignore_keys=ignored)
        return config

    def _respelled(self, raw: Mapping[str, Any], start: Mapping[str, Any], found: Mapping[str, Any]) -> dict[str, Any]:
        config = respelled(raw, start, found, aliases=self.aliases, like={**self.tiny, **raw})
        for key, section in self.sections.items():
            if start[key] != found[key]:
                said = section.default if raw.get(key) is None else raw[key]
                config[key] = section.family._respelled(said, start[key], found[key])
        return config

    def _normalised(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        values = normalised(
            raw,
            aliases=self.aliases,
            rope=self.rope,
            rope_theta=self.rope_theta,
            partial_rotary_factor=self.partial_rotary_factor,
            rope_default=self.rope_default,
        )
        for key, section in self.sections.items():
            said = section.default if values.get(key) is None else values[key]
            values[key] = section.family._normalised(said) if isinstance(said, Mapping) else said
        return values

    def _reader(
        self, make: type[R], values: Mapping[str, Any], *, spelled_as: Mapping[str, Any], ignore_keys: tuple[str, ...]
    ) -> R:
        spelled = {new: old for old, new in self.aliases.items() if old in spelled_as and spelled_as.get(new) is None}
        return make(self.model_type, values, irrelevant=self.irrelevant, ignore_keys=ignore_keys, spelled=spelled)
