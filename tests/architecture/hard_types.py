"""The n of the twelve types that bend a data model most, written by hand from their equations, tiny but complete.

Every number differs from its neighbours, so that two swapped ones cannot hide. `test_hard_types_reference.py` holds the
reference's configs of the same models, and compares.
"""

from __future__ import annotations

from collections.abc import Callable

from hard_mixers import deepseek_v4, deepseek_v32, falcon_h1, jetmoe, kimi_linear, minimax, nemotron_h, zamba2
from hard_wiring import gemma3n_text, gemma4_text, gemma4_text_experts, hrm_text, longcat_flash

from nexus_universal.architecture.parameter import ArchitectureParameter

WORKS: dict[str, Callable[[], ArchitectureParameter]] = {
    work.__name__: work
    for work in (
        falcon_h1,
        longcat_flash,
        zamba2,
        gemma3n_text,
        gemma4_text,
        gemma4_text_experts,
        deepseek_v32,
        deepseek_v4,
        kimi_linear,
        minimax,
        jetmoe,
        hrm_text,
        nemotron_h,
    )
}
