"""Continuous batching: requests packed into one row, their keys and values in transformers' pages.

`generate_batch` and `transformers serve --continuous-batching` schedule, page and sample; here is what they ask of a
model. The pages hold plain keys and values of one size, so softmax attention is what they fit.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, cast

import transformers
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers.generation.continuous_batching.cache import PagedAttentionCache

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import DynamicScaling, LongRopeScaling, SteppedScaling
from nexus_universal.cache import Cache, KeyValueState, WindowState
from nexus_universal.transformer import UniversalTransformer

FULL, SLIDING = "full_attention", "sliding_attention"

MISFITS = ("alibi", "relative", "dynamic_mask", "indexer", "convolution", "chunked")
"""Fields of an attention that need more of a call than its mask and positions."""

WHOLE_CALL = (DynamicScaling, LongRopeScaling, SteppedScaling)
"""Rotations that depend on the longest request: packed ones would turn each other's keys."""


@dataclass(frozen=True, kw_only=True)
class Pages:
    """What the pages must hold: `windows` has one entry per attention that keeps keys and values, in their order."""

    kv_heads: int
    head_dim: int
    windows: tuple[int | None, ...]

    @classmethod
    def of(cls, n: ArchitectureParameter) -> Pages:
        """Those of an n.

        Raises:
            InputError: a mixer that pages cannot serve, or attention of several sizes.
        """
        mixers = {
            f"layers.{index}.{name}": branch.part
            for index, layer in enumerate(n.layers)
            for name, branch in layer.all_branches()
            if getattr(branch.part, "role", None) == "mixer"
        }
        for place, part in mixers.items():
            if reason := _misfit(part):
                raise InputError(f"continuous batching: {place} is {reason}: use generate")
        found = [part for part in mixers.values() if isinstance(part, Attention) and not part.reuse]
        sizes = {(part.kv_heads, part.head_dim) for part in found}
        windows = {part.window for part in found if part.window is not None}
        if len(sizes) != 1 or len(windows) > 1:
            raise InputError(
                "continuous batching: needs key/value heads of one number and width, and at most one window; "
                f"n has {sorted(sizes)} and windows {sorted(windows)}: use generate"
            )
        kv_heads, head_dim = sizes.pop()
        return cls(kv_heads=kv_heads, head_dim=head_dim, windows=tuple(part.window for part in found))

    @property
    def said(self) -> dict[str, Any]:
        """The same in the words in which transformers asks a config."""
        return {
            "num_key_value_heads": self.kv_heads,
            "head_dim": self.head_dim,
            "layer_types": [FULL if window is None else SLIDING for window in self.windows],
            "sliding_window": next((window for window in self.windows if window is not None), None),
        }


def _misfit(part: Any) -> str | None:
    """What keeps a mixer out of pages."""
    if not isinstance(part, Attention):
        return f"a {type(part).__name__}"
    for field in MISFITS:
        if getattr(part, field):
            return f"an Attention with {field}"
    if part.value_width != part.head_dim:
        return "an Attention whose values are not as wide as its keys"
    if part.window is not None and part.keeps == "all":
        return "an Attention with a window that keeps = 'all'"
    if part.rope and isinstance(part.rope.scaling, WHOLE_CALL):
        return f"an Attention whose rope has a {type(part.rope.scaling).__name__}"
    return None


def check_paged(model: UniversalTransformer) -> Pages:
    """The pages that a model needs.

    Raises:
        InputError: as `Pages.of`, where something else than attention has a state, or with an older transformers.
    """
    if "kwargs" not in inspect.signature(vars(PagedAttentionCache)["update"]).parameters:
        raise InputError(f"continuous batching: needs transformers 5.23 or newer, here is {transformers.__version__}")
    pages = Pages.of(model.n)
    states = model.new_cache(kind="exact").states
    for key, state in states.items():
        if type(state) not in (KeyValueState, WindowState):
            raise InputError(f"continuous batching: {key} keeps a {type(state).__name__}: use generate")
    assert len(states) == len(pages.windows)
    return pages


class PagedState(KeyValueState):
    """What one attention keeps of all requests, in pages; the new keys of a call are those of all its requests."""

    fields = ()
    keeps_positions = False

    def __init__(self, pages: PagedAttentionCache, index: int, batch: Mapping[str, Any]) -> None:
        super().__init__()
        self.pages, self.index, self.batch = pages, index, batch

    def extend(
        self, keys: Float[Tensor, "one heads new k"], values: Float[Tensor, "one heads new v"]
    ) -> tuple[Float[Tensor, "one heads total k"], Float[Tensor, "one heads total v"]]:
        update = cast("Any", self.pages).update  # a decorator hides from type checkers that it is a method
        return update(keys, values, self.index, dict(self.batch))


def packed_logits(
    model: UniversalTransformer,
    input_ids: Int[Tensor, "one packed"],
    position_ids: Int[Tensor, "one packed"],
    *,
    masks: Tensor | Mapping[str, Tensor],
    pages: PagedAttentionCache,
    batch: Mapping[str, Any],
    logits_to_keep: int | Int[Tensor, " kept"],
) -> Float[Tensor, "one kept d_vocab"]:
    """One call for a packed row.

    `masks` are added to scores, one for all layers or one per type of layer; `batch` says where in the pages the
    row's requests are.
    """
    keys = model.new_cache(kind="exact").states
    states = {key: PagedState(pages, index, batch) for index, key in enumerate(keys)}
    apart = _masked_apart(model, masks) if isinstance(masks, Mapping) else nullcontext()
    whole = masks[FULL] if isinstance(masks, Mapping) else masks
    with apart:
        cache = Cache(states, signature=model.n.hash)
        return model(input_ids, whole, position_ids, cache=cache, logits_to_keep=logits_to_keep).logits


@contextmanager
def _masked_apart(model: UniversalTransformer, masks: Mapping[str, Tensor]) -> Iterator[None]:
    """Full attention and windows find different keys in their pages: each kind of mask is put in before layer 0."""

    def put_in(layer: nn.Module, given: tuple[Any, ...]) -> None:
        given[1].masks = [masks[FULL if kind.window is None else SLIDING] for kind in model.plan.mask_kinds]

    hook = model.layers[0].register_forward_pre_hook(put_in)
    try:
        yield
    finally:
        hook.remove()
