"""What a family is: a reader of configs and a table of weights, both as data."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from nexus_universal.architecture.ends import Origin
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared.reader import ConfigReader
from nexus_universal.families.shared.spelling import normalised


@dataclass(frozen=True, kw_only=True)
class Family:
    """One model type.

    `tiny` is a small config for proofs, `draws` the values that a proof may give to its keys, the plain one first.
    `aliases` are other spellings of keys; `irrelevant` are keys that change no logit, with the reason.
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

    def parameter(self, raw: Mapping[str, Any], *, ignore_keys: tuple[str, ...] = ()) -> ArchitectureParameter:
        """n of a raw config; every key is accounted for.

        Raises:
            UnsupportedConfig: a key or value that this family cannot express.
            InvalidArchitecture: values that contradict each other.
        """
        values = normalised(
            raw,
            aliases=self.aliases,
            rope=self.rope,
            rope_theta=self.rope_theta,
            partial_rotary_factor=self.partial_rotary_factor,
        )
        spelled = {new: old for old, new in self.aliases.items() if old in raw and raw.get(new) is None}
        reader = ConfigReader(
            self.model_type, values, irrelevant=self.irrelevant, ignore_keys=ignore_keys, spelled=spelled
        )
        n = self.read(reader)
        ignored = reader.finish()
        origin = Origin(family=self.model_type, config=json.dumps(raw), ignored_keys=ignored)
        return replace(n, origin=origin).validate()
