"""CodeGen (arXiv 2203.13474): GPT-J with one matrix for queries, values and keys, in that order, in four shards."""

from __future__ import annotations

from dataclasses import replace

from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families import gptj
from nexus_universal.families.shared.reader import ConfigReader

SHARDS = 4
"""The cores of the machine that it was trained on: modeling_codegen.py."""

SPLIT = ("query", "key", "value")


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    heads = reader.count("num_attention_heads", 16)
    reader.require(heads % SHARDS == 0, "num_attention_heads", heads, f"must be a multiple of {SHARDS}")
    packing = (Packed(roles=("query", "value", "key"), groups=SHARDS),)
    rope = {"table": "float32", "product": "float32", "rounded": "kept"}
    return gptj.read(reader, rope=rope, packing=packing)


FAMILY = replace(
    gptj.FAMILY,
    model_type="codegen",
    title="CodeGen",
    read=read,
    weights=replace(
        gptj.FAMILY.weights,
        tensors={
            **{k: v for k, v in gptj.FAMILY.weights.tensors.items() if not k.endswith(SPLIT)},
            "layers.{i}.attention.query_value_key": f"{gptj.LAYER}.attn.qkv_proj",
        },
    ),
    draws=dict(gptj.FAMILY.draws) | {"n_head": (4, 8), "rotary_dim": (8, 4)},
)
