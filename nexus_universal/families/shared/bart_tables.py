"""Decoders of encoder-decoders, alone: the names of their tensors, the keys that speak of encoders, and their draws."""

from __future__ import annotations

from typing import Any, Literal

from nexus_universal.checkpoint.rules import WeightMap
from nexus_universal.families.shared import names
from nexus_universal.families.shared.reader import TRAINING

OF_ENCODER = "speaks of the encoder, of which nothing is built"
BUILT_ALONE = "the decoder alone is built, whatever its config says"
UNREAD = ("classif_dropout", "extra_pos_embeddings", "output_past", "save_step", "force_bos_token_to_be_generated")
LAYER = "model.decoder.layers.{i}"
LEFT_OUT = ("the encoder, and the attention to it",)

ALIASES = {"d_model": "hidden_size"}

IRRELEVANT = {
    **dict.fromkeys(("encoder_layers", "encoder_ffn_dim", "encoder_attention_heads", "encoder_layerdrop"), OF_ENCODER),
    **dict.fromkeys(("num_hidden_layers", "num_attention_heads"), "the encoder's, under another name"),
    **dict.fromkeys(("dropout", "activation_dropout", "decoder_layerdrop", "classifier_dropout"), TRAINING),
    **dict.fromkeys(("is_encoder_decoder", "is_decoder"), BUILT_ALONE),
    **dict.fromkeys(UNREAD, "an old key that the reference does not read"),
}

PASSED_OVER = {
    r"^(model\.)?encoder\.": "the encoder, which is left out",
    r"^(model\.)?shared\.weight$": "the table of encoder and decoder, of which the decoder has its own",
    r"^final_logits_bias$": "added behind an encoder only",
}
CARRIED = {r"^model\.decoder\.layers\.\d+\.encoder_attn": "the attention to an encoder, skipped where there is none"}

SINUSOIDS = {r"^model\.decoder\.embed_positions\.weight$": "sinusoids are computed from n"}

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "d_model": 48,
    "decoder_layers": 2,
    "decoder_attention_heads": 4,
    "decoder_ffn_dim": 80,
    "max_position_embeddings": 96,
    "forced_eos_token_id": None,
}

DRAWS: dict[str, tuple[Any, ...]] = {
    "decoder_layers": (2, 3, 1),
    "decoder_attention_heads": (4, 1, 6),
    "decoder_ffn_dim": (80, 56),
    "activation_function": ("gelu", "relu", "gelu_new", "silu"),
    "scale_embedding": (False, True),
    "max_position_embeddings": (96, 90),
    "tie_word_embeddings": (True, False),
    "pad_token_id": (1, None, 0),
}


def weights(*tables: names.Names, normed: Literal["before", "after"], sinusoids: bool = False) -> WeightMap:
    """The decoder's tensors; those of its attention to an encoder are kept, as are sinusoids, which n says."""
    norms = {
        "layers.{i}.attention": f"{LAYER}.self_attn_layer_norm",
        "layers.{i}.feed_forward": f"{LAYER}.final_layer_norm",
    }
    behind = "_norm" if normed == "before" else "_x_write_norm"
    tensors: names.Names = {
        "embedding.tokens": ("model.decoder.embed_tokens", "model.shared"),
        "embedding.positions": "model.decoder.embed_positions",
        "embedding.norm": "model.decoder.layernorm_embedding",
        **{f"{ours}{behind}": theirs for ours, theirs in norms.items()},
        **names.attention(LAYER),
        "layers.{i}.attention.output": f"{LAYER}.self_attn.out_proj",
        "layers.{i}.feed_forward.up": f"{LAYER}.fc1",
        "layers.{i}.feed_forward.down": f"{LAYER}.fc2",
        "final_norm": "model.decoder.layer_norm",
        "head": "lm_head",
    }
    for table in tables:
        tensors |= table
    if sinusoids:
        del tensors["embedding.positions"]
    carried = CARRIED | (SINUSOIDS if sinusoids else {})
    return WeightMap(tensors=tensors, passed_over=PASSED_OVER, carried=carried, optional_prefix="model.")
