"""Command A+ (Cohere): Cohere 2's parallel block, with experts that are chosen before they are scored."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Program, parallel_layer
from nexus_universal.families.shared import common, draws, names, rotary
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SLIDING, FULL = KINDS = "sliding_attention", "full_attention"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=8192, vocab=256000, width=8192, bos=5, eos=255001, pad=0)
    norm = Norm(kind="layer", eps=reader.number("layer_norm_eps", 1e-5), rounding="after_scale")
    eps = reader.number("rms_norm_eps", None)
    if eps is not None:
        norm = Norm(kind="rms", eps=eps)
    rope = rotary.rope(_rotation(reader), context=text.context, pairing="interleaved", product="float32")
    window = reader.count("sliding_window", 4096)
    sliding = common.attention(reader, text, embedding.width, heads=64, head_dim=128, rope=rope, window=window)
    prefix = reader.count("prefix_dense_sliding_window_pattern", 1)
    mixers = {SLIDING: sliding, FULL: replace(sliding, rope=None, window=None)}
    before = mixers | ({FULL: replace(sliding, window=None)} if prefix == 1 else {})
    expert = common.feed_forward(reader, 22528)
    width = reader.count("prefix_dense_intermediate_size", None, optional=True)
    dense = replace(expert, width=width or expert.width)
    parts = {"sparse": (mixers, _experts(reader, expert)), "dense": (before, dense)}

    def layer(kind: str, mlp: str) -> Program:
        mixers, feed_forward = parts[mlp]
        pair = ("attention", mixers[kind]), ("feed_forward", feed_forward)
        return parallel_layer(*pair, norm=norm, sum_order=("x", "attention", "feed_forward"))

    made = {(kind, mlp): layer(kind, mlp) for kind in KINDS for mlp in parts}
    layers = (made[pair] for pair in _kinds(reader, prefix))
    return common.decoder(reader, text, embedding, layers, norm, tied=True, scale=reader.take("logit_scale", 0.0625))


def _rotation(reader: ConfigReader) -> ConfigReader:
    """The reference declares `rope_theta` and `rope_scaling`, and reads the first alone."""
    reader.inert("rope_scaling", None)
    theta = reader.number("rope_theta", 10000.0)
    if reader.values.get("rope_parameters") is None:
        reader.values["rope_parameters"] = {}
    section = reader.section("rope_parameters")
    section.values.setdefault("rope_theta", theta)
    return section


def _kinds(reader: ConfigReader, prefix: int) -> Iterable[tuple[str, str]]:
    """Each layer's kind of attention and of feed-forward: listed, or a dense prefix with a pattern of its own."""
    depth, first = reader.count("num_hidden_layers", 40), reader.take("first_k_dense_replace", 0)
    every = reader.count("sliding_window_pattern", 4)
    reader.require(0 <= first <= depth, "first_k_dense_replace", first, f"must lie in [0, {depth}]")
    places = [(index + 1, prefix) for index in range(first)] + [(index + 1, every) for index in range(depth - first)]
    derived = [FULL if place % step == 0 else SLIDING for place, step in places]
    mlps = ["dense"] * first + ["sparse"] * (depth - first)
    kinds = reader.names("layer_types", length=depth, known=KINDS) or derived
    return zip(kinds, reader.names("mlp_layer_types", length=depth, known=("dense", "sparse")) or mlps, strict=True)


def _experts(reader: ConfigReader, expert: FeedForward) -> MixtureOfExperts:
    routers = {
        "softmax": Router(score="softmax_chosen", normalise=False, weights="rounded"),
        "sigmoid": Router(score="sigmoid_chosen", normalise=reader.take("norm_topk_prob", True), weights="model"),
    }
    shared = reader.take("num_shared_experts", 0)
    reader.require(shared >= 0, "num_shared_experts", shared, "must not be negative")
    combined = reader.take("shared_expert_combination_strategy", "average", known={"average": 2.0, "sum": None})
    return MixtureOfExperts(
        experts=reader.count("num_experts", 8),
        per_token=reader.count("num_experts_per_tok", 2),
        expert=expert,
        router=reader.take("expert_selection_fn", "softmax", known=routers),
        shared=replace(expert, width=expert.width * shared) if shared else None,
        divisor=combined if shared else None,
    )


FAMILY = Family(
    model_type="cohere2_moe",
    title="Command A+",
    read=read,
    weights=names.weights(
        names.experts(), names.shared_experts(), {"layers.{i}.attention_norm": f"{names.LAYER}.input_layernorm"}
    ),
    rope="none",
    tiny=draws.TINY
    | {"num_hidden_layers": 4, "head_dim": 16, "intermediate_size": 24, "sliding_window": 16, "eos_token_id": 3},
    draws=draws.DENSE
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (16, 8),
        "rms_norm_eps": (None, 1e-3),
        "layer_norm_eps": (1e-5, 1e-3),
        "logit_scale": (0.0625, 1.0),
        "sliding_window": (16, 7, 128),
        "sliding_window_pattern": (4, 2),
        "first_k_dense_replace": (0, 2, 3),
        "prefix_dense_sliding_window_pattern": (1, 2),
        "prefix_dense_intermediate_size": (None, 40),
        "layer_types": (None, [FULL, SLIDING] * 2),
        "mlp_layer_types": (None, ["dense", "sparse"] * 2),
        "num_experts": (8, 5),
        "num_experts_per_tok": (2, 1, 3),
        "num_shared_experts": (0, 1, 2),
        "shared_expert_combination_strategy": ("average", "sum"),
        "expert_selection_fn": ("softmax", "sigmoid"),
        "norm_topk_prob": (True, False),
        "pad_token_id": (0, 5),
    },
)
