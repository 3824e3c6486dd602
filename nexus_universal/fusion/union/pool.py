"""Tensors in memory, each counted once however many branches use it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

Key = tuple[object, ...]
"""What a tensor is put together from: equal keys, equal bytes."""

User = tuple[str, str]
"""A branch, and the name that the tensor has there."""


@dataclass
class TensorPool:
    """What is held, who uses it, and the most that was held at a time; all in bytes."""

    tensors: dict[Key, Tensor] = field(default_factory=dict)
    users: dict[Key, set[User]] = field(default_factory=dict)
    nbytes: int = 0
    peak: int = 0

    def acquire(self, key: Key, user: User, read: Callable[[], Tensor], *, scratch: int = 0) -> Tensor:
        """The tensor, read if it is not there; `scratch` bytes are needed on top while it is put together."""
        if key not in self.tensors:
            tensor = compact(read())
            self.tensors[key] = tensor
            self.nbytes += tensor.untyped_storage().nbytes()
            self.peak = max(self.peak, self.nbytes + scratch)
        self.users.setdefault(key, set()).add(user)
        return self.tensors[key]

    def release(self, key: Key, user: User) -> None:
        """Forget a tensor if nobody else uses it."""
        users = self.users.get(key, set())
        users.discard(user)
        if key in self.tensors and not users:
            self.nbytes -= self.tensors.pop(key).untyped_storage().nbytes()
            del self.users[key]


def compact(tensor: Tensor) -> Tensor:
    """The tensor without what else its memory holds: a slice of a larger one keeps all of that alive."""
    whole = tensor.untyped_storage().nbytes() == tensor.numel() * tensor.element_size()
    return tensor if whole else tensor.clone()
