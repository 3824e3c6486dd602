"""Weights of projections rounded by torchao, and what that changes: never silent."""

from __future__ import annotations

import sys
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError
from nexus_universal.layers.quality import Quality, compared, drawn

Quantisation = Literal["int8", "int4", "fp8"]
GROUP = 32
"""So many weights of a row share a scale in int4; int8 and fp8 have one scale per row."""

SAMPLE = (4, 64)
"""Rows and tokens that quality is measured on where none are given."""


@torch.no_grad()
def quantised(
    model: nn.Module, kind: Quantisation, *, vocab: int, sample: Int[Tensor, "batch seq"] | None = None
) -> Quality:
    """Round, in place; say on stderr what it changed, and return it.

    Raises:
        InputError: torchao is missing, or there is no such kind.
    """
    settings = _settings(kind)
    sample = (drawn(vocab, SAMPLE) if sample is None else sample).to(next(model.parameters()).device)
    before = model(sample).logits
    rounded = [module for module in model.modules() if isinstance(module, nn.Linear)]
    count = sum(module.weight.numel() for module in rounded)
    whole = sum(parameter.numel() for parameter in model.parameters())
    from torchao.quantization import quantize_  # type: ignore[import-not-found]

    quantize_(model, settings)
    quality = compared(kind, before, model(sample).logits, rounded=count / whole, of="parameters")
    print(f"quantised to {quality}", file=sys.stderr)
    return quality


def _settings(kind: Quantisation) -> Any:
    try:
        from torchao import quantization  # type: ignore[import-not-found]
        from torchao.quantization.granularity import PerGroup  # type: ignore[import-not-found]
    except ImportError:
        raise InputError("quantize needs torchao: pip install torchao") from None
    made = {
        "int8": lambda: quantization.Int8WeightOnlyConfig(),
        "int4": lambda: quantization.IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(GROUP)),  # type: ignore[attr-defined]
        "fp8": lambda: quantization.Float8WeightOnlyConfig(),
    }
    if kind not in made:
        raise InputError(f"quantize = {kind!r} (known: {', '.join(made)})")
    return made[kind]()
