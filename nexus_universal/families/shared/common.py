"""What many families share in their configs: ends, norms, attention, feed-forward, layer patterns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import repeat
from typing import Any

from nexus_universal.architecture.ends import Embedding, Head, Text
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm, Rope
from nexus_universal.architecture.program import Program, parallel_layer, sequential_layer
from nexus_universal.families.shared import rotary
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


WINDOW_IF_USED = "needs use_sliding_window = true and a sliding_window"

ALL_BIASES = ("query", "key", "value", "output")
INPUT_BIASES = ("query", "key", "value")


def text(
    reader: ConfigReader,
    *,
    context: int | None,
    bos: int | None,
    eos: int | list[int] | None,
    pad: int | None,
    std: float = 0.02,
    cached: bool = True,
    **start: Any,
) -> Text:
    """Special tokens, context and dtype; the arguments are the reference class's defaults.

    A `context` of None is none at all; `start` says how weights are initialised.
    """
    ends = reader.take("eos_token_id", eos, kinds=(int, list, type(None)))
    if ends is None and isinstance(eos, list):
        ends = eos  # a class that has several puts them in the place of null, too (GLM)
    if isinstance(ends, list) and any(type(end) is not int for end in ends):
        raise reader.refuse("eos_token_id", ends, "must be a whole number or a list of them")
    return Text(
        context=reader.count("max_position_embeddings", context, optional=context is None),
        bos=reader.take("bos_token_id", bos, kinds=(int, type(None))),
        eos=tuple(ends) if isinstance(ends, list) else () if ends is None else (ends,),
        pad=reader.take("pad_token_id", pad, kinds=(int, type(None))),
        use_cache=reader.take("use_cache", cached),
        dtype=reader.take("dtype", None, known=(None, "float32", "float16", "bfloat16", "float64")),
        initializer_range=reader.take("initializer_range", std),
        **start,
    )


def embedding(reader: ConfigReader, *, vocab: int, width: int, pad: int | None, **scale: Any) -> Embedding:
    """The token table; the pad row gets no gradient (a negative pad counts from the end, as in torch)."""
    vocab, width = reader.count("vocab_size", vocab), reader.count("hidden_size", width)
    rows = vocab + scale.get("spare", 0)
    padding_row = rows + pad if pad is not None and pad < 0 else pad
    inside = padding_row is None or 0 <= padding_row < rows
    reader.require(inside, "pad_token_id", pad, f"must lie in the vocabulary of {rows}")
    return Embedding(vocab=vocab, width=width, padding_row=padding_row, **scale)


def rms_norm(reader: ConfigReader, eps: float, **kind: Any) -> Norm:
    """The family's RMSNorm, its epsilon under `rms_norm_eps`."""
    return Norm(kind="rms", eps=reader.take("rms_norm_eps", eps), **kind)


def activation(
    reader: ConfigReader, key: str = "hidden_act", default: str = "silu", known: Mapping[str, str] = ACTIVATIONS
) -> Any:
    """The activation's name in n."""
    return reader.take(key, default, known=known)


def ends(
    reader: ConfigReader,
    *,
    context: int,
    vocab: int,
    width: int,
    bos: int | None = None,
    eos: int | list[int] | None = None,
    pad: int | None = None,
    **table: Any,
) -> tuple[Text, Embedding]:
    """`text` and `embedding` together; the arguments are the reference class's defaults."""
    said = text(reader, context=context, bos=bos, eos=eos, pad=pad)
    return said, embedding(reader, vocab=vocab, width=width, pad=said.pad, **table)


def attention(
    reader: ConfigReader,
    text: Text,
    width: int,
    *,
    heads: int,
    kv_heads: int | None = None,
    head_dim: int | None = None,
    rope: Rope | None = None,
    rotated: bool = True,
    biases: tuple[str, ...] | None = None,
    biased: tuple[str, ...] = ALL_BIASES,
    null_head_dim: bool = False,
    **fields: Any,
) -> Attention:
    """Softmax attention under the usual keys; the numbers are the reference class's defaults.

    `kv_heads` None (or null in the config) means as many as heads, `head_dim` None width / heads. `biases` None asks
    `attention_bias` whether the roles `biased` have one. `null_head_dim` takes null for width / heads, too. `rope` None
    reads a plain rotation, unless nothing is `rotated`.
    """
    written_out(reader, fields.get("kernel", ""))
    heads = reader.count("num_attention_heads", heads)
    shared = reader.count("num_key_value_heads", kv_heads, optional=True)
    if biases is None:
        biases = biased if reader.take("attention_bias", False) else ()
    return Attention(
        heads=heads,
        kv_heads=heads if shared is None else shared,
        head_dim=reader.count("head_dim", head_dim, optional=null_head_dim or head_dim is None) or width // heads,
        rope=(rope or rotary.rope(reader.section("rope_parameters"), context=text.context)) if rotated else None,
        biases=biases,  # type: ignore[arg-type]
        **fields,
    )


def written_out(reader: ConfigReader, kernel: str) -> None:
    """A config may ask for the eager form where the reference class has no other."""
    if kernel.startswith("eager"):
        reader.inert("attn_implementation", None, "eager")
        reader.inert("_attn_implementation", None, "eager")


def feed_forward(
    reader: ConfigReader,
    width: int,
    *,
    key: str = "hidden_act",
    act: str = "silu",
    known: Mapping[str, str] = ACTIVATIONS,
    **fields: Any,
) -> FeedForward:
    """A feed-forward of `intermediate_size`, its activation (one of those that are known) under `key`."""
    return FeedForward(
        width=reader.count("intermediate_size", width), activation=activation(reader, key, act, known), **fields
    )


def sequential(
    mixers: Iterable[Part],
    feed_forwards: Iterable[Part] | Part,
    *,
    norm: Norm | None,
    output_norm: Norm | None = None,
    scale: float | None = None,
    sum_norm: Norm | None = None,
) -> tuple[Program, ...]:
    """Layer by layer one mixer, then one feed-forward (or the same in all); equal layers are one program.

    `scale` multiplies what each adds to the residual; `sum_norm` norms the sum.
    """
    norms = {"norm": norm, "output_norm": output_norm, "sum_norm": sum_norm}
    made: dict[tuple[Part, Part], Program] = {}
    pairs = zip(mixers, repeat(feed_forwards) if isinstance(feed_forwards, Part) else feed_forwards, strict=False)
    return tuple(
        made.get(pair)
        or made.setdefault(
            pair,
            sequential_layer(("attention", pair[0]), ("feed_forward", pair[1]), scale=scale, **norms),
        )
        for pair in pairs
    )


def parallel(
    mixers: Iterable[Part], feed_forward: Part, *, norm: Norm | None, sum_order: tuple[str, ...]
) -> tuple[Program, ...]:
    """Layer by layer one mixer beside the feed-forward, both behind the same norm; equal layers are one program."""
    made: dict[Part, Program] = {}
    for mixer in (mixers := tuple(mixers)):
        if mixer not in made:
            pairs = ("attention", mixer), ("feed_forward", feed_forward)
            made[mixer] = parallel_layer(*pairs, norm=norm, sum_order=sum_order)
    return tuple(made[mixer] for mixer in mixers)


def decoder(
    reader: ConfigReader,
    text: Text,
    embedding: Embedding,
    layers: Iterable[Program],
    norm: Norm | None,
    *,
    tied: bool = False,
    **head: Any,
) -> ArchitectureParameter:
    """The whole n; `tied` is the reference class's default."""
    return ArchitectureParameter(
        embedding=embedding,
        layers=tuple(layers),
        final_norm=norm,
        head=Head(tied=reader.take("tie_word_embeddings", tied), **head),
        text=text,
    )


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


def cycled_types(reader: ConfigReader, layers: int, cycle: tuple[str, ...]) -> tuple[str, ...]:
    """The kind of each layer: listed, or the cycle over and over."""
    return reader.names("layer_types", length=layers, known=tuple(sorted(set(cycle)))) or (cycle * layers)[:layers]


def windowed(kinds: Iterable[str], full: Attention, *, sliding: Attention) -> tuple[Attention, ...]:
    """The attention of each kind of layer."""
    return tuple(sliding if kind == "sliding_attention" else full for kind in kinds)


def windowed_by(
    kinds: Iterable[str], full: Attention, window: int | None, reader: ConfigReader, *, needs: str, **fields: Any
) -> tuple[Attention, ...]:
    """The attention of each kind of layer, `fields` those of a windowed one; a window without a width `needs` it."""
    kinds = tuple(kinds)
    reader.require(window is not None or "sliding_attention" not in kinds, "layer_types", "sliding_attention", needs)
    return windowed(kinds, full, sliding=replace(full, window=window, **fields))


def windowed_above(reader: ConfigReader, attention: Attention, layers: int) -> tuple[Attention, ...]:
    """Qwen's windows: in the layers that `layer_types` names, or from `max_window_layers` on, if they are used."""
    window = window_if_used(reader)
    first = reader.take("max_window_layers", 28)
    kinds = layer_types(reader, layers, full_until=first if window else layers)
    return windowed_by(kinds, attention, window, reader, needs=WINDOW_IF_USED)


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


def softmax_experts(
    reader: ConfigReader, expert: FeedForward, *, count: int, chosen: int, normalise: bool = False
) -> MixtureOfExperts:
    """Experts chosen by a softmax over all; the numbers are the reference class's defaults."""
    return MixtureOfExperts(
        experts=reader.count("num_experts", count),
        per_token=reader.count("num_experts_per_tok", chosen),
        expert=expert,
        router=Router(score="softmax", normalise=reader.take("norm_topk_prob", normalise), weights="model"),
    )


def dense_or_sparse(
    reader: ConfigReader, layers: int, dense: FeedForward, experts: MixtureOfExperts, *, dense_layers: int
) -> tuple[FeedForward | MixtureOfExperts, ...]:
    """The feed-forward of each layer: as `mlp_layer_types` lists them, or experts behind the first few."""
    listed = reader.names("mlp_layer_types", length=layers, known=("dense", "sparse"))
    kinds = listed or tuple("dense" if index < dense_layers else "sparse" for index in range(layers))
    return tuple(experts if kind == "sparse" else dense for kind in kinds)
