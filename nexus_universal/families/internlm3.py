"""InternLM 3 (Shanghai AI Laboratory): Llama, its biases all or none."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=32768, vocab=128512, width=4096, inner=10240, depth=48, heads=32, kv_heads=2, head_dim=128, pad=2
)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    biased = reader.take("attention_bias", False)
    reader.require(
        biased == reader.take("mlp_bias", False), "mlp_bias", not biased, f"must be {biased}, as qkv_bias is"
    )
    return dense.decoder(
        reader, SIZE, common.rms_norm(reader, 1e-5), feed_forward=dense.gated_biases(reader), null_head_dim=True
    )


FAMILY = Family(
    model_type="internlm3",
    title="InternLM 3",
    read=read,
    weights=names.weights(),
    aliases={"qkv_bias": "attention_bias", "bias": "mlp_bias"},
    tiny=draws.TINY | {"head_dim": 16, "pad_token_id": 2, "attention_bias": True, "mlp_bias": True},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {"num_key_value_heads": (2, 4, 1, None), "head_dim": (16, None, 8), "pad_token_id": (2, None)},
)
