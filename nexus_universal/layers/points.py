"""Activation points: every vector that a model computes on its way, by name, to be read or replaced.

Points are module paths with `.input` or `.output` behind them (`layers.3.attention.query.output`), and of every module
that attends `.scores` and `.weights`, before and after the softmax. Unused they cost nothing: hooks are put in place
for the time of a `with` block. Of weights that layers share a point sees every use.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from nexus_universal.architecture.errors import InputError
from nexus_universal.layers.call import CallPlan

Touch = Callable[[Tensor], Tensor | None]
"""Sees a tensor; what it returns, if anything, takes the tensor's place."""

SIDES = ("input", "output", "scores", "weights")


class Recording(dict[str, Tensor]):
    """What each point held: in the last call of its module, and in `calls` in every one (loops, several steps)."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: dict[str, list[Tensor]] = {}

    def add(self, point: str, value: Tensor) -> None:
        """Note one more value."""
        self[point] = value
        self.calls.setdefault(point, []).append(value)


class _Attending(TorchFunctionMode):
    """Stands between an attending module and torch: a fused kernel is written out, so that scores can be touched."""

    def __init__(self, touch: Touch, *, side: str, x: Tensor) -> None:
        super().__init__()
        self.touch, self.side, self.lead = touch, side, x.shape[:2]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            return self._written_out(*args, **kwargs)
        if func is torch.softmax:
            given = self._touched(args[0]) if self.side == "scores" else args[0]
            weights = func(given, *args[1:], **kwargs)
            return self._touched(weights) if self.side == "weights" else weights
        return func(*args, **kwargs)

    def _touched(self, value: Tensor) -> Tensor:
        """By head and query, however the kernel had them."""
        replaced = self.touch(value.reshape(self.lead[0], -1, self.lead[1], value.shape[-1]))
        return value if replaced is None else replaced.reshape(value.shape).to(value.dtype)

    def _written_out(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Tensor:
        if enable_gqa:
            times = query.shape[1] // key.shape[1]
            key, value = key.repeat_interleave(times, 1), value.repeat_interleave(times, 1)
        scores = query @ key.transpose(-2, -1) * (query.shape[-1] ** -0.5 if scale is None else scale)
        if is_causal:
            attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
        if attn_mask is not None and attn_mask.dtype == torch.bool:
            scores = scores.masked_fill(~attn_mask, torch.finfo(scores.dtype).min)
        elif attn_mask is not None:
            scores = scores + attn_mask
        scores = self._touched(scores) if self.side == "scores" else scores
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        weights = self._touched(weights) if self.side == "weights" else weights
        return weights @ value


def points(model: nn.Module) -> list[str]:
    """The names of all points of a model."""
    found = []
    for name, module in model.named_modules(remove_duplicate=False):
        if name and not isinstance(module, nn.ModuleList | nn.ModuleDict | nn.ParameterDict):
            sides = SIDES if hasattr(module, "mask_index") else SIDES[:2]
            found += [f"{name}.{side}" for side in sides]
    return found


def matching(model: nn.Module, pattern: str) -> list[str]:
    """The points that a pattern names: `*` is one piece of a path; a module's path alone is its output.

    Raises:
        InputError: there is none; the nearest are named.
    """
    known = points(model)
    wanted = re.compile(re.escape(pattern).replace(r"\*", "[^.]+") + r"(?P<side>\.output)?")
    whole = [point for point in known if (found := wanted.fullmatch(point)) and not found["side"]]
    found = whole or [point for point in known if wanted.fullmatch(point)]
    if not found:
        near = difflib.get_close_matches(pattern.replace("*", "0"), known, n=3, cutoff=0.3)
        raise InputError(f"no activation point is called {pattern!r} (near: {', '.join(near) or 'none'})")
    return found


@contextmanager
def touching(model: nn.Module, touches: dict[str, Touch]) -> Iterator[None]:
    """For the time of a `with` block, call each point's touch whenever its value is computed."""
    plans = {plan for module in model.modules() if isinstance(plan := getattr(module, "plan", None), CallPlan)}
    with ExitStack() as stack:
        for plan in plans:
            stack.enter_context(plan.being_looked_into())
        for point, touch in touches.items():
            path, _, side = point.rpartition(".")
            module = model.get_submodule(path)
            if side in SIDES[2:]:
                stack.enter_context(_in_one_piece(module))
            stack.enter_context(_hooked(module, side, touch))
        yield


@contextmanager
def _in_one_piece(module: Any) -> Iterator[None]:
    """Scores of all queries at once, where an optimised model would compute them in runs."""
    plan, was = module.plan, module.plan.blockwise
    plan.blockwise = False
    try:
        yield
    finally:
        plan.blockwise = was


@contextmanager
def recording(model: nn.Module, patterns: Iterable[str]) -> Iterator[Recording]:
    """Note what the points hold that the patterns name."""
    seen = Recording()
    names = [point for pattern in patterns for point in matching(model, pattern)]
    with touching(model, {name: partial(seen.add, name) for name in names}):
        yield seen


@contextmanager
def _hooked(module: nn.Module, side: str, touch: Touch) -> Iterator[None]:
    if side == "input":
        handles = [module.register_forward_pre_hook(lambda _, given: _first_replaced(given, touch))]
    elif side == "output":
        handles = [module.register_forward_hook(lambda _, given, out: _replaced(out, touch))]
    else:
        modes: list[_Attending] = []
        swift = getattr(module, "swift", False)

        def enter(_: nn.Module, given: tuple[Any, ...]) -> None:
            if swift:
                module.swift = False  # type: ignore[assignment]  # looked into is torch's kernel
            modes.append(_Attending(touch, side=side, x=_main(given[0])))
            modes[-1].__enter__()

        def leave(*_: Any) -> None:
            modes.pop().__exit__(None, None, None)
            if swift:
                module.swift = True  # type: ignore[assignment]

        handles = [
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave, always_call=True),
        ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _main(value: Any) -> Tensor:
    """The tensor of a call's input or output: of registers the residual, of several values the first."""
    if isinstance(value, dict):
        return value["x"]
    return _main(value[0]) if isinstance(value, tuple) else value


def _replaced(value: Any, touch: Touch) -> Any:
    if isinstance(value, dict):
        return {**value, "x": _replaced(value["x"], touch)}
    if isinstance(value, tuple):
        return (_replaced(value[0], touch), *value[1:])
    replaced = touch(value) if isinstance(value, Tensor) else None
    return value if replaced is None else replaced


def _first_replaced(given: tuple[Any, ...], touch: Touch) -> tuple[Any, ...]:
    return (_replaced(given[0], touch), *given[1:]) if given else given
