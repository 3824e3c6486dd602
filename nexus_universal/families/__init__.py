"""One file per family, named by its model type: how its config is read into n, and how its tensors are named."""

from __future__ import annotations

import importlib
from functools import cache
from pathlib import Path

from nexus_universal.families.shared.family import Family
from nexus_universal.families.shared.refused import REFUSED as REFUSED


@cache
def model_types() -> tuple[str, ...]:
    """Every model type described here, sorted."""
    return tuple(sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__"))


@cache
def find(model_type: str) -> Family:
    """Load the family of a model type that `model_types` lists."""
    return importlib.import_module(f"{__name__}.{model_type}").FAMILY
