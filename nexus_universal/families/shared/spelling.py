"""One spelling for a config: v4 and v5 names, nested and outer rotary settings, brought to v5's form. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, Literal

LAYER_TYPES = ("sliding_attention", "full_attention")
NEEDS_ORIGINAL_CONTEXT = ("llama3", "yarn", "longrope")
OUTER_ROPE = ("rope_theta", "rope_scaling", "rope_local_base_freq", "partial_rotary_factor")
OLD_LAYER_TYPES = {
    "attention": "full_attention",
    "mamba": "linear_attention",
    "deepseek_sparse_attention": "indexed_attention",
}
TAGGED_FLOATS = {"Infinity": float("inf"), "-Infinity": float("-inf"), "NaN": float("nan")}


def normalised(
    raw: Mapping[str, Any],
    *,
    aliases: Mapping[str, str],
    rope: Literal["flat", "by_layer_type", "none"],
    rope_theta: float | Mapping[str, float],
    partial_rotary_factor: float | None = None,
    rope_default: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """A copy of `raw` in v5's spelling.

    `torch_dtype` becomes `dtype`; `rope_theta`, `rope_scaling` and `partial_rotary_factor` move into `rope_parameters`
    (what is inside wins over what is outside, `rope_scaling` over `rope_parameters`); aliases become the family's keys.
    `{"__float__": "Infinity"}` is how v5 writes what JSON has no number for.
    """
    values = {key: _untagged(value) for key, value in raw.items()}
    for old, new in {"torch_dtype": "dtype", **aliases}.items():
        if old in values:
            value = values.pop(old)
            if values.get(new) is None:
                values[new] = value
            elif value != values[new] and old != "torch_dtype":
                values[old] = value  # two spellings that disagree: left for the reader to refuse
    for key in ("layer_types", "layers_block_type"):
        if isinstance(values.get(key), list):
            values[key] = [OLD_LAYER_TYPES.get(str(name), name) for name in values[key]]
    if any(not isinstance(values.get(key), dict | None) for key in ("rope_parameters", "rope_scaling")):
        return {"rope_parameters": {}, **values}  # what is no JSON object is left for the reader to refuse
    if rope_default is not None and values.get("rope_parameters") is None:
        values["rope_parameters"] = copy.deepcopy(dict(rope_default))
    if rope == "flat" and not isinstance(rope_theta, Mapping):
        _flat_rope(values, theta=rope_theta, fraction=partial_rotary_factor)
    elif rope == "by_layer_type" and isinstance(rope_theta, Mapping):
        _rope_by_layer_type(values, theta=rope_theta)
    return values


def respelled(
    raw: Mapping[str, Any],
    start: Mapping[str, Any],
    changed: Mapping[str, Any],
    *,
    aliases: Mapping[str, str],
    like: Mapping[str, Any],
) -> dict[str, Any]:
    """`raw`, of which `start` is the v5 form, with what `changed` says otherwise, under the names that `like` uses."""
    config = dict(raw)
    spelled = {new: old for old, new in {"torch_dtype": "dtype", **aliases}.items() if old in like and new not in like}
    for key in {**start, **changed}:
        if (key in start) == (key in changed) and start.get(key) == changed.get(key):
            continue
        if key == "rope_parameters":
            config = {name: value for name, value in config.items() if name not in OUTER_ROPE}
        if key in changed:
            config[spelled.get(key, key)] = changed[key]
        else:
            config.pop(spelled.get(key, key), None)
    return config


def _untagged(value: Any) -> Any:
    """A copy with tagged floats as floats."""
    if isinstance(value, Mapping):
        if set(value) == {"__float__"}:
            return TAGGED_FLOATS.get(str(value["__float__"]), value)
        return {key: _untagged(item) for key, item in value.items()}
    return [_untagged(item) for item in value] if isinstance(value, list) else copy.deepcopy(value)


def _flat_rope(values: dict[str, Any], *, theta: float, fraction: float | None) -> None:
    inner = values.pop("rope_scaling", None) or values.get("rope_parameters") or {}
    theta = values.pop("rope_theta", theta)
    fraction = values.pop("partial_rotary_factor", fraction)
    inner.setdefault("rope_theta", theta)
    if fraction is not None:
        inner.setdefault("partial_rotary_factor", fraction)
    _settle(inner, values)
    values["rope_parameters"] = inner


def _rope_by_layer_type(values: dict[str, Any], *, theta: Mapping[str, float]) -> None:
    """Gemma 3's: outer `rope_scaling` and `rope_theta` speak of full layers, `rope_local_base_freq` of sliding ones."""
    nested = values.get("rope_parameters") or {}
    scaling = values.pop("rope_scaling", None)
    outer = {
        "full_attention": values.pop("rope_theta", theta["full_attention"]),
        "sliding_attention": values.pop("rope_local_base_freq", theta["sliding_attention"]),
    }
    for layer_type in LAYER_TYPES:
        inner = nested.get(layer_type) or {"rope_type": "default"}
        if not isinstance(inner, dict):
            continue
        if layer_type == "full_attention" and scaling:
            inner.update(scaling)
        inner.setdefault("rope_theta", outer[layer_type])
        _settle(inner, values, outer_context=False)
        nested[layer_type] = inner
    values["rope_parameters"] = nested


def _settle(inner: dict[str, Any], values: dict[str, Any], *, outer_context: bool = True) -> None:
    """`type` is an old name of `rope_type`; scalings need a context; one outside a flat section wins (Phi-3)."""
    old = inner.pop("type", "default")
    inner.setdefault("rope_type", old)
    if inner["rope_type"] in NEEDS_ORIGINAL_CONTEXT:
        if outer_context and "original_max_position_embeddings" in values:
            inner["original_max_position_embeddings"] = values.pop("original_max_position_embeddings")
        else:
            inner.setdefault("original_max_position_embeddings", values.get("max_position_embeddings"))
