"""How calls of an optimised model are computed: as ever, compiled, or in steps that find all memory where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nexus_universal.cache.static import FixedCache, StaticCache

Compute = Callable[..., Float[Tensor, "batch kept d_vocab"]]
"""Logits, from a model and what its `compute` takes."""

WARM_UP = 3
"""Calls before a step is recorded: libraries choose kernels and take memory in the first ones."""


def whole(model: Any, *inputs: Tensor | None, **others: Any) -> Float[Tensor, "batch kept d_vocab"]:
    """Any call."""
    return model.compute(*inputs, **others)


def step(model: Any, *inputs: Tensor | None, cache: FixedCache) -> Float[Tensor, "batch one d_vocab"]:
    """One position of every row, in fixed memory."""
    logits = model.compute(*inputs, cache=cache)
    cache.settle()
    return logits


@dataclass(frozen=True)
class Running:
    """How the calls of a model are computed; `step` is that of steps with a static cache."""

    whole: Compute = whole
    step: Compute = step

    @classmethod
    def compiled(cls) -> Running:
        """Both when they first come: calls for all lengths, steps for the room there is and then for any."""
        return cls(torch.compile(whole, dynamic=True), torch.compile(step))

    def __call__(
        self,
        model: Any,
        input_ids: Int[Tensor, "batch seq"] | None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows seq"] | None = None,
        *,
        cache: Any = None,
        **others: Any,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """The logits of a call."""
        if isinstance(cache, StaticCache):
            if _is_step(model, input_ids, attention_mask, cache=cache, **others):
                assert input_ids is not None
                return self._stepped(model, input_ids, attention_mask, position_ids, cache=cache)
            cache.loosen()  # here, not where a compiler looks on
        return self.whole(model, input_ids, attention_mask, position_ids, cache=cache, **others)

    def _stepped(
        self, model: Any, input_ids: Tensor, mask: Tensor | None, position_ids: Tensor | None, *, cache: StaticCache
    ) -> Float[Tensor, "batch one d_vocab"]:
        if mask is not None:
            model.plan.refuse_inner_pads(mask.bool())
        bound = cache.bind(input_ids.device)
        if mask is not None:  # what is not there yet is hidden by its position
            mask = F.pad(mask, (0, bound.room - mask.shape[-1]), value=1)
        inputs = (input_ids, mask, position_ids)
        if cache.recorded is not None and not cache.recorded.fits(model, *inputs):
            cache.recorded = None
        if cache.recorded is None and input_ids.is_cuda:
            cache.recorded = Recorded(self.step, model, inputs, cache=bound)
        logits = cache.recorded(*inputs) if cache.recorded else self.step(model, *inputs, cache=bound)
        cache.advance(1)
        return logits


def _is_step(
    model: Any,
    input_ids: Tensor | None,
    mask: Tensor | None,
    *,
    cache: StaticCache,
    logits_to_keep: int | Tensor = 0,
    **others: Any,
) -> bool:
    """Whether this is one more position of every row, which nobody looks into, and nothing else."""
    if input_ids is None or cache.length == 0 or model.plan.looked_into or torch.is_grad_enabled():
        return False
    if not isinstance(logits_to_keep, int) or any(value is not None for value in others.values()):
        return False
    one, rows = input_ids.shape[1] == 1, input_ids.shape[0]
    return one and rows == cache.rows and (mask is None or mask.shape == (rows, cache.length + 1))


class Recorded:
    """A step whose work was recorded once; every replay reads what is copied into the inputs of the first."""

    def __init__(self, step: Compute, model: Any, inputs: tuple[Tensor | None, ...], *, cache: FixedCache) -> None:
        self.model = model
        self.inputs = tuple(None if each is None else each.clone() for each in inputs)
        before = [tensor.clone() for tensor in cache.moving()]

        def tried() -> None:
            step(model, *self.inputs, cache=cache)
            for tensor, was in zip(cache.moving(), before, strict=True):
                tensor.copy_(was)

        self.replay, self.logits = captured(lambda: step(model, *self.inputs, cache=cache), tried=tried)

    def fits(self, model: Any, *inputs: Tensor | None) -> bool:
        """Whether a call of this model with these inputs is what was recorded."""
        shapes = [[None if each is None else each.shape for each in given] for given in (inputs, self.inputs)]
        return model is self.model and shapes[0] == shapes[1]

    def __call__(self, *inputs: Tensor | None) -> Float[Tensor, "batch one d_vocab"]:
        for home, given in zip(self.inputs, inputs, strict=True):
            if home is not None and given is not None:
                home.copy_(given)
        self.replay()
        return self.logits.clone()


def captured(run: Callable[[], Tensor], *, tried: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
    """What does the work of `run` again, and where its result then lies: a CUDA graph. `tried` warms up what it needs.

    As torch.cuda.graphs asks for it: warmed up on a stream aside, then captured, which computes nothing.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(WARM_UP):
            tried()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = run()
    return graph.replay, result
