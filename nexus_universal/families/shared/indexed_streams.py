"""What Qwen4-Exp adds to Qwen3.5 in its config's words: chosen keys, n-grams, gated streams; and their tensors."""

from __future__ import annotations

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.indexers import PooledIndexer
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.position import Norm
from nexus_universal.checkpoint.rules import Direct, Numbered, Squeezed
from nexus_universal.families.shared import names
from nexus_universal.families.shared.reader import ConfigReader

LINEAR, INDEXED = "linear_attention", "indexed_attention"


def kinds(reader: ConfigReader) -> list[str]:
    """Each layer's mixer; published configs call indexed attention full."""
    depth, every = reader.count("num_hidden_layers", 40), reader.count("full_attention_interval", 4)
    listed = reader.names("layer_types", length=depth, known=(LINEAR, INDEXED, "full_attention"))
    derived = [LINEAR if (index + 1) % every else INDEXED for index in range(depth)]
    return [LINEAR if kind == LINEAR else INDEXED for kind in listed or derived]


def indexer(reader: ConfigReader, norm: Norm, *, needed: bool) -> PooledIndexer:
    """What chooses keys; without layers that do, nothing need be said of it."""
    keys = ("indexer_n_heads", "indexer_head_dim", "indexer_budget", "indexer_compress_ratio")
    found = [reader.count(key, None, optional=True) for key in keys]
    for key, value in zip(keys, found, strict=True):
        reader.require(value is not None or not needed, key, value, "must be given where layers choose keys")
    reader.inert("indexer_kv_heads", None, 1)
    heads, head_dim, budget, rate = (value or 1 for value in found)
    reader.require(budget % rate == 0, "indexer_budget", budget, f"must be a multiple of {rate}")
    return PooledIndexer(heads=heads, head_dim=head_dim, keep=budget // rate or 1, rate=rate, norm=norm)


def tabled(reader: ConfigReader, kinds: list[str]) -> list[int]:
    """The layers with tables of n-grams."""
    found = reader.take("ple_layer_ids", None, kinds=(list, type(None))) or []
    known = [index + 1 for index, kind in enumerate(kinds) if kind == LINEAR]
    tabled = all(type(number) is int and number in known for number in found)
    reader.require(tabled, "ple_layer_ids", found, f"known: {known}")
    return sorted({number - 1 for number in found}) if tabled else []


def ngrams(reader: ConfigReader, text: Text, norm: Norm, *, streams: int, vocab: int, width: int) -> HashedNgrams:
    """The first of these tables."""
    return HashedNgrams(
        streams=streams,
        order=reader.count("ngram_size", 3),
        heads=reader.count("heads_per_ngram", 8),
        width=reader.count("ple_embed_dim", None, optional=True) or width,
        kernel=reader.count("ple_conv_kernel_size", 4),
        norm=norm,
        separator=text.eos[0] if text.eos else 0,
        vocab=vocab,
        least=reader.count("ngram_vocab_size_base", 20_000_000),
        padded_to=reader.count("make_ngram_vocab_size_divisible_by", 128),
        seed=reader.take("seed", 1234),
        index=0,
    )


def _gate(ours: str, theirs: str) -> names.Names:
    roles = {"norm": "hc_norm", "down": "input_mix_weight_down", "up": "input_mix_weight_up"}
    return {f"{ours}.gate.{role}": f"{theirs}.{name}" for role, name in roles.items()}


OURS, LAYER = "layers.{i}", names.LAYER
PER_LAYER, TABLE = f"{LAYER}.ple", f"{LAYER}.ple.ple_embedding"
NGRAMS = {
    "key": "key_proj",
    "value": "value_proj",
    "key_norm": "norm_key",
    "query_norm": "norm_query",
    "convolution_norm": "norm_conv",
}
HASHES = {"multipliers": "layer_multipliers", "rows": "ngram_heads_vocab_sizes", "offsets": "ngram_heads_offsets"}

TENSORS: names.Names = {
    **{
        f"{OURS}.attention.indexer.{role}": f"{LAYER}.self_attn.indexer.{name}"
        for role, name in (("query_key", "index_qk_proj"), ("query_norm", "q_layernorm"), ("key_norm", "k_layernorm"))
    },
    **{f"{OURS}.ngrams.{role}": f"{PER_LAYER}.{name}" for role, name in NGRAMS.items()},
    **{f"{OURS}.ngrams.{role}": Direct(f"{TABLE}.{name}") for role, name in HASHES.items()},
    f"{OURS}.ngrams.convolution": Squeezed(f"{PER_LAYER}.conv1d.weight", axis=1),
    f"{OURS}.ngrams.table.weight": (
        Numbered(f"{TABLE}.ngram_embedding.shard_{{e}}.weight"),
        Direct(f"{TABLE}.ngram_embedding.weight"),
    ),
    **_gate("streams", "model.hyper_connection_mixer"),
}
for part, name in ((LINEAR, "attn"), ("attention", "attn"), ("feed_forward", "mlp")):
    connection, module = f"{OURS}.{part}_connection", f"{LAYER}.{name}_hyper_connection"
    TENSORS |= _gate(connection, module) | {f"{connection}.inject": f"{module}.block_inject_weight"}
