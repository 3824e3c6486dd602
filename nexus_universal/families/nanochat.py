"""nanochat (Andrej Karpathy): norms without weights, one on the embedding; heads turned clockwise, then normed."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=2048, vocab=50304, width=768, inner=8192, depth=12, heads=6, bos=0, eos=1, pad=1)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-6, scale="none")
    return dense.decoder(
        reader,
        SIZE,
        norm,
        rope={"clockwise": True},
        feed_forward={"gated": False, "act": "relu2"},
        table={"norm": norm},
        head={"softcap": reader.number("final_logit_softcapping", 15.0, optional=True)},
        qk_norm=QueryKeyNorm(norm=norm, when="after_rope"),
    )


FAMILY = Family(
    model_type="nanochat",
    title="nanochat",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.feed_forward.up": f"{names.LAYER}.mlp.fc1",
            "layers.{i}.feed_forward.down": f"{names.LAYER}.mlp.fc2",
        }
    ),
    tiny=draws.TINY,
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 24),
        "hidden_act": ("relu2", "silu"),
        "final_logit_softcapping": (15.0, 2.0, None),
        "pad_token_id": (1, None),
    },
)
