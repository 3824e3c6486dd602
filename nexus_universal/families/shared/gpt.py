"""GPT-2's relatives: LayerNorms, a feed-forward without gate, as many keys as queries, and a few old key names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from nexus_universal.architecture.feed_forward import FeedForward
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import LearnedPositions, Norm, SinusoidPositions
from nexus_universal.families.shared import common
from nexus_universal.families.shared.dense import Size
from nexus_universal.families.shared.reader import LABELS, TRAINING, ConfigReader

Positions = LearnedPositions | SinusoidPositions

ALIASES = {
    "n_embd": "hidden_size",
    "n_positions": "max_position_embeddings",
    "n_head": "num_attention_heads",
    "n_layer": "num_hidden_layers",
}

IRRELEVANT = {
    **dict.fromkeys(("resid_pdrop", "embd_pdrop", "attn_pdrop"), TRAINING),
    **dict.fromkeys(("summary_type", "summary_use_proj", "summary_activation", "summary_proj_to_labels"), LABELS),
    "summary_first_dropout": LABELS,
    "n_ctx": "an old name of n_positions that the reference does not read",
}

TINY: dict[str, Any] = {"vocab_size": 97, "n_embd": 48, "n_layer": 2, "n_head": 4, "n_positions": 96}

DRAWS: dict[str, tuple[Any, ...]] = {
    "n_head": (4, 1, 6),
    "n_inner": (None, 56),
    "activation_function": ("gelu_new", "gelu", "relu", "gelu_pytorch_tanh"),
    "layer_norm_epsilon": (1e-5, 1e-3),
    "tie_word_embeddings": (True, False),
    "n_layer": (2, 3),
}

FAIRSEQ = {
    "attention_norm": "self_attn_layer_norm",
    "attention_x_write_norm": "self_attn_layer_norm",
    "attention.query": "self_attn.q_proj",
    "attention.key": "self_attn.k_proj",
    "attention.value": "self_attn.v_proj",
    "attention.output": "self_attn.out_proj",
    "feed_forward_norm": "final_layer_norm",
    "feed_forward_x_write_norm": "final_layer_norm",
    "feed_forward.up": "fc1",
    "feed_forward.down": "fc2",
}
"""What fairseq's decoders call a layer's modules."""


def norm(reader: ConfigReader, *, key: str = "layer_norm_epsilon", eps: float = 1e-5, bias: bool = True) -> Norm:
    """The LayerNorm of these families."""
    return Norm(kind="layer", eps=reader.take(key, eps), bias=bias, rounding="native")


def decoder(
    reader: ConfigReader,
    size: Size,
    norm: Norm,
    *,
    attention: Callable[[int, int], Mapping[str, Any]],
    positions: Callable[[int], Positions] | None = None,
    mixers: Callable[[Attention, int], Iterable[Attention]] | None = None,
    inner: str | int | None = "n_inner",
    act: str | None = "activation_function",
    known: Mapping[str, str] = common.ACTIVATIONS,
    default_act: str = "gelu_new",
    biases: tuple[str, ...] = ("up", "down"),
    normed: str = "before",
    final_norm: Norm | None = None,
    parallel: tuple[str, ...] = (),
    start: Mapping[str, Any] | None = None,
    table: Mapping[str, Any] | None = None,
    head: Mapping[str, Any] | None = None,
) -> ArchitectureParameter:
    """The n of a config.

    `attention` gives the attention's fields for the number of heads and their width, `positions` the table of a
    context; `mixers` makes the layers' attentions of the plain one and the depth. `inner` is the key of the
    feed-forward's width or that width, four times the model's where it is None or null; `act` is the key of its
    activation, None where it is always the default. `normed`: whether norms stand "before" what a sublayer reads, or
    "after" its sum with x. `parallel` lets both sublayers read one norm, and is the order in which they and x are
    added. `start`, `table` and `head` are further fields of the text, the embedding and the head.
    """
    text = common.text(reader, context=size.context, bos=size.bos, eos=size.eos, pad=size.pad, **(start or {}))
    made: dict[str, Any] = {"positions": positions(text.context or 0)} if positions else {}
    embedding = common.embedding(
        reader, vocab=size.vocab, width=size.width, **({"pad": None} | made | dict(table or {}))
    )
    width, heads = embedding.width, reader.count("num_attention_heads", size.heads)
    reader.require(width % heads == 0, "num_attention_heads", heads, f"must divide {width}")
    fields = {"kv_heads": heads, "head_dim": width // heads, "biases": common.ALL_BIASES}
    common.written_out(reader, str(attention(heads, width // heads).get("kernel")))
    plain = Attention(heads=heads, **(fields | dict(attention(heads, width // heads))))
    depth = reader.count("num_hidden_layers", size.depth)
    attentions = tuple(mixers(plain, depth) if mixers else [plain] * depth)
    if isinstance(inner, str):
        wide = reader.count(inner, size.inner or None, optional=not size.inner)
    else:
        wide = inner
    feed_forward = FeedForward(
        width=wide or 4 * width,
        activation=common.activation(reader, act, default_act, known) if act else known[default_act],  # type: ignore[arg-type]
        gated=False,
        biases=biases,  # type: ignore[arg-type]
    )
    if parallel:
        layers = common.parallel(attentions, feed_forward, norm=norm, sum_order=parallel)
    else:
        before, after = (norm, None) if normed == "before" else (None, norm)
        layers = common.sequential(attentions, feed_forward, norm=before, sum_norm=after)
    last = final_norm or (norm if normed == "before" else None)
    return common.decoder(reader, text, embedding, layers, last, tied=size.tied, **(head or {}))


def named(layer: str, table: Mapping[str, str]) -> dict[str, str]:
    """Tensors of a layer, by role and the reference's module."""
    return {f"layers.{{i}}.{role}": f"{layer}.{module}" for role, module in table.items()}
