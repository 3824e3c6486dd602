"""Recurrences with gates or fixed decays, against the mixers of transformers that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import DynamicCache, RecurrentGemmaConfig, ZambaConfig
from transformers.models.bailing_hybrid.configuration_bailing_hybrid import BailingHybridConfig
from transformers.models.bailing_hybrid.modeling_bailing_hybrid import BailingHybridDeltaAttention
from transformers.models.kimi_linear.configuration_kimi_linear import KimiLinearConfig
from transformers.models.kimi_linear.modeling_kimi_linear import KimiLinearDeltaAttention
from transformers.models.minimax.configuration_minimax import MiniMaxConfig
from transformers.models.minimax.modeling_minimax import MiniMaxCache, MiniMaxLightningAttention
from transformers.models.recurrent_gemma.modeling_recurrent_gemma import RecurrentGemmaRecurrentBlock
from transformers.models.zamba.modeling_zamba import ZambaMambaMixer

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.mixers import Packed
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.recurrences import (
    ChannelStateSpace,
    GatedDeltaRule,
    GatedLinearRecurrence,
    LightningAttention,
)
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.channel_delta import UniversalChannelDelta
from nexus_universal.layers.headed_state_space import UniversalHeadedStateSpace
from nexus_universal.layers.lightning_attention import UniversalLightningAttention
from nexus_universal.layers.linear_recurrence import UniversalGatedLinearRecurrence
from tests.helpers import furthest, same, widen

WIDTH, SEQ = 48, 39
WIDE = Norm(kind="rms", eps=1e-5, rounding="after_scale")
DELTA: dict[str, Any] = {
    "key_heads": 3,
    "value_heads": 3,
    "key_dim": 8,
    "value_dim": 8,
    "convolution": 4,
    "norm": WIDE,
    "gate_activation": "sigmoid",
    "decay": "channel",
}
TEXT: dict[str, Any] = {"num_hidden_layers": 2, "hidden_size": WIDTH, "rms_norm_eps": 1e-5}
QKV = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "b_proj": "beta", "o_norm": "norm", "o_proj": "output"}
QKV |= {"conv1d": "convolution", "forget_gate.A_log": "decay_log", "forget_gate.dt_bias": "decay_bias"}


def kimi() -> tuple[Any, Any, dict[str, str]]:
    config = KimiLinearConfig(**TEXT, linear_head_dim=8, linear_num_heads=3)
    ours = UniversalChannelDelta(GatedDeltaRule(**DELTA, low_rank=8, cut=True, decay_form="written"), d_model=WIDTH)
    thin = {"forget_gate.f_a_proj": "decay.down", "forget_gate.f_b_proj": "decay.up"}
    return KimiLinearDeltaAttention(config, 0), ours, QKV | thin | {"g_a_proj": "gate.down", "g_b_proj": "gate.up"}


def bailing(floor: float | None) -> tuple[Any, Any, dict[str, str]]:
    bounded: dict[str, Any] = {"kda_safe_gate": floor is not None, "kda_lower_bound": floor or -5.0}
    config = BailingHybridConfig(**TEXT, head_dim=8, num_attention_heads=3, num_key_value_heads=3, **bounded)
    ours = UniversalChannelDelta(GatedDeltaRule(**DELTA, decay_floor=floor), d_model=WIDTH)
    return BailingHybridDeltaAttention(config, 0), ours, QKV | {"forget_gate.f_proj": "decay", "g_proj": "gate"}


def lightning() -> tuple[Any, Any, dict[str, str]]:
    config = MiniMaxConfig(
        **TEXT, num_attention_heads=4, head_dim=10, block_size=16, layer_types=["linear_attention"] * 2
    )
    part = LightningAttention(
        heads=4,
        head_dim=10,
        depth=2,
        norm=Norm(kind="rms", eps=1e-6),
        block=16,
        packing=(Packed(roles=("query", "key", "value"), groups=4),),
    )
    names = {"qkv_proj": "query_key_value", "output_gate": "gate", "out_proj": "output", "slope_rate": "slope"}
    names |= {"diagonal_decay": "pair_decay"}
    return MiniMaxLightningAttention(config, 1), UniversalLightningAttention(part, d_model=WIDTH, layer_index=1), names


def zamba() -> tuple[Any, Any, dict[str, str]]:
    heads: dict[str, Any] = {"n_mamba_heads": 2, "mamba_d_state": 10, "mamba_dt_rank": 5}
    config = ZambaConfig(**TEXT, **heads, layers_block_type=["linear_attention", "hybrid"])
    part = ChannelStateSpace(width=96, state_dim=10, rank=5, convolution=4, heads=2)
    names = {"in_proj": "input", "out_proj": "output", "conv1d": "convolution", "x_proj_weight": "choose"}
    names |= {"dt_proj_weight": "step_weight", "dt_proj_bias": "step_bias", "A_log": "decay_log", "D": "skip"}
    return ZambaMambaMixer(config, 0), UniversalHeadedStateSpace(part, d_model=WIDTH), names


class Griffin(torch.nn.Module):
    """RecurrentGemma's block, called as the other mixers are: its states lie in the module."""

    def __init__(self) -> None:
        super().__init__()
        config = RecurrentGemmaConfig(hidden_size=WIDTH, num_attention_heads=4, num_hidden_layers=2)
        self.block = RecurrentGemmaRecurrentBlock(config, 0)
        self.seen = 0

    def forward(self, x: Tensor, cache: Any = None) -> Tensor:
        positions = torch.arange(self.seen, self.seen + x.shape[1])[None]
        self.seen = 0 if cache is None else self.seen + x.shape[1]
        return self.block(x, positions, None, use_cache=cache is not None)[0]


def griffin() -> tuple[Any, Any, dict[str, str]]:
    part = GatedLinearRecurrence(width=WIDTH, heads=4, convolution=4, activation="gelu_tanh")
    names = {"linear_y": "gate", "linear_x": "input", "linear_out": "output", "conv_1d": "convolution"}
    names |= {"rg_lru.recurrent_param": "decay"}
    for theirs, ours in (("input", "input"), ("recurrent", "recurrence")):
        names |= {f"rg_lru.{theirs}_gate_{kind}": f"{ours}_gate_{kind}" for kind in ("weight", "bias")}
    return Griffin(), UniversalGatedLinearRecurrence(part, d_model=WIDTH), {f"block.{k}": v for k, v in names.items()}


CASES: dict[str, Callable[[], tuple[Any, Any, dict[str, str]]]] = {
    "kimi": kimi,
    "bailing, bounded": lambda: bailing(-5.0),
    "bailing": lambda: bailing(None),
    "lightning": lightning,
    "zamba": zamba,
    "griffin": griffin,
}
cases = pytest.mark.parametrize("case", CASES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def renamed(name: str, names: dict[str, str]) -> str:
    for theirs, ours in names.items():
        if name == theirs or name.startswith(f"{theirs}."):
            return ours + name.removeprefix(theirs)
    return name


def pair(case: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, dict[str, str]]:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs, ours, names = CASES[case]()
    kept = {name: buffer.clone() for name, buffer in theirs.named_buffers()}
    for parameter in theirs.parameters():
        parameter.data = torch.zeros_like(parameter)
    widen(theirs)
    theirs.load_state_dict(kept, strict=False)  # lightning attention's decays are no weights
    weights = {renamed(name, names): tensor for name, tensor in theirs.state_dict().items()}
    found = ours.state_dict()
    ours.load_state_dict({name: tensor.view(found[name].shape) for name, tensor in weights.items()})
    return theirs.to(dtype).eval(), ours.to(dtype).eval(), names


def drawn(seq: int, dtype: torch.dtype = torch.float32, *, seed: int = 3) -> Tensor:
    return torch.randn(2, seq, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


def called(case: str, theirs: Any, x: Tensor, cache: Any = None) -> Tensor:
    if case == "griffin":
        return theirs(x, cache)
    if case == "lightning":
        return theirs(x, None, None, cache)[0]
    return theirs(x, cache_params=cache)


def new_cache(case: str, theirs: Any) -> Any:
    if case == "lightning":
        return MiniMaxCache()
    kinds = ["linear_attention", "full_attention"]
    return DynamicCache(config=KimiLinearConfig(**TEXT, layer_types=kinds))


def at(plan: CallPlan, x: Tensor, seen: int) -> Call:
    return plan.begin(x, positions=torch.arange(seen, seen + x.shape[1])[None])


@torch.no_grad()
@cases
@dtypes
def test_any_lawful_calls_give_the_references_bits(case: str, dtype: torch.dtype) -> None:
    theirs, ours, _ = pair(case, dtype)
    assert same(ours(drawn(SEQ, dtype)), called(case, theirs, drawn(SEQ, dtype)))
    cache, state, seen = new_cache(case, theirs), ours.new_state(), 0
    for index, seq in enumerate((SEQ, 1, 1)):
        x = drawn(seq, dtype, seed=index)
        assert same(ours(x, at(ours.plan, x, seen), state), called(case, theirs, x, cache)), f"piece {index}"
        seen += seq


@torch.no_grad()
@cases
def test_pieces_are_the_whole(case: str) -> None:
    _, ours, _ = pair(case)
    state, x, found, seen = ours.new_state(), drawn(SEQ), [], 0
    for piece in x.split([5, 17, 1, 16], dim=1):
        found.append(ours(piece, at(ours.plan, piece, seen), state))
        seen += piece.shape[1]
    assert furthest(torch.cat(found, dim=1), ours(x)) < 1e-4


@cases
@dtypes
def test_gradients_are_the_references_bits(case: str, dtype: torch.dtype) -> None:
    theirs, ours, names = pair(case, dtype)
    x, probe = drawn(SEQ, dtype), drawn(SEQ, dtype, seed=4)
    into = [x.clone().requires_grad_(), x.clone().requires_grad_()]
    (called(case, theirs, into[0]) * probe).sum().backward()
    (ours(into[1]) * probe).sum().backward()
    assert same(into[1].grad, into[0].grad)
    found = dict(ours.named_parameters())
    for name, parameter in theirs.named_parameters():
        grad = found[renamed(name, names)].grad
        assert grad is not None and parameter.grad is not None
        assert same(grad, parameter.grad.view(grad.shape)), name


@torch.no_grad()
@cases
@pytest.mark.parametrize(("left", "right"), [(0, 6), (6, 0), (4, 3)])
def test_pads_change_neither_outputs_nor_states(case: str, left: int, right: int) -> None:
    _, ours, _ = pair(case)
    x, length = drawn(30)[:1], 30 - left - right
    mask = torch.zeros(1, 30, dtype=torch.long)
    mask[:, left : left + length] = 1
    call = ours.plan.begin(x, mask=mask, positions=mask.cumsum(-1).sub(1).clamp(min=0))
    state, alone = ours.new_state(), ours.new_state()
    out = ours(x, call, state)[mask.bool()]
    assert furthest(out, ours(x[mask.bool()][None], None, alone)[0]) < 1e-4
    for name, tensor in state.tensors().items():
        assert furthest(tensor, alone.tensors()[name]) < 1e-4, name


def test_decays_start_as_the_reference_has_them() -> None:
    theirs, ours, names = CASES["lightning"]()
    ours.start(Text(), depth=1)
    found = dict(ours.named_buffers())
    for name, buffer in theirs.named_buffers():
        assert same(found[renamed(name, names)], buffer), name
