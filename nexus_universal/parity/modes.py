"""The ways a model is called, each made once of the reference and once of ours, in the very same form."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import embedding

from nexus_universal.parity.own_states import Given, remembers
from nexus_universal.parity.quirks import quirks
from nexus_universal.parity.references import Rotary
from nexus_universal.transformer import UniversalTransformer

Logits = Float[Tensor, "*positions d_vocab"]
Ids = Int[Tensor, "batch seq"]


@dataclass(frozen=True)
class Sample:
    """What a draw is run on: ids, the rows' lengths when the batch is ragged, chunk sizes, and a prompt's length.

    `counted`: what positions count in a padded row, its tokens or its slots, pads among them. `keep`: of how many last
    positions logits are asked for, 0 for all.
    """

    ids: Ids
    lengths: tuple[int, ...]
    chunks: tuple[int, ...]
    prompt: int
    new_tokens: int = 8
    given: Literal["rows", "looked up", "ids"] = "rows"
    """What is given as embeddings: the table's rows, or what ids look up (a model may find them by it), or ids."""
    counted: Literal["tokens", "slots"] = "tokens"
    keep: int = 1

    def cut(self, length: int) -> Sample:
        """The same rows, no longer than `length`."""
        if length >= self.ids.shape[1]:
            return self
        lengths = tuple(max(1, min(row, length) - index) for index, row in enumerate(self.lengths))
        return replace(self, ids=self.ids[:, :length], lengths=lengths, chunks=(length,), prompt=max(1, length // 2))

    def unpadded(self) -> Sample:
        """The same rows, all of full length."""
        return replace(self, lengths=(self.ids.shape[1],) * len(self.lengths))

    def one_row(self) -> Sample:
        """The first row alone."""
        return replace(self, ids=self.ids[:1], lengths=self.lengths[:1])

    def stepped(self) -> Sample:
        """The same rows, read in one chunk and then one by one."""
        first = self.chunks[0]
        return replace(self, chunks=(first, *(1,) * (self.ids.shape[1] - first)))

    def mask(self, side: str) -> Int[Tensor, "batch seq"]:
        """1 for real tokens, the rows padded on `side`."""
        mask = torch.zeros_like(self.ids)
        for row, length in enumerate(self.lengths):
            mask[row, slice(-length, None) if side == "left" else slice(0, length)] = 1
        return mask


def sample(vocab: int, *, length: int, batch: int, seed: int, pad: int | None = None) -> Sample:
    """Random ids without the pad id; ragged lengths; chunks of odd sizes that end in single steps."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, vocab, (batch, length), generator=generator)
    if pad is not None:
        ids = torch.where(ids == pad, (ids + 1) % vocab, ids)
    lengths = (length, *(int(torch.randint(length // 3, length, (), generator=generator)) for _ in range(batch - 1)))
    first, second, ones = length // 3 + 1, length // 12 + 2, min(6, length // 4)
    rest = length - first - second - ones
    return Sample(ids=ids, lengths=lengths, chunks=(first, second, rest, *(1,) * ones), prompt=length // 2)


def positions_of(mask: Tensor, counted: str = "tokens") -> Tensor:
    """Positions counted over real tokens, or over all slots."""
    return (torch.ones_like(mask) if counted == "slots" else mask).long().cumsum(-1).sub(1).clamp(min=0)


@dataclass
class Past:
    """What stands for a cache where there is none: ids, and positions if any were given."""

    ids: list[Tensor] = field(default_factory=list)
    positions: list[Tensor] = field(default_factory=list)

    def with_piece(self, ids: Tensor, positions: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """All that was read, this piece last."""
        self.ids.append(ids)
        if positions is not None:
            self.positions.append(positions)
        return torch.cat(self.ids, dim=1), torch.cat(self.positions, dim=1) if self.positions else None


class Reference:
    """The reference behind the few calls that modes make."""

    def __init__(self, model: Any) -> None:
        self.model = model
        self.rotary = Rotary(model)
        # A model that only has recurrent states calls its cache by another name, and swallows the usual one unread.
        recurrent = "cache_params" in inspect.signature(model.forward).parameters
        self.quirks = quirks(model.config.model_type)
        self.cache_name = self.quirks.gives_states or ("cache_params" if recurrent else "past_key_values")
        self.first_row = model.config.pad_token_id + 1 if self.quirks.positions_are_rows else 0

    def begin(self) -> None:
        """Before a call or a series of calls."""
        self.rotary.reset()

    def new_cache(self) -> Any:
        from transformers import DynamicCache

        if self.quirks.reads_anew:
            return Past()
        if self.quirks.gives_states:
            return Given()
        if self.quirks.own_cache:
            return getattr(inspect.getmodule(type(self.model)), self.quirks.own_cache)()
        return DynamicCache(config=self.model.config)

    def __call__(
        self,
        ids: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Any = None,
        keep: int = 0,
    ) -> Tensor:
        if isinstance(cache, Past):
            whole, where = cache.with_piece(ids, positions)
            return self(whole, mask=mask, positions=where)[:, -(keep or ids.shape[1]) :]
        if self.quirks.steps_alone and cache is not None and ids.shape[1] == 1 < ids.shape[0]:
            return torch.cat([self(row, cache=cache.row(index)) for index, row in enumerate(ids.split(1))])
        if positions is None and cache is not None and self.quirks.starts_anew:
            positions = (torch.arange(ids.shape[1]) + cache.get_seq_length()).unsqueeze(0)
        if positions is not None:
            positions = positions + self.first_row
        if self.quirks.takes_new and mask is not None and mask.shape[1] > ids.shape[1]:
            mask = None
        out = self.model(
            ids,
            attention_mask=mask,
            position_ids=positions,
            use_cache=cache is not None or remembers(self.model),
            logits_to_keep=keep,
            **{self.cache_name: cache.states if isinstance(cache, Given) else cache},
        )
        if isinstance(cache, Given):
            cache.states = getattr(out, self.cache_name)
        return out.logits

    def of_rows(self, ids: Tensor, *, looks_up: bool) -> Tensor:
        """Logits of the token table's rows, given as they lie there; of looked-up ones where it is no single table."""
        tokens = self.model.get_input_embeddings()
        rows = embedding(ids, tokens.weight) if hasattr(tokens, "weight") and not looks_up else tokens(ids)
        return self.model(inputs_embeds=rows, use_cache=remembers(self.model)).logits


class Ours:
    """The one class behind the same calls."""

    def __init__(self, model: UniversalTransformer) -> None:
        self.model = model
        self.quirks = quirks(model.n.origin.family)

    def begin(self) -> None:
        """Nothing is left behind by a call."""

    def new_cache(self) -> Any:
        """Its own, or none where the reference has none: what the own cache computes is held to laws."""
        return Past() if self.quirks.reads_anew else self.model.new_cache()

    def __call__(
        self,
        ids: Tensor,
        *,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        cache: Any = None,
        keep: int = 0,
    ) -> Tensor:
        if isinstance(cache, Past):
            whole, where = cache.with_piece(ids, positions)
            return self(whole, mask=mask, positions=where)[:, -(keep or ids.shape[1]) :]
        return self.model(ids, mask, positions, cache=cache, logits_to_keep=keep).logits

    def of_rows(self, ids: Tensor, *, looks_up: bool) -> Tensor:
        """The same of ours."""
        tokens = self.model.embedding
        rows = tokens.look_up(ids) if looks_up or tokens.table is None else embedding(ids, tokens.table)
        return self.model(inputs_embeds=rows).logits


Side = Reference | Ours


def prefill(side: Side, s: Sample) -> Logits:
    """One row, all positions at once."""
    side.begin()
    return side(s.ids[:1])


def short_prefill(side: Side, s: Sample) -> Logits:
    """The first tokens of a row: below the length at which a rotation changes, and inside most windows."""
    side.begin()
    return side(s.ids[:1, : s.ids.shape[1] // 8])


def given_embeddings(side: Side, s: Sample) -> Logits:
    """One row of embeddings instead of ids: a model may scale what it is given, or only what it looks up."""
    side.begin()
    return side(s.ids[:1]) if s.given == "ids" else side.of_rows(s.ids[:1], looks_up=s.given == "looked up")


def last_position(side: Side, s: Sample) -> Logits:
    """One row, logits of the last position only, or of all where that cannot be asked for."""
    side.begin()
    return side(s.ids[:1], keep=s.keep)


def padded(padding_side: str) -> Callable[[Side, Sample], Logits]:
    """A ragged batch; only real positions are compared."""

    def run(side: Side, s: Sample) -> Logits:
        side.begin()
        mask = s.mask(padding_side)
        real: Bool[Tensor, "batch seq"] = mask.bool()
        return side(s.ids, mask=mask, positions=positions_of(mask, s.counted))[real]

    return run


def in_chunks(side: Side, s: Sample) -> Logits:
    """A batch read piece by piece into a cache."""
    side.begin()
    cache = side.new_cache()
    pieces = [side(piece, cache=cache) for piece in s.ids.split(list(s.chunks), dim=1)]
    return torch.cat(pieces, dim=1)


def cached_decode(side: Side, s: Sample) -> Logits:
    """A left-padded batch: the prompt, then token by token, the mask growing."""
    side.begin()
    mask = s.mask("left")
    positions = positions_of(mask, s.counted)
    cache = side.new_cache()
    steps = [slice(0, s.prompt), *(slice(i, i + 1) for i in range(s.prompt, s.ids.shape[1]))]
    pieces = [
        side(s.ids[:, step], mask=mask[:, : step.stop], positions=positions[:, step], cache=cache)[mask[:, step].bool()]
        for step in steps
    ]
    return torch.cat(pieces)


GIVEN = "given embeddings"
LAST = "last position"
LEFT_PADDED = ("left-padded batch", "cached decode")
MODES: dict[str, Callable[[Side, Sample], Logits]] = {
    "prefill": prefill,
    "short prefill": short_prefill,
    GIVEN: given_embeddings,
    LAST: last_position,
    "left-padded batch": padded("left"),
    "right-padded batch": padded("right"),
    "chunks": in_chunks,
    "cached decode": cached_decode,
}


@dataclass(frozen=True)
class Comparison:
    """Two sides of one mode."""

    equal: bool
    max_difference: float
    max_logit: float
    kl: float
    flips: int


def compare(theirs: Logits, ours: Logits) -> Comparison:
    """Bits, largest difference, mean KL(theirs ‖ ours) and argmax flips."""
    if theirs.shape != ours.shape:
        return Comparison(
            equal=False, max_difference=float("inf"), max_logit=0.0, kl=float("inf"), flips=theirs.shape[0]
        )
    equal = theirs.dtype == ours.dtype and torch.equal(theirs, ours)
    a, b = theirs.double(), ours.double()
    log_p, log_q = a.log_softmax(-1), b.log_softmax(-1)
    finite = bool(torch.isfinite(a).all() and torch.isfinite(b).all())
    return Comparison(
        equal=equal and finite,
        max_difference=float((a - b).abs().max()) if finite else float("inf"),
        max_logit=float(a.abs().max()),
        kl=float((log_p.exp() * (log_p - log_q)).sum(-1).mean()),
        flips=int((a.argmax(-1) != b.argmax(-1)).sum()),
    )


def greedy(side: Side, ids: Ids, new_tokens: int) -> tuple[list[int], list[float]]:
    """Greedy ids of one row by plain cached steps, and the top-2 margin at each."""
    side.begin()
    cache = side.new_cache()
    chosen: list[int] = []
    margins: list[float] = []
    step = ids
    for _ in range(new_tokens):
        logits = side(step, cache=cache, keep=1)[0, -1].float()
        top = logits.topk(2)
        margins.append(float(top.values[0] - top.values[1]))
        chosen.append(int(top.indices[0]))
        step = top.indices[:1].view(1, 1)
    return chosen, margins
