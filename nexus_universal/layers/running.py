"""How calls of an optimised model are computed: as ever, compiled, or in steps that find all memory where it was."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nexus_universal.cache.static import FixedCache, StaticCache

Compute = Callable[..., Float[Tensor, "batch kept d_vocab"]]
"""Logits, from a model and what its `forward` takes."""

WARM_UP = 3
"""Calls before a step is recorded: libraries choose kernels and take memory in the first ones."""


@dataclass(frozen=True)
class Running:
    """How the calls of a model are computed, given a plain `whole`; `single` is that of steps in fixed memory."""

    whole: Compute
    single: Compute

    @classmethod
    def of(cls, compute: Compute, *, compile: bool) -> Running:
        """Both, `compile`d when they first come, or as they are."""

        def step(model: Any, *inputs: Tensor | None, cache: FixedCache) -> Float[Tensor, "batch one d_vocab"]:
            logits = compute(model, *inputs, cache=cache)
            cache.settle()
            return logits

        return cls(torch.compile(compute, dynamic=True), torch.compile(step)) if compile else cls(compute, step)

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
        inputs = (input_ids, attention_mask, position_ids)
        if not isinstance(cache, StaticCache):
            return self.whole(model, *inputs, cache=cache, **others)
        if not _is_step(model, *inputs, cache=cache, **others):
            assert cache.states is not None  # taken out of fixed memory here, not where a compiler looks on
            return self.whole(model, *inputs, cache=cache, **others)
        assert input_ids is not None
        if attention_mask is not None:
            model.plan.refuse_inner_pads(attention_mask.bool())
        bound = cache.bind(input_ids.device)
        if attention_mask is not None:
            ahead = bound.room - attention_mask.shape[-1]
            inputs = (input_ids, torch.nn.functional.pad(attention_mask, (0, ahead), value=1), position_ids)
        if cache.replay is None:
            cache.replay = Recorded(self.single, model, inputs, cache=bound) if input_ids.is_cuda else self.single
        logits = cache.replay(model, *inputs, cache=bound)
        cache.advance(1)
        return logits


def _is_step(
    model: Any,
    input_ids: Tensor | None,
    attention_mask: Tensor | None,
    position_ids: Tensor | None,
    *,
    cache: StaticCache,
    logits_to_keep: int | Tensor = 0,
    **others: Any,
) -> bool:
    """Whether this is one more position of every row, which nobody looks into, and nothing else."""
    plain = isinstance(logits_to_keep, int) and not any(value is not None for value in others.values())
    mask = attention_mask is None or attention_mask.shape[1:] == (cache.length + 1,)
    one = input_ids is not None and input_ids.shape[1] == 1 and cache.length > 0 and input_ids.shape[0] == cache.rows
    return one and plain and mask and not model.plan.looked_into and not torch.is_grad_enabled()


class Recorded:
    """A step whose work was recorded once; every replay reads what is copied into the inputs of the first."""

    def __init__(self, step: Compute, model: Any, inputs: tuple[Tensor | None, ...], *, cache: FixedCache) -> None:
        self.inputs = tuple(None if each is None else each.clone() for each in inputs)
        before = [tensor.clone() for tensor in cache.moving()]

        def tried() -> None:
            step(model, *self.inputs, cache=cache)
            for tensor, was in zip(cache.moving(), before, strict=True):
                tensor.copy_(was)

        self.replay, self.logits = captured(lambda: step(model, *self.inputs, cache=cache), tried=tried)

    def __call__(self, model: Any, *inputs: Tensor | None, cache: FixedCache) -> Float[Tensor, "batch one d_vocab"]:
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
