"""Bamba (IBM, Princeton, UIUC): Mamba-2 layers, attention with half-rotated heads where listed."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.families.shared import common, draws, names, rotary, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import TRAINING, ConfigReader


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    ends = {"context": 262144, "vocab": 128000, "width": 4096, "bos": 1, "eos": 2, "pad": 0}
    text, embedding = common.ends(reader, **ends)
    norm = common.rms_norm(reader, 1e-5)
    reader.inert("outer_rotary_factor", 0.5)  # the reference's class overwrites it
    rope = rotary.rope(reader.section("rope_parameters"), context=text.context, takes_fraction=True)
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, rope=rope)
    mixer = state_space.mamba2(reader, embedding.width, norm=norm, biases=state_space.projection_biases(reader))
    biases = ("gate", "up", "down") if reader.take("mlp_bias", False) else ()
    feed_forward = ("feed_forward", common.feed_forward(reader, 14336, biases=biases))
    hybrid = sequential_layer(("state_space", mixer), feed_forward, norm=norm)
    full = sequential_layer(("attention", attention), feed_forward, norm=norm)
    depth = reader.count("num_hidden_layers", 32)
    attending = reader.indices("attn_layer_indices", length=depth)
    layers = [full if index in attending else hybrid for index in range(depth)]
    return common.decoder(reader, text, embedding, layers, norm)


FAMILY = Family(
    model_type="bamba",
    title="Bamba",
    read=read,
    weights=names.weights(
        names.state_space(),
        names.gated(theirs=f"{names.LAYER}.feed_forward"),
        {"layers.{i}.feed_forward_norm": f"{names.LAYER}.pre_ff_layernorm", "final_norm": "model.final_layernorm"},
    ),
    aliases={"partial_rotary_factor": "outer_rotary_factor"},
    irrelevant=state_space.IRRELEVANT | {"z_loss_coefficient": TRAINING},
    partial_rotary_factor=0.5,
    tiny=draws.TINY | state_space.TINY | {"attn_layer_indices": [1]},
    draws=draws.DENSE
    | state_space.DRAWS
    | {
        "attn_layer_indices": ([1], [0]),
        "num_hidden_layers": (2, 3),
        "mlp_bias": (False, True),
        "pad_token_id": (0, None),
    },
)
