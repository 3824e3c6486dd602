"""What DeepSeek-V3 (arXiv 2412.19437) brought and many families took over: latent attention and its router."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from nexus_universal.architecture.feed_forward import ExpertGroups, FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import LatentAttention, OutputGate, SparseIndexer
from nexus_universal.architecture.position import Norm, YarnScaling
from nexus_universal.families.shared import rotary
from nexus_universal.families.shared.reader import TRAINING, ConfigReader

ALIASES = {"num_local_experts": "n_routed_experts", "num_mtp_layers": "num_nextn_predict_layers"}

IRRELEVANT = {
    "num_nextn_predict_layers": "counts multi-token prediction layers, which are passed over",
    "pretraining_tp": "split products in training; transformers no longer reads it",
    "ep_size": "says how training split the experts",
    **dict.fromkeys(("aux_loss_alpha", "seq_aux"), TRAINING),
}


@dataclass(frozen=True, kw_only=True)
class LatentSizes:
    """A family's defaults for the sizes of latent attention; `value` None is width / heads."""

    heads: int
    latent: int
    nope: int
    rope: int
    value: int | None


def latent_attention(
    reader: ConfigReader,
    *,
    context: int | None,
    query_rank: int | None,
    defaults: LatentSizes,
    width: int = 0,
    rotated: bool = True,
    gate: OutputGate | None = None,
    **rotation: Any,
) -> LatentAttention:
    """DeepSeek's latent attention; its two inner norms have epsilon 1e-6 whatever the config says.

    `rotation` is the form of a family's rotation where its configs leave no choice between two, if anything is
    `rotated`.
    """
    heads = reader.count("num_attention_heads", defaults.heads)
    rope_dim, nope_dim = (
        reader.count("qk_rope_head_dim", defaults.rope),
        reader.count("qk_nope_head_dim", defaults.nope),
    )
    reader.inert("num_key_value_heads", heads)
    reader.inert("head_dim", rope_dim)
    reader.inert("qk_head_dim", rope_dim + nope_dim)
    if rotated and not rotation:
        rotation = {"pairing": "interleaved_to_half" if reader.take("rope_interleave", True) else "half"}
    rope = rotary.rope(reader.section("rope_parameters"), context=context, **rotation) if rotated else None
    rank = reader.count("q_lora_rank", query_rank, optional=True)
    biased = reader.take("attention_bias", False)
    return LatentAttention(
        heads=heads,
        query_rank=rank,
        latent_rank=reader.count("kv_lora_rank", defaults.latent),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=reader.count("v_head_dim", defaults.value, optional=defaults.value is None) or width // heads,
        latent_norm=Norm(kind="rms", eps=1e-6),
        rope=rope,
        scale_by_yarn=bool(rope and isinstance(rope.scaling, YarnScaling) and rope.scaling.mscale_all_dim),
        gate=gate,
        biases=(("query_down", "latent_down", "output") if rank else ("latent_down", "output")) if biased else (),
    )


def sigmoid_router(
    reader: ConfigReader, *, scale: float, normalise: bool = True, groups: int = 1, kept: int = 1
) -> Router:
    """DeepSeek-V3's router: unbiased sigmoid weights, a bias that affects selection only; one group is no groups."""
    groups, kept = reader.count("n_group", groups), reader.count("topk_group", kept)
    normalise = reader.take("norm_topk_prob", normalise)
    return Router(
        score="sigmoid",
        normalise=normalise,
        selection_bias=True,
        groups=ExpertGroups(count=groups, keep=kept) if groups > 1 else None,
        sum_epsilon=1e-20 if normalise else 0.0,
        scale=reader.take("routed_scaling_factor", scale),
        logits="float32",
        order="unsorted",
    )


def experts(
    reader: ConfigReader,
    dense: FeedForward,
    router: Router,
    *,
    count: int,
    chosen: int,
    width: int,
    shared: int = 1,
    keys: tuple[str, str] = ("n_routed_experts", "n_shared_experts"),
) -> MixtureOfExperts:
    """Routed experts, and shared ones as a single wider one; activation and biases are those of the dense layers.

    The numbers are the reference class's defaults, `keys` the names of how many experts there are of each.
    """
    width = reader.count("moe_intermediate_size", width)
    return MixtureOfExperts(
        experts=reader.count(keys[0], count),
        per_token=reader.count("num_experts_per_tok", chosen),
        expert=FeedForward(width=width, activation=dense.activation),
        router=router,
        shared=replace(dense, width=width * reader.count(keys[1], shared)),
    )


def dense_first(
    reader: ConfigReader, dense: FeedForward, experts: MixtureOfExperts, *, layers: int, dense_layers: int
) -> list[FeedForward | MixtureOfExperts]:
    """One feed-forward per layer: dense in the first `first_k_dense_replace`, experts in the others."""
    layers, dense_layers = (
        reader.count("num_hidden_layers", layers),
        reader.take("first_k_dense_replace", dense_layers),
    )
    return [dense if index < dense_layers else experts for index in range(layers)]


def layer_kinds(reader: ConfigReader, *, layers: int, dense_layers: int) -> tuple[str, ...]:
    """Each layer's feed-forward, "dense" or "sparse": listed, or experts in every n-th layer after the first few."""
    depth = reader.count("num_hidden_layers", layers)
    first, every = reader.take("first_k_dense_replace", dense_layers), reader.count("moe_layer_freq", 1)
    derived = tuple("sparse" if i >= first and i % every == 0 else "dense" for i in range(depth))
    return reader.names("mlp_layer_types", length=depth, known=("dense", "sparse")) or derived


def sparse_indexer(reader: ConfigReader, attention: LatentAttention, *, heads: int, pairing: str) -> SparseIndexer:
    """The indexer of DeepSeek-V3.2: it turns as many dimensions as the attention, in pairs of its own kind."""
    assert attention.rope is not None
    head_dim = reader.count("index_head_dim", 128)
    return SparseIndexer(
        heads=reader.count("index_n_heads", heads),
        head_dim=head_dim,
        keep=reader.count("index_topk", 2048),
        key_norm=Norm(kind="layer", eps=1e-6, bias=True, rounding="native"),
        rope=replace(attention.rope, pairing=pairing),  # type: ignore[arg-type]
        rope_dim=attention.rope_dim,
    )


def inert(reader: ConfigReader) -> None:
    """Keys of published configs that the reference does not read, at the values that it computes."""
    for key, value in {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "moe_layer_freq": 1}.items():
        reader.inert(key, value)
    reader.inert("rope_interleave", True)
