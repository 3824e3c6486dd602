"""One short line per layer, runs of equal lines gathered: how a signature reads."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from nexus_universal.architecture.bridge import Bridge, CrossAttention, Similarity
from nexus_universal.architecture.chained_experts import ChainedExperts
from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts, PerLayerInput, RoutedAttention
from nexus_universal.architecture.mixers import Attention, CompressedAttention, LatentAttention, LowRank, SparseIndexer
from nexus_universal.architecture.program import Branch, Linear, Program
from nexus_universal.architecture.recurrences import (
    ChannelStateSpace,
    DecayedAverage,
    GatedDeltaRule,
    GatedLinearRecurrence,
    LightningAttention,
    MatrixMemory,
    ShiftedFeedForward,
    ShortConvolution,
    StateSpace,
)
from nexus_universal.architecture.residual_convolution import ResidualConvolution
from nexus_universal.architecture.serial import runs
from nexus_universal.architecture.sparsity import BlockSparse, Strided


def layers_line(layers: tuple[Program, ...]) -> str:
    """`27 × [attention 16/8×128 + ffn 3072] + [attention 16/8×128 + experts 8/64×768]`."""
    return " + ".join(
        (f"{times} × " if times > 1 else "") + "[" + " | ".join(pattern) + "]"
        for times, pattern in runs(tuple(_program_line(layer) for layer in layers))
    )


def _program_line(program: Program) -> str:
    return " + ".join(_branch_line(branch) for branch in program.branches()) or "—"


def _branch_line(branch: Branch) -> str:
    if isinstance(branch.part, Program):
        return f"{branch.name}({_program_line(branch.part)})"
    return part_line(branch.part)


@singledispatch
def part_line(part: Any) -> str:
    """A few words for a part, with the numbers that tell it from others of its kind."""
    return type(part).__name__


@part_line.register
def _(part: Attention) -> str:
    marks = [f" w{part.window}"] if part.window else []
    marks += [" alibi"] if part.alibi else [] if part.rope else [" relative" if part.relative else " nope"]
    marks += [f" kv of {part.reuse!r}"] if part.reuse else []
    if isinstance(part.sparsity, BlockSparse):
        marks.append(f" blocks {part.sparsity.local_blocks}+{part.sparsity.global_blocks}×{part.sparsity.block}")
    elif isinstance(part.sparsity, Strided):
        marks.append(f" last {part.sparsity.local} and every {part.sparsity.stride}")
    elif part.sparsity:
        marks.append(f" top {part.sparsity.keys}")
    return f"attention {part.heads}/{part.kv_heads}×{part.head_dim}{''.join(marks)}"


@part_line.register
def _(part: LatentAttention) -> str:
    sparse = f" top {part.indexer.keep}" if isinstance(part.indexer, SparseIndexer) else ""
    window = f" w{part.window}" if part.window else ""
    return f"latent attention {part.heads}×{part.head_dim} rank {part.latent_rank}{window}{sparse}"


@part_line.register
def _(part: GatedDeltaRule) -> str:
    return f"delta rule {part.key_heads}/{part.value_heads}×{part.key_dim} {part.decay} decay"


@part_line.register
def _(part: StateSpace) -> str:
    return f"state space {part.heads}×{part.head_dim}×{part.state_dim}"


@part_line.register
def _(part: ShortConvolution) -> str:
    return f"short convolution {part.kernel}"


@part_line.register
def _(part: ResidualConvolution) -> str:
    return f"residual convolution {part.kernel}"


@part_line.register
def _(part: ChannelStateSpace) -> str:
    return f"state space {part.width}×{part.state_dim}"


@part_line.register
def _(part: GatedLinearRecurrence) -> str:
    return f"gated recurrence {part.width}"


@part_line.register
def _(part: LightningAttention) -> str:
    return f"lightning attention {part.heads}×{part.head_dim}"


@part_line.register
def _(part: DecayedAverage) -> str:
    return "decayed average"


@part_line.register
def _(part: ShiftedFeedForward) -> str:
    return f"shifted ffn {part.width}"


@part_line.register
def _(part: MatrixMemory) -> str:
    return f"matrix memory {part.heads}×{part.key_dim}×{part.value_dim}"


@part_line.register
def _(part: CompressedAttention) -> str:
    far = "" if part.rate is None else f" /{part.rate}" + (f" top {part.indexer.keep}" if part.indexer else "")
    return f"compressed attention {part.heads}×{part.head_dim} w{part.window}{far}"


@part_line.register
def _(part: RoutedAttention) -> str:
    return f"routed attention {part.per_token}/{part.experts} × {part.kv_heads}×{part.head_dim}"


@part_line.register
def _(part: ConvolvedAttention) -> str:
    window = f" w{part.window}" if part.window else ""
    return f"convolved attention {part.heads}/{part.kv_heads}×{part.head_dim}{window}"


@part_line.register
def _(part: ChainedExperts) -> str:
    return f"experts 1/{part.experts}×{part.expert.width}+none"


@part_line.register
def _(part: FeedForward) -> str:
    return f"ffn {part.width}"


@part_line.register
def _(part: MixtureOfExperts) -> str:
    identity = f"+{part.identity_experts} identity" if part.identity_experts else ""
    shared = "+shared" if part.shared else f"+{part.always} always" if part.always else ""
    return f"experts {part.per_token}/{part.experts}×{part.expert.width}{identity}{shared}"


@part_line.register
def _(part: LowRank) -> str:
    return f"low rank {part.rank}"


@part_line.register
def _(part: PerLayerInput) -> str:
    return f"per-layer input {part.width}"


@part_line.register
def _(part: Bridge) -> str:
    return f"bridge from {part.donor} {part.layer}: {part_line(part.form)}"


@part_line.register
def _(part: CrossAttention) -> str:
    return f"attention {part.heads}×{part.head_dim}"


@part_line.register
def _(part: Similarity) -> str:
    return f"similarity above {part.threshold:g}"


@part_line.register
def _(part: Linear) -> str:
    return "linear"
