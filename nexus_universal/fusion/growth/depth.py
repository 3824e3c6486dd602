"""More layers: everything in them is fresh but what writes to the residual, which is 0, so that they change nothing."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import torch

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.part import ByLayer
from nexus_universal.architecture.program import Branch, Program, Read, Step, Write
from nexus_universal.checkpoint.load import slots
from nexus_universal.fusion.growth.rebuild import grown, growth_certificate, parts_of, refuse
from nexus_universal.fusion.retention import Tier
from nexus_universal.transformer import UniversalTransformer

TIER = Tier.BITS
WRITER = re.compile(r"\.(output|down)(\.weight|\.bias|_bias)?$")
"""What a mixer or a feed-forward gives the residual through."""


def add_layers(
    model: UniversalTransformer, count: int, *, at: int | None = None, seed: int = 0
) -> UniversalTransformer:
    """`count` new layers before layer `at` (None: behind the last), built like the layer before them: R1, x + 0 = x.

    Raises:
        InputError: that layer does not add to the residual alone (post-norms, scaled residuals, streams, shared or
            passed-on states), or layers behind it depend on their index.
        RetentionError: the logits' bits changed.
    """
    n, at = model.n, len(model.n.layers) if at is None else at
    if count < 1 or not 1 <= at <= len(n.layers):
        raise InputError(f"count = {count} must be at least 1, and at = {at} must lie in [1, {len(n.layers)}]")
    pattern = n.layers[at - 1]
    list(parts_of(n))
    refuse("n", n, "a layer of several streams is no sum", streams=None)
    _refuse_other_than_sums(pattern, f"layers.{at - 1}")
    if at < len(n.layers):
        for path, part in parts_of(n):
            if isinstance(getattr(part, "scale", None), ByLayer):
                raise InputError(f"{path}.scale = {part.scale!r}: it would change behind new layers")
            refuse(path, part, "it depends on the layer's index, which new layers before it change", differential=None)
    longer = replace(n, layers=n.layers[:at] + count * (pattern,) + n.layers[at:])
    new = range(at, at + count)

    def renamed(name: str) -> str | None:
        head, _, rest = name.removeprefix("layers.").partition(".")
        if not name.startswith("layers.") or int(head) < at:
            return name
        return None if int(head) in new else f"layers.{int(head) - count}.{rest}"

    with torch.device("meta"):
        shapes = {name: slot.shape for name, slot in slots(UniversalTransformer(longer.validate())).items()}
    silent = [name for name in shapes if renamed(name) is None and WRITER.search(name)]
    written = {name: torch.zeros(shapes[name], dtype=model.dtype) for name in silent}
    deeper = grown(model, longer, seed=seed, renamed=renamed, written=written)
    growth_certificate("add_layers", TIER, model, deeper)
    return deeper


def _refuse_other_than_sums(layer: Program, path: str) -> None:
    """Every step must give x itself where its branches give 0."""
    for path_of, branch in layer.all_branches(f"{path}."):
        _refuse_branch(branch, path_of)
    for index, step in enumerate(layer.steps):
        where = f"{path}.{step.branches[0].name}_step" if step.branches else f"{path}.step_{index}"
        _refuse_step(step, where)


def _refuse_branch(branch: Branch, path: str) -> None:
    part: Any = branch.part
    if part.role not in ("mixer", "feed_forward"):
        raise InputError(f"{path} is a {type(part).__name__}: growth knows no way to silence it")
    refuse(path, part, "a layer more would pass on what others read", emit=None, reuse=None, indexer=None)
    if isinstance(part, MixtureOfExperts):
        refuse(path, part, "these give x itself, not 0", identity_experts=0)
    if isinstance(part, MixtureOfExperts | FeedForward):
        refuse(path, part, "a layer more must give exactly 0", divisor=None)
    if branch.output_norm is not None and branch.output_norm.eps == 0:
        raise InputError(f"{path}.output_norm.eps = 0: a norm of 0 is not 0")


def _refuse_step(step: Step, path: str) -> None:
    why = "a layer more would not leave x as it is"
    refuse(path, step, why, connection=None, read=Read())
    names = {branch.name for branch in step.branches}
    for write in step.writes:
        refuse(f"{path}.write", write, why, register="x", scale=None, norm=None, layer_scale=False, divisor=None)
        _refuse_terms(write, names, path)


def _refuse_terms(write: Write, branches: set[str], path: str) -> None:
    kept = [term for term in write.terms if term.source not in branches]
    if [term.source for term in kept] not in (["x"], ["u"]) or kept[0].scale is not None or kept[0].gain != "none":
        raise InputError(f"{path}: a layer more would not leave x as it is: it writes {write.terms!r}")
    for term in write.terms:
        if term.gain == "shift_scale":
            raise InputError(f"{path}.write.{term.source}.gain = 'shift_scale': a layer more must give exactly 0")
