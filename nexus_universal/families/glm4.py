"""GLM-4-0414: GLM-4-9B with two more norms, on what its sublayers give."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from nexus_universal.families import glm
from nexus_universal.families.shared import names

FAMILY = replace(
    glm.FAMILY,
    model_type="glm4",
    title="GLM-4-0414, GLM-Z1",
    read=partial(glm.read, sandwich=True),
    weights=names.weights(
        names.packed_gated(),
        {
            "layers.{i}.attention_output_norm": f"{names.LAYER}.post_self_attn_layernorm",
            "layers.{i}.feed_forward_output_norm": f"{names.LAYER}.post_mlp_layernorm",
        },
    ),
)
