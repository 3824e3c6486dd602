"""Configs to prove a family on: its tiny config with every value of every key it may take."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.indexers import BlockIndexer
from nexus_universal.architecture.mixers import CompressedAttention
from nexus_universal.architecture.position import DynamicScaling, LongRopeScaling, SteppedScaling
from nexus_universal.architecture.recurrences import (
    ChannelStateSpace,
    DecayedAverage,
    GatedLinearRecurrence,
    MatrixMemory,
    ShortConvolution,
    StateSpace,
)
from nexus_universal.families.shared.draws import PER_PAIR
from nexus_universal.families.shared.family import Family
from nexus_universal.parity.modes import GIVEN, LAST, LEFT_PADDED, Sample
from nexus_universal.parity.quirks import quirks

CONVOLVING = (StateSpace, ChannelStateSpace, ShortConvolution)
UNMASKED = (GatedLinearRecurrence, DecayedAverage, MatrixMemory)
"""Mixers whose references ask no mask."""


def draw_configs(family: Family, count: int, *, seed: int) -> list[dict[str, Any]]:
    """`count` configs: the tiny one first, then mixtures in which each key walks through all of its values in turn.

    Each round of a key starts at a random value, so that equally long lists meet in other combinations every time,
    while no value is left out as soon as `count` exceeds the longest list. Fewer configs are the first of more.
    """
    rng = random.Random(seed)
    walks = {key: _walk(values, random.Random(f"{seed} {key}")) for key, values in family.draws.items()}
    configs = [completed(family, dict(family.tiny))]
    for index in range(count - 1):
        chosen = {key: next(walk) for key, walk in walks.items()}
        plain = {key: family.draws[key][0] for key in rng.sample(sorted(chosen), k=len(chosen) // 3) if index % 2}
        configs.append(completed(family, {**family.tiny, **chosen, **plain}))
    return configs


def _walk(values: tuple[Any, ...], rng: random.Random) -> Iterator[Any]:
    """Round after round of all values, each from a random one on."""
    while True:
        start = rng.randrange(len(values))
        yield from (*values[start:], *values[:start])


def completed(family: Family, config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in lists whose length follows from the other values, and keep experts, layer lists and flags consistent."""
    config = dict(config)
    if config.get("new_decoder_architecture"):
        config["parallel_attn"] = True
    elif config.get("multi_query") is False:
        config["num_kv_heads"] = None
    if config.get("alibi"):
        config.pop("rope_parameters", None)
    for key in ("rope_parameters", "rope_scaling"):
        scaling = config.get(key)
        if isinstance(scaling, dict) and PER_PAIR in scaling.values():
            config[key] = scaling | {
                "short_factor": _factors(_pairs(family, config), start=1.0, step=0.05),
                "long_factor": _factors(_pairs(family, config), start=1.5, step=0.2),
            }
    if not config.get("hidden_size_per_layer_input", 1):
        config["num_kv_shared_layers"] = 0  # Gemma 4's class cannot do the one without the other
    for experts in ("num_experts", "num_local_experts", "n_routed_experts"):
        if 0 < config.get(experts, 0) < config.get("num_experts_per_tok", 1):
            config["num_experts_per_tok"] = config[experts]
    return {key: value for key, value in config.items() if not (key == "rope_scaling" and value is None)}


def _factors(count: int, *, start: float, step: float) -> list[float]:
    return [start + step * index for index in range(count)]


def _pairs(family: Family, config: Mapping[str, Any]) -> int:
    """Rotated pairs of a head, read off the n of the same config unscaled; of a whole head where none rotates."""
    plain = {key: value for key, value in config.items() if key not in ("rope_parameters", "rope_scaling")}
    n = family.parameter({"model_type": family.model_type, **plain})
    for layer in n.layers:
        for _, branch in layer.all_branches():
            rope = getattr(branch.part, "rope", None)
            if rope is not None:
                width = getattr(branch.part, "rope_dim", None) or getattr(branch.part, "head_dim", 0)
                return rope.dims(width) // 2
    return getattr(next(n.layers[0].branches()).part, "head_dim", 0) // 2  # the reference makes tables nonetheless


def switch_length(n: Any) -> int | None:
    """The length beyond which a rotation of n looks at the whole call; None where none ever does."""
    found: list[int] = []
    for layer in n.layers:
        for _, branch in layer.all_branches():
            scaling = getattr(getattr(branch.part, "rope", None), "scaling", None)
            if isinstance(scaling, DynamicScaling | SteppedScaling):
                found.append(scaling.context)
            elif isinstance(scaling, LongRopeScaling):
                found.append(scaling.original_context)
    return min(found, default=None)


def asked(n: Any, mode: str, sample: Sample) -> Sample:
    """What the reference is asked in a mode: without pads on the left where it lets them into the tokens after them."""
    odd = quirks(n.origin.family)
    if mode == GIVEN and n.embedding.per_layer and n.embedding.per_layer.finds_tokens:
        return replace(sample, given="looked up")
    if mode == GIVEN and any(getattr(getattr(part, "router", None), "by_token", None) for part in _parts(n)):
        return replace(sample, given="ids")  # experts are chosen by them
    if mode in ("chunks", "cached decode") and odd.steps_alone:
        return sample.one_row()
    if mode == "chunks" and scans_restart(n):
        return sample.stepped()
    if mode == GIVEN and odd.reads_positions_off_ids and n.embedding.positions.uncounted is not None:
        return replace(sample, given="ids")  # positions are made of them
    if mode == LAST and odd.keeps_all:
        return replace(sample, keep=0)
    if mode in LEFT_PADDED and odd.counts_slots:
        return replace(sample, counted="slots")
    leaks = pads_leak(n) if mode in LEFT_PADDED else False
    return sample.unpadded() if leaks or (mode == "cached decode" and odd.widens_mask) else sample


def pads_leak(n: Any) -> bool:
    """Whether a reference lets pads in: a convolution reads their bias, they are pooled, or blocks count from them."""
    if any(isinstance(part, CompressedAttention) and part.rate for part in _parts(n)):
        return True
    if any(
        isinstance(part, UNMASKED) or isinstance(getattr(part, "indexer", None), BlockIndexer) for part in _parts(n)
    ):
        return True
    if any(isinstance(part, ConvolvedAttention) and part.bias for part in _parts(n)):
        return True
    biased = [part.bias if isinstance(part, ShortConvolution) else "input" in part.biases for part in _convolving(n)]
    return any(biased)


def steps_differ(n: Any) -> bool:
    """Whether a step is no scan of one position: Δ is bounded in the scan only."""
    return any(part.time_step != (0.0, float("inf")) for part in _convolving(n) if isinstance(part, StateSpace))


def scans_restart(n: Any) -> bool:
    """Whether a reference forgets its state where several positions are read after others."""
    return any(isinstance(part, ChannelStateSpace | GatedLinearRecurrence) for part in _parts(n))


def _convolving(n: Any) -> list[StateSpace | ChannelStateSpace | ShortConvolution]:
    return [part for part in _parts(n) if isinstance(part, CONVOLVING)]


def _parts(n: Any) -> list[Any]:
    return [branch.part for layer in n.layers for _, branch in layer.all_branches()]


def longest_sample(n: Any, *, wanted: int) -> int:
    """A length past every window and the original context, but inside a learned position table."""
    table = n.embedding.positions
    return min(wanted, table.reach) if table is not None else wanted
