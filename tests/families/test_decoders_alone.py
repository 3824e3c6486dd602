"""Decoders of encoder-decoders: found in files of the whole model, and what they carry along."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoModelForSeq2SeqLM, BartForCausalLM, BartForConditionalGeneration, BartModel

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, UnsupportedConfig
from nexus_universal.architecture.position import LearnedPositions
from tests.helpers import config, ids, pair, raw, reference, same, widen

BART_BASE: dict[str, Any] = {
    "activation_dropout": 0.1,
    "activation_function": "gelu",
    "add_bias_logits": False,
    "add_final_layer_norm": False,
    "architectures": ["BartModel"],
    "attention_dropout": 0.1,
    "bos_token_id": 0,
    "classif_dropout": 0.1,
    "classifier_dropout": 0.0,
    "d_model": 768,
    "decoder_attention_heads": 12,
    "decoder_ffn_dim": 3072,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 6,
    "decoder_start_token_id": 2,
    "dropout": 0.1,
    "early_stopping": True,
    "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 6,
    "eos_token_id": 2,
    "forced_bos_token_id": 0,
    "forced_eos_token_id": 2,
    "gradient_checkpointing": False,
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_position_embeddings": 1024,
    "model_type": "bart",
    "no_repeat_ngram_size": 3,
    "normalize_before": False,
    "normalize_embedding": True,
    "num_beams": 4,
    "num_hidden_layers": 6,
    "pad_token_id": 1,
    "scale_embedding": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 50265,
}


WHISPER_TINY: dict[str, Any] = {
    "activation_dropout": 0.0,
    "activation_function": "gelu",
    "attention_dropout": 0.0,
    "begin_suppress_tokens": [220, 50257],
    "bos_token_id": 50257,
    "d_model": 384,
    "decoder_attention_heads": 6,
    "decoder_ffn_dim": 1536,
    "decoder_layerdrop": 0.0,
    "decoder_layers": 4,
    "decoder_start_token_id": 50258,
    "dropout": 0.0,
    "encoder_attention_heads": 6,
    "encoder_ffn_dim": 1536,
    "encoder_layerdrop": 0.0,
    "encoder_layers": 4,
    "eos_token_id": 50257,
    "forced_decoder_ids": [[1, 50259], [2, 50359], [3, 50363]],
    "init_std": 0.02,
    "is_encoder_decoder": True,
    "max_length": 448,
    "max_source_positions": 1500,
    "max_target_positions": 448,
    "model_type": "whisper",
    "num_hidden_layers": 4,
    "num_mel_bins": 80,
    "pad_token_id": 50257,
    "scale_embedding": False,
    "torch_dtype": "float32",
    "use_cache": True,
    "vocab_size": 51865,
}
LLAMA_VISION: dict[str, Any] = {
    "image_token_index": 128256,
    "model_type": "mllama",
    "text_config": {
        "bos_token_id": 128000,
        "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "dropout": 0,
        "eos_token_id": 128001,
        "hidden_act": "silu",
        "hidden_size": 4096,
        "initializer_range": 0.02,
        "intermediate_size": 14336,
        "max_position_embeddings": 131072,
        "model_type": "mllama_text_model",
        "num_attention_heads": 32,
        "num_hidden_layers": 40,
        "num_key_value_heads": 8,
        "pad_token_id": 128004,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "factor": 8.0,
            "high_freq_factor": 4.0,
            "low_freq_factor": 1.0,
            "original_max_position_embeddings": 8192,
            "rope_type": "llama3",
        },
        "rope_theta": 500000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": 128256,
    },
    "torch_dtype": "bfloat16",
    "vision_config": {"model_type": "mllama_vision_model"},
}


def test_whisper_tiny() -> None:
    n = ArchitectureParameter.from_huggingface(WHISPER_TINY)
    part: Any = n.layers[0].steps[0].branches[0].part
    assert (part.scale, part.query_scale, part.biases) == (1.0, 64**-0.5, ("query", "value", "output"))
    assert n.embedding.positions == LearnedPositions(count=448) and n.embedding.scale is None
    assert n.final_norm == n.layers[0].steps[0].norm


def test_without_an_image_a_fifth_of_llamas_layers_does_nothing() -> None:
    n = ArchitectureParameter.from_huggingface(LLAMA_VISION)
    idle = [index for index, layer in enumerate(n.layers) if not list(layer.branches())]
    assert idle == LLAMA_VISION["text_config"]["cross_attention_layers"] and len(n.layers) == 40
    assert (n.d_vocab, n.embedding.rows, n.head.tied) == (128256, 128264, False)
    llama = {**LLAMA_VISION["text_config"], "model_type": "llama", "num_hidden_layers": 32}
    for key in ("cross_attention_layers", "dropout"):
        del llama[key]
    plain = ArchitectureParameter.from_huggingface(llama)
    assert [layer for index, layer in enumerate(n.layers) if index not in idle] == list(plain.layers)
    assert n.count().parameters == plain.count().parameters + 8 * 4096


def test_bart_base() -> None:
    n = ArchitectureParameter.from_huggingface(BART_BASE)
    assert (n.d_hidden, len(n.layers), n.d_vocab, n.head.tied, n.final_norm) == (768, 6, 50265, True, None)
    assert n.embedding.positions == LearnedPositions(count=1026, offset=2)
    assert all(step.norm is None and step.writes[0].norm == n.embedding.norm for step in n.layers[0].steps)
    # the published decoder, its attention to the encoder left out
    table, width, inner = 50265 * 768 + 1026 * 768 + 2 * 768, 768, 3072
    layer = 4 * (width * width + width) + 2 * width * inner + inner + width + 4 * width
    assert n.count().parameters == table + 6 * layer


@pytest.mark.parametrize("key", ["normalize_before", "normalize_embedding", "static_position_embeddings"])
def test_old_keys_say_what_the_class_does(key: str) -> None:
    """transformers reads none of them: at another value a config speaks of another model."""
    other = not BART_BASE.get(key, False)
    with pytest.raises(UnsupportedConfig, match=f"bart: {key} = {other}"):
        ArchitectureParameter.from_huggingface(BART_BASE | {key: other})


def whole(kind: Any, directory: Path) -> tuple[nn.Module, nn.Module]:
    """A whole encoder-decoder on disk, and its decoder as transformers takes it for a language model of its own."""
    settled = config("bart", encoder_layers=1, encoder_attention_heads=2, encoder_ffn_dim=20)
    model = widen(kind(settled)).eval()
    model.save_pretrained(directory)
    decoder = BartForCausalLM(config("bart")).eval()
    inner = model.model if hasattr(model, "model") else model
    decoder.model.decoder.load_state_dict(inner.decoder.state_dict())
    return model, decoder


@pytest.mark.parametrize("kind", [BartForConditionalGeneration, BartModel])
@torch.no_grad()
def test_a_decoder_is_found_in_a_file_of_the_whole_model(kind: Any, tmp_path: Path) -> None:
    """Its token table may stand there as the one that both halves share, and names may lack their first word."""
    _, decoder = whole(kind, tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    assert not any("embed_tokens" in name for name in held)
    ours = UniversalTransformer.from_pretrained(tmp_path)
    x = ids(2, 30)
    assert same(ours(x).logits, decoder(x, use_cache=False).logits)
    assert {name for name in held if "encoder." in name.replace("decoder.", "")} <= set(ours.passed_over)
    assert all("encoder_attn" in name for name in ours.carried) and len(ours.carried) == 2 * 10


def test_its_attention_to_an_encoder_is_carried_along(tmp_path: Path) -> None:
    whole(BartForConditionalGeneration, tmp_path / "whole")
    ours = UniversalTransformer.from_pretrained(tmp_path / "whole")
    ours.save_pretrained(tmp_path / "alone")
    before, after = (load_file(tmp_path / place / "model.safetensors") for place in ("whole", "alone"))
    kept = [name for name in before if "encoder_attn" in name]
    assert kept and all(same(before[name], after[name]) for name in kept)
    again = UniversalTransformer.from_pretrained(tmp_path / "alone", dtype="bfloat16")
    again.save_pretrained(tmp_path / "rounded")
    rounded = load_file(tmp_path / "rounded" / "model.safetensors")
    assert all(same(before[name].bfloat16(), rounded[name]) for name in kept)


def test_a_model_that_never_had_it_is_saved_without(tmp_path: Path) -> None:
    UniversalTransformer(pair("bart")[1].n).save_pretrained(tmp_path)
    assert not any("encoder_attn" in name for name in load_file(tmp_path / "model.safetensors"))


@torch.no_grad()
def test_sinusoids_are_computed_where_a_file_lacks_them(tmp_path: Path) -> None:
    """Files of Marian's whole model hold none."""
    theirs = reference("marian")
    theirs.save_pretrained(tmp_path)
    assert type(AutoModelForSeq2SeqLM.from_config(config("marian")))._keys_to_ignore_on_save
    held = load_file(tmp_path / "model.safetensors")
    assert held.pop("model.decoder.embed_positions.weight").shape == (96, 48)
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    ours = UniversalTransformer.from_pretrained(tmp_path)
    assert same(ours(ids(1, 90)).logits, theirs(ids(1, 90), use_cache=False).logits)


def test_layers_that_look_at_images_are_carried_along_and_no_others(tmp_path: Path) -> None:
    theirs, ours = pair("mllama")
    assert any("cross_attn" in name for name in ours.carried)
    assert {name.split(".")[2] for name in ours.carried} == {"1"}
    theirs.save_pretrained(tmp_path)
    held = load_file(tmp_path / "model.safetensors")
    held["model.layers.2.cross_attn.q_proj.weight"] = held["model.layers.1.cross_attn.q_proj.weight"].clone()
    save_file(held, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match=r"unexpected tensors: model\.layers\.2\.cross_attn"):
        UniversalTransformer.from_pretrained(tmp_path)


def test_a_vocabulary_of_the_decoders_own() -> None:
    n = ArchitectureParameter.from_huggingface(raw("marian", decoder_vocab_size=50, tie_word_embeddings=True))
    assert n.d_vocab == 50
    with pytest.raises(UnsupportedConfig, match=r"marian: decoder_vocab_size = 50 \(must be 97 unless"):
        ArchitectureParameter.from_huggingface(raw("marian", decoder_vocab_size=50, tie_word_embeddings=False))
