"""Unusual parts against the references' own modules, forwards and backwards, bit by bit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from nexus_universal.layers.call import Call
from nexus_universal.parity.references import build_reference
from tests.helpers import config, same, universal

WIDTH = 48


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def pair(model_type: str, x: Tensor, **changes: Any) -> tuple[Any, Any]:
    """Reference and one class in x's dtype."""
    theirs = build_reference(config(model_type, **changes), dtype=x.dtype, seed=0)
    return theirs, universal(theirs)


def call() -> Call:
    return Call(positions=torch.arange(11)[None], cache=None, tables=[], masks=[])


def longcat_experts(x: Tensor, *, theirs: bool) -> Tensor:
    theirs_whole, ours = pair("longcat_flash", x, zero_expert_num=4)
    return (theirs_whole.model.layers[0].mlp if theirs else ours.layers[0].feed_forward)(x)


def gated_streams(x: Tensor, *, theirs: bool) -> Tensor:
    theirs_whole, ours = pair("hy_v4", x, hc_magnitude=0.7)
    streams = (x.unsqueeze(2) * torch.arange(1, 5)[:, None]).to(x.dtype)
    if theirs:
        module = theirs_whole.model.layers[0].attn_hc
        post, read = module(streams)
        return (post.unsqueeze(-1) * read.tanh().float().unsqueeze(-2) + streams.float()).to(x.dtype)
    module = ours.layers[0].attention_connection
    read, kept = module.read(streams)
    return module.write(kept, read.tanh())


def channel_gated_streams(x: Tensor, *, theirs: bool) -> Tensor:
    theirs_whole, ours = pair("qwen4_exp_text", x)
    streams = (x.unsqueeze(2) * torch.arange(1, 5)[:, None]).to(x.dtype)
    if theirs:
        read, kept, shares = theirs_whole.model.layers[0].attn_hyper_connection(streams.flatten(2))
        written = kept + (read.tanh().unsqueeze(-2) * shares.unsqueeze(-1)).flatten(-2)
        return theirs_whole.model.hyper_connection_mixer(written)
    module = ours.layers[0].linear_attention_connection
    read, kept = module.read(streams)
    return ours.streams.merge(module.write(kept, read.tanh()))


def chained_experts(x: Tensor, *, theirs: bool) -> Tensor:
    """Two layers, the second of which continues the first one's router."""
    theirs_whole, ours = pair("zaya", x)
    if theirs:
        first, second = (layer.mlp for layer in theirs_whole.model.layers[:2])
        out, memory = first(x)
        return out + second(x, memory)[0]
    shared = call()
    first, second = (layer.experts for layer in ours.layers[:2])
    return first(x, shared) + second(x, shared)


def convolved_attention(x: Tensor, *, theirs: bool) -> Tensor:
    theirs_whole, ours = pair("zaya", x, cca_time0=3)
    if theirs:
        module = theirs_whole.model.layers[0].self_attn
        positions = torch.arange(x.shape[1])[None]
        return module(x, position_embeddings=theirs_whole.model.rotary_emb(x, positions, "hybrid"))[0]
    module = ours.layers[0].attention
    return module(x)


def dynamic_mask(x: Tensor, *, theirs: bool) -> Tensor:
    theirs_whole, ours = pair("doge", x, keep_window_size=5)
    if theirs:
        module = theirs_whole.model.layers[0].self_attn
        positions = torch.arange(x.shape[1])[None]
        seen = torch.ones(x.shape[1], x.shape[1], dtype=torch.bool).tril()[None, None].expand(x.shape[0], -1, -1, -1)
        return module(x, theirs_whole.model.rotary_emb(x, positions), seen)[0]
    module = ours.layers[0].attention
    return module(x)


def biased_by_distance(x: Tensor, *, theirs: bool) -> Tensor:
    """Over everything: biases and queries grow with the position, keys and values are convolved."""
    theirs_whole, ours = pair("inkling_text", x, layer_types=["hybrid"] * 3, log_scaling_n_floor=3, rel_extent=6)
    if theirs:
        return theirs_whole.model.layers[0].self_attn(x, None)[0]
    return ours.layers[0].attention(x)


def weighed_experts(x: Tensor, *, theirs: bool) -> Tensor:
    theirs_whole, ours = pair("inkling_text", x, n_shared_experts=3)
    return (theirs_whole.model.layers[1].mlp if theirs else ours.layers[1].feed_forward)(x)


def residual_convolution(x: Tensor, *, theirs: bool) -> Tensor:
    theirs_whole, ours = pair("inkling2_text", x, conv_kernel_size=3)
    return (theirs_whole.model.layers[0].post_mlp_convolution if theirs else ours.layers[0].feed_forward_convolution)(x)


def three_inputs(x: Tensor, *, theirs: bool) -> Tensor:
    """Queries, keys and values of vectors of their own, dynamic taps, sinks of each query's own, bounded lengths."""
    limits = {"qk_l2_clip_threshold": 2.0, "rel_l2_clip_threshold": 1.0, "log_scaling_n_floor": 3, "rel_extent": 6}
    theirs_whole, ours = pair("inkling2_text", x, **limits)
    given = x, x.flip(1), x.roll(1, 1)
    if not theirs:
        return ours.layers[1].attention(torch.cat(given, dim=-1))
    layer, positions = theirs_whole.model.layers[1], torch.arange(x.shape[1])[None]
    norms = (layer.q_input_layernorm, layer.k_input_layernorm, layer.v_input_layernorm)
    mask = torch.full((x.shape[1],) * 2, torch.finfo(x.dtype).min, dtype=x.dtype).triu(1)[None, None]
    return layer.self_attn(*(norm(z) for norm, z in zip(norms, given, strict=True)), mask, position_ids=positions)[0]


def attended_read(x: Tensor, *, theirs: bool) -> Tensor:
    """Three mixtures of two blocks and the one at work, which alone is float32."""
    theirs_whole, ours = pair("inkling2_text", x, n_layers_per_attn_res_block=1)
    first, second, work = x.tanh(), x.flip(1), x.float().sin()
    if theirs:
        module = theirs_whole.model.layers[1].attention_input
        return torch.cat(module(torch.stack([first, second], dim=-2), work), dim=-1)
    return ours.layers[1].attention_read([first, second, work])


PARTS = [longcat_experts, gated_streams, channel_gated_streams, chained_experts, convolved_attention, dynamic_mask]
PARTS += [biased_by_distance, weighed_experts, residual_convolution, three_inputs, attended_read]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("part", PARTS, ids=lambda part: part.__name__)
def test_a_part_is_the_references(part: Callable[..., Tensor], dtype: torch.dtype) -> None:
    found = []
    for theirs in (True, False):
        x = drawn(2, 11, WIDTH).to(dtype).requires_grad_()
        out = part(x, theirs=theirs)
        out.backward(drawn(*out.shape, seed=1).to(dtype))
        found.append((out.detach(), x.grad))
    (expected, gradient), (ours, our_gradient) = found
    assert same(ours, expected)
    assert dtype == torch.bfloat16 or same(our_gradient, gradient)
