"""The causal convolution: the sum it stands for, any cutting into chunks, pads behind the last token."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from nexus_universal.cache import RecurrentState
from nexus_universal.layers.convolution import CausalConvolution


def built(kernel: int, *, bias: bool = False) -> CausalConvolution:
    torch.manual_seed(0)
    layer = CausalConvolution(5, kernel, bias=bias, activation="silu")
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer.requires_grad_(False)


def defined(layer: CausalConvolution, x: Tensor) -> Tensor:
    """out[t] = silu(Σ_j w[j] x[t − kernel + 1 + j] + b), zeros before the start."""
    out = torch.zeros(x.shape, dtype=torch.float64)
    for t in range(x.shape[-1]):
        for j in range(layer.kernel):
            at = t - layer.kernel + 1 + j
            if at >= 0:
                out[..., t] += layer.weight[:, j].double() * x[..., at].double()
    if layer.bias is not None:
        out += layer.bias.double()[:, None]
    return F.silu(out)


@settings(max_examples=40)
@given(kernel=st.integers(1, 5), seq=st.integers(1, 9), bias=st.booleans())
def test_it_is_its_definition(kernel: int, seq: int, bias: bool) -> None:
    layer, x = built(kernel, bias=bias), torch.randn(2, 5, seq)
    assert torch.allclose(layer(x).double(), defined(layer, x), atol=1e-5)


@settings(max_examples=60)
@given(kernel=st.integers(1, 5), pieces=st.lists(st.integers(1, 6), min_size=1, max_size=6))
def test_any_cutting_gives_the_whole(kernel: int, pieces: list[int]) -> None:
    layer, x, state = built(kernel), torch.randn(2, 5, sum(pieces)), RecurrentState()
    out = torch.cat([layer(piece, state) for piece in x.split(pieces, dim=-1)], dim=-1)
    assert torch.allclose(out, layer(x), atol=1e-5)
    assert state.convolution is not None and state.convolution.shape == (2, 5, kernel)
    padded = F.pad(x, (kernel, 0))
    assert torch.equal(state.convolution, padded[..., -kernel:])


@settings(max_examples=60)
@given(kernel=st.integers(1, 4), lengths=st.lists(st.integers(1, 7), min_size=2, max_size=2), before=st.integers(0, 3))
def test_pads_behind_the_last_token_leave_the_state_at_the_token(kernel: int, lengths: list[int], before: int) -> None:
    """A ragged batch padded on the right leaves each row with the state that the row alone would have."""
    torch.manual_seed(1)
    layer, seq = built(kernel), max(lengths)
    x, history = torch.randn(2, 5, seq), torch.randn(2, 5, before)
    trailing = torch.arange(seq)[None] >= torch.tensor(lengths)[:, None]
    together = RecurrentState()
    if before:
        layer(history, together)
    layer(x, together, trailing=trailing)
    for row, length in enumerate(lengths):
        alone = RecurrentState()
        if before:
            layer(history[row : row + 1], alone)
        layer(x[row : row + 1, :, :length], alone)
        assert together.convolution is not None and alone.convolution is not None
        assert torch.allclose(together.convolution[row], alone.convolution[0])


def test_the_weights_dtype_is_computed_in() -> None:
    layer = built(4).to(torch.float64)
    assert layer(torch.randn(1, 5, 3)).dtype == torch.float32
