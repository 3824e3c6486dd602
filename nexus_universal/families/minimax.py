"""MiniMax-Text-01, MiniMax-M1 (arXiv 2501.08313): lightning and softmax attention, a residual of normed inputs."""

from __future__ import annotations

from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Step, Term, Write
from nexus_universal.architecture.recurrences import LightningAttention
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.reader import ConfigReader

KINDS = ("full_attention", "linear_attention")
DECAYS = {"slope": "slope_rate", "pair_decay": "diagonal_decay", "query_decay": "query_decay", "key_decay": "key_decay"}
EXPERTS = "model.layers.{i}.block_sparse_moe"


def read(reader: ConfigReader) -> ArchitectureParameter:
    """The n of a config."""
    text, embedding = common.ends(reader, context=131072, vocab=32000, width=4096, bos=1, eos=2)
    norm, depth = common.rms_norm(reader, 1e-5), reader.count("num_hidden_layers", 32)
    window = reader.count("sliding_window", optional=True)
    form = {"window": window, "keeps": "all" if window else "window", "null_head_dim": True}  # its own class of cache
    attention = common.attention(reader, text, embedding.width, heads=32, kv_heads=8, biases=(), **form)
    expert = common.feed_forward(reader, 14336)
    lightning = LightningAttention(
        heads=attention.heads,
        head_dim=attention.head_dim,
        depth=depth,
        norm=Norm(kind="rms", eps=1e-6),
        activation=common.activation(reader),
        block=reader.count("block_size", 256),
        packing=(Packed(roles=("query", "key", "value"), groups=attention.heads),),
    )
    experts = MixtureOfExperts(
        experts=reader.count("num_local_experts", 8),
        per_token=reader.count("num_experts_per_tok", 2),
        expert=expert,
        router=Router(score="softmax", normalise=True),
    )
    feeding = _step(reader, "mlp", "feed_forward", experts, norm)
    layers = {
        "full_attention": Program(steps=(_step(reader, "full_attn", "attention", attention, norm), feeding)),
        "linear_attention": Program(steps=(_step(reader, "linear_attn", "lightning", lightning, norm), feeding)),
    }
    kinds = reader.names("layer_types", length=depth, known=KINDS) or (KINDS * depth)[:depth]
    return common.decoder(reader, text, embedding, (layers[kind] for kind in kinds), norm)


def _step(reader: ConfigReader, key: str, name: str, part: Part, norm: Norm) -> Step:
    """x = α v + β part(v), where v is the normed x."""
    sources = {"v": "alpha", name: "beta"}
    terms = (Term(source=each, scale=reader.number(f"{key}_{sources[each]}_factor", 1.0)) for each in sources)
    branch = Branch(name=name, part=part)  # type: ignore[arg-type]
    return Step(norm=norm, branches=(branch,), writes=(Write(terms=tuple(terms)),))


FAMILY = Family(
    model_type="minimax",
    title="MiniMax-Text-01, MiniMax-M1",
    read=read,
    weights=names.weights(
        names.experts(f"{EXPERTS}.experts.{{e}}", gate="w1", up="w3", down="w2", published_router=f"{EXPERTS}.gate"),
        {f"layers.{{i}}.lightning.{ours}": f"model.layers.{{i}}.self_attn.{theirs}" for ours, theirs in DECAYS.items()},
        {
            "layers.{i}.lightning_norm": "model.layers.{i}.input_layernorm",
            "layers.{i}.lightning.query_key_value": "model.layers.{i}.self_attn.qkv_proj",
            "layers.{i}.lightning.gate": "model.layers.{i}.self_attn.output_gate",
            "layers.{i}.lightning.norm": "model.layers.{i}.self_attn.norm",
            "layers.{i}.lightning.output": "model.layers.{i}.self_attn.out_proj",
        },
        narrow=tuple(f"*.lightning.{decay}" for decay in DECAYS),
    ),
    aliases={"num_experts": "num_local_experts"},
    rope_theta=1000000.0,
    tiny=draws.TINY
    | {"intermediate_size": 40, "head_dim": 12, "num_local_experts": 6, "block_size": 16, "num_hidden_layers": 3},
    draws=draws.without(draws.DENSE, "attention_bias")
    | {
        "head_dim": (12, 16),
        "num_local_experts": (6, 3),
        "num_experts_per_tok": (2, 1, 3),
        "sliding_window": (None, 7, 24),
        "layer_types": (None, ["full_attention", "linear_attention", "linear_attention"]),
        "block_size": (16, 7, 256),
        **{f"{part}_alpha_factor": (3.5, 1.25) for part in ("full_attn", "linear_attn", "mlp")},
        **{f"{part}_beta_factor": (1.5, 0.75) for part in ("full_attn", "linear_attn", "mlp")},
    },
)
