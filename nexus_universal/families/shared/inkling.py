"""What both generations of Inkling share: their ends, the geometry of each kind of layer, their wiring and tensors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.ends import Embedding, Head, Text
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.program import Branch, Program, Read, Step, Term, Write
from nexus_universal.architecture.residual_convolution import ResidualConvolution
from nexus_universal.checkpoint.rules import Direct, Squeezed
from nexus_universal.families.shared import common, draws, names
from nexus_universal.families.shared.reader import ConfigReader

FULL, SLIDING = KINDS = "hybrid", "hybrid_sliding"
PREDICTION = "multi-token prediction, of which nothing is built"

ALIASES = {
    "sliding_window": "sliding_window_size",
    "num_local_experts": "n_routed_experts",
    "sconv_kernel_size": "conv_kernel_size",
    "model_max_length": "max_position_embeddings",
}


def ends(
    reader: ConfigReader, norm: Norm, *, unpadded: int | None = None, **defaults: Any
) -> tuple[Text, Embedding, bool]:
    """Text, token table, and whether rows of both matrices lie behind the vocabulary; looked-up rows are normed."""
    text, table = common.ends(reader, norm=norm, norm_rows=True, **defaults)
    scored = reader.count("unpadded_vocab_size", unpadded, optional=True)
    if scored is None or scored >= table.vocab:
        return text, table, False
    return text, replace(table, vocab=scored, spare=table.vocab - scored), True


def geometry(reader: ConfigReader, kind: str, kv_heads: int, heads: int = 64) -> tuple[int, int, int]:
    """Heads, key/value heads and a head's width in layers of a kind; the numbers are the class's defaults."""
    return (
        reader.count(f"{kind}num_attention_heads", heads),
        reader.count(f"{kind}num_key_value_heads", kv_heads),
        reader.count(f"{kind}head_dim", 128),
    )


def layer(
    mixer: Attention, feed_forward: Part, *, norm: Norm, convolution: ResidualConvolution, scaled: bool
) -> Program:
    """Attention, then feed-forward, each behind a norm and before a convolution; a `scaled` one times a number."""
    steps: list[Step] = []
    for name, part in (("attention", mixer), ("feed_forward", feed_forward)):
        gain = "number" if scaled and name == "feed_forward" else "none"
        mixed = Branch(name=name, part=part)  # type: ignore[arg-type]
        convolved = Branch(name=f"{name}_convolution", part=convolution)
        written = (Term(source="x"), Term(source=convolved.name))
        steps += [
            Step(norm=norm, branches=(mixed,), writes=(Write(register="y", terms=(Term(source=name, gain=gain),)),)),
            Step(read=Read(registers=("y",)), branches=(convolved,), writes=(Write(terms=written),)),
        ]
    return Program(steps=tuple(steps))


def decoder(
    text: Text, embedding: Embedding, layers: Iterable[Program], norm: Norm, *, spare: bool, **head: Any
) -> ArchitectureParameter:
    """The whole n, whose head is never tied."""
    return ArchitectureParameter(
        embedding=embedding,
        layers=tuple(layers),
        final_norm=norm,
        head=Head(tied=False, spare=spare, **head),
        text=text,
    )


def tensors(branches: dict[str, str]) -> names.Names:
    """The names of what both have; `branches` are the convolutions of the residual branches."""
    attention, mlp = f"{names.LAYER}.self_attn", f"{names.LAYER}.mlp"
    ours = "layers.{i}.attention"
    table: names.Names = {
        "embedding.norm": "model.embed_tokens.embed_norm",
        f"{ours}.relative.query": f"{attention}.r_proj",
        f"{ours}.relative.profiles": Direct(f"{attention}.rel_logits_proj.proj"),
        "layers.{i}.feed_forward.router.weight": Direct(f"{mlp}.gate.weight"),
        "layers.{i}.feed_forward.router.selection_bias": Direct(f"{mlp}.gate.e_score_correction_bias"),
        "layers.{i}.feed_forward.experts.gate_up": Direct(f"{mlp}.experts.gate_up_proj"),
        "layers.{i}.feed_forward.experts.down": Direct(f"{mlp}.experts.down_proj"),
    }
    places = {f"{ours}.{role}_convolution": f"{attention}.{role[0]}_sconv" for role in ("key", "value")}
    places |= {f"layers.{{i}}.{branch}": f"{names.LAYER}.{theirs}" for branch, theirs in branches.items()}
    return table | {
        f"{place}.convolution.weight": Squeezed(f"{theirs}.conv1d.weight", axis=1) for place, theirs in places.items()
    }


TINY: dict[str, Any] = {
    "num_hidden_layers": 3,
    "head_dim": 16,
    "swa_num_attention_heads": 6,
    "swa_num_key_value_heads": 3,
    "swa_head_dim": 8,
    "sliding_window_size": 16,
    "d_rel": 6,
    "rel_extent": 24,
    "layer_types": [SLIDING, FULL, SLIDING],
    "moe_intermediate_size": 24,
    "n_routed_experts": 8,
    "num_experts_per_tok": 3,
    "bos_token_id": None,
    "eos_token_id": 3,
}

DRAWS: dict[str, tuple[Any, ...]] = {
    **{key: draws.DENSE[key] for key in ("num_key_value_heads", "rms_norm_eps", "hidden_act", "pad_token_id")},
    "head_dim": (16, 8),
    "swa_num_attention_heads": (6, 3),
    "swa_head_dim": (8, 20),
    "sliding_window_size": (16, 7, 128),
    "d_rel": (6, 9),
    "rel_extent": (24, 5, 100),
    "conv_kernel_size": (4, 2, 3),
    "layer_types": ([SLIDING, FULL, SLIDING], None, [FULL, SLIDING, FULL]),
    "n_routed_experts": (8, 5),
    "num_experts_per_tok": (3, 1, 4),
    "route_scale": (8.0, 1.3),
}
