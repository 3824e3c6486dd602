"""Cross-fusion: a host reads other models' residuals through bridges, and is what it was wherever they are closed."""

from nexus_universal.fusion.cross.align import Batch, aligned
from nexus_universal.fusion.cross.config import PRESETS, CrossFusionConfig, KLReplay, preset
from nexus_universal.fusion.cross.manager import CrossFusionManager, GradientReport
from nexus_universal.fusion.cross.train import CrossFusionOptimizer, Losses

__all__ = [
    "PRESETS",
    "Batch",
    "CrossFusionConfig",
    "CrossFusionManager",
    "CrossFusionOptimizer",
    "GradientReport",
    "KLReplay",
    "Losses",
    "aligned",
    "preset",
]
