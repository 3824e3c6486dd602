"""Layers of dots3: latent attention whose sizes, rotation and window are those of a layer's kind."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from nexus_universal.architecture.mixers import LatentAttention, OutputGate
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.families.shared import deepseek, rotary
from nexus_universal.families.shared.reader import ConfigReader

FULL, INDEXED, SLIDING = KINDS = "full_attention", "indexed_attention", "sliding_attention"
ROTATIONS = {kind: kind for kind in ("default", "linear", "dynamic", "yarn", "llama3")}
SIZES = {
    "heads": "num_attention_heads",
    "query_rank": "q_lora_rank",
    "latent_rank": "kv_lora_rank",
    "nope_dim": "qk_nope_head_dim",
    "value_dim": "v_head_dim",
    "head": "head_dim",
}
WHOLE = {"heads": 128, "query_rank": 1024, "latent_rank": 512, "nope_dim": 128, "value_dim": 128, "head": 256}
WINDOWED = {"heads": 64, "query_rank": 1024, "latent_rank": 1024, "nope_dim": 192, "value_dim": 128, "head": 256}


def mixers(
    reader: ConfigReader, kinds: tuple[str, ...], *, context: int | None, width: int, norm: Norm
) -> dict[str, LatentAttention]:
    """The attention of each kind of layer."""
    own, turns = _sizes(reader, kinds), _ropes(reader, kinds, context)
    biased = reader.take("attention_bias", False)
    found = {
        kind: LatentAttention(
            **{field: size for field, size in sizes.items() if field != "head"},  # type: ignore[arg-type]
            latent_norm=norm,
            rope_norm=norm,
            rope=turns[kind],
            query_scale=(width / sizes["query_rank"]) ** 0.5,
            query_scale_on="latent",
            latent_scale=(width / sizes["latent_rank"]) ** 0.5,
            gate=OutputGate(per="head"),
            late_gate=True,
            biases=("query_down", "latent_down", "output") if biased else (),
        )
        for kind, sizes in own.items()
    }
    indexer = deepseek.sparse_indexer(reader, found[INDEXED], heads=64, pairing="interleaved_to_half")
    wide = replace(turns[INDEXED], product="float32", rounded="kept")
    window = reader.count("sliding_window", None, optional=True) or 512
    return found | {
        INDEXED: replace(found[INDEXED], indexer=replace(indexer, rope=wide)),
        SLIDING: replace(found[SLIDING], window=window),
    }


def kinds(reader: ConfigReader, depth: int) -> tuple[str, ...]:
    """The kind of each layer; `use_dsa` settles what is full, unless sizes are given layer by layer."""
    settled = reader.take("use_dsa", None if "per_layer_config" in reader.values else True, kinds=(bool, type(None)))
    full, windows = FULL if settled is False else INDEXED, reader.take("use_sliding_window", True)
    derived = tuple(SLIDING if windows and i > 1 and i % 4 != 1 else full for i in range(depth))
    kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
    return kinds if settled is None else tuple(kind if kind == SLIDING else full for kind in kinds)


def mlps(reader: ConfigReader, depth: int) -> tuple[str, ...]:
    """The feed-forward of each layer: listed, or experts behind the first few where `moe_layer_freq` has them."""
    first, every = reader.take("first_k_dense_replace", 1), reader.take("moe_layer_freq", 1, kinds=(int, list))
    fits = len(every) >= depth if isinstance(every, list) else every > 0
    reader.require(fits, "moe_layer_freq", every, f"must be at least 1, or list {depth} layers")
    at = [bool(flag) for flag in every] if isinstance(every, list) else [i % max(every, 1) == 0 for i in range(depth)]
    derived = tuple("sparse" if i >= first and sparse else "dense" for i, sparse in zip(range(depth), at, strict=False))
    return reader.names("mlp_layer_types", length=depth, known=("dense", "sparse")) or derived


def _sizes(reader: ConfigReader, kinds: tuple[str, ...]) -> dict[str, dict[str, int]]:
    """The sizes of each kind of layer: those of windowed ones under `swa_` keys, or, as saved, layer by layer."""
    whole = _own(reader, {**WHOLE, "rope_dim": 64})
    if "per_layer_config" not in reader.values:
        return {FULL: whole, INDEXED: whole, SLIDING: _own(reader, WINDOWED, "swa_", windowed=True)}
    reader.values["per_layer_config"] = reader.values["per_layer_config"] or {}
    section = reader.section("per_layer_config")
    spelled = {key.lstrip("0") or "0": key for key in section.values}
    found: dict[str, dict[str, int]] = dict.fromkeys(KINDS, whole)
    for index, kind in enumerate(kinds):
        key = spelled.get(str(index), str(index))
        section.values.setdefault(key, {})
        own = _own(section.section(key), whole, windowed=kind == SLIDING)
        alike = found[kind] == own or kind not in kinds[:index]
        section.require(alike, key, own, f"must be the sizes of every layer of {kind}")
        found[kind] = own
    return found


def _own(reader: ConfigReader, default: dict[str, int], prefix: str = "", *, windowed: bool = False) -> dict[str, int]:
    sizes = {field: reader.count(prefix + key, default[field]) for field, key in SIZES.items()}
    rope = default.get("rope_dim", sizes["head"] - sizes["nope_dim"])
    rope = sizes["rope_dim"] = reader.count(f"{prefix}qk_rope_head_dim", rope)
    shared = reader.count(f"{prefix}num_key_value_heads", default["heads"], optional=not prefix)
    reader.agree(f"{prefix}num_key_value_heads", shared or sizes["heads"], sizes["heads"])
    if windowed:
        reader.agree(f"{prefix}head_dim", sizes["head"], sizes["nope_dim"] + rope)
    turned = int(sizes["head"] * (rope / sizes["head"]))  # as the reference finds how many dimensions turn
    reader.require(turned == rope, f"{prefix}head_dim", sizes["head"], f"lets {turned} of {rope} dimensions turn")
    return sizes


def _ropes(reader: ConfigReader, kinds: tuple[str, ...], context: int | None) -> dict[str, Rope]:
    """The rotation of each kind of layer, of which one for all is a copy; indexed layers keep their tables wide."""
    far, near = reader.number("rope_theta", 80000000.0), reader.number("swa_rope_theta", 50000.0)
    said: Any = reader.values.get("rope_parameters")
    if said is None:
        said = {kind: {"rope_theta": near if kind == SLIDING else far} for kind in KINDS}
    elif isinstance(said, dict):
        said = dict(said) if any(kind in said for kind in kinds) else dict.fromkeys(KINDS, said)
        for kind in {*KINDS} - {*kinds}:
            said.setdefault(kind, {})
    reader.values["rope_parameters"] = said
    section, ropes = reader.section("rope_parameters"), {}
    for kind in KINDS:
        inner = section.section(kind)
        inner.values.setdefault("rope_theta", far)
        inner.values.pop("partial_rotary_factor", None)  # follows from the sizes, whatever it says
        table = "float32" if kind == INDEXED else "model"
        form: dict[str, Any] = {"pairing": "interleaved_to_half", "table": table}
        ropes[kind] = rotary.rope(inner, context=context, nested=True, kinds=ROTATIONS, **form)
    return ropes
