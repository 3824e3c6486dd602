"""Random weights as the references draw them."""

from __future__ import annotations

import math

import torch
from torch import nn

from nexus_universal.architecture.ends import Text
from nexus_universal.layers.starts import Starts


@torch.no_grad()
def initialise(model: nn.Module, text: Text) -> None:
    """Matrices normal with std `initializer_range`, biases and buffers zero; then each module's own way to start.

    `scaled_residual` shrinks what writes to the residual by √(2 · layers) (GPT-2).
    """
    std, depth = text.initializer_range, len(getattr(model, "layers", ()))
    for buffer in model.buffers():
        nn.init.zeros_(buffer)
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1 and not name.endswith("bias"):
            is_residual = name.endswith(("attention.output.weight", "feed_forward.down.weight"))
            own = text.embedding_range if name == "embedding.tokens.weight" else None
            shrunk = text.scaled_residual and is_residual
            nn.init.normal_(parameter, std=own or (std / math.sqrt(2 * depth) if shrunk else std))
        else:
            nn.init.zeros_(parameter)
    for module in model.modules():
        if isinstance(module, Starts):
            module.start(text, depth=depth)
