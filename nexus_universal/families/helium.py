"""Helium 1 (Kyutai): Llama rotated in pairs, its norms rounded at the end."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=4096, vocab=48000, width=2560, inner=7040, depth=24, heads=20, kv_heads=20, head_dim=128, pad=3
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    width, heads = reader.count("hidden_size", SIZE.width), reader.count("num_attention_heads", SIZE.heads)
    head_dim = reader.count("head_dim", SIZE.head_dim)
    reader.require(heads * head_dim == width, "head_dim", head_dim, f"must be hidden_size / heads = {width / heads}")
    return dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-8, rounding="after_scale"),
        rope={"pairing": "interleaved"},
        feed_forward=dense.gated_biases(reader),
        biased=common.INPUT_BIASES,
    )


FAMILY = Family(
    model_type="helium",
    title="Helium 1",
    read=read,
    weights=names.weights(),
    rope_theta=100000.0,
    tiny=draws.TINY | {"head_dim": 12, "pad_token_id": 3},
    draws=draws.DENSE | {"mlp_bias": (False, True), "pad_token_id": (3, None)},
)
