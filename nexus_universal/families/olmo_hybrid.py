"""OLMo Hybrid: three gated delta layers, whose states may flip, to one of OLMo 3's attention without a window."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.architecture.program import sequential_layer
from nexus_universal.architecture.recurrences import GatedDeltaRule
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("linear_attention", "full_attention")
ROLES = {"query": "q", "key": "k", "value": "v", "beta": "b", "decay": "a", "gate": "g"}


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    starts = {"linear_dt_min": 1e-3, "linear_dt_max": 0.1, "linear_dt_init_floor": 1e-4}
    text, embedding = common.ends(reader, context=65536, vocab=100352, width=3840, eos=100257, pad=100277)
    low, high = reader.take("linear_a_log_min", 0.0), reader.take("linear_a_log_max", 16.0)
    step_range = tuple(reader.take(key, value) for key, value in starts.items())
    text = replace(text, decay_range=(low, high), step_range=step_range)
    norm, dense = common.rms_norm(reader, 1e-6, rounding="after_scale"), common.feed_forward(reader, 11008)
    rope = _rope(reader.section("rope_parameters"), text.context)
    attention = common.attention(
        reader,
        text,
        embedding.width,
        heads=30,
        rope=rope,
        rotated=rope is not None,
        qk_norm=QueryKeyNorm(norm=norm, over="width"),
    )
    key_heads = reader.count("linear_num_key_heads", None, optional=True) or attention.heads
    key_dim = reader.count("linear_key_head_dim", None, optional=True) or int(0.75 * embedding.width / key_heads)
    delta = GatedDeltaRule(
        key_heads=key_heads,
        value_heads=reader.count("linear_num_value_heads", None, optional=True) or attention.heads,
        key_dim=key_dim,
        value_dim=reader.count("linear_value_head_dim", None, optional=True) or 2 * key_dim,
        convolution=reader.count("linear_conv_kernel_dim", 4),
        norm=Norm(kind="rms", eps=1e-5),
        activation=dense.activation,  # type: ignore[arg-type]
        cut=True,
        beta_range=2.0 if reader.take("linear_allow_neg_eigval", True) else 1.0,
    )
    layers = {
        "linear_attention": sequential_layer(("linear_attention", delta), ("feed_forward", dense), norm=norm),
        "full_attention": sequential_layer(
            ("attention", attention), ("feed_forward", dense), norm=None, output_norm=norm
        ),
    }
    return common.decoder(reader, text, embedding, (layers[kind] for kind in _kinds(reader)), norm)


def _rope(section: ConfigReader, context: int | None) -> Rope | None:
    """None where the base is null: the released models turn nothing."""
    if section.take("rope_theta", 10000.0, kinds=(int, float, type(None))) is not None:
        return rotary.rope(section, context=context, table="float32")
    section.inert("rope_type", "default")
    return None


def _kinds(reader: ConfigReader) -> tuple[str, ...]:
    depth = reader.count("num_hidden_layers", 32)
    listed = reader.names("layer_types", length=depth, known=KINDS)
    derived = [KINDS[index % 4 == 3] for index in range(depth)]
    kinds = listed or (*derived[:-1], derived[-1] if "full_attention" in derived else "full_attention")
    reader.require(set(kinds) == set(KINDS), "layer_types", list(kinds), "must name both kinds")
    return kinds


FAMILY = Family(
    model_type="olmo_hybrid",
    title="OLMo Hybrid",
    read=read,
    weights=names.weights(
        names.post_norms(),
        names.separate_gated_delta({role: f"{name}_proj" for role, name in ROLES.items()}),
        {
            "layers.{i}.attention_output_norm": (
                f"{names.LAYER}.feedforward_layer_norm",  # what transformers 5.23 calls it when it saves
                f"{names.LAYER}.post_attention_layernorm",
            ),
            "layers.{i}.linear_attention.decay_log": f"{names.LAYER}.linear_attn.A_log",
            "layers.{i}.linear_attention.decay_bias": f"{names.LAYER}.linear_attn.dt_bias",
            "layers.{i}.linear_attention_norm": (
                f"{names.LAYER}.attention_layer_norm",
                f"{names.LAYER}.input_layernorm",
            ),
            "layers.{i}.feed_forward_norm": (
                f"{names.LAYER}.feedforward_layer_norm",
                f"{names.LAYER}.post_attention_layernorm",
            ),
        },
        wide=("*.decay_log",),
    ),
    tiny=draws.TINY
    | {
        **{"num_hidden_layers": 4, "eos_token_id": 3, "pad_token_id": 1},
        **{"linear_num_key_heads": 4, "linear_num_value_heads": 4},
        "linear_key_head_dim": 8,
        "linear_value_head_dim": 8,  # transformers saves the convolutions in equal thirds, however wide they are
    },
    draws=draws.without(draws.DENSE, "pad_token_id", "rope_parameters")
    | {
        "num_key_value_heads": (2, 4, None),
        "rope_parameters": ({"rope_type": "default", "rope_theta": None}, *draws.ROPE),
        "linear_num_key_heads": (4, 2),
        "linear_num_value_heads": (4, None),
        "linear_key_head_dim": (8, None),
        "linear_value_head_dim": (8, 12, None),
        **{"linear_conv_kernel_dim": (4, 2), "linear_allow_neg_eigval": (True, False)},
        "layer_types": (None, ["full_attention", "linear_attention"] * 2),
    },
)
