"""One dataclass n, one class: any transformer from its HuggingFace config, with the same bits as the reference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from nexus_universal import families
from nexus_universal.architecture import forms, registry
from nexus_universal.architecture.errors import NexusError
from nexus_universal.architecture.parameter import ArchitectureParameter

if TYPE_CHECKING:
    from nexus_universal.checkpoint.copying import copy_weights
    from nexus_universal.fusion.union.model import NexusUnifiedModel
    from nexus_universal.layers.attention import UniversalAttention
    from nexus_universal.layers.block import UniversalTransformerBlock
    from nexus_universal.layers.feed_forward import UniversalFeedForward
    from nexus_universal.layers.rope import UniversalRoPE
    from nexus_universal.transformer import UniversalTransformer

__version__ = "0.1.0"

registry.fill(families.find, families.model_types, families.REFUSED)

LAZY = {
    "UniversalTransformer": "nexus_universal.transformer",
    "copy_weights": "nexus_universal.checkpoint.copying",
    "UniversalTransformerBlock": "nexus_universal.layers.block",
    "UniversalAttention": "nexus_universal.layers.attention",
    "UniversalFeedForward": "nexus_universal.layers.feed_forward",
    "NexusUnifiedModel": "nexus_universal.fusion.union.model",
    "UniversalRoPE": "nexus_universal.layers.rope",
}
"""What needs torch is imported when it is first asked for: reading an n takes milliseconds."""

__all__ = [
    "ArchitectureParameter",
    "NexusError",
    "NexusUnifiedModel",
    "UniversalAttention",
    "UniversalFeedForward",
    "UniversalRoPE",
    "UniversalTransformer",
    "UniversalTransformerBlock",
    "copy_weights",
    "forms",
]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(LAZY[name]), name)
