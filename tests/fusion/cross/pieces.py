"""What the tests of cross-fusion share: two trained models of different architectures, and bridges that are open."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from nexus_universal import UniversalTransformer
from nexus_universal.fusion.cross import CrossFusionConfig, CrossFusionManager
from nexus_universal.fusion.cross.manager import bridge_names

DATA = Path(__file__).parents[2] / "data"
IDS = torch.randint(3, 1024, (2, 24), generator=torch.Generator().manual_seed(0))
TAPS = ((3, 2), (6, 4))
KINDS: dict[str, dict[str, Any]] = {
    "attention": {"kind": "attention", "size": 0.25},
    "gated attention": {"kind": "attention", "size": 0.25, "swiglu": True, "gate": "token"},
    "attention to zero": {"kind": "attention", "size": 0.25, "gate": "scalar", "zero": "out"},
    "projection": {"kind": "projection", "size": 0.25},
    "projection to zero": {"kind": "projection", "size": 0.25, "swiglu": True, "gate": "token", "zero": "out"},
    "bare projection": {"kind": "projection", "size": 0.25, "gate": "scalar"},
    "similarity": {"kind": "similarity", "threshold": -0.5},
    "contrastive": {"kind": "contrastive", "threshold": -0.5, "gate": "scalar"},
}


def loaded(name: str) -> UniversalTransformer:
    """One of the trained checkpoints."""
    return UniversalTransformer.from_pretrained(DATA / name)


def attached(
    host: UniversalTransformer, donor: UniversalTransformer, /, *, opened: bool = False, **config: Any
) -> CrossFusionManager:
    """Bridges by seed; where they are `opened`, they have learned something random."""
    torch.manual_seed(0)
    manager = CrossFusionManager.attach(host, donor, CrossFusionConfig(**{"taps": TAPS, **config}))
    if opened:
        with torch.no_grad():
            for slot in bridge_names(manager.model).values():
                slot.add_(0.3 * torch.randn(slot.shape))
    return manager
