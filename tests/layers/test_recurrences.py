"""Short convolutions and Mamba's scan, against every mixer of transformers that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, FalconMambaConfig, JambaConfig, Lfm2Config, MambaConfig
from transformers.models.falcon_mamba.modeling_falcon_mamba import FalconMambaMixer
from transformers.models.jamba.modeling_jamba import JambaMambaMixer
from transformers.models.lfm2.modeling_lfm2 import Lfm2ShortConv
from transformers.models.mamba.modeling_mamba import MambaMixer

from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.recurrences import ChannelStateSpace, ShortConvolution
from nexus_universal.layers.channel_state_space import UniversalChannelStateSpace
from nexus_universal.layers.short_convolution import UniversalShortConvolution
from tests.helpers import furthest, same, widen
from tests.layers.recurrent import assert_same_gradients, padded

WIDTH = 48
ROLES = {"in_proj": "input", "out_proj": "output", "conv1d": "convolution", "conv": "convolution", "x_proj": "choose"}
ROLES |= {"dt_proj": "step", "A_log": "decay_log", "D": "skip", "dt_layernorm": "step_norm"}
ROLES |= {"b_layernorm": "b_norm", "c_layernorm": "c_norm"}
SCAN = ChannelStateSpace(width=96, state_dim=10, rank=5, convolution=4)
MODULES = {ShortConvolution: UniversalShortConvolution, ChannelStateSpace: UniversalChannelStateSpace}


def scanned(part: ChannelStateSpace) -> dict[str, Any]:
    return {
        "hidden_size": WIDTH,
        "state_size": part.state_dim,
        "time_step_rank": part.rank,
        "conv_kernel": part.convolution,
        "hidden_act": part.activation,
        "use_bias": bool(part.biases),
        "use_conv_bias": part.convolution_bias,
        "num_hidden_layers": 1,
    }


def mamba(part: ChannelStateSpace) -> tuple[Any, Any]:
    config = MambaConfig(**scanned(part))
    return MambaMixer(config, layer_idx=0), config


def falcon_mamba(part: ChannelStateSpace) -> tuple[Any, Any]:
    assert part.inner_norm
    config = FalconMambaConfig(**scanned(part), mixer_rms_eps=part.inner_norm.eps)
    mixer = FalconMambaMixer(config, layer_idx=0, initialize_mixer_weights=False)  # else it fails: a norm comes later
    torch.nn.init.ones_(mixer.D)
    return mixer, config


def jamba(part: ChannelStateSpace) -> tuple[Any, Any]:
    assert part.inner_norm
    config = JambaConfig(
        hidden_size=WIDTH,
        mamba_d_state=part.state_dim,
        mamba_dt_rank=part.rank,
        mamba_d_conv=part.convolution,
        mamba_conv_bias=part.convolution_bias,
        mamba_proj_bias=bool(part.biases),
        hidden_act=part.activation,
        rms_norm_eps=part.inner_norm.eps,
        num_hidden_layers=1,
    )
    return JambaMambaMixer(config, layer_idx=0), config


def lfm2(part: ShortConvolution) -> tuple[Any, Any]:
    config = Lfm2Config(
        hidden_size=WIDTH,
        conv_L_cache=part.kernel,
        conv_bias=part.bias,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_hidden_layers=1,
        layer_types=["conv"],
    )
    return Lfm2ShortConv(config, 0), config


BOTH = ("input", "output")
CASES: dict[str, tuple[Callable[[Any], tuple[Any, Any]], Any]] = {
    "mamba": (mamba, SCAN),
    "mamba, biases": (mamba, replace(SCAN, biases=BOTH, convolution_bias=False)),
    "mamba, gelu and kernel 2": (mamba, replace(SCAN, activation="gelu", convolution=2)),
    "falcon_mamba": (falcon_mamba, replace(SCAN, inner_norm=Norm(kind="rms", eps=0.1, scale="none"))),
    "jamba": (jamba, replace(SCAN, inner_norm=Norm(kind="rms", eps=1e-3), biases=BOTH)),
    "lfm2": (lfm2, ShortConvolution(kernel=3)),
    "lfm2, biases": (lfm2, ShortConvolution(kernel=4, bias=True)),
}
cases = pytest.mark.parametrize("case", CASES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def renamed(name: str) -> str:
    head, _, rest = name.partition(".")
    return f"{ROLES[head]}.{rest}" if rest else ROLES[head]


def pair(case: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Any, str]:
    make, part = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs, config = make(part)
    widen(theirs)
    ours = MODULES[type(part)](part, d_model=WIDTH)
    weights = {renamed(name): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict({name: tensor.view(ours.get_parameter(name).shape) for name, tensor in weights.items()})
    cache = "past_key_values" if isinstance(part, ShortConvolution) else "cache_params"
    return theirs.to(dtype).eval(), ours.to(dtype).eval(), config, cache


def drawn(seq: int, dtype: torch.dtype = torch.float32, *, seed: int = 3) -> Tensor:
    return torch.randn(3, seq, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@torch.no_grad()
@cases
@dtypes
@pytest.mark.parametrize("pieces", [[27], [1], [2, 1, 1], [23, 1, 1]], ids=str)
def test_any_lawful_calls_give_the_references_bits(case: str, dtype: torch.dtype, pieces: list[int]) -> None:
    theirs, ours, config, kept = pair(case, dtype)
    cache: Any = DynamicCache(config=config)
    state = ours.new_state()
    assert same(ours(drawn(27, dtype)), theirs(drawn(27, dtype)))
    for index, seq in enumerate(pieces):
        x = drawn(seq, dtype, seed=index)
        assert same(ours(x, None, state), theirs(x, **{kept: cache})), f"piece {index}"
    assert same(state.tensors()["convolution"], cache.layers[0].conv_states[0])


@torch.no_grad()
@cases
def test_pieces_are_the_whole(case: str) -> None:
    """The reference's scan forgets its state where several positions follow others; ours does not."""
    theirs, ours, config, kept = pair(case)
    cache: Any = DynamicCache(config=config)
    state, x = ours.new_state(), drawn(27)
    whole, pieces = ours(x), [5, 11, 1, 10]
    found = torch.cat([ours(piece, None, state) for piece in x.split(pieces, dim=1)], dim=1)
    assert furthest(found, whole) < 1e-5
    forgetful = torch.cat([theirs(piece, **{kept: cache}) for piece in x.split(pieces, dim=1)], dim=1)
    assert (furthest(forgetful, whole) > 1e-2) == isinstance(CASES[case][1], ChannelStateSpace)


@cases
@dtypes
def test_gradients_are_the_references_bits(case: str, dtype: torch.dtype) -> None:
    theirs, ours, _, _ = pair(case, dtype)
    x, probe = drawn(27, dtype), drawn(27, dtype, seed=4)
    assert_same_gradients(theirs, ours, x, probe=probe, renamed=renamed)


@torch.no_grad()
@cases
@pytest.mark.parametrize(("left", "right"), [(0, 6), (6, 0), (4, 3)])
def test_pads_change_neither_outputs_nor_states(case: str, left: int, right: int) -> None:
    theirs, ours, _, _ = pair(case)
    x = drawn(30)[:1]
    mask, call = padded(30 - left - right, left, right, width=WIDTH)
    state, alone = ours.new_state(), ours.new_state()
    out = ours(x, call, state)[mask.bool()]
    expected = ours(x[mask.bool()][None], None, alone)[0]
    assert furthest(out, expected) < 1e-5
    for name, tensor in state.tensors().items():
        assert furthest(tensor, alone.tensors()[name]) < 1e-5, name
    part = CASES[case][1]
    leaks = left > 0 and (part.bias if isinstance(part, ShortConvolution) else "input" in part.biases)
    assert same(out, theirs(x, attention_mask=mask)[mask.bool()]) != leaks, "a bias leaks from pads in the reference"
