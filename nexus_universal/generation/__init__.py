"""Turning logits into text: settings, sampling, the loop, stop strings, streaming."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from nexus_universal.generation.chat import Conversation
    from nexus_universal.generation.loop import LanguageModel, Step, Streamer, generate, stream
    from nexus_universal.generation.settings import GENERATION_CONFIG, CallSettings, GenerationSettings
    from nexus_universal.generation.streaming import TextDecoder, TextStreamer
    from nexus_universal.generation.text import (
        encode,
        generate_ids,
        generate_text,
        load_tokenizer,
        render_chat,
        stream_text,
    )

LAZY = {
    "Conversation": "chat",
    **dict.fromkeys(("LanguageModel", "Step", "Streamer", "generate", "stream"), "loop"),
    **dict.fromkeys(("GENERATION_CONFIG", "CallSettings", "GenerationSettings"), "settings"),
    **dict.fromkeys(("TextDecoder", "TextStreamer"), "streaming"),
    **dict.fromkeys(
        ("encode", "generate_ids", "generate_text", "load_tokenizer", "render_chat", "stream_text"), "text"
    ),
}
"""Settings are read without torch; the rest is imported when it is first asked for."""

__all__ = [
    "GENERATION_CONFIG",
    "CallSettings",
    "Conversation",
    "GenerationSettings",
    "LanguageModel",
    "Step",
    "Streamer",
    "TextDecoder",
    "TextStreamer",
    "encode",
    "generate",
    "generate_ids",
    "generate_text",
    "load_tokenizer",
    "render_chat",
    "stream",
    "stream_text",
]


def __getattr__(name: str) -> Any:
    if name not in LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    import importlib

    return getattr(importlib.import_module(f"{__name__}.{LAZY[name]}"), name)
