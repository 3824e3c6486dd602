"""GLM-5: DeepSeek-V3.2's sparse attention, where most layers reuse the keys that an earlier one chose (2603.12201)."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import ReusedIndices
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import deepseek_v32
from nexus_universal.families.shared import common, deepseek
from nexus_universal.families.shared.reader import ConfigReader

SIZES = deepseek.LatentSizes(heads=64, latent=512, nope=192, rope=64, value=256)
MODES = ("full", "shared")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=202752, vocab=154880, width=6144, bos=0, eos=1)
    norm, pairing = common.rms_norm(reader, 1e-5), "interleaved_to_half"
    plain = deepseek.latent_attention(reader, context=text.context, query_rank=2048, defaults=SIZES, pairing=pairing)
    indexer = replace(deepseek.sparse_indexer(reader, plain, heads=32, pairing=pairing), emit="chosen")
    mixers = {"full": replace(plain, indexer=indexer), "shared": replace(plain, indexer=ReusedIndices(reuse="chosen"))}
    dense = common.feed_forward(reader, 12288)
    router = deepseek.sigmoid_router(reader, scale=2.5)
    experts = deepseek.experts(reader, dense, router, count=256, chosen=8, width=2048)
    feed_forwards = {"dense": dense, "sparse": experts}
    kinds = deepseek.layer_kinds(reader, layers=78, dense_layers=3)
    chosen = (mixers[mode] for mode in _modes(reader, len(kinds)))
    layers = common.sequential(chosen, [feed_forwards[kind] for kind in kinds], norm=norm)
    reader.names("layer_types", length=len(kinds), known=("indexed_attention",))
    deepseek.inert(reader)
    reader.inert("indexer_rope_interleave", True)
    reader.inert("moe_router_dtype", "float32")
    return common.decoder(reader, text, embedding, layers, norm)


def _modes(reader: ConfigReader, depth: int) -> tuple[str, ...]:
    """Which layers choose keys and which reuse them: listed, as a string of F and S, or one of every few chooses."""
    listed = reader.names("indexer_types", length=depth, known=MODES)
    every, offset = reader.count("index_topk_freq", 1), reader.count("index_skip_topk_offset", 2)
    derived = tuple(MODES[max(index - offset + 1, 0) % every > 0] for index in range(depth))
    pattern = reader.take("index_topk_pattern", None, kinds=(str, list, type(None)))
    if isinstance(pattern, str):
        pattern = [{"F": "full", "S": "shared"}.get(letter) for letter in pattern]
    fits = pattern is None or (len(pattern) == depth and set(pattern) <= set(MODES))
    reader.require(fits, "index_topk_pattern", pattern, f"must name 'full' (F) or 'shared' (S) for {depth} layers")
    return listed or (tuple(map(str, pattern)) if pattern and fits else derived)


FAMILY = replace(
    deepseek_v32.FAMILY,
    model_type="glm_moe_dsa",
    title="GLM-5",
    read=read,
    irrelevant={
        **deepseek_v32.FAMILY.irrelevant,
        "index_share_for_mtp_iteration": "speaks of multi-token prediction, which is passed over",
    },
    tiny={**deepseek_v32.FAMILY.tiny, "index_topk_freq": 2, "index_skip_topk_offset": 2, "index_topk_pattern": None},
    draws={
        **deepseek_v32.FAMILY.draws,
        "indexer_types": (None, ["full", "shared", "shared"]),
        "index_topk_freq": (2, 1),
        "index_skip_topk_offset": (2, 1),
        "index_topk_pattern": (None, "FSF"),
    },
)
