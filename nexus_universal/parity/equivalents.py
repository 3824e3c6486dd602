"""Mutants that compute the same function: each declared with a condition and a line of proof, and tried like any."""

from __future__ import annotations

import fnmatch
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from nexus_universal.architecture.feed_forward import MixtureOfExperts, Router
from nexus_universal.architecture.mixers import Attention, LatentAttention, SparseIndexer
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.position import LinearScaling, Llama3Scaling, ProportionalScaling, Rope, YarnScaling
from nexus_universal.architecture.program import Program, Step
from nexus_universal.architecture.recurrences import GatedDeltaRule
from nexus_universal.layers.alibi import slopes
from nexus_universal.layers.rope import frequencies
from nexus_universal.parity.mutations import Mutant

FIXED = (type(None), LinearScaling, Llama3Scaling, YarnScaling, ProportionalScaling)
"""Scalings whose frequencies are the same in every call."""

FUSED = {"sdpa", "sdpa_masked"}


@dataclass(frozen=True)
class Equivalent:
    """Mutants of `field` (`Router.groups`, wildcards allowed) compute what n does where `holds(mutant, n)`."""

    field: str
    proof: str
    holds: Callable[[Mutant, ArchitectureParameter], bool]


def rotations(n: ArchitectureParameter) -> Iterator[tuple[Part, Rope, int]]:
    """Every mixer or indexer that rotates, its rotation, and the width of what it turns."""
    for layer in n.layers:
        for _, branch in layer.all_branches():
            for part in (branch.part, getattr(branch.part, "indexer", None)):
                rope = getattr(part, "rope", None)
                if part is not None and isinstance(rope, Rope):
                    yield part, rope, getattr(part, "rope_dim", None) or getattr(part, "head_dim", 0)


def rotates_alike(mutant: Mutant, n: ArchitectureParameter) -> bool:
    """Whether every rotation's frequencies and factors are the same numbers.

    Of scalings that look at the call none is compared: theirs are alike where only as many pairs turn.
    """
    return all(_alike(*right, *wrong) for right, wrong in zip(rotations(n), rotations(mutant.n), strict=True))


def _alike(mixer: Part, rope: Rope, width: int, other: Part, turned: Rope, _: int) -> bool:
    if rope == turned:
        return True
    same_pairs = rope.dims(width) == turned.dims(width) and not isinstance(rope.scaling, ProportionalScaling)
    if same_pairs and replace(rope, fraction=turned.fraction) == turned:
        return True
    if type(rope.scaling) is not type(turned.scaling) or not isinstance(rope.scaling, FIXED):
        return False
    if isinstance(mixer, LatentAttention) and mixer.softmax_scale != getattr(other, "softmax_scale", None):
        return False
    factors = {getattr(each.scaling, "table_factor", 1.0) for each in (rope, turned)}
    tables = [frequencies(each.scaling, each, width) for each in (rope, turned)]
    return len(factors) == 1 and torch.equal(*tables)


def has_single_heads(mutant: Mutant, n: ArchitectureParameter) -> bool:
    """Whether every query head of the changed attention has a key/value head of its own."""
    return mutant.part.heads == mutant.part.kv_heads


def is_swap(mutant: Mutant, choices: set[str]) -> bool:
    """Whether one of `choices` became another one of them."""
    return {str(mutant.place.value), *mutant.change.split("'")[1:2]} <= choices


def experts_per_token(mutant: Mutant, n: ArchitectureParameter) -> int:
    """How many experts a token visits at most, of the mixtures that the changed part is or routes for."""
    branches = (branch.part for layer in n.layers for _, branch in layer.all_branches())
    mixtures = (part for part in branches if isinstance(part, MixtureOfExperts))
    return max(part.per_token for part in mixtures if mutant.part in (part, part.router))


def has_softmax_of_chosen(router: Router) -> bool:
    """Whether scores of the chosen alone are taken, in float32 whatever the logits' dtype."""
    return router.score in ("softmax_chosen", "sigmoid_chosen") and router.weights != "model" and not router.softcap


def weighs_in_logits_dtype(router: Router) -> bool:
    """Whether nothing between the logits and the weights widens them."""
    narrow = router.score in ("sigmoid", "sqrt_softplus") and router.total != "logs" and not router.learned_scale
    return router.logits != "model" or narrow


def tells_order(mixer: Part) -> bool:
    """Whether its heads pass a norm whose gradients are summed as they lie, or a product of complex numbers.

    torch's own norm has them in order.
    """
    found, rope = getattr(mixer, "qk_norm", None), getattr(mixer, "rope", None)
    normed = found is not None and found.over == "head" and found.norm.rounding != "native"
    known = isinstance(mixer, Attention | LatentAttention | SparseIndexer)
    return normed or not known or getattr(rope, "product", None) == "complex64"


def steps_of(program: Program) -> Iterator[Step]:
    """Its steps, and those of the programs in it."""
    for step in program.steps:
        yield step
        for branch in step.branches:
            if isinstance(branch.part, Program):
                yield from steps_of(branch.part)


def reads_alone(part: Part, n: ArchitectureParameter) -> bool:
    """Whether nothing else reads what this part does: a norm of its own stands before it, which no sum goes on from."""
    found = [
        (step, branch)
        for layer in n.layers
        for step in steps_of(layer)
        for branch in step.branches
        if branch.part == part
    ]
    return all(
        branch.input_norm
        or (
            step.norm
            and len(step.branches) == 1
            and not any(term.source in ("u", "v") for write in step.writes for term in write.terms)
        )
        for step, branch in found
    )


def sources(n: ArchitectureParameter) -> list[tuple[int, int]]:
    """Which layer takes keys and values from which."""
    emitted: dict[str, int] = {}
    found = []
    for index, layer in enumerate(n.layers):
        for _, branch in layer.all_branches():
            if reused := getattr(branch.part, "reuse", None):
                found.append((index, emitted[reused]))
            if emits := getattr(branch.part, "emit", None):
                emitted[emits] = index
    return found


def calls_shared_expert_last(mixture: MixtureOfExperts) -> bool:
    """Whether nothing of the shared expert comes before the router."""
    return mixture.shared_call == "last" and not mixture.shared_gate


def has_round_slopes(mutant: Mutant, n: ArchitectureParameter) -> bool:
    """Whether both ways to slopes give the same numbers, for all heads there are."""
    parts = (branch.part for layer in n.layers for _, branch in layer.all_branches())
    heads = {part.heads for part in parts if isinstance(part, Attention) and part.alibi == mutant.part}
    return all(torch.equal(slopes(count), slopes(count, reciprocal=True)) for count in heads)


EQUIVALENTS: tuple[Equivalent, ...] = (
    Equivalent(
        "Write.terms",
        "a + b = b + a: the first two terms of a sum may be swapped",
        lambda mutant, n: mutant.change == "[0] and [1] swapped" and "convolution" not in mutant.path,
    ),
    Equivalent(
        "*.packing",
        "products are made in the order of the roles, whatever that of the packed matrices",
        lambda mutant, n: mutant.kind == "order" and not isinstance(mutant.part, GatedDeltaRule),
    ),
    Equivalent("Attention.repeat_first", "heads that are not shared are repeated once: not at all", has_single_heads),
    Equivalent(
        "Attention.kernel",
        "a masked key weighs exp(-inf) = 0: the fused kernel sums the same numbers under its causal flag",
        lambda mutant, n: has_single_heads(mutant, n) and {mutant.place.value, *mutant.change.split("'")} >= FUSED,
    ),
    Equivalent(
        "Attention.contiguous",
        "a copy of the same numbers: the fused kernel reads heads by their strides",
        lambda mutant, n: mutant.part.kernel in FUSED and not (mutant.part.convolution or mutant.part.relative),
    ),
    Equivalent(
        "Attention.emit",
        "every layer that takes another's keys takes the same one's: what nobody reads has any name",
        lambda mutant, n: sources(mutant.n) == sources(n),
    ),
    Equivalent(
        "Norm.root",
        "the same numbers, and no gradient passes a choice",
        lambda mutant, n: ".indexer." in mutant.path,
    ),
    Equivalent(
        "Norm.rounding",
        "without a weight there is one place to round",
        lambda mutant, n: (
            mutant.part.scale == "none"
            and mutant.part.kind == "rms"
            and is_swap(mutant, {"before_scale", "after_scale", "native"})
        ),
    ),
    Equivalent(
        "Embedding.scale_rounding",
        "the scale is a number of bfloat16 already",
        lambda mutant, n: float(torch.tensor(n.embedding.scale or 0.0).bfloat16()) == n.embedding.scale,
    ),
    Equivalent("YarnScaling.*", "the same frequencies and the same factor, number by number", rotates_alike),
    Equivalent(
        "Rope.product",
        "a product with a float32 table is float32 already",
        lambda mutant, n: (
            mutant.part.table == "float32" and "complex64" not in (mutant.place.value, *mutant.change.split("'"))
        ),
    ),
    Equivalent(
        "Router.weights",
        "weights have the dtype of the router's logits already",
        lambda mutant, n: is_swap(mutant, {"model", "float32"}) and weighs_in_logits_dtype(mutant.part),
    ),
    Equivalent(
        "Router.logits",
        "logits of the chosen are widened before their scores are taken: earlier is as good",
        lambda mutant, n: is_swap(mutant, {"model", "widened"}) and has_softmax_of_chosen(mutant.part),
    ),
    Equivalent(
        "Router.sum_epsilon",
        "floats absorb it: s + 1e-20 = s for any sum of scores above 1e-12",
        lambda mutant, n: 0.0 < mutant.place.value < 1e-19,
    ),
    Equivalent(
        "*.stored",
        "float32 products read the same numbers, whichever dtype holds them: that is the file's",
        lambda mutant, n: mutant.kind == "choice",
    ),
    Equivalent(
        "SparseIndexer.scale_on",
        "a power of two is exact, before a sum as behind it",
        lambda mutant, n: math.frexp(mutant.part.head_dim**-0.5)[0] == 0.5,
    ),
    Equivalent(
        "LatentAttention.scale_by_yarn",
        "the scaling has no factor of its own: scores are scaled alike",
        lambda mutant, n: (
            mutant.part.softmax_scale == replace(mutant.part, scale_by_yarn=not mutant.place.value).softmax_scale
        ),
    ),
    Equivalent("Router.scale", "1 · w = w", lambda mutant, n: mutant.place.value == 1.0 and mutant.kind == "removed"),
    Equivalent(
        "Router.order",
        "a + b = b + a: the sum over at most two experts does not tell their order",
        lambda mutant, n: experts_per_token(mutant, n) <= 2,
    ),
    Equivalent(
        "Router.total",
        "a + b is rounded once by either kernel",
        lambda mutant, n: is_swap(mutant, {"sum", "norm"}) and experts_per_token(mutant, n) <= 2,
    ),
    Equivalent(
        "MixtureOfExperts.sum_order",
        "a sum over one expert has no order",
        lambda mutant, n: is_swap(mutant, {"chosen", "expert"}) and experts_per_token(mutant, n) == 1,
    ),
    Equivalent(
        "MixtureOfExperts.views",
        "a + b = b + a: without a shared expert two gradients meet, in whatever order",
        lambda mutant, n: mutant.part.shared is None and reads_alone(mutant.part, n),
    ),
    Equivalent(
        "MixtureOfExperts.views",
        "of a shared expert called last the gradient comes first, then the experts', then the router's, either way",
        lambda mutant, n: (
            is_swap(mutant, {"one", "behind"}) and calls_shared_expert_last(mutant.part) and reads_alone(mutant.part, n)
        ),
    ),
    Equivalent(
        "Norm.rounding",
        "torch's RMSNorm is the same operations on a CPU: float32, mean of squares, root, weight, one rounding",
        lambda mutant, n: is_swap(mutant, {"after_scale", "native"}) and mutant.part.kind == "rms",
    ),
    Equivalent(
        "OutputGate.wide",
        "activations of half-precision numbers are computed in float32 and rounded once, by whichever cast",
        lambda mutant, n: is_swap(mutant, {"none", "activation"}),
    ),
    Equivalent(
        "SinusoidPositions.count",
        "a longer table of the same formula: its rows are the same",
        lambda mutant, n: mutant.kind == "whole number",
    ),
    Equivalent("Alibi.slopes", "both are exact: the same powers of two", has_round_slopes),
    Equivalent(
        "Rope.over",
        "turning is element by element: where no head's norm stands before it, nor a gradient passes, order is nothing",
        lambda mutant, n: ".indexer." in mutant.path or not any(tells_order(mixer) for mixer, *_ in rotations(n)),
    ),
    Equivalent("Rope.fraction", "rounds to the same number of turned pairs: the same frequencies", rotates_alike),
)


def proof_of_equivalence(mutant: Mutant, n: ArchitectureParameter) -> str | None:
    """The proof that a mutant of n is n, where one is declared."""
    for declared in EQUIVALENTS:
        if fnmatch.fnmatch(mutant.field, declared.field) and declared.holds(mutant, n):
            return declared.proof
    return None
