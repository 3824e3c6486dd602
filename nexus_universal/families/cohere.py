"""Command R (Cohere): parallel blocks with one norm, whole heads rotated in pairs, norms of each head's own."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=8192, vocab=256000, width=8192, inner=22528, depth=40, heads=64, bos=5, eos=255001, pad=0, tied=True
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), rounding="after_scale")
    return dense.decoder(
        reader,
        SIZE,
        norm,
        rope={"pairing": "interleaved", "product": "float32"},
        qk_norm=QueryKeyNorm(norm=norm, own=True) if reader.take("use_qk_norm", False) else None,
        parallel=("x", "attention", "feed_forward"),
        head={"scale": reader.number("logit_scale", 0.0625)},
    )


FAMILY = Family(
    model_type="cohere",
    title="Command R",
    read=read,
    weights=names.weights(),
    irrelevant={"model_max_length": "a limit of the tokenizer"},
    rope_theta=500000.0,
    tiny=draws.TINY | {"eos_token_id": 3},
    draws=draws.without(draws.DENSE, "rms_norm_eps")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 24),
        "layer_norm_eps": (1e-5, 1e-3),
        "logit_scale": (0.0625, 1.0, 0.3),
        "use_qk_norm": (False, True, True),
        "pad_token_id": (0, 5),
    },
)
