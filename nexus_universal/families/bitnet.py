"""BitNet b1.58 (arXiv 2504.12285), its ternary weights taken as they are: norms before both output projections."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=2048,
    vocab=128256,
    width=2560,
    inner=6912,
    depth=30,
    heads=20,
    kv_heads=5,
    bos=128000,
    eos=128001,
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)
    return dense.decoder(reader, SIZE, norm, feed_forward={"act": "relu2", "inner_norm": norm}, inner_norm=norm)


FAMILY = Family(
    model_type="bitnet",
    title="BitNet b1.58",
    read=read,
    weights=names.weights(
        {
            "layers.{i}.attention.inner_norm": f"{names.LAYER}.self_attn.attn_sub_norm",
            "layers.{i}.feed_forward.inner_norm": f"{names.LAYER}.mlp.ffn_sub_norm",
        }
    ),
    rope_theta=500000.0,
    tiny=draws.TINY,
    draws=draws.DENSE | {"num_key_value_heads": (2, 4, 1, None), "hidden_act": ("relu2", "silu")},
)
