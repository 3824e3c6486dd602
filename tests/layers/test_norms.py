"""Norms: the definition in float64, the references' own modules bit for bit in every dtype."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.cohere2.modeling_cohere2 import Cohere2LayerNorm
from transformers.models.gemma3.modeling_gemma3 import Gemma3RMSNorm
from transformers.models.glm4_moe_lite.modeling_glm4_moe_lite import Glm4MoeLiteRMSNorm
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from transformers.models.mixtral.modeling_mixtral import MixtralRMSNorm
from transformers.models.nemotron.modeling_nemotron import NemotronLayerNorm1P
from transformers.models.olmo.modeling_olmo import OlmoLayerNorm
from transformers.models.qwen3.modeling_qwen3 import Qwen3RMSNorm
from transformers.models.qwen3_next.modeling_qwen3_next import Qwen3NextRMSNorm, Qwen3NextRMSNormGated

from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.position import Norm
from nexus_universal.layers.norms import GatedNorm, UniversalNorm
from tests.helpers import same

EPS = 1e-3
PLAIN = Norm(kind="rms", eps=EPS)
GEMMA = Norm(kind="rms", eps=EPS, scale="one_plus_weight", rounding="after_scale")
REFERENCES: list[tuple[Norm, Callable[[int], Any]]] = [
    (PLAIN, lambda width: LlamaRMSNorm(width, eps=EPS)),
    (PLAIN, lambda width: Qwen3RMSNorm(width, eps=EPS)),
    (PLAIN, lambda width: MixtralRMSNorm(width, eps=EPS)),
    (PLAIN, lambda width: Glm4MoeLiteRMSNorm(width, eps=EPS)),
    (GEMMA, lambda width: Gemma3RMSNorm(width, eps=EPS)),
    (GEMMA, lambda width: Qwen3NextRMSNorm(width, eps=EPS)),
    (Norm(kind="layer", eps=EPS, rounding="after_scale"), lambda width: Cohere2LayerNorm(width, eps=EPS)),
    (Norm(kind="layer", eps=EPS, bias=True, rounding="native"), lambda width: nn.LayerNorm(width, eps=EPS)),
    (Norm(kind="layer", eps=EPS, rounding="native"), lambda width: nn.LayerNorm(width, eps=EPS, bias=False)),
    (
        Norm(kind="layer", eps=EPS, scale="none", rounding="native"),
        lambda width: nn.LayerNorm(width, eps=EPS, elementwise_affine=False),
    ),
    (
        Norm(kind="layer", eps=EPS, scale="one_plus_weight", bias=True, rounding="native"),
        lambda width: NemotronLayerNorm1P(width, eps=EPS),
    ),
    (Norm(kind="layer", eps=1e-5, scale="none", rounding="native_float32"), OlmoLayerNorm),
]
FORMS = [
    Norm(kind=kind, eps=EPS, scale=scale, bias=bias, rounding=rounding)
    for kind in ("rms", "layer")
    for scale in ("weight", "one_plus_weight", "none")
    for bias in (False, True)
    for rounding in ("before_scale", "after_scale", "native", "native_float32")
]
VALID = [part for part in FORMS if not list(part.problems())]


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return module


def inputs(width: int, dtype: torch.dtype) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    rows = torch.randn(2, 5, width, generator=generator) * torch.logspace(-4, 3, 5)[:, None] + 0.3
    return rows.to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("width", [7, 16, 48])
@pytest.mark.parametrize("index", range(len(REFERENCES)))
def test_norms_are_the_references_bit_for_bit(index: int, width: int, dtype: torch.dtype) -> None:
    part, build = REFERENCES[index]
    theirs = randomised(build(width)).to(dtype)
    ours = UniversalNorm.of(part, width).to(dtype)
    with torch.no_grad():
        for name in ("weight", "bias"):
            if getattr(ours, name) is not None:
                getattr(ours, name).copy_(getattr(theirs, name))
    x = inputs(width, dtype)
    assert same(ours(x), theirs(x))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_the_gated_norm_is_the_references_bit_for_bit(dtype: torch.dtype) -> None:
    theirs = randomised(Qwen3NextRMSNormGated(12, eps=EPS)).to(dtype)
    ours = GatedNorm(PLAIN, 12, activation="silu").to(dtype)
    with torch.no_grad():
        ours.weight.copy_(theirs.weight)
    x, gate = inputs(12, dtype), inputs(12, dtype).flip(-1)
    assert same(ours(x, gate), theirs(x, gate))


def defined(part: Norm, x: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    x = x.double()
    if part.kind == "layer":
        x = x - x.mean(-1, keepdim=True)
    x = x / (x.square().mean(-1, keepdim=True) + part.eps).sqrt()
    if weight is not None:
        x = x * (weight.double() + (part.scale == "one_plus_weight"))
    return x if bias is None else x + bias.double()


@pytest.mark.parametrize(
    "part", VALID, ids=lambda p: f"{p.kind}-{p.scale}-{p.rounding}-{'bias' if p.bias else 'plain'}"
)
def test_every_valid_norm_is_its_definition_or_refused(part: Norm) -> None:
    try:
        norm = randomised(UniversalNorm.of(part, 16))
    except UnsupportedPart as error:
        assert part.bias and part.kind == "rms"
        assert "Norm." in str(error)
        return
    x = inputs(16, torch.float32)
    expected = defined(part, x, norm.weight, norm.bias)
    assert (norm.weight is None, norm.bias is None) == (part.scale == "none", not part.bias)
    assert float((norm(x) - expected).abs().max()) < 1e-5 * float(expected.abs().max())


@settings(max_examples=50)
@given(factor=st.sampled_from([1e-2, 0.5, 3.0, 100.0]), index=st.sampled_from([0, 4, 6]))
def test_a_norm_forgets_the_scale(factor: float, index: int) -> None:
    """Where the input is large against epsilon, norm(c · x) = norm(x)."""
    part = REFERENCES[index][0]
    norm = randomised(UniversalNorm.of(part, 16))
    x = inputs(16, torch.float32)[:, 4:] * 1e3
    assert torch.allclose(norm(factor * x), norm(x), rtol=1e-4, atol=1e-5)


def test_the_gated_norm_computes_one_form_only() -> None:
    for changes in ({"kind": "layer"}, {"rounding": "after_scale"}, {"bias": True}):
        part = Norm(**{"kind": "rms", "eps": EPS} | changes)
        with pytest.raises(UnsupportedPart, match=f"Norm.{next(iter(changes))}"):
            GatedNorm(part, 8, activation="silu")
