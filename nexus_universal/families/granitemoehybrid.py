"""Granite 4 (IBM): Mamba-2 layers and a few of attention, mostly without positions; experts beside a shared network."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import MixtureOfExperts
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.program import Program, residual_step
from nexus_universal.families.shared import common, draws, granite, names, rotary, state_space
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("linear_attention", "full_attention")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    table = {"scale": reader.number("embedding_multiplier", 1.0), "scale_inputs": True}
    text, embedding = common.ends(reader, context=2048, vocab=32000, width=4096, bos=1, eos=2, **table)
    norm = common.rms_norm(reader, 1e-6)
    rope = rotary.rope(reader.section("rope_parameters"), context=text.context)
    rotated = reader.take("position_embedding_type", None, known={None: False, "nope": False, "rope": True})
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=32,
        rotated=rotated,
        rope=rope,
        scale=reader.number("attention_multiplier", 1.0),
    )
    mixer = state_space.mamba2(reader, embedding.width, norm=norm, biases=state_space.projection_biases(reader))
    shared = granite.shared_expert(reader, mixer.activation)
    expert, chosen = common.feed_forward(reader, 11008), reader.count("num_experts_per_tok", 2)
    count = reader.take("num_local_experts", 8)
    reader.require(count >= 0, "num_local_experts", count, "must not be negative")
    scale = reader.number("residual_multiplier", 1.0)
    last = residual_step("feed_forward", shared, norm=norm, scale=scale)
    if count > 0:
        experts = MixtureOfExperts(experts=count, per_token=chosen, expert=expert, router=granite.ROUTER)
        last = granite.beside(experts, shared, norm=norm, scale=scale)
    mixers = {"full_attention": ("attention", attention), "linear_attention": ("state_space", mixer)}
    layers = {
        kind: Program(steps=(residual_step(*mixer, norm=norm, scale=scale), last)) for kind, mixer in mixers.items()
    }
    depth = reader.count("num_hidden_layers", 32)
    kinds = reader.names("layer_types", length=depth, known=KINDS) or KINDS[:1] * depth
    divisor = reader.number("logits_scaling", 1.0)
    return common.decoder(reader, text, embedding, (layers[kind] for kind in kinds), norm, divisor=divisor)


FAMILY = Family(
    model_type="granitemoehybrid",
    title="Granite 4",
    read=read,
    weights=names.weights(
        names.state_space(),
        granite.experts(),
        granite.beside_experts(),
    ),
    aliases={"layers_block_type": "layer_types"},
    tiny=draws.TINY
    | state_space.TINY
    | granite.MULTIPLIERS
    | {
        "num_local_experts": 8,
        "num_experts_per_tok": 3,
        "shared_intermediate_size": 40,
        "position_embedding_type": "rope",
        "layer_types": ["linear_attention", "full_attention"],
    },
    draws=draws.DENSE
    | state_space.DRAWS
    | granite.MULTIPLIER_DRAWS
    | {
        "num_local_experts": (8, 0, 5),
        "num_experts_per_tok": (3, 1, 5),
        "shared_intermediate_size": (40, 24),
        "position_embedding_type": ("rope", None),
        "layer_types": (["linear_attention", "full_attention"], ["full_attention", "linear_attention"]),
    },
)
