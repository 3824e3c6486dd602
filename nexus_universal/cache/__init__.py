"""What a model remembers between calls: one protocol for every kind of state."""

from nexus_universal.cache.cache import Cache
from nexus_universal.cache.states import (
    AveragedState,
    CompressedState,
    ConvolvedState,
    ConvolvedWindowState,
    FirstLength,
    IndexedState,
    KeyValueState,
    RecurrentState,
    State,
    WindowState,
)

__all__ = [
    "AveragedState",
    "Cache",
    "CompressedState",
    "ConvolvedState",
    "ConvolvedWindowState",
    "FirstLength",
    "IndexedState",
    "KeyValueState",
    "RecurrentState",
    "State",
    "WindowState",
]
