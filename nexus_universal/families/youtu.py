"""Youtu-LLM (Tencent): a dense decoder with the latent attention of DeepSeek-V3."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared import common, deepseek, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=16, latent=512, nope=128, rope=64, value=128)


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    std = 2.0 / (5.0 * reader.count("hidden_size", 2048)) ** 0.5
    text = common.text(reader, context=131072, bos=128000, eos=128001, pad=None, std=std)
    tokens_std = reader.number("embedding_initializer_range", None) or 2.0 * text.initializer_range
    text = replace(text, embedding_range=tokens_std)
    embedding = common.embedding(reader, vocab=128256, width=2048, pad=text.pad)
    norm = common.rms_norm(reader, 1e-6)
    attention = deepseek.latent_attention(reader, context=text.context, query_rank=1536, defaults=SIZES)
    mixers = [attention] * reader.count("num_hidden_layers", 32)
    layers = common.sequential(mixers, common.feed_forward(reader, 6144), norm=norm)
    return common.decoder(reader, text, embedding, layers, norm, tied=True)


FAMILY = Family(
    model_type="youtu",
    title="Youtu-LLM",
    read=read,
    weights=names.weights(names.latent_attention()),
    tiny=draws.TINY | draws.TINY_LATENT,
    draws=draws.DENSE | draws.LATENT | {"embedding_initializer_range": (None, 0.3)},
)
