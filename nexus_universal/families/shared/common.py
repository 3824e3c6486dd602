"""What many families share in their configs: ends, norms, positions, latent attention, layer patterns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from nexus_universal.architecture.ends import Embedding, Text
from nexus_universal.architecture.feed_forward import ExpertGroups, Router
from nexus_universal.architecture.mixers import LatentAttention
from nexus_universal.architecture.position import (
    DynamicScaling,
    LinearScaling,
    Llama3Scaling,
    LongRopeScaling,
    Norm,
    ProportionalScaling,
    Rope,
    Scaling,
    YarnScaling,
)
from nexus_universal.families.shared.reader import ConfigReader

ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_new",
    "gelu_accurate": "gelu_new",
    "gelu_fast": "gelu_fast",
    "quick_gelu": "gelu_quick",
    "relu": "relu",
    "relu2": "relu_squared",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
}


@dataclass(frozen=True, kw_only=True)
class LatentSizes:
    """A family's defaults for the sizes of latent attention."""

    heads: int
    latent: int
    nope: int
    rope: int
    value: int


ALL_BIASES = ("query", "key", "value", "output")


def text(
    reader: ConfigReader,
    *,
    context: int,
    bos: int | None,
    eos: int | None,
    pad: int | None,
    scaled_residual: bool = False,
) -> Text:
    """Special tokens, context and dtype; the arguments are the reference class's defaults."""
    ends = reader.take("eos_token_id", eos, kinds=(int, list, type(None)))
    if isinstance(ends, list) and any(type(end) is not int for end in ends):
        raise reader.refuse("eos_token_id", ends, "must be a whole number or a list of them")
    return Text(
        context=reader.count("max_position_embeddings", context),
        bos=reader.take("bos_token_id", bos, kinds=(int, type(None))),
        eos=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        pad=reader.take("pad_token_id", pad, kinds=(int, type(None))),
        use_cache=reader.take("use_cache", True),
        dtype=reader.take("dtype", None, known=(None, "float32", "float16", "bfloat16", "float64")),
        initializer_range=reader.take("initializer_range", 0.02),
        scaled_residual=scaled_residual,
    )


def embedding(reader: ConfigReader, *, vocab: int, width: int, pad: int | None, **scale: Any) -> Embedding:
    """The token table; the pad row gets no gradient (a negative pad counts from the end, as in torch)."""
    vocab, width = reader.count("vocab_size", vocab), reader.count("hidden_size", width)
    padding_row = vocab + pad if pad is not None and pad < 0 else pad
    if padding_row is not None and not 0 <= padding_row < vocab:
        raise reader.refuse("pad_token_id", pad, f"must lie in the vocabulary of {vocab}")
    return Embedding(vocab=vocab, width=width, padding_row=padding_row, **scale)


def rms_norm(reader: ConfigReader, eps: float, **kind: Any) -> Norm:
    """The family's RMSNorm, its epsilon under `rms_norm_eps`."""
    return Norm(kind="rms", eps=reader.take("rms_norm_eps", eps), **kind)


def activation(reader: ConfigReader, key: str = "hidden_act", default: str = "silu") -> Any:
    """The activation's name in n."""
    return reader.take(key, default, known=ACTIVATIONS)


def kv_heads(reader: ConfigReader, heads: int, default: int | None = None) -> int:
    """Key/value heads; null means as many as heads."""
    found = reader.count("num_key_value_heads", default, optional=True)
    return heads if found is None else found


def rope(
    reader: ConfigReader, *, context: int | None, takes_fraction: bool = False, nested: bool = False, **form: Any
) -> Rope:
    """The rotation under a `rope_parameters` section.

    `takes_fraction`: whether this family honours a partial factor. `nested`: one section per layer type; the reference
    then looks for yarn's `truncate` in the wrong place, so only its default can be expressed.
    """
    kind = reader.take("rope_type", "default", known=("default", *SCALINGS))
    if nested:
        reader.inert("truncate", True)
    scaling = SCALINGS[kind](reader, context) if kind != "default" else None
    fraction = reader.take("partial_rotary_factor", 1.0)
    if fraction != 1.0 and not takes_fraction and kind != "proportional":
        raise reader.refuse("partial_rotary_factor", fraction, "this family rotates whole heads: known: 1.0")
    return Rope(theta=reader.take("rope_theta", 10000.0), fraction=fraction, scaling=scaling, **form)


def _linear(reader: ConfigReader, context: int | None) -> Scaling:
    return LinearScaling(factor=reader.number("factor"))


def _dynamic(reader: ConfigReader, context: int | None) -> Scaling:
    return DynamicScaling(factor=reader.number("factor"), context=_known(reader, context))


def _llama3(reader: ConfigReader, context: int | None) -> Scaling:
    return Llama3Scaling(
        factor=reader.number("factor"),
        low_frequency_factor=reader.number("low_freq_factor"),
        high_frequency_factor=reader.number("high_freq_factor"),
        original_context=reader.count("original_max_position_embeddings"),
    )


def _context_ratio(reader: ConfigReader, context: int | None) -> tuple[float, int]:
    """The factor, or the ratio of the contexts where none is given; and the original context."""
    original = reader.count("original_max_position_embeddings")
    factor = reader.number("factor", None)
    return (_known(reader, context) / original if factor is None else factor), original


def _known(reader: ConfigReader, context: int | None) -> int:
    """A context that a scaling cannot do without."""
    if context is None:
        raise reader.refuse("rope_type", reader.values.get("rope_type"), "needs max_position_embeddings")
    return context


def _yarn(reader: ConfigReader, context: int | None) -> Scaling:
    factor, original = _context_ratio(reader, context)
    return YarnScaling(
        factor=factor,
        original_context=original,
        beta_fast=reader.number("beta_fast", None) or 32.0,
        beta_slow=reader.number("beta_slow", None) or 1.0,
        truncate=reader.take("truncate", True),
        attention_factor=reader.number("attention_factor", None),
        mscale=reader.number("mscale", None),
        mscale_all_dim=reader.number("mscale_all_dim", None),
    )


def _longrope(reader: ConfigReader, context: int | None) -> Scaling:
    factor, original = _context_ratio(reader, context)
    return LongRopeScaling(
        factor=factor,
        short_factors=reader.numbers("short_factor"),
        long_factors=reader.numbers("long_factor"),
        original_context=original,
        attention_factor=reader.number("attention_factor", None),
    )


def _proportional(reader: ConfigReader, context: int | None) -> Scaling:
    return ProportionalScaling(factor=reader.take("factor", 1.0))


SCALINGS: dict[str, Callable[[ConfigReader, int | None], Scaling]] = {
    "linear": _linear,
    "dynamic": _dynamic,
    "llama3": _llama3,
    "yarn": _yarn,
    "longrope": _longrope,
    "proportional": _proportional,
}


def layer_types(
    reader: ConfigReader,
    layers: int,
    *,
    full_every: int | None = None,
    full_until: int | None = None,
    other: str = "sliding_attention",
    pattern_key: str = "sliding_window_pattern",
) -> tuple[str, ...]:
    """The kind of each layer: listed, or full attention in every n-th layer (or below a layer), `other` elsewhere."""
    listed = reader.names("layer_types", length=layers, known=("full_attention", other))
    if full_every is not None:
        every = reader.count(pattern_key, full_every)
        derived = tuple(other if (index + 1) % every else "full_attention" for index in range(layers))
    else:
        derived = tuple(other if index >= (full_until or 0) else "full_attention" for index in range(layers))
    return listed or derived


def window_if_used(reader: ConfigReader, default: int = 4096) -> int | None:
    """Qwen's window, which counts only where `use_sliding_window` says so."""
    window = reader.count("sliding_window", default, optional=True)
    return window if reader.take("use_sliding_window", False) else None


def sparse_layers(reader: ConfigReader, layers: int) -> tuple[bool, ...]:
    """Which layers have experts: every `decoder_sparse_step`-th, but for those in `mlp_only_layers`."""
    step = reader.count("decoder_sparse_step", 1)
    dense = reader.take("mlp_only_layers", [], kinds=(list, type(None))) or []
    if any(type(index) is not int for index in dense):
        raise reader.refuse("mlp_only_layers", dense, "must be a list of layer indices")
    return tuple(index not in dense and (index + 1) % step == 0 for index in range(layers))


def latent_attention(
    reader: ConfigReader, *, context: int | None, query_rank: int | None, defaults: LatentSizes
) -> LatentAttention:
    """DeepSeek's latent attention; its two inner norms have epsilon 1e-6 whatever the config says."""
    heads = reader.count("num_attention_heads", defaults.heads)
    rope_dim, nope_dim = (
        reader.count("qk_rope_head_dim", defaults.rope),
        reader.count("qk_nope_head_dim", defaults.nope),
    )
    reader.inert("num_key_value_heads", heads)
    reader.inert("head_dim", rope_dim)
    reader.inert("qk_head_dim", rope_dim + nope_dim)
    rotation = rope(
        reader.section("rope_parameters"),
        context=context,
        pairing="interleaved_to_half" if reader.take("rope_interleave", True) else "half",
    )
    rank = reader.count("q_lora_rank", query_rank, optional=True)
    biased = reader.take("attention_bias", False)
    return LatentAttention(
        heads=heads,
        query_rank=rank,
        latent_rank=reader.count("kv_lora_rank", defaults.latent),
        nope_dim=nope_dim,
        rope_dim=rope_dim,
        value_dim=reader.count("v_head_dim", defaults.value),
        latent_norm=Norm(kind="rms", eps=1e-6),
        rope=rotation,
        scale_by_yarn=isinstance(rotation.scaling, YarnScaling) and bool(rotation.scaling.mscale_all_dim),
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
