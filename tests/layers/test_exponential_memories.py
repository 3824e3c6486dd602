"""Memories that exponential gates write and fade, against the modules of transformers that they stand for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import RwkvConfig, xLSTMConfig
from transformers.models.rwkv.modeling_rwkv import RwkvFeedForward, RwkvSelfAttention
from transformers.models.xlstm.modeling_xlstm import xLSTMLayer

from nexus_universal.architecture.ends import Text
from nexus_universal.architecture.position import Norm
from nexus_universal.architecture.recurrences import DecayedAverage, MatrixMemory, ShiftedFeedForward
from nexus_universal.layers.decayed_average import UniversalDecayedAverage, UniversalShiftedFeedForward
from nexus_universal.layers.matrix_memory import UniversalMatrixMemory
from tests.helpers import furthest, same, widen
from tests.layers.recurrent import assert_same_gradients, padded

WIDTH, SEQ, DEPTH = 32, 39, 3
RWKV = RwkvConfig(hidden_size=WIDTH, intermediate_size=40, num_hidden_layers=DEPTH)
SHAPE: dict[str, Any] = {"heads": 4, "key_dim": 16, "value_dim": 32, "chunk": 16, "eps": 1e-2, "gate_cap": 7.0}
XLSTM = xLSTMConfig(
    hidden_size=WIDTH,
    num_heads=4,
    qk_dim_factor=2.0,
    v_dim_factor=4.0,
    chunk_size=16,
    eps=1e-2,
    gate_soft_cap=7.0,
    norm_eps=1e-3,
)


class Stateful(nn.Module):
    """A module of RWKV's behind the call that others have: x alone, or x and a list of states for all layers."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, states: Any = None) -> Tensor:
        return self.inner(x, state=states, **self.flags(states))[0]

    def flags(self, states: Any) -> dict[str, bool]:
        return {"use_cache": states is not None} if isinstance(self.inner, RwkvSelfAttention) else {}

    def new_states(self, dtype: torch.dtype) -> list[Tensor]:
        states = [torch.zeros(1, WIDTH, DEPTH, dtype=dtype if i < 2 else torch.float32) for i in range(5)]
        states[4] -= 1e30
        return states


class Tupled(nn.Module):
    """xLSTM's layer behind the same call; it has no states of its own to begin with in half precision."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor, states: Any = None) -> Tensor:
        held = (
            states if states is not None else (None if x.dtype == torch.float32 else self.new_states(x.dtype, len(x)))
        )
        out, after = self.inner(x, held)
        if states is not None:
            states[:] = [each.to(x.dtype) for each in after]
        return out

    def new_states(self, dtype: torch.dtype, rows: int = 1) -> list[Tensor]:
        return [torch.zeros(rows, 4, *shape, dtype=dtype) for shape in ((16, 32), (16,), (1,))]


def average() -> tuple[nn.Module, Any, dict[str, str]]:
    names = {"key": "key", "value": "value", "receptance": "gate", "output": "output"}
    names |= {"time_decay": "decay", "time_first": "bonus", "time_mix_key": "shift.key"}
    names |= {"time_mix_value": "shift.value", "time_mix_receptance": "shift.gate"}
    return Stateful(RwkvSelfAttention(RWKV, 1)), UniversalDecayedAverage(DecayedAverage(), d_model=WIDTH), names


def shifted() -> tuple[nn.Module, Any, dict[str, str]]:
    names = {"key": "up", "receptance": "gate", "value": "down"}
    names |= {"time_mix_key": "shift.up", "time_mix_receptance": "shift.gate"}
    ours = UniversalShiftedFeedForward(ShiftedFeedForward(width=40), d_model=WIDTH)
    return Stateful(RwkvFeedForward(RWKV, 1)), ours, names


def memory() -> tuple[nn.Module, Any, dict[str, str]]:
    names = {"q": "query", "k": "key", "v": "value", "ogate_preact": "gate", "out_proj": "output"}
    names |= {"igate_preact": "input_gate", "fgate_preact": "forget_gate", "multihead_norm": "norm"}
    part = MatrixMemory(norm=Norm(kind="layer", eps=1e-3), **SHAPE)
    return Tupled(xLSTMLayer(XLSTM)), UniversalMatrixMemory(part, d_model=WIDTH), names


CASES: dict[str, Callable[[], tuple[Any, Any, dict[str, str]]]] = {
    "average": average,
    "shifted": shifted,
    "memory": memory,
}
cases = pytest.mark.parametrize("case", CASES)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])


def pair(case: str, dtype: torch.dtype = torch.float32) -> tuple[Any, Any, Callable[[str], str]]:
    theirs, ours, names = CASES[case]()
    for parameter in theirs.parameters():
        parameter.data = torch.zeros_like(parameter)
    widen(theirs)

    def renamed(name: str) -> str:
        stem, dot, suffix = name.removeprefix("inner.").partition(".")
        return names[stem] + dot + suffix

    found = ours.state_dict()
    state = {renamed(name): tensor for name, tensor in theirs.state_dict().items()}
    ours.load_state_dict({name: tensor.view(found[name].shape) for name, tensor in state.items()})
    return theirs.to(dtype).eval(), ours.to(dtype).eval(), renamed


def drawn(rows: int, seq: int, dtype: torch.dtype = torch.float32, *, seed: int = 3) -> Tensor:
    return torch.randn(rows, seq, WIDTH, generator=torch.Generator().manual_seed(seed)).to(dtype)


@torch.no_grad()
@cases
@dtypes
def test_calls_of_any_length_give_the_references_bits(case: str, dtype: torch.dtype) -> None:
    """Whole chunks, whole chunks and a rest, a rest alone, and one position; then the same one after another."""
    theirs, ours, _ = pair(case, dtype)
    for seq in (1, 9, 16, 32, SEQ):
        assert same(ours(drawn(2, seq, dtype)), theirs(drawn(2, seq, dtype))), seq
    states, state = theirs.new_states(dtype), ours.new_state()
    for index, seq in enumerate((SEQ, 1, 1, 5, 32, 1)):
        x = drawn(1, seq, dtype, seed=index)
        assert same(ours(x, None, state), theirs(x, states)), f"piece {index}"


@torch.no_grad()
@cases
def test_pieces_are_the_whole(case: str) -> None:
    _, ours, _ = pair(case)
    state, x = ours.new_state(), drawn(2, SEQ)
    found = [ours(piece, None, state) for piece in x.split([5, 17, 1, 16], dim=1)]
    assert furthest(torch.cat(found, dim=1), ours(x)) < 1e-4


@cases
@dtypes
def test_gradients_are_the_references_bits(case: str, dtype: torch.dtype) -> None:
    theirs, ours, renamed = pair(case, dtype)
    x, probe = drawn(2, SEQ, dtype), drawn(2, SEQ, dtype, seed=4)
    assert_same_gradients(theirs, ours, x, probe=probe, renamed=renamed)


@torch.no_grad()
@cases
@pytest.mark.parametrize(("left", "right"), [(0, 6), (6, 0), (4, 20), (20, 3)])
def test_pads_change_neither_outputs_nor_states(case: str, left: int, right: int) -> None:
    """Also where a whole chunk is pads."""
    _, ours, _ = pair(case)
    length = 20
    mask, call = padded(length, left, right, width=WIDTH)
    x = drawn(1, left + length + right)
    state, alone = ours.new_state(), ours.new_state()
    out = ours(x, call, state)[mask.bool()]
    assert furthest(out, ours(x[mask.bool()][None], None, alone)[0]) < 1e-4
    for name, tensor in state.tensors().items():
        assert furthest(tensor, alone.tensors()[name]) < 1e-4, name


@torch.no_grad()
@cases
def test_pads_behind_a_text_leave_its_state_alone(case: str) -> None:
    """A piece of nothing but pads moves nothing."""
    _, ours, _ = pair(case)
    state = ours.new_state()
    ours(drawn(1, 9), None, state)
    before = {name: tensor.clone() for name, tensor in state.tensors().items()}
    mask, call = padded(0, 0, 18, width=WIDTH)
    assert not mask.any()
    ours(drawn(1, 18, seed=5), call, state)
    assert before.keys() == state.tensors().keys()
    for name, tensor in state.tensors().items():
        assert same(tensor, before[name]), name


@torch.no_grad()
@pytest.mark.parametrize("layer", range(DEPTH))
def test_decays_and_mixes_start_as_the_reference_has_them(layer: int) -> None:
    from transformers import RwkvModel

    block: Any = RwkvModel(RWKV).blocks[layer]
    mixing = UniversalDecayedAverage(DecayedAverage(), d_model=WIDTH, layer_index=layer)
    feeding = UniversalShiftedFeedForward(ShiftedFeedForward(width=40), d_model=WIDTH, layer_index=layer)
    for module in (mixing, feeding):
        module.start(Text(), depth=DEPTH)
    assert furthest(mixing.decay, block.attention.time_decay) < 1e-6
    assert same(mixing.bonus, block.attention.time_first)
    for role, name in {"key": "key", "value": "value", "gate": "receptance"}.items():
        assert furthest(getattr(mixing.shift, role), getattr(block.attention, f"time_mix_{name}").flatten()) < 1e-6
    for role, name in {"up": "key", "gate": "receptance"}.items():
        assert furthest(getattr(feeding.shift, role), getattr(block.feed_forward, f"time_mix_{name}").flatten()) < 1e-6


def test_gates_start_as_the_reference_has_them() -> None:
    from transformers import xLSTMModel

    theirs: Any = xLSTMModel(
        xLSTMConfig(**{**XLSTM.to_dict(), "num_hidden_layers": 1, "num_blocks": 1, "vocab_size": 97})
    )
    ours = CASES["memory"]()[1]
    with torch.no_grad():
        ours.start(Text(), depth=1)
    layer = theirs.blocks[0].mlstm_layer
    for found, expected in ((ours.input_gate, layer.igate_preact), (ours.forget_gate, layer.fgate_preact)):
        assert same(found.weight, expected.weight) and same(found.bias, expected.bias)
