"""IQuest-Coder-V1 (IQuest Lab): Llama in other sizes."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=131072, vocab=76800, width=5120, inner=27648, depth=80, heads=40, kv_heads=8, head_dim=128)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    reader.inert("clip_qkv", None)
    reader.inert("use_sliding_window", False, None)
    return dense.decoder(
        reader, SIZE, common.rms_norm(reader, 1e-5), feed_forward=dense.gated_biases(reader), null_head_dim=True
    )


FAMILY = Family(
    model_type="iquestcoder",
    title="IQuest-Coder-V1",
    read=read,
    weights=names.weights(),
    tiny=draws.TINY | {"head_dim": 16},
    draws=draws.DENSE | {"num_key_value_heads": (2, 4, 1, None), "head_dim": (16, None, 8), "mlp_bias": (False, True)},
)
