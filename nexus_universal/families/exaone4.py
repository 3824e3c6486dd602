"""EXAONE 4 (arXiv 2507.11407): norms behind sublayers, normed heads; three windowed layers that rotate, one full."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial

from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=2048, vocab=102400, width=4096, inner=16384, depth=32, heads=32, kv_heads=32, bos=0)
KINDS = ("full_attention", "sliding_attention")


def kinds_of(reader: ConfigReader, depth: int, *, windows: bool) -> tuple[str, ...]:
    """The kind of each layer; a pattern counts only where no kinds are listed, and may then be no string."""
    listed = reader.names("layer_types", length=depth, known=KINDS)
    every = reader.take("sliding_window_pattern", 4, kinds=(int, str, type(None)))
    named = every is None or (isinstance(every, str) and set(every) <= {"L", "G"})
    if listed is None or not (named or (every == 0 and not windows)):
        every = reader.count("sliding_window_pattern", 4)
    reader.require(windows or listed is not None, "layer_types", None, "must be listed where sliding_window is null")
    cycle = every if isinstance(every, int) else 1
    return listed or tuple(KINDS[bool((index + 1) % cycle)] for index in range(depth))


def attentions(reader: ConfigReader, rotated: Attention, depth: int) -> Iterable[Attention]:
    """Full layers turn nothing where others have windows."""
    window = reader.count("sliding_window", 4096, optional=True)
    kinds = kinds_of(reader, depth, windows=window is not None)
    reader.require(bool(window) or KINDS[1] not in kinds, "sliding_window", window, "layer_types needs it")
    full = replace(rotated, rope=None) if window else rotated
    return common.windowed(kinds, full, sliding=replace(rotated, window=window))


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)
    mixers = partial(attentions, reader)
    return dense.decoder(reader, SIZE, norm, normed="after", mixers=mixers, biases=(), qk_norm=QueryKeyNorm(norm=norm))


FAMILY = Family(
    model_type="exaone4",
    title="EXAONE 4",
    read=read,
    weights=names.weights(names.post_norms()),
    tiny=draws.TINY | {"num_hidden_layers": 4, "sliding_window": 16},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (16, 24),
        "sliding_window": (16, 7, 128),
        "sliding_window_pattern": (4, 2),
        "layer_types": (None, [*KINDS, *KINDS], ["full_attention"] * 4),
    },
)
