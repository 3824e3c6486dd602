"""The states of mixers. Tensors are replaced, never written in place, so a fork shares them at no cost."""

from __future__ import annotations

import copy
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from nexus_universal.architecture.errors import InputError

COMPRESSED = ("waiting_values", "waiting_gates", "before_values", "before_gates", "entries")
"""What a compressor remembers."""

Count = int | Int[Tensor, ""]
"""A number of positions; a tensor where a step must not depend on it."""


class State:
    """Base: a state is a few tensors with the batch in front; `fields` names them."""

    fields: ClassVar[tuple[str, ...]] = ()
    keeps_positions: ClassVar[bool] = False
    """Whether every position can still be dropped one by one."""
    grows: ClassVar[dict[str, int]] = {}
    """The fields that get longer with every position, and along which dimension."""

    def tensors(self) -> dict[str, Tensor]:
        """The tensors held now, by field."""
        return {name: value for name in self.fields if (value := getattr(self, name)) is not None}

    def fork(self) -> State:
        """An independent continuation: tensors are shared until one of the two moves on."""
        return copy.copy(self)

    def select(self, rows: Int[Tensor, " rows"]) -> None:
        """Keep, repeat or permute batch rows."""
        for name, value in self.tensors().items():
            setattr(self, name, value.index_select(0, rows.to(value.device)))

    def to(self, device: torch.device | str) -> None:
        """Move the tensors."""
        for name, value in self.tensors().items():
            setattr(self, name, value.to(device))

    def crop(self, length: int, *, seen: int) -> None:
        """Forget all positions from `length` on, `seen` being how many there are.

        Raises:
            InputError: this kind of state does not keep what that needs.
        """
        raise InputError(f"a {type(self).__name__} cannot be cropped to {length}: fork the cache before going on")


class KeyValueState(State):
    """All keys and values so far; latent attention keeps its latent and its rotated key in the same two places."""

    fields = ("keys", "values")
    keeps_positions = True
    grows: ClassVar[dict[str, int]] = {"keys": -2, "values": -2}
    place: Tensor | None = None
    """How many positions are seen, where what grows lies in room for more of them; None where it lies close."""

    def __init__(self) -> None:
        self.keys: Tensor | None = None
        self.values: Tensor | None = None

    def extend(
        self, keys: Float[Tensor, "batch heads new k"], values: Float[Tensor, "batch heads new v"]
    ) -> tuple[Float[Tensor, "batch heads total k"], Float[Tensor, "batch heads total v"]]:
        """Append along the sequence and return everything the new queries may look at."""
        return self.appended("keys", keys), self.appended("values", values)

    def appended(self, field: str, new: Num[Tensor, "*lead"], *, dim: int = -2) -> Num[Tensor, "*longer"]:
        """All of a field with `new` behind what is seen: in a new tensor, or (one position) where there is room."""
        kept: Tensor | None = getattr(self, field)
        if self.place is not None and kept is not None and field in self.grows:
            return kept.index_copy_(dim, self.place.reshape(1), new)
        # The first call copies too: attention then always reads the same memory layout.
        whole = torch.cat([new.new_empty(0) if kept is None else kept, new], dim=dim)
        setattr(self, field, whole)
        return whole

    def extent(self, seen: Count, new: int) -> tuple[int, Count]:
        """(number of keys, position of the first key) that `extend` will return for `new` positions after `seen`."""
        if isinstance(seen, int) or self.keys is None:
            return seen + new, 0  # type: ignore[return-value]
        return self.keys.shape[-2], 0

    def crop(self, length: int, *, seen: int) -> None:
        if self.keys is not None and self.values is not None:
            self.keys, self.values = self.keys[..., :length, :], self.values[..., :length, :]


class WindowState(KeyValueState):
    """The last `window` - 1 keys and values: with the query itself, all that a sliding window sees."""

    keeps_positions = False
    grows: ClassVar[dict[str, int]] = {}

    def __init__(self, window: int) -> None:
        super().__init__()
        self.window = window

    def extend(
        self, keys: Float[Tensor, "batch heads new k"], values: Float[Tensor, "batch heads new v"]
    ) -> tuple[Float[Tensor, "batch heads total k"], Float[Tensor, "batch heads total v"]]:
        keys, values = super().extend(keys, values)
        self.keys, self.values = (last(each, self.window - 1, dim=-2) for each in (keys, values))
        return keys, values

    def extent(self, seen: Count, new: int) -> tuple[int, Count]:
        if isinstance(seen, Tensor):  # as many keys as ever, the first of which may stand before the text
            return self.window - 1 + new, seen - self.window + 1
        return min(seen, self.window - 1) + new, max(seen - self.window + 1, 0)

    def crop(self, length: int, *, seen: int) -> None:
        if length < seen and seen >= self.window:
            raise InputError(
                f"a window of {self.window} has dropped positions that cropping {seen} to {length} needs: "
                "fork the cache before going on"
            )
        super().crop(length, seen=seen)


class IndexedState(KeyValueState):
    """Keys and values, and the narrow keys by which an indexer finds the ones to look at."""

    fields = ("keys", "values", "index")
    grows: ClassVar[dict[str, int]] = {**KeyValueState.grows, "index": -2}

    def __init__(self) -> None:
        super().__init__()
        self.index: Tensor | None = None

    def extend_index(self, index: Float[Tensor, "batch new d"]) -> Float[Tensor, "batch total d"]:
        """Append along the sequence and return all of them."""
        return self.appended("index", index)

    def crop(self, length: int, *, seen: int) -> None:
        super().crop(length, seen=seen)
        if self.index is not None:
            self.index = self.index[:, :length]


class PlacedState(IndexedState):
    """The same, and at which positions the keys stand."""

    fields = ("keys", "values", "index", "positions")
    grows: ClassVar[dict[str, int]] = {**IndexedState.grows, "positions": -1}

    def __init__(self) -> None:
        super().__init__()
        self.positions: Tensor | None = None

    def extend_positions(self, positions: Int[Tensor, "batch new"]) -> Int[Tensor, "batch total"]:
        """Append along the sequence and return all of them."""
        return self.appended("positions", positions, dim=-1)

    def crop(self, length: int, *, seen: int) -> None:
        super().crop(length, seen=seen)
        if self.positions is not None:
            self.positions = self.positions[:, :length]


class ConvolvedState(KeyValueState):
    """Keys and values, the last inputs of what convolves them, and what comes a position late."""

    fields = ("keys", "values", "convolution", "late")
    keeps_positions = False

    def __init__(self, *window: int) -> None:
        super().__init__(*window)
        self.convolution: Tensor | None = None
        self.late: Tensor | None = None

    def crop(self, length: int, *, seen: int) -> None:
        if length < seen:
            State.crop(self, length, seen=seen)


class ConvolvedWindowState(ConvolvedState, WindowState):
    """The same for a sliding window."""


class ConvolvedPairState(ConvolvedState):
    """Keys and values, and the last inputs of a convolution for each of the two."""

    fields = ("keys", "values", "key_inputs", "value_inputs")

    def __init__(self, *window: int) -> None:
        super().__init__(*window)
        self.key_inputs: Tensor | None = None
        self.value_inputs: Tensor | None = None


class ConvolvedPairWindowState(ConvolvedPairState, WindowState):
    """The same for a sliding window."""


class CompressedState(WindowState):
    """A window of vectors that are keys and values at once, and what compressors make of the positions before.

    Per compressor: `waiting` values and gates of positions without an entry yet, the last whole group's (`before`), and
    the `entries`, one of `rate` positions. `counts` are the rows' lengths, once they may differ: rows then begin at the
    left.
    """

    fields = ("keys", "counts", *(f"{series}_{field}" for series in ("entry", "index") for field in COMPRESSED))

    counts: Tensor | None

    def __init__(self, window: int, *, rate: int | None) -> None:
        super().__init__(window)
        self.rate = rate
        for field in self.fields[1:]:
            setattr(self, field, None)

    keeps_positions = False

    def extend_shared(self, new: Float[Tensor, "batch one new d"]) -> Float[Tensor, "batch one total d"]:
        """Append vectors and return all that the new queries' window may reach."""
        seen = self.appended("keys", new)
        self.keys = last(seen, self.window - 1, dim=-2)
        return seen

    def crop(self, length: int, *, seen: int) -> None:
        if length < seen:
            State.crop(self, length, seen=seen)


class BridgeState(KeyValueState):
    """Keys and values of a donor's states, and the sum and number of what the host has had so far."""

    fields = ("keys", "values", "total", "count")
    keeps_positions = False

    def __init__(self) -> None:
        super().__init__()
        self.total: Tensor | None = None
        self.count: Tensor | None = None
        self.behind = False
        """Whether the host has gone on without the donor."""

    def add_up(
        self, totals: Float[Tensor, "batch new d"], counts: Float[Tensor, "batch new one"]
    ) -> tuple[Float[Tensor, "batch new d"], Float[Tensor, "batch new one"]]:
        """Running sums that go on from those of earlier calls."""
        if self.total is not None and self.count is not None:
            totals, counts = totals + self.total, counts + self.count
        self.total, self.count = totals[:, -1:], counts[:, -1:]
        return totals, counts

    def crop(self, length: int, *, seen: int) -> None:
        if self.total is not None and 0 < length < seen:
            State.crop(self, length, seen=seen)
        super().crop(length, seen=seen)
        if length == 0:
            self.total, self.count, self.behind = None, None, False


class FirstLength(State):
    """How long each row was at the first call: what a rotation that looks at the whole call keeps to from then on."""

    fields = ("lengths",)
    keeps_positions = True

    def __init__(self) -> None:
        self.lengths: Tensor | None = None

    def settle(self, lengths: Int[Tensor, " batch"]) -> Int[Tensor, " batch"]:
        """The lengths of the first call, which these are if none was made before."""
        if self.lengths is None:
            self.lengths = lengths
        return self.lengths

    def crop(self, length: int, *, seen: int) -> None:
        if length == 0:
            self.lengths = None


class RecurrentState(State):
    """The last inputs of a causal convolution, and a recurrent matrix per head."""

    fields = ("convolution", "recurrent")

    def __init__(self) -> None:
        self.convolution: Tensor | None = None
        self.recurrent: Tensor | None = None

    def crop(self, length: int, *, seen: int) -> None:
        if length < seen:
            super().crop(length, seen=seen)


class NgramState(RecurrentState):
    """The last tokens, and the last inputs of a causal convolution."""

    fields = ("convolution", "tokens")

    def __init__(self) -> None:
        super().__init__()
        self.tokens: Tensor | None = None


class AveragedState(RecurrentState):
    """The last input, a recurrent sum, that of its weights, and the exponent to which both are relative."""

    fields = ("convolution", "recurrent", "weights", "exponent")

    def __init__(self) -> None:
        super().__init__()
        self.weights: Tensor | None = None
        self.exponent: Tensor | None = None


def last(seen: Num[Tensor, ...], count: int, *, dim: int) -> Num[Tensor, ...]:
    """The last `count` along `dim`; copied where a view would keep more than twice the memory alive that it shows."""
    length = seen.shape[dim]
    kept = seen.narrow(dim, max(length - count, 0), min(count, length))
    return kept.clone() if 2 * count < length else kept
