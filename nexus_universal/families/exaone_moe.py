"""K-EXAONE (LG AI Research): EXAONE 4's attention behind norms, then DeepSeek-V3's experts."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import exaone4
from nexus_universal.families.shared import common, deepseek, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(
    context=2048, vocab=102400, width=4096, inner=16384, depth=32, heads=32, kv_heads=32, bos=1, eos=53, pad=0
)
MLP = f"{names.LAYER}.mlp"


def feed_forwards(reader: ConfigReader, plain: FeedForward, depth: int) -> Iterable[FeedForward | MixtureOfExperts]:
    """The feed-forward of each layer."""
    router = deepseek.sigmoid_router(reader, scale=2.5)
    keys = ("num_experts", "num_shared_experts")
    experts = deepseek.experts(reader, plain, router, count=64, chosen=8, width=1024, keys=keys)
    first = reader.take("first_k_dense_replace", 1)
    return common.dense_or_sparse(reader, depth, plain, experts, dense_layers=first)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-5)
    return dense.decoder(
        reader,
        SIZE,
        norm,
        mixers=partial(exaone4.attentions, reader),
        feed_forwards=partial(feed_forwards, reader),
        biases=(),
        qk_norm=QueryKeyNorm(norm=norm),
    )


FAMILY = Family(
    model_type="exaone_moe",
    title="K-EXAONE",
    read=read,
    weights=names.weights(
        names.experts(selection_bias=tuple(f"{module}.e_score_correction_bias" for module in (MLP, f"{MLP}.gate"))),
        names.shared_experts(),
        passed_over={r"^mtp\.": "multi-token prediction"},
    ),
    tiny={**exaone4.FAMILY.tiny, **draws.TINY_EXPERTS, "pad_token_id": 0},
    draws=dict(exaone4.FAMILY.draws)
    | draws.without(draws.ROUTED, "n_shared_experts")
    | {
        "layer_types": (None, [*exaone4.KINDS, *exaone4.KINDS], ["sliding_attention"] * 4),
        "num_experts": (8, 6),
        "num_shared_experts": (1, 2),
        "first_k_dense_replace": (1, 2, 0),
        "mlp_layer_types": (None, ["sparse", "dense", "sparse", "sparse"]),
        "pad_token_id": (0, None),
    },
)
