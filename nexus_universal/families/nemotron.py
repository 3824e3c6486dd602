"""Nemotron 3 and 4, Minitron (arXiv 2402.16819): LayerNorms of the (1 + w) kind, half of each head rotated, ReLU²."""

from __future__ import annotations

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.families.shared import dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=4096, vocab=256000, width=6144, inner=24576, depth=32, heads=48, bos=2, eos=3)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    eps = reader.take("norm_eps", 1e-5)
    return dense.decoder(
        reader,
        SIZE,
        Norm(kind="layer", eps=eps, scale="one_plus_weight", bias=True, rounding="native"),
        rope={"takes_fraction": True},
        feed_forward=dense.plain_biases(reader),
        std=0.0134,
    )


FAMILY = Family(
    model_type="nemotron",
    title="Nemotron 3, Nemotron 4, Minitron",
    read=read,
    weights=names.weights(),
    partial_rotary_factor=0.5,
    tiny=draws.TINY | {"head_dim": 16},
    draws=draws.without(draws.DENSE, "rms_norm_eps")
    | {
        "head_dim": (16, None, 20),
        "hidden_act": ("relu2", "silu"),
        "mlp_bias": (False, True),
        "norm_eps": (1e-5, 1e-3),
        "partial_rotary_factor": (0.5, 0.4, 1.0),
    },
)
