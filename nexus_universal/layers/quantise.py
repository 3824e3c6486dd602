"""Weights of projections rounded by torchao, and what that changes: never silent."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError

Quantisation = Literal["int8", "int4", "fp8"]
GROUP = 32
"""So many weights of a row share a scale in int4; int8 and fp8 have one scale per row."""

SAMPLE = (4, 64)
"""Rows and tokens that quality is measured on where none are given."""


@dataclass(frozen=True, kw_only=True)
class Quality:
    """What rounding changed: mean KL divergence in nats, the share of positions whose likeliest token is another."""

    kind: str
    kl: float
    flips: float
    rounded: float
    """The share of the parameters that was rounded: tables, heads, norms and stacked experts are not."""

    def __str__(self) -> str:
        share = f"{self.rounded:.0%} of the parameters"
        return f"{self.kind}, {share}: KL {self.kl:.2e} nats, {self.flips:.2%} of the likeliest tokens changed"


@torch.no_grad()
def quantised(
    model: nn.Module, kind: Quantisation, *, vocab: int, sample: Int[Tensor, "batch seq"] | None = None
) -> Quality:
    """Round, in place; say on stderr what it changed, and return it.

    Raises:
        InputError: torchao is missing, or there is no such kind.
    """
    settings = _settings(kind)
    if sample is None:
        sample = torch.randint(0, vocab, SAMPLE, generator=torch.Generator().manual_seed(0))
    sample = sample.to(next(model.parameters()).device)
    before = model(sample).logits
    rounded = [module for module in model.modules() if isinstance(module, nn.Linear)]
    count = sum(module.weight.numel() for module in rounded)
    whole = sum(parameter.numel() for parameter in model.parameters())
    from torchao.quantization import quantize_  # type: ignore[import-not-found]

    quantize_(model, settings)
    quality = _compared(kind, before, model(sample).logits, rounded=count / whole)
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


def _compared(
    kind: str, before: Float[Tensor, "batch seq vocab"], after: Float[Tensor, "batch seq vocab"], *, rounded: float
) -> Quality:
    left, right = (F.log_softmax(logits.float(), dim=-1).flatten(0, 1) for logits in (before, after))
    kl = F.kl_div(right, left, log_target=True, reduction="batchmean")
    flips = (left.argmax(-1) != right.argmax(-1)).float().mean()
    return Quality(kind=kind, kl=float(kl), flips=float(flips), rounded=rounded)
