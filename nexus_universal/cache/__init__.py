"""What a model remembers between calls: one protocol for every kind of state."""

from nexus_universal.cache.cache import Cache
from nexus_universal.cache.prefix import PrefixStore
from nexus_universal.cache.states import (
    AveragedState,
    BridgeState,
    CompressedState,
    ConvolvedPairState,
    ConvolvedPairWindowState,
    ConvolvedState,
    ConvolvedWindowState,
    FirstLength,
    IndexedState,
    KeyValueState,
    NgramState,
    PlacedState,
    RecurrentState,
    State,
    WindowState,
)

__all__ = [
    "AveragedState",
    "BridgeState",
    "Cache",
    "CompressedState",
    "ConvolvedPairState",
    "ConvolvedPairWindowState",
    "ConvolvedState",
    "ConvolvedWindowState",
    "FirstLength",
    "IndexedState",
    "KeyValueState",
    "NgramState",
    "PlacedState",
    "PrefixStore",
    "RecurrentState",
    "State",
    "WindowState",
]
