"""How n splits over several ranks: what one rank computes is an n itself, and its tensors are pieces of the whole's.

Attention is split by heads, feed-forwards and experts by width, the token table and the head by vocabulary
(Megatron-LM, arXiv 1909.08053). All follows from the parts of n; what no rule splits stays whole, and says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import singledispatch
from typing import TYPE_CHECKING, Any

from nexus_universal.architecture.costs import projection_rows
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.fusion import refuse_fused
from nexus_universal.architecture.mixers import Attention, LatentAttention
from nexus_universal.architecture.ngrams import HashedNgrams
from nexus_universal.architecture.packing import Packed
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import ranges
from nexus_universal.architecture.program import Branch, Program

if TYPE_CHECKING:
    from nexus_universal.architecture.parameter import ArchitectureParameter


@dataclass(frozen=True, slots=True)
class Cut:
    """A tensor along `axis`: one block after the other, each of (length, so many equal pieces).

    A rank has one piece of every block. Where there are fewer pieces than ranks, neighbours have the same one.
    """

    axis: int
    blocks: tuple[tuple[int, int], ...]

    def spans(self, rank: int, ways: int) -> Iterator[tuple[int, int]]:
        """(start, length) of a rank's piece of every block."""
        start = 0
        for length, pieces in self.blocks:
            yield start + (rank * pieces // ways) * (length // pieces), length // pieces
            start += length


@dataclass(frozen=True, slots=True)
class Split:
    """A module that every rank computes a share of: `cuts` by tensor, `share` is the part that is left for one rank.

    Its input enters whole. What the module `summed` gives, or the module itself where that is "", is the sum over
    ranks; tensors in `behind` the sum are whole, and are read behind it.
    """

    share: Part
    cuts: Mapping[str, Cut]
    summed: str = ""
    behind: tuple[str, ...] = ()

    def __str__(self) -> str:
        stacked = any(cut.axis == 2 for cut in self.cuts.values())
        return ", ".join(f"{name} {_cut_line(cut, stacked=stacked)}" for name, cut in self.cuts.items())


@dataclass(frozen=True, slots=True)
class Whole:
    """What every rank computes in full, and why."""

    reason: str

    def __str__(self) -> str:
        return f"whole: {self.reason}"


@dataclass(frozen=True, slots=True)
class TensorParallelPlan:
    """`entries` by module; `share` is the n of one rank, whose modules have the same names and smaller tensors.

    Example:
        >>> print(tensor_parallel_plan(n, 2))
        layers.0-27.attention: query.weight rows/2, key.weight rows/2, value.weight rows/2, output.weight columns/2
        …
    """

    ways: int
    share: ArchitectureParameter
    entries: Mapping[str, Split | Whole]
    cuts: Mapping[str, Cut] = field(repr=False)
    """Of every tensor that is split, by its name in the model."""

    def __str__(self) -> str:
        told: dict[tuple[str, str], list[int]] = {}
        for path, entry in self.entries.items():
            layer, name = _apart(path)
            told.setdefault((name, str(entry)), []).extend(layer)
        lines = []
        for (name, line), layers in told.items():
            lines.append(f"{f'layers.{ranges(tuple(layers))}.' if layers else ''}{name}: {line}")
        return "\n".join(lines)

    def to_data(self) -> dict[str, Any]:
        """Plain dicts, lists, numbers and strings, ready for JSON."""
        tensors = {
            name: {"axis": cut.axis, "blocks": [list(block) for block in cut.blocks]} for name, cut in self.cuts.items()
        }
        whole = {path: entry.reason for path, entry in self.entries.items() if isinstance(entry, Whole)}
        return {"ways": self.ways, "split": tensors, "whole": whole}


def tensor_parallel_plan(n: ArchitectureParameter, ways: int) -> TensorParallelPlan:
    """What each of `ways` ranks holds and computes of n.

    Raises:
        InputError: fewer than one rank, or a fused n.
    """
    refuse_fused(n, "tensor parallelism")
    if ways < 1:
        raise InputError(f"tensor parallelism over {ways} ranks: at least 1 is needed")
    entries = _ends(n, ways)
    for _ in range(2):  # once to see what stays whole, and once more for what is held together with that
        held = _held_together(n, entries)
        for index, layer in enumerate(n.layers):
            entries |= dict(_entries(layer, f"layers.{index}.", ways, held=held, shared=False))
    layers = tuple(_share_of(layer, f"layers.{index}.", entries) for index, layer in enumerate(n.layers))
    table = entries["embedding.tokens"]
    embedding = table.share if isinstance(table, Split) else n.embedding
    cuts = {
        f"{path}.{name}": cut
        for path, entry in entries.items()
        if isinstance(entry, Split)
        for name, cut in entry.cuts.items()
    }
    return TensorParallelPlan(
        ways=ways,
        share=replace(n, embedding=embedding, layers=layers),  # type: ignore[arg-type]
        entries=entries,
        cuts=cuts,
    )


def _ends(n: ArchitectureParameter, ways: int) -> dict[str, Split | Whole]:
    """Token table and head, by vocabulary: both or none, for they may share one table."""
    part, rows = n.embedding, n.embedding.vocab
    parts = [branch.part for layer in n.layers for _, branch in layer.all_branches()]
    looked_up = any(isinstance(part, HashedNgrams) for part in parts)
    reasons = {
        "its tokens lie in bands": part.bands or n.head.bands,
        "it has spare rows": part.spare,
        "embeddings are looked up in it again": looked_up or (part.per_layer and part.per_layer.finds_tokens),
        "the head has a transform": n.head.transform,
        f"{ways} ranks do not divide {rows} tokens": rows % ways,
    }
    if reason := next((reason for reason, holds in reasons.items() if holds), None):
        return dict.fromkeys(("embedding.tokens", "head"), Whole(reason))
    cut = Cut(0, ((rows, ways),))
    share = replace(part, vocab=rows // ways, padding_row=None)
    head = ({} if n.head.tied else {"weight": cut}) | ({"bias": cut} if n.head.bias else {})
    return {"embedding.tokens": Split(share, {"weight": cut}), "head": Split(n.head, head)}


def _held_together(n: ArchitectureParameter, entries: Mapping[str, Split | Whole]) -> set[str]:
    """Names of keys and values that a layer emits or reuses which stays whole: all of that name must, then."""
    users = {
        f"layers.{index}.{path}": branch.part
        for index, layer in enumerate(n.layers)
        for path, branch in layer.all_branches()
    }
    whole = [part for path, part in users.items() if isinstance(entries.get(path), Whole)]
    return {name for part in whole for name in _passed_on(part)}


def _passed_on(part: Any) -> set[str]:
    """The names under which a part emits or reuses keys and values."""
    return {name for name in (getattr(part, "emit", None), getattr(part, "reuse", None)) if name}


def _entries(
    program: Program, prefix: str, ways: int, *, held: set[str], shared: bool
) -> Iterator[tuple[str, Split | Whole]]:
    shared = shared or program.share is not None
    for branch in program.branches():
        path, part, alone = f"{prefix}{branch.name}", branch.part, not (shared or branch.share)
        if isinstance(part, Program):
            yield from _entries(part, f"{path}.", ways, held=held, shared=not alone)
        elif not alone:
            yield path, Whole("its weights are shared between layers")
        elif _passed_on(part) & held:
            yield path, Whole("it shares keys and values with a layer that stays whole")
        elif isinstance(part, MixtureOfExperts):
            yield f"{path}.experts", _split_experts(part, ways)
            if part.shared:
                yield f"{path}.shared", split(part.shared, ways)
        else:
            yield path, split(part, ways)


def _share_of(program: Program, prefix: str, entries: Mapping[str, Split | Whole]) -> Program:
    """A program whose parts are those of one rank."""

    def smaller(branch: Branch) -> Branch:
        path, part = f"{prefix}{branch.name}", branch.part
        if isinstance(part, Program):
            return replace(branch, part=_share_of(part, f"{path}.", entries))
        if isinstance(part, MixtureOfExperts):
            for name, key in (("expert", "experts"), ("shared", "shared")):
                entry = entries.get(f"{path}.{key}")
                part = replace(part, **{name: entry.share}) if isinstance(entry, Split) else part
            return replace(branch, part=part)
        entry = entries.get(path)
        return replace(branch, part=entry.share) if isinstance(entry, Split) else branch  # type: ignore[arg-type]

    steps = (replace(step, branches=tuple(map(smaller, step.branches))) for step in program.steps)
    return replace(program, steps=tuple(steps))


@singledispatch
def split(part: Any, ways: int) -> Split | Whole:
    """One rank's share of a part. A part that can be split adds a function here."""
    return Whole(f"no rule splits {type(part).__name__}")


UNSPLIT_ATTENTION = {
    "alibi": "the slopes of linear biases go by the number of heads",
    "inner_norm": "its inner norm spans all heads",
    "differential": "heads are paired",
    "dynamic_mask": "its mask is made of all values",
    "convolution": "keys and values are convolved",
    "relative": "biases by distance are shared by all heads",
    "apart": "its inputs are normed apart",
    "length_limit": "queries are limited by numbers of all heads",
    "indexer": "its indexer goes by groups of all heads",
}


@split.register
def _(part: Attention, ways: int) -> Split | Whole:
    if reason := next((why for name, why in UNSPLIT_ATTENTION.items() if getattr(part, name) is not None), None):
        return Whole(reason)
    if part.qk_norm and part.qk_norm.over == "width":
        return Whole("queries and keys are normed over all heads")
    if part.heads % ways:
        return Whole(f"{ways} ranks do not divide {part.heads} heads")
    if part.kv_heads % ways and ways % part.kv_heads:
        return Whole(f"of {part.kv_heads} key/value heads {ways} ranks get no equal share")
    kept = min(part.kv_heads, ways)
    pieces = {"key": kept, "value": kept}
    rows = {role: (count, pieces.get(role, ways)) for role, count in projection_rows(part).items()}
    packing = _packing(part.packing, ways)
    if isinstance(packing, Whole):
        return packing
    if kept < ways and any(packed.groups > 1 and set(pieces) & set(packed.roles) for packed in part.packing):
        return Whole(f"its {kept} key/value heads lie among {ways} ranks' queries")
    cuts = _input_cuts(part, [role for role in part.projections if role in rows], rows)
    cuts["output.weight"] = Cut(1, ((part.heads * part.value_width, ways),))
    by_head = Cut(0, ((part.heads, ways),))
    if part.sinks:
        cuts["sinks"] = by_head
    if part.gate and part.gate.head_bias:
        cuts["gate_head_bias"] = by_head
    if part.qk_norm and part.qk_norm.own:
        cuts["query_norm.weight"] = by_head
        if not part.reuse:
            cuts["key_norm.weight"] = Cut(0, ((part.kv_heads, kept),))
    share = replace(part, heads=part.heads // ways, kv_heads=part.kv_heads // kept, packing=packing)
    return Split(share, cuts, summed="output", behind=("output.bias",))


@split.register
def _(part: LatentAttention, ways: int) -> Split | Whole:
    if part.heads % ways:
        return Whole(f"{ways} ranks do not divide {part.heads} heads")
    query = "query" if part.query_rank is None else "query_gate" if part.joint_gate else "query_up"
    query_rows = part.heads * (part.head_dim + part.value_dim * part.joint_gate)
    rows = {query: query_rows, "latent_up": part.heads * (part.nope_dim + part.value_dim)}
    if part.gate and not part.joint_gate:
        rows["gate"] = part.heads * (part.value_dim if part.gate.per == "channel" else 1)
    cuts = {f"{name}.weight": Cut(0, ((count, ways),)) for name, count in rows.items()}
    cuts["output.weight"] = Cut(1, ((part.heads * part.value_dim, ways),))
    if part.sinks:
        cuts["sinks"] = Cut(0, ((part.heads, ways),))
    return Split(replace(part, heads=part.heads // ways), cuts, summed="output", behind=("output.bias",))


@split.register
def _(part: FeedForward, ways: int) -> Split | Whole:
    share = _narrower(part, ways)
    if isinstance(share, Whole):
        return share
    roles = ("gate", "up") if part.gated else ("up",)
    cuts = _input_cuts(part, roles, dict.fromkeys(roles, (part.width, ways)))
    cuts["down.weight"] = Cut(1, ((part.width, ways),))
    return Split(share, cuts, summed="down", behind=("down.bias",))


def _split_experts(part: MixtureOfExperts, ways: int) -> Split | Whole:
    """Every expert's width: all ranks have as much to do, whichever experts are chosen."""
    if part.identity_experts:
        return Whole("some experts give back what they read")
    if part.always:
        return Whole("some experts are always visited")
    share = _narrower(part.expert, ways)
    if isinstance(share, Whole):
        return share
    width, joined = part.expert.width, part.expert.gated and part.stacks == "joined"
    groups = part.expert.packing[0].groups if part.expert.packing else 1
    blocks = ((2 * width, ways),) if joined and groups > 1 else ((width, ways),) * (1 + joined)
    entry = "gate_up" if joined else "up"
    cuts = {entry: Cut(1, blocks)}
    if part.stacks == "apart":
        cuts["gate"] = Cut(1, blocks)
    if "up" in part.expert.biases:
        cuts[f"{entry}_bias"] = Cut(1, blocks)
    cuts["down"] = Cut(2, ((width, ways),))
    return Split(share, cuts, behind=("down_bias",))


def _narrower(part: FeedForward, ways: int) -> FeedForward | Whole:
    """The feed-forward of one rank."""
    if part.inner_norm is not None:
        return Whole("its inner norm spans the width")
    if part.sparsity is not None:
        return Whole("its sparsity goes by a quantile over the width")
    if part.width % ways:
        return Whole(f"{ways} ranks do not divide a width of {part.width}")
    packing = _packing(part.packing, ways)
    return packing if isinstance(packing, Whole) else replace(part, width=part.width // ways, packing=packing)


def _packing(packing: tuple[Packed, ...], ways: int) -> tuple[Packed, ...] | Whole:
    """The packing of one rank's rows: it has whole groups, or of a single group a piece of every role."""
    if odd := next((packed for packed in packing if packed.groups > 1 and packed.groups % ways), None):
        return Whole(f"{ways} ranks do not divide the {odd.groups} groups of {odd.name}")
    return tuple(replace(packed, groups=max(1, packed.groups // ways)) for packed in packing)


def _input_cuts(part: Any, roles: Any, rows: Mapping[str, tuple[int, int]]) -> dict[str, Cut]:
    """Projections by rows, and their biases."""
    packed = {role: each for each in part.packing for role in each.roles}
    cuts: dict[str, Cut] = {}
    for role in roles:
        together = packed.get(role)
        if together is None:
            name, blocks = role, (rows[role],)
        else:
            name, blocks = together.name, tuple(rows[each] for each in together.roles)
            if together.groups > 1:
                blocks = ((sum(count for count, _ in blocks), max(pieces for _, pieces in blocks)),)
        cuts[f"{name}.weight"] = Cut(0, blocks)
        if role in part.biases:
            cuts[f"{name}.bias"] = Cut(0, blocks)
    return cuts


def _apart(path: str) -> tuple[list[int], str]:
    """The layer of a path, if it has one, and the rest."""
    head, _, rest = path.partition(".")
    if head != "layers":
        return [], path
    index, _, name = rest.partition(".")
    return [int(index)], name


def _cut_line(cut: Cut, *, stacked: bool) -> str:
    axis = "columns" if cut.axis == 1 + stacked else "rows"
    pieces = sorted({pieces for _, pieces in cut.blocks}, reverse=True)
    return f"{axis}/{'+'.join(map(str, pieces))}"
