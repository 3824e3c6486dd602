"""dots.llm1 (arXiv 2506.05767): Qwen3's attention, dense first layers, then DeepSeek-V3's experts."""

from __future__ import annotations

from collections.abc import Iterable

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.mixers import Attention, QueryKeyNorm
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import REQUIRED, ConfigReader

SIZE = dense.Size(
    context=2048, vocab=152064, width=4608, inner=10944, depth=62, heads=32, kv_heads=32, bos=None, eos=None
)
UNREAD = {"topk_method": "noaux_tc", "moe_layer_freq": 1, "use_sliding_window": False}
"""Keys of published configs that transformers does not read, and the value that says what its class does anyway."""


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    norm = common.rms_norm(reader, 1e-6)
    for key, value in UNREAD.items():
        reader.inert(key, value)
    reader.inert("scoring_func", "sigmoid", "noaux_tc")

    def mixers(full: Attention, depth: int) -> Iterable[Attention]:
        window, first = reader.count("sliding_window", 4096, optional=True), reader.take("max_window_layers", 62)
        kinds = common.layer_types(reader, depth, full_until=first if window else depth)
        return common.windowed_by(kinds, full, window, reader, needs="needs a sliding_window")

    def feed_forwards(plain: FeedForward, depth: int) -> Iterable[FeedForward | MixtureOfExperts]:
        router = deepseek.sigmoid_router(reader, scale=1.0, normalise=False)
        counts = {"count": REQUIRED, "chosen": REQUIRED, "shared": REQUIRED}
        experts = deepseek.experts(reader, plain, router, width=1408, **counts)
        return deepseek.dense_first(reader, plain, experts, layers=depth, dense_layers=0)

    return dense.decoder(
        reader, SIZE, norm, mixers=mixers, feed_forwards=feed_forwards, qk_norm=QueryKeyNorm(norm=norm)
    )


FAMILY = Family(
    model_type="dots1",
    title="dots.llm1",
    read=read,
    weights=names.weights(names.experts(), names.shared_experts()),
    aliases={"num_local_experts": "n_routed_experts"},
    irrelevant={"pretraining_tp": "split products in training; transformers no longer reads it"},
    completes={"n_routed_experts": 128, "n_shared_experts": 2, "num_experts_per_tok": 6},
    tiny=draws.TINY | draws.TINY_ROUTED | {"n_shared_experts": 1, "first_k_dense_replace": 1, "sliding_window": 7},
    draws=draws.DENSE
    | draws.ROUTED
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (12, 16),
        "first_k_dense_replace": (1, 2, 0),
        "sliding_window": (7, 24),
        "max_window_layers": (1, 0, 3),
        "layer_types": (None, ["full_attention", "sliding_attention", "full_attention"]),
    },
)
