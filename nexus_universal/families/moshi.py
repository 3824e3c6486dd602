"""Moshi's main transformer (arXiv 2410.00037), on text alone: Llama's, with gate and up in one matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace

from nexus_universal.architecture.mixers import Attention, Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, dense, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZE = dense.Size(context=3000, vocab=32000, width=4096, inner=22528, depth=32, heads=32, bos=None, eos=None, pad=None)
OF_SOUND = ("audio_encoder_config", "depth_decoder_config", "audio_vocab_size", "num_codebooks")
ATTENTION = f"{names.LAYER}.self_attn"
NAMES: names.Names = {
    **{f"layers.{{i}}.attention.{role}": f"{ATTENTION}.{role[0]}_proj.linear" for role in common.ALL_BIASES},
    "layers.{i}.feed_forward.gate_up": f"{names.LAYER}.mlp.fc1",
    "layers.{i}.feed_forward.down": f"{names.LAYER}.mlp.fc2",
}
HELD, PUBLISHED = ({place: before + place for place in ("model.", "lm_head")} for before in ("", "decoder."))


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    both = reader.count("ffn_dim", SIZE.inner)
    reader.require(both % 2 == 0, "ffn_dim", both, "must be even: it counts gate and up")
    reader.inert("intermediate_size", None)
    reader.values["intermediate_size"] = both // 2
    n = dense.decoder(
        reader,
        SIZE,
        common.rms_norm(reader, 1e-8, rounding="after_scale"),
        mixers=scaled,
        feed_forward={"packing": (Packed(roles=("gate", "up")),)},
        table={"spare": 1},
        null_head_dim=True,
        biases=(),
    )
    return replace(n, head=replace(n.head, tied=False))


def scaled(plain: Attention, depth: int) -> Iterable[Attention]:
    """Scaled by 1 / √d, which is not d^-0.5 in its last bit."""
    return [replace(plain, scale=1 / math.sqrt(plain.head_dim))] * depth


FAMILY = Family(
    model_type="moshi",
    title="Moshi (main transformer of)",
    read=read,
    weights=names.relocated(
        names.weights(NAMES),
        HELD,
        PUBLISHED,
        passed_over={r"^(audio_encoder|depth_decoder|embed_tokens)\.": "what hears and speaks is left out"},
    ),
    left_out=("the audio encoder and the depth decoder",),
    irrelevant=dict.fromkeys(OF_SOUND, "speaks of sound, of which nothing is built")
    | {
        "sliding_window": "bounds the reference's cache only, not what its full forward sees",
        "tie_word_embeddings": "the reference's head is its own",
    },
    tiny=draws.without(draws.TINY, "intermediate_size") | {"ffn_dim": 80},
    draws=draws.without(draws.DENSE, "attention_bias", "tie_word_embeddings")
    | {
        "num_key_value_heads": (2, 4, 1, None),
        "head_dim": (None, 12, 16),
        "ffn_dim": (80, 48),
        "num_hidden_layers": (2, 3),
        "pad_token_id": (None, 0, 97),
    },
)
