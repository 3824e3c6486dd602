"""OLMo (arXiv 2402.00838): LayerNorms without weights, and projections that may be clipped."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=2048, vocab=50304, width=4096, inner=11008, depth=32, heads=32, bos=None, eos=50279, pad=1)
NORM = Norm(kind="layer", eps=1e-5, scale="none", rounding="native_float32")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    clip = reader.number("clip_qkv", None)
    return dense.decoder(reader, SIZE, NORM, rope={"table": "float32"}, clip=clip)


FAMILY = Family(
    model_type="olmo",
    title="OLMo",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY | {"eos_token_id": 3, "pad_token_id": 1},
    draws=draws.without(draws.DENSE, "rms_norm_eps")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 24),
        "clip_qkv": (None, 0.5, 8.0),
        "pad_token_id": (1, None),
    },
)
