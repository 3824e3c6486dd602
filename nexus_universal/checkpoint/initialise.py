"""Random weights as the references draw them."""

from __future__ import annotations

import math

import torch
from torch import nn

from nexus_universal.architecture.ends import Text
from nexus_universal.layers.ends import Table
from nexus_universal.layers.gated_delta import UniversalGatedDelta
from nexus_universal.layers.norms import UniversalNorm


@torch.no_grad()
def initialise(model: nn.Module, text: Text) -> None:
    """Matrices normal with std `initializer_range`, biases zero, norms the identity, the pad row zero.

    A delta rule's decays start as log U(0.01, 16) with bias 1. `scaled_residual` shrinks what writes to the residual by
    √(2 · layers) (GPT-2).
    """
    std = text.initializer_range
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            is_residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            depth = len(model.layers) if text.scaled_residual and is_residual else 0  # type: ignore[arg-type]
            nn.init.normal_(parameter, std=std / math.sqrt(2 * depth) if depth else std)
        else:
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, UniversalNorm) and module.weight is not None:
            nn.init.constant_(module.weight, 0.0 if module.part.scale == "one_plus_weight" else 1.0)
        elif isinstance(module, Table) and module.padding_row is not None:
            nn.init.zeros_(module.weight[module.padding_row])
        elif isinstance(module, UniversalGatedDelta):
            module.decay_log.uniform_(0.01, 16).log_()
            nn.init.ones_(module.decay_bias)
    for buffer in model.buffers():
        nn.init.zeros_(buffer)
