"""What is counted without building a model is what the built one has, multiplies and remembers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers import MODEL_TYPES, explicit
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.mixers import CompressedAttention


def grouped_product(rows: Any, weights: Any, *_: Any, **__: Any) -> int:
    """The counter has no formula for grouped matrix products: each row meets one expert's matrix."""
    return 2 * rows[0] * rows[1] * weights[-1]


@pytest.mark.parametrize("context", [2, 23])
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_counts_are_the_models(model_type: str, context: int) -> None:
    n = ArchitectureParameter.from_huggingface({"model_type": model_type, **explicit(model_type)})
    model = UniversalTransformer(n).eval()
    for tensor in (*model.parameters(), *model.buffers()):
        if tensor.is_floating_point():
            torch.nn.init.normal_(tensor, std=0.05)
    ids, cache = torch.randint(1, 20, (1, context)), model.new_cache()
    counter = FlopCounterMode(display=False, custom_mapping={torch.ops.aten._grouped_mm: grouped_product})
    with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
        model(ids[:, :-1], cache=cache)
        with counter:
            model(ids[:, -1:], cache=cache)
    count = n.count(context=context, dtype="float32")
    assert count.parameters == sum(parameter.numel() for parameter in model.parameters())
    assert count.flops_per_token == counter.get_total_flops()
    if context == 23:
        remembered = count.fixed_state_bytes + context * count.cache_bytes_per_token
        pools = any(isinstance(branch.part, CompressedAttention) for layer in n.layers for branch in layer.branches())
        if pools:  # counted are entries in their mean number, and as many positions that wait as ever do
            assert 0.8 * remembered < cache.nbytes <= remembered
        else:
            assert cache.nbytes == remembered
