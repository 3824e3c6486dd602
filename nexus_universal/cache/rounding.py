"""Keys and values held in 8 or 4 bits: groups of numbers share a scale and a lowest value (KIVI, arXiv 2402.02750).

Keys have channels that are large at every position, so GROUP positions of one channel share a scale; values have none,
so GROUP channels of one position do. The newest positions are kept as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.states import KeyValueState, State, WindowState

GROUP = 32
"""So many numbers share a scale; positions are rounded so many at a time."""

RECENT = 64
"""At least so many of the newest positions are exact, and fewer than RECENT + GROUP."""

Along = Literal["positions", "channels"]
"""What the numbers of a group differ in."""

ALONG: dict[str, Along] = {"keys": "positions", "values": "channels"}
PIECES = ("codes", "scales", "lows")


@dataclass(frozen=True, slots=True)
class Rounded:
    """Numbers x as codes: x ≈ low + code · scale, and never further off than scale / 2, but for float arithmetic.

    `codes` are two to a byte where `bits` is 4: the second half of the channels in the high bits.
    """

    codes: UInt8[Tensor, "batch heads positions packed"]
    scales: Float[Tensor, "batch heads groups _ _"]
    lows: Float[Tensor, "batch heads groups _ _"]
    bits: int
    along: Along

    @classmethod
    def of(cls, x: Float[Tensor, "batch heads positions channels"], *, bits: int, along: Along) -> Rounded:
        """Round; `along` "positions" takes multiples of GROUP positions.

        Raises:
            InputError: an odd number of channels cannot be packed two to a byte.
        """
        if bits == 4 and x.shape[-1] % 2:
            raise InputError(f"int4 packs channels in pairs: keys and values of {x.shape[-1]} channels cannot be")
        grouped = _grouped(x, along)
        lows, highs = (bound(grouped, _within(along), keepdim=True) for bound in (torch.amin, torch.amax))
        top, kind = 2**bits - 1, torch.finfo(x.dtype)
        scales = (highs.float() / top - lows.float() / top) * (1 + kind.eps)  # rounded up: the top code reaches highs
        scales = scales.to(x.dtype).clamp(min=kind.tiny)
        codes = ((grouped.float() - lows.float()) / scales.float()).round_().clamp_(0, top)
        codes = codes.to(torch.uint8).reshape(x.shape)
        if bits == 4:
            low, high = codes.chunk(2, dim=-1)
            codes = low | (high << 4)
        return cls(codes, scales, lows, bits=bits, along=along)

    def restored(self) -> Float[Tensor, "batch heads positions channels"]:
        """The numbers, as near as they were kept."""
        codes = torch.cat([self.codes & 15, self.codes >> 4], dim=-1) if self.bits == 4 else self.codes
        grouped = _grouped(codes, self.along).to(self.scales.dtype)
        return torch.addcmul(self.lows, grouped, self.scales).reshape(codes.shape)

    @property
    def groups(self) -> int:
        """How many times GROUP positions are held."""
        return self.codes.shape[-2] // GROUP

    def cut(self, start: int, end: int) -> Rounded:
        """The positions from `start` · GROUP up to `end` · GROUP."""
        per = self.scales.shape[2] // self.groups
        scales, lows = (each[:, :, start * per : end * per] for each in (self.scales, self.lows))
        codes = self.codes[:, :, start * GROUP : end * GROUP]
        return Rounded(codes, scales, lows, bits=self.bits, along=self.along)

    def followed_by(self, other: Rounded) -> Rounded:
        """Both, this one's positions first."""
        both = {piece: torch.cat([getattr(self, piece), getattr(other, piece)], dim=2) for piece in PIECES}
        return Rounded(**both, bits=self.bits, along=self.along)


def _grouped(x: Tensor, along: Along) -> Tensor:
    """[…, groups, GROUP, channels], or […, positions, groups, GROUP]: one group where GROUP does not divide."""
    if along == "positions":
        return x.unflatten(-2, (-1, GROUP))
    return x.unflatten(-1, (-1, GROUP if x.shape[-1] % GROUP == 0 else x.shape[-1]))


def _within(along: Along) -> int:
    return -2 if along == "positions" else -1


class RoundedKeyValueState(KeyValueState):
    """All keys and values so far, rounded but for the newest, which are `keys` and `values`.

    A call sees its own positions as they are, and whatever it finds rounded as it was rounded: how a text is cut
    changes logits by as much as rounding does. Of a group that `crop` cuts, what stays is rounded again later.
    """

    fields = ("keys", "values", *(f"{role}_{piece}" for role in ALONG for piece in PIECES))

    def __init__(self, *, bits: int = 8) -> None:
        super().__init__()
        self.bits = bits
        for field in self.fields[2:]:
            setattr(self, field, None)

    def extend(
        self, keys: Float[Tensor, "batch heads new k"], values: Float[Tensor, "batch heads new v"]
    ) -> tuple[Float[Tensor, "batch heads total k"], Float[Tensor, "batch heads total v"]]:
        return self._extended("keys", keys, keep=None), self._extended("values", values, keep=None)

    def rounded(self, role: str) -> Rounded | None:
        """What is held of the older keys or values."""
        if getattr(self, f"{role}_codes") is None:
            return None
        pieces = {piece: getattr(self, f"{role}_{piece}") for piece in PIECES}
        return Rounded(**pieces, bits=self.bits, along=ALONG[role])

    def _hold(self, role: str, rounded: Rounded | None, recent: Tensor) -> None:
        """Take these; a slice is copied, or it would keep all that it was cut from."""
        setattr(self, role, recent.clone())
        for piece in PIECES:
            held = None if rounded is None or not rounded.groups else getattr(rounded, piece).contiguous()
            setattr(self, f"{role}_{piece}", held)

    def _extended(self, role: str, new: Tensor, *, keep: int | None) -> Tensor:
        """Everything with `new` behind it; of that at least the last `keep` (None: all) stay."""
        older, recent = self.rounded(role), getattr(self, role)
        recent = new if recent is None else torch.cat([recent, new], dim=-2)
        whole = recent if older is None else torch.cat([older.restored(), recent], dim=-2)
        surplus = 0 if keep is None else max(whole.shape[-2] - keep, 0)
        if older is not None and surplus:
            dropped = min(surplus // GROUP, older.groups)
            surplus, older = surplus - dropped * GROUP, older.cut(dropped, older.groups)
        if older is None or not older.groups:
            older, recent = None, recent[..., surplus:, :]
        full = max(recent.shape[-2] - RECENT, 0) // GROUP * GROUP
        if full:
            fresh = Rounded.of(recent[..., :full, :], bits=self.bits, along=ALONG[role])
            older = fresh if older is None else older.followed_by(fresh)
        self._hold(role, older, recent[..., full:, :])
        return whole

    def crop(self, length: int, *, seen: int) -> None:
        for role in ALONG:
            older, recent = self.rounded(role), getattr(self, role)
            if recent is None:
                continue
            before = 0 if older is None else older.groups * GROUP
            if older is not None and length < before:
                whole = length // GROUP
                recent = older.cut(whole, whole + 1).restored()[..., : length - whole * GROUP, :]
                older = older.cut(0, whole)
            else:
                recent = recent[..., : length - before, :]
            self._hold(role, older, recent)


class RoundedWindowState(WindowState, RoundedKeyValueState):
    """The same for a sliding window: whole groups go when the window has left them."""

    def __init__(self, window: int, *, bits: int = 8) -> None:
        super().__init__(window)
        self.bits = bits

    def extend(
        self, keys: Float[Tensor, "batch heads new k"], values: Float[Tensor, "batch heads new v"]
    ) -> tuple[Float[Tensor, "batch heads total k"], Float[Tensor, "batch heads total v"]]:
        keep = self.window - 1
        reach = keep + keys.shape[-2]
        keys, values = self._extended("keys", keys, keep=keep), self._extended("values", values, keep=keep)
        return keys[..., -reach:, :], values[..., -reach:, :]


def rounded(state: State, *, bits: int) -> State:
    """The same kind of state in few bits, where there is one; it must be empty. Short windows stay as they are."""
    if type(state) is WindowState and state.window > RECENT + GROUP:
        return RoundedWindowState(state.window, bits=bits)
    return RoundedKeyValueState(bits=bits) if type(state) is KeyValueState else state
