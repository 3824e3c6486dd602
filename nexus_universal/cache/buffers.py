"""States with room to grow: what is appended is written behind what is there, and nothing is copied on the way."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from nexus_universal.cache.states import KeyValueState, State, WindowState

ROOM = 256
"""So many positions are free behind the first ones; when they are used up, as many as there are then."""


@dataclass(slots=True)
class Log:
    """A tensor that is only ever written at its end; `latest` is the view that ends there.

    Forks share it: the first that goes on writes behind the view that both hold, which changes nothing for the other;
    that one finds that its view is no longer the latest, and takes a copy.
    """

    room: Float[Tensor, "*lead capacity width"]
    end: int
    latest: Tensor

    @classmethod
    def of(cls, kept: Tensor | None, new: Tensor) -> Log:
        """A log that holds these, the last of them yet to be written."""
        length = 0 if kept is None else kept.shape[-2]
        capacity = length + new.shape[-2] + max(ROOM, length)
        room = new.new_empty((*new.shape[:-2], capacity, new.shape[-1]))
        if kept is not None:
            room[..., :length, :] = kept
        return cls(room, length, room[..., :length, :])

    def takes(self, kept: Tensor, new: Tensor) -> bool:
        """Whether `new` can be written behind `kept`."""
        return kept is self.latest and self.end + new.shape[-2] <= self.room.shape[-2]

    def append(self, new: Tensor, *, start: int) -> Tensor:
        """Write, and return everything from `start` on."""
        end = self.end + new.shape[-2]
        self.room[..., self.end : end, :] = new
        self.end = end
        return self.room[..., start:end, :]


class _Buffered(KeyValueState):
    """Appends to logs. Without gradients: what is overwritten cannot be differentiated."""

    logs: dict[str, Log]

    def _appended(self, field: str, new: Tensor, *, keep: int | None) -> Tensor:
        """Everything with `new` behind it; of that the last `keep` (None: all) stay."""
        kept: Tensor | None = getattr(self, field)
        log = self.logs.get(field)
        if kept is None or log is None or not log.takes(kept, new):
            log = Log.of(kept, new)
            self.logs = {**self.logs, field: log}
        start = log.end - (0 if kept is None else kept.shape[-2])
        whole = log.append(new, start=start)
        log.latest = whole if keep is None else log.room[..., max(start, log.end - keep) : log.end, :]
        setattr(self, field, log.latest)
        return whole


class BufferedKeyValueState(_Buffered):
    """All keys and values so far."""

    def __init__(self) -> None:
        super().__init__()
        self.logs = {}

    def extend(
        self, keys: Float[Tensor, "batch heads new k"], values: Float[Tensor, "batch heads new v"]
    ) -> tuple[Float[Tensor, "batch heads total k"], Float[Tensor, "batch heads total v"]]:
        return self._appended("keys", keys, keep=None), self._appended("values", values, keep=None)


class BufferedWindowState(_Buffered, WindowState):
    """The last keys and values of a sliding window."""

    def __init__(self, window: int) -> None:
        super().__init__(window)
        self.logs = {}

    def extend(
        self, keys: Float[Tensor, "batch heads new k"], values: Float[Tensor, "batch heads new v"]
    ) -> tuple[Float[Tensor, "batch heads total k"], Float[Tensor, "batch heads total v"]]:
        keep = self.window - 1
        return self._appended("keys", keys, keep=keep), self._appended("values", values, keep=keep)


def buffered(state: State) -> State:
    """The same kind of state with room to grow, where there is one; it must be empty."""
    if type(state) is WindowState:
        return BufferedWindowState(state.window)
    return BufferedKeyValueState() if type(state) is KeyValueState else state
