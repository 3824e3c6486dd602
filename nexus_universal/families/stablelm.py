"""StableLM (Stability AI): LayerNorms, one also for each query and key head; a quarter of each head rotated."""

from __future__ import annotations

from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.checkpoint.rules import Stacked
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=4096, vocab=50304, width=2560, inner=6912, depth=32, heads=32, kv_heads=32, bos=0, eos=0)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = Norm(kind="layer", eps=reader.take("layer_norm_eps", 1e-5), bias=True, rounding="native")
    width, heads = reader.count("hidden_size", SIZE.width), reader.count("num_attention_heads", SIZE.heads)
    reader.require(width % heads == 0, "num_attention_heads", heads, f"must divide hidden_size = {width}")
    reader.inert("head_dim", None, width // heads)
    per_head = Norm(kind="layer", eps=norm.eps, rounding="native")
    return dense.decoder(
        reader,
        SIZE,
        norm,
        rope={"takes_fraction": True},
        biases=common.INPUT_BIASES if reader.take("use_qkv_bias", False) else (),
        qk_norm=QueryKeyNorm(norm=per_head, own=True, order="heads") if reader.take("qk_layernorm", False) else None,
        parallel=("x", "attention", "feed_forward") if reader.take("use_parallel_residual", False) else (),
    )


FAMILY = Family(
    model_type="stablelm",
    title="StableLM",
    read=read,
    weights=names.weights(
        {
            f"layers.{{i}}.attention.{role}_norm.weight": Stacked(
                (f"{names.LAYER}.self_attn.{role[0]}_layernorm.norms.{{e}}.weight",)
            )
            for role in ("query", "key")
        }
    ),
    partial_rotary_factor=0.25,
    tiny=draws.TINY | {"hidden_size": 64},
    draws=draws.without(draws.DENSE, "rms_norm_eps", "attention_bias")
    | {
        "rope_parameters": tuple(rope for rope in draws.ROPE if rope["rope_type"] != "proportional"),
        "layer_norm_eps": (1e-5, 1e-3),
        "partial_rotary_factor": (0.25, 0.5, 1.0),
        "qk_layernorm": (False, True),
        "use_qkv_bias": (False, True, True),
        "use_parallel_residual": (False, True, True, False),
    },
)
