"""The state space as a mixer, against every mixer of transformers that it stands for: bits, gradients, caches, pads."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import DynamicCache, FalconH1Config, Mamba2Config, NemotronHConfig, Zamba2Config
from transformers.models.falcon_h1.modeling_falcon_h1 import FalconH1Mixer, compute_mup_vector
from transformers.models.mamba2.modeling_mamba2 import Mamba2Mixer
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer
from transformers.models.zamba2.modeling_zamba2 import Zamba2MambaMixer

from nexus_universal.architecture.errors import UnsupportedPart
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.recurrences import StateSpace
from nexus_universal.layers.state_space import UniversalStateSpace
from tests.helpers import furthest, same, widen
from tests.layers.recurrent import assert_same_gradients, padded

INF = float("inf")
WIDTH, HEADS, HEAD_DIM, STATE = 48, 6, 16, 10
ROLES = {"in_proj": "input", "out_proj": "output", "conv1d": "convolution", "A_log": "decay_log", "D": "skip"}
ROLES |= {"dt_bias": "step_bias", "norm": "norm"}
PLAIN = StateSpace(
    heads=HEADS,
    head_dim=HEAD_DIM,
    state_dim=STATE,
    groups=2,
    convolution=4,
    norm=Norm(kind="rms", eps=1e-5),
    norm_groups=2,
    chunk=16,
)


def mamba2(part: StateSpace) -> tuple[Any, Any]:
    config = Mamba2Config(
        hidden_size=WIDTH,
        num_heads=HEADS,
        head_dim=HEAD_DIM,
        state_size=STATE,
        n_groups=part.groups,
        conv_kernel=part.convolution,
        hidden_act=part.activation,
        use_bias=bool(part.biases),
        use_conv_bias=part.convolution_bias,
        time_step_limit=part.time_step,
        chunk_size=part.chunk,
        num_hidden_layers=1,
    )
    return Mamba2Mixer(config, layer_idx=0), config


def falcon_h1(part: StateSpace) -> tuple[Any, Any]:
    config = FalconH1Config(
        hidden_size=WIDTH,
        num_attention_heads=4,
        num_key_value_heads=2,
        mamba_d_ssm=HEADS * HEAD_DIM,
        mamba_n_heads=HEADS,
        mamba_d_head=HEAD_DIM,
        mamba_d_state=STATE,
        mamba_n_groups=part.groups,
        mamba_d_conv=part.convolution,
        mamba_chunk_size=part.chunk,
        mamba_rms_norm=part.norm is not None,
        mamba_norm_before_gate=part.norm_first,
        mamba_proj_bias="input" in part.biases,
        projectors_bias="output" in part.biases,
        ssm_multipliers=list(part.input_scales or (1.0,) * 5),
        rms_norm_eps=1e-5,
        num_hidden_layers=1,
    )
    mixer = FalconH1Mixer(config, layer_idx=0)
    mixer.register_buffer("mup_vector", compute_mup_vector(config), persistent=False)
    return mixer, config


def nemotron_h(part: StateSpace) -> tuple[Any, Any]:
    config = NemotronHConfig(
        hidden_size=WIDTH,
        mamba_num_heads=HEADS,
        mamba_head_dim=HEAD_DIM,
        ssm_state_size=STATE,
        n_groups=part.groups,
        conv_kernel=part.convolution,
        chunk_size=part.chunk,
        time_step_min=part.time_step[0],
        layers_block_type=["mamba"],
    )
    return NemotronHMamba2Mixer(config, layer_idx=0), config


def zamba2(part: StateSpace) -> tuple[Any, Any]:
    config = Zamba2Config(
        hidden_size=WIDTH,
        n_mamba_heads=HEADS,
        mamba_d_state=STATE,
        mamba_ngroups=part.groups,
        chunk_size=part.chunk,
        time_step_min=part.time_step[0],
        num_hidden_layers=2,
        layers_block_type=["mamba", "hybrid"],
    )
    return Zamba2MambaMixer(config, layer_idx=0), config


WIDE_NORM = Norm(kind="rms", eps=1e-5, rounding="after_scale")
SCALES = (0.35, 0.25, 0.36, 0.5, 0.37)
CASES: dict[str, tuple[Callable[[StateSpace], tuple[Any, Any]], StateSpace]] = {
    "mamba2": (mamba2, PLAIN),
    "mamba2, one group": (mamba2, replace(PLAIN, groups=1, norm_groups=1)),
    "mamba2, biases": (mamba2, replace(PLAIN, biases=("input", "output"), convolution_bias=False)),
    "mamba2, bounded": (mamba2, replace(PLAIN, time_step=(0.3, 0.9), chunk=7)),
    "mamba2, gelu and kernel 2": (mamba2, replace(PLAIN, activation="gelu", convolution=2, chunk=256)),
    "falcon_h1, no norm": (falcon_h1, replace(PLAIN, norm=None, norm_groups=1, input_scales=SCALES)),
    "falcon_h1, norm behind the gate": (falcon_h1, replace(PLAIN, norm=WIDE_NORM, input_scales=SCALES)),
    "falcon_h1, norm first": (falcon_h1, replace(PLAIN, norm=WIDE_NORM, norm_first=True, biases=("output",))),
    "nemotron_h": (nemotron_h, replace(PLAIN, groups=3, norm_groups=3, time_step=(0.001, INF))),
    "zamba2": (zamba2, replace(PLAIN, time_step=(0.001, INF))),
}
cases = pytest.mark.parametrize("case", CASES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def renamed(name: str) -> str:
    head, _, rest = name.partition(".")
    return f"{ROLES[head]}.{rest}" if rest else ROLES[head]


def pair(case: str, dtype: torch.dtype = torch.float32) -> tuple[Any, UniversalStateSpace, Any]:
    make, part = CASES[case]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs, config = make(part)
    buffers = {name: buffer.clone() for name, buffer in theirs.named_buffers()}
    widen(theirs)
    for name, buffer in theirs.named_buffers():
        buffer.copy_(buffers[name])
    ours = UniversalStateSpace(part, d_model=WIDTH)
    weights = {renamed(name): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict({name: tensor.view(ours.get_parameter(name).shape) for name, tensor in weights.items()})
    return theirs.to(dtype).eval(), ours.to(dtype).eval(), config


def drawn(seq: int, dtype: torch.dtype, *, seed: int = 3) -> Tensor:
    return torch.randn(3, seq, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@torch.no_grad()
@cases
@dtypes
@pytest.mark.parametrize("pieces", [[37], [1], [2, 1, 1], [33, 1, 1, 5], [1, 1, 20]], ids=str)
def test_any_calls_give_the_references_bits(case: str, dtype: torch.dtype, pieces: list[int]) -> None:
    theirs, ours, config = pair(case, dtype)
    cache: Any = DynamicCache(config=config)
    state = ours.new_state()
    assert same(ours(drawn(37, dtype)), theirs(drawn(37, dtype)))
    for index, seq in enumerate(pieces):
        x = drawn(seq, dtype, seed=index)
        assert same(ours(x, None, state), theirs(x, cache_params=cache)), f"piece {index}"
    kept = state.tensors()
    assert same(kept["convolution"], cache.layers[0].conv_states[0])
    assert same(kept["recurrent"], cache.layers[0].recurrent_states[0])


@cases
@dtypes
def test_gradients_are_the_references_bits(case: str, dtype: torch.dtype) -> None:
    theirs, ours, _ = pair(case, dtype)
    x, probe = drawn(37, dtype), drawn(37, dtype, seed=4)
    assert_same_gradients(theirs, ours, x, probe=probe, renamed=renamed)


@torch.no_grad()
@cases
def test_padded_rows_give_the_references_bits(case: str) -> None:
    theirs, ours, _ = pair(case)
    x = drawn(30, torch.float32)[:1]
    for left, right in ((0, 7), (7, 0)):
        mask, call = padded(23, left, right, width=WIDTH)
        out, expected = ours(x, call), theirs(x, attention_mask=mask)
        if left and "input" in CASES[case][1].biases:
            assert furthest(out[mask.bool()], expected[mask.bool()]) > 1e-2, "the reference lets the bias leak"
        else:
            assert same(out[mask.bool()], expected[mask.bool()])


@torch.no_grad()
@cases
@pytest.mark.parametrize(("left", "right"), [(0, 6), (6, 0), (4, 3)])
def test_pads_change_neither_outputs_nor_states(case: str, left: int, right: int) -> None:
    ours, x = pair(case)[1], drawn(30, torch.float32)[:1]
    mask, call = padded(30 - left - right, left, right, width=WIDTH)
    state, alone = ours.new_state(), ours.new_state()
    out = ours(x, call, state)[mask.bool()]
    expected = ours(x[mask.bool()][None], None, alone)[0]
    assert furthest(out, expected) < 1e-5
    for name, tensor in state.tensors().items():
        assert furthest(tensor, alone.tensors()[name]) < 1e-5, name


def test_a_norm_that_no_reference_has_is_refused() -> None:
    part = replace(PLAIN, norm_first=True)
    with pytest.raises(UnsupportedPart, match=r"Norm\.rounding = 'before_scale'"):
        UniversalStateSpace(part, d_model=WIDTH)
    with pytest.raises(UnsupportedPart, match=r"Norm\.kind = 'layer'"):
        UniversalStateSpace(replace(PLAIN, norm=Norm(kind="layer", eps=1e-5)), d_model=WIDTH)


def test_every_weight_has_a_role() -> None:
    ours = UniversalStateSpace(PLAIN, d_model=WIDTH)
    assert {name for name, _ in ours.named_parameters()} == {
        "input.weight",
        "convolution.weight",
        "convolution.bias",
        "decay_log",
        "skip",
        "step_bias",
        "norm.weight",
        "output.weight",
    }
    assert isinstance(ours.decay_log, nn.Parameter) and ours.decay_log.shape == (HEADS,)
