"""Late layers that reuse the keys and values of earlier ones (Gemma 3n, Gemma 4)."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import Attention
from nexus_universal.families.shared.reader import ConfigReader

PASSED_OVER = {r"\.self_attn\.[kv]_(proj|norm)\.": "keys and values of a layer that reuses another's"}


def first_reusing(reader: ConfigReader, kinds: tuple[str, ...], *, shared: int) -> int:
    """The first of the last `num_kv_shared_layers` layers; `shared` is the reference class's default.

    Raises:
        UnsupportedConfig: a layer would reuse what no earlier layer of its kind keeps.
    """
    count = reader.take("num_kv_shared_layers", shared)
    first = len(kinds) - count
    has_source = 0 <= count <= len(kinds) and (not count or set(kinds[:first]) == set(kinds))
    reader.require(has_source, "num_kv_shared_layers", count, "must leave a layer of every kind that keeps its own")
    return first if has_source else len(kinds)


def reused(mixers: list[Attention], kinds: tuple[str, ...], first: int) -> list[Attention]:
    """From layer `first` on each attention reuses what the last layer of its kind before that emits."""
    if first == len(kinds):
        return mixers
    sources = {kind: index for index, kind in enumerate(kinds[:first])}
    emitting = [
        replace(mixer, emit=kind) if sources[kind] == index else mixer
        for index, (mixer, kind) in enumerate(zip(mixers[:first], kinds, strict=False))
    ]
    reusing = [
        replace(mixer, reuse=kind, value_norm=None, value_is_key=False, biases=without_keys(mixer.biases))
        for mixer, kind in zip(mixers[first:], kinds[first:], strict=True)
    ]
    return emitting + reusing


def without_keys(biases: tuple[str, ...]) -> tuple[str, ...]:
    """The same biases but for those of projections that are not there."""
    return tuple(role for role in biases if role not in ("key", "value"))
