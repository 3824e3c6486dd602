"""Attention alone against its definition in float64: heads, groups, windows, norms, gates, rotation, latents."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from transformers.models.ministral3.modeling_ministral3 import get_llama_4_attn_scale

from nexus_universal import ArchitectureParameter, UniversalAttention
from nexus_universal.architecture.mixers import (
    Attention,
    LatentAttention,
    OutputGate,
    Packed,
    QueryKeyNorm,
)
from nexus_universal.architecture.part import ByLayer
from nexus_universal.architecture.position import Norm, QueryTemperature, Rope, YarnScaling
from nexus_universal.layers.attention import UniversalAttention as FromModule
from nexus_universal.layers.call import CallPlan
from nexus_universal.layers.kernels import fused_attention, repeat_heads
from nexus_universal.layers.latent_attention import UniversalLatentAttention
from tests.helpers import furthest, pair, raw, same

D_MODEL, SEQ = 20, 13


def randomised(module: nn.Module, seed: int = 0) -> nn.Module:
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.copy_(noise / math.sqrt(parameter.shape[-1]) if parameter.dim() > 1 else 1 + 0.3 * noise)
    return module.requires_grad_(False)


def rms(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def turn(x: Tensor, theta: float, pairing: str, fraction: float = 1.0, factor: float = 1.0) -> Tensor:
    """Rotate [batch, seq, heads, d] by its positions."""
    dims = int(x.shape[-1] * fraction)
    angle = torch.arange(x.shape[1]).double()[:, None, None] * theta ** -(torch.arange(0, dims, 2).double() / dims)
    spin = factor * torch.polar(torch.ones_like(angle), angle)
    part, rest = x[..., :dims], x[..., dims:]
    real, imaginary = part.chunk(2, -1) if pairing == "half" else (part[..., 0::2], part[..., 1::2])
    out = torch.complex(real, imaginary) * spin
    if pairing == "interleaved":
        return torch.cat([torch.stack([out.real, out.imag], -1).flatten(-2), rest], -1)
    return torch.cat([out.real, out.imag, rest], -1)


def softmax_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, window: int | None) -> Tensor:
    """Head by head and query by query; [batch, seq, heads, d]."""
    times = query.shape[2] // key.shape[2]
    out = torch.zeros(*query.shape[:3], value.shape[-1], dtype=torch.float64)
    for h in range(query.shape[2]):
        for t in range(query.shape[1]):
            start = 0 if window is None else max(0, t - window + 1)
            scores = scale * torch.einsum("bd,bsd->bs", query[:, t, h], key[:, start : t + 1, h // times])
            out[:, t, h] = torch.einsum("bs,bsd->bd", scores.softmax(-1), value[:, start : t + 1, h // times])
    return out


def defined(module: UniversalAttention, part: Attention, x: Tensor, layer_index: int) -> Tensor:
    """What the part says, from the module's own weights by role."""
    x = x.double()
    roles = {}
    for role, heads in (("query", part.heads), ("key", part.kv_heads), ("value", part.kv_heads), ("gate", part.heads)):
        if role == "gate" and not part.gate:
            continue
        weight, bias = role_of(module, role)
        out = x @ weight.double().T + (0 if bias is None else bias.double())
        roles[role] = out.unflatten(-1, (heads, -1))
    wide = part.qk_norm is not None and part.qk_norm.over == "width"

    def clipped(role: Tensor) -> Tensor:
        return role if part.clip is None else role.clamp(-part.clip, part.clip)

    query, key = (roles[name] if wide else clipped(roles[name]) for name in ("query", "key"))

    def normed(value: Tensor, norm: Any) -> Tensor:
        if part.qk_norm and wide:
            return clipped(rms(value.flatten(-2), norm.weight, part.qk_norm.norm.eps).view_as(value))
        return rms(value, norm.weight, part.qk_norm.norm.eps) if part.qk_norm else value

    if part.qk_norm and part.qk_norm.when == "before_rope":
        query, key = normed(query, module.query_norm), normed(key, module.key_norm)
    if part.rope:
        query, key = (turn(v, part.rope.theta, part.rope.pairing, part.rope.fraction) for v in (query, key))
    if part.qk_norm and part.qk_norm.when == "after_rope":
        query, key = normed(query, module.query_norm), normed(key, module.key_norm)
    if part.temperature:
        times = torch.arange(x.shape[1]).double()
        query = query * (1 + part.temperature.growth * (1 + (times // part.temperature.span)).log())[:, None, None]
    out = softmax_attention(query, key, clipped(roles["value"]), part.softmax_scale(layer_index), part.window)
    if part.gate:
        opened = (
            torch.sigmoid(roles["gate"]) if part.gate.activation == "sigmoid" else nn.functional.softplus(roles["gate"])
        )
        out = out * opened
    out = out.flatten(-2)
    if part.inner_norm:
        out = rms(out, module.inner_norm.weight, part.inner_norm.eps)
    bias = module.output.bias
    return out @ module.output.weight.double().T + (0 if bias is None else bias.double())


def role_of(module: nn.Module, role: str) -> tuple[Tensor, Tensor | None]:
    """The rows of a role, packed or not."""
    for name, child in module.named_children():
        if role in getattr(child, "roles", ()):
            bias = None
            if child.bias is not None:
                grouped = child.bias.unflatten(0, (child.groups, -1))
                index = child.roles.index(role)
                bias = grouped.split(child.shares, dim=1)[index].reshape(-1)
            return child.role_view(role).reshape(-1, child.weight.shape[-1]), bias
        if name == role:
            return child.weight, child.bias
    raise KeyError(role)


@st.composite
def attentions(draw: st.DrawFn) -> Attention:
    kv_heads = draw(st.sampled_from([1, 2, 4]))
    gate = draw(st.sampled_from([None, OutputGate(), OutputGate(per="head"), OutputGate(activation="softplus")]))
    packing: tuple[Packed, ...] = draw(st.sampled_from([(), (Packed(roles=("query", "key", "value")),)]))
    if gate and gate.per == "channel" and draw(st.booleans()):
        packing = (Packed(roles=("query", "gate"), groups=4),)
    biases: tuple[Any, ...] = draw(
        st.sampled_from([(), ("query", "key", "value"), ("query", "key", "value", "output")])
    )
    if gate and biases and ("gate" in str(packing) or draw(st.booleans())):
        biases = (*biases, "gate")
    norms = [
        None,
        QueryKeyNorm(norm=Norm(kind="rms", eps=1e-3)),
        QueryKeyNorm(norm=Norm(kind="rms", eps=1e-3), when="after_rope"),
    ]
    if not packing:
        norms.append(QueryKeyNorm(norm=Norm(kind="rms", eps=1e-3), over="width"))
    ropes = [None, Rope(theta=100.0), Rope(theta=100.0, fraction=0.5), Rope(theta=100.0, pairing="interleaved")]
    return Attention(
        heads=4,
        kv_heads=kv_heads,
        head_dim=8,
        rope=draw(st.sampled_from(ropes)),
        window=draw(st.sampled_from([None, 1, 3, 40])),
        scale=draw(st.sampled_from([None, 0.2, ByLayer(rule="divide", value=0.7)])),
        biases=biases,
        packing=packing,
        qk_norm=draw(st.sampled_from(norms)),
        gate=gate,
        clip=draw(st.sampled_from([None, 0.4])),
        temperature=draw(st.sampled_from([None, QueryTemperature(growth=0.7, span=3)])),
        inner_norm=draw(st.sampled_from([None, Norm(kind="rms", eps=1e-3)])),
    )


@settings(max_examples=60)
@given(part=attentions(), layer_index=st.integers(0, 3))
def test_attention_is_its_definition(part: Attention, layer_index: int) -> None:
    assert not list(part.problems())
    module = randomised(UniversalAttention(part, d_model=D_MODEL, layer_index=layer_index))
    x = torch.randn(2, SEQ, D_MODEL, generator=torch.Generator().manual_seed(1))
    assert furthest(module(x).double(), defined(module, part, x, layer_index)) < 2e-5


@settings(max_examples=30)
@given(part=attentions(), cuts=st.lists(st.integers(1, 5), min_size=1, max_size=4))
def test_attention_alone_continues_from_a_state(part: Attention, cuts: list[int]) -> None:
    """With a state but outside a model: the same as in one piece (positions and masks are then the caller's)."""
    from nexus_universal.cache import Cache

    plan = CallPlan()
    module = randomised(UniversalAttention(part, d_model=D_MODEL, plan=plan, key="mixer"))
    x = torch.randn(2, sum(cuts), D_MODEL, generator=torch.Generator().manual_seed(1))
    cache = Cache({"mixer": module.new_state()}, signature="")
    pieces = []
    for piece in x.split(cuts, dim=1):
        pieces.append(module(piece, plan.begin(piece, cache=cache), cache["mixer"]))
        cache.length += piece.shape[1]
    assert furthest(torch.cat(pieces, dim=1), module(x)) < 2e-5


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "cohere2", "qwen3", "mixtral"])
def test_a_layer_of_n_alone_is_the_models_own(model_type: str) -> None:
    """`UniversalAttention(n, layer_index=0)(x)` attends causally, as inside the model."""
    ours = pair(model_type)[1]
    alone = UniversalAttention(ours.n, layer_index=1)
    alone.load_state_dict(ours.get_submodule("layers.1.attention").state_dict())
    x = torch.randn(1, 30, ours.n.d_hidden, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        call = ours.plan.begin(x)
        assert same(alone(x), ours.get_submodule("layers.1.attention")(x, call))


def test_built_from_n_or_from_a_part() -> None:
    assert UniversalAttention is FromModule
    n = ArchitectureParameter.from_huggingface(raw("qwen3_next"))
    with pytest.raises(ValueError, match="layer 0 of this n has no softmax attention"):
        UniversalAttention(n, layer_index=0)
    assert UniversalAttention(n, layer_index=3).part == next(n.layers[3].branches()).part


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_temperature_is_the_references(dtype: torch.dtype) -> None:
    positions = torch.tensor([[0, 5, 15, 16, 17, 300], [40, 41, 42, 43, 44, 45]])
    plan, rule = CallPlan(), QueryTemperature(growth=0.1, span=16)
    plan.growths.add(rule)
    found = plan.begin(torch.zeros(2, 6, 4, dtype=dtype), positions=positions).query_growth[rule]
    assert same(found, get_llama_4_attn_scale(positions, 0.1, 16))


# Latent attention


def latent_defined(module: UniversalLatentAttention, part: LatentAttention, x: Tensor) -> Tensor:
    x = x.double()

    def linear(layer: nn.Linear, value: Tensor) -> Tensor:
        return value @ layer.weight.double().T + (0 if layer.bias is None else layer.bias.double())

    if part.query_rank is None:
        query = linear(module.query, x)
    else:
        query = linear(
            module.query_up, rms(linear(module.query_down, x), module.query_norm.weight, part.latent_norm.eps)
        )
    query = query.unflatten(-1, (part.heads, -1))
    latent, key_rope = linear(module.latent_down, x).split([part.latent_rank, part.rope_dim], -1)
    expanded = linear(module.latent_up, rms(latent, module.latent_norm.weight, part.latent_norm.eps))
    key, value = expanded.unflatten(-1, (part.heads, -1)).split([part.nope_dim, part.value_dim], -1)
    key_rope = key_rope.unsqueeze(2)
    query_nope, query_rope = query.split([part.nope_dim, part.rope_dim], -1)
    if part.rope:
        factor = getattr(part.rope.scaling, "table_factor", 1.0)
        query_rope, key_rope = (
            turn(v, part.rope.theta, part.rope.pairing, factor=factor) for v in (query_rope, key_rope)
        )
    key = torch.cat([key, key_rope.expand(-1, -1, part.heads, -1)], -1)
    scale = (part.nope_dim + part.rope_dim) ** -0.5
    if part.scale_by_yarn:
        scale *= (0.1 * part.rope.scaling.mscale_all_dim * math.log(part.rope.scaling.factor) + 1) ** 2
    out = softmax_attention(torch.cat([query_nope, query_rope], -1), key, value, scale, None)
    return linear(module.output, out.flatten(-2))


YARN = YarnScaling(
    factor=4.0, original_context=10**6, mscale=0.7, mscale_all_dim=1.2
)  # so wide that no frequency changes


@pytest.mark.parametrize("biases", [(), ("query_down", "latent_down", "output")])
@pytest.mark.parametrize("rank", [None, 14])
@pytest.mark.parametrize(
    "rope", [None, Rope(theta=100.0), Rope(theta=100.0, pairing="interleaved_to_half"), Rope(theta=100.0, scaling=YARN)]
)
def test_latent_attention_is_its_definition(rope: Rope | None, rank: int | None, biases: tuple[Any, ...]) -> None:
    part = LatentAttention(
        heads=3,
        query_rank=rank,
        latent_rank=10,
        nope_dim=6,
        rope_dim=4,
        value_dim=5,
        latent_norm=Norm(kind="rms", eps=1e-3),
        rope=rope,
        scale_by_yarn=rope is not None and rope.scaling is not None,
        biases=biases if rank else tuple(b for b in biases if b != "query_down"),
    )
    module = randomised(UniversalLatentAttention(part, d_model=D_MODEL))
    x = torch.randn(2, SEQ, D_MODEL, generator=torch.Generator().manual_seed(1))
    assert furthest(module(x).double(), latent_defined(module, part, x)) < 2e-5


def test_the_cache_of_latent_attention_holds_the_latent() -> None:
    ours = pair("glm4_moe_lite")[1]
    cache = ours.new_cache()
    ours(torch.zeros(1, 7, dtype=torch.long), cache=cache)
    shapes = {name: tuple(t.shape) for name, t in cache["layers.0.attention"].tensors().items()}
    assert shapes == {"keys": (1, 1, 7, 20), "values": (1, 1, 7, 8)}


# The kernel


@settings(max_examples=60)
@given(
    kv_heads=st.sampled_from([1, 2, 4]),
    queries=st.sampled_from([1, 2, 6]),
    value_dim=st.sampled_from([8, 5]),
    masked=st.booleans(),
    per_head=st.booleans(),
)
def test_the_three_forms_of_grouped_heads_are_one_function(
    kv_heads: int, queries: int, value_dim: int, masked: bool, per_head: bool
) -> None:
    torch.manual_seed(0)
    query, key, value = (
        torch.randn(2, 4, queries, 8),
        torch.randn(2, kv_heads, 6, 8),
        torch.randn(2, kv_heads, 6, value_dim),
    )
    if queries == 2 and not masked:
        return  # a causal call of fewer queries than keys always comes with a mask
    mask = None
    if masked:
        mask = torch.rand(2, 4 if per_head else 1, queries, 6) > 0.4
        mask[..., 0] = True
    found = fused_attention(query, key, value, mask=mask, scale=0.3)
    wide_key, wide_value = repeat_heads(key, 4 // kv_heads).double(), repeat_heads(value, 4 // kv_heads).double()
    scores = 0.3 * query.double() @ wide_key.transpose(-1, -2)
    seen = mask if mask is not None else torch.ones(queries, 6, dtype=torch.bool).tril() if queries > 1 else None
    if seen is not None:
        scores = scores.masked_fill(~seen, float("-inf"))
    expected = (scores.softmax(-1) @ wide_value).transpose(1, 2)
    assert found.shape == (2, queries, 4, value_dim)
    assert torch.allclose(found.double(), expected, atol=1e-5)


def test_repeated_heads_stand_side_by_side() -> None:
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(repeat_heads(x, 2), x.repeat_interleave(2, dim=1))
    assert repeat_heads(x, 1) is x
