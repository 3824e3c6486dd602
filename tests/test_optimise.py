"""After `optimize()`: the same function, in every kind of call, from the same weights."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.profiler import profile

from nexus_universal import ArchitectureParameter
from nexus_universal.architecture.errors import InputError
from nexus_universal.cache.buffers import ROOM, BufferedKeyValueState, BufferedWindowState
from nexus_universal.cache.states import KeyValueState, WindowState
from nexus_universal.layers import blockwise
from nexus_universal.layers.linear import FusedLinear, Linear
from tests.helpers import MODEL_TYPES, STEADY, floor_of, raw, reference, universal
from tests.helpers import ids_without_pads as ids

LENGTH = 40
TOLERANCE: dict[str, Any] = {"rtol": 1e-3, "atol": 2e-4}


def pair(model_type: str, **changes: Any) -> tuple[Any, Any]:
    """The model as it is, and a copy that was optimised."""
    theirs = reference(model_type, **{**STEADY.get(model_type, {}), **changes}).eval()
    return universal(theirs).eval(), universal(theirs).optimize()


def n_of(model_type: str) -> ArchitectureParameter:
    return ArchitectureParameter.from_huggingface(raw(model_type))


def in_pieces(model: Any, tokens: Tensor, sizes: list[int]) -> Tensor:
    cache = model.new_cache()
    with torch.no_grad():
        return torch.cat([model(piece, cache=cache).logits for piece in tokens.split(sizes, dim=1)], dim=1)


WINDOWED = [
    model_type
    for model_type in MODEL_TYPES
    if any(getattr(branch.part, "window", None) for layer in n_of(model_type).layers for branch in layer.branches())
]


@pytest.mark.parametrize("model_type", WINDOWED)
def test_windows_in_short_runs_stay_within_the_floor(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blockwise, "ROWS", 6)
    test_it_stays_within_the_floor(model_type)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_it_stays_within_the_floor(model_type: str) -> None:
    theirs = reference(model_type, **STEADY.get(model_type, {})).eval()
    exact, fast = universal(theirs).eval(), universal(theirs).optimize()
    tokens, mask = ids(2, LENGTH), torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :7] = 0
    with torch.no_grad():
        whole, sizes = exact(tokens).logits, [LENGTH - 6, 1, 1, 3, 1]
        gaps = {
            "whole": fast(tokens).logits - whole,
            "last": fast(tokens, logits_to_keep=1).logits - exact(tokens, logits_to_keep=1).logits,
            "pieces": in_pieces(fast, tokens, sizes) - in_pieces(exact, tokens, sizes),
            "padded": (fast(tokens, mask).logits - exact(tokens, mask).logits)[mask.bool()],
        }
    floor = floor_of(theirs, exact.n, length=LENGTH)
    assert 0 < floor < 1e-3 * float(whole.abs().max())
    assert {name: worst for name, gap in gaps.items() if (worst := float(gap.abs().max())) > floor} == {}


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe", "deepseek_v3", "qwen3_next"])
def test_in_bfloat16_it_stays_within_the_floor(model_type: str) -> None:
    theirs = reference(model_type).eval()
    floor = floor_of(copy.deepcopy(theirs).bfloat16(), universal(theirs).n, length=LENGTH)
    exact, fast = universal(theirs).bfloat16(), universal(theirs).bfloat16().optimize()
    tokens = ids(2, LENGTH)
    with torch.no_grad():
        assert float((fast(tokens).logits - exact(tokens).logits).abs().max()) <= floor
        gap = in_pieces(fast, tokens, [LENGTH - 3, 1, 1, 1]) - in_pieces(exact, tokens, [LENGTH - 3, 1, 1, 1])
    assert float(gap.abs().max()) <= floor


def test_a_step_never_expands_latents() -> None:
    _, fast = pair("deepseek_v3")
    cache, reads = fast.new_cache(), []
    for layer in fast.layers:
        layer.attention.latent_up.register_forward_hook(lambda *_: reads.append(1))
    with torch.no_grad():
        fast(ids(2, 9), cache=cache)
        assert len(reads) == len(fast.layers)
        fast(ids(2, 1), cache=cache)
    assert len(reads) == len(fast.layers)


def test_an_adapted_expansion_is_not_passed_by() -> None:
    exact, fast = pair("deepseek_v3")
    for model in (exact, fast):
        for layer in model.layers:
            layer.attention.latent_up = torch.nn.Sequential(layer.attention.latent_up, torch.nn.Tanh())
    found, expected = (in_pieces(model, ids(2, 9), [7, 1, 1]) for model in (fast, exact))
    torch.testing.assert_close(found, expected, **TOLERANCE)


def test_attention_is_looked_into_where_it_is_swift() -> None:
    fast = universal(reference("qwen3")).bfloat16().optimize()
    with fast.record("layers.*.attention.weights") as seen, torch.no_grad():
        fast(ids(2, 9))
    assert len(seen) == len(fast.layers) and all(weights.shape[-2:] == (9, 9) for weights in seen.values())
    assert all(layer.attention.swift for layer in fast.layers)  # type: ignore[union-attr]


@pytest.mark.parametrize("frozen_rows", [1, 3])
def test_a_swift_product_copies_no_weight(frozen_rows: int) -> None:
    """Of rows that are no single block torch multiplies a copy of the weight for each."""
    layer = Linear(64, 48, bias=False).requires_grad_(False)
    torch.nn.init.normal_(layer.weight)
    layer.swift = True
    x = torch.randn(frozen_rows, 5, 64)[:, -1:]
    with profile() as seen:
        out = layer(x)
    assert "aten::bmm" not in {event.key for event in seen.key_averages()}
    torch.testing.assert_close(out, x @ layer.weight.T)


def test_what_reads_the_same_is_one_product() -> None:
    _, fast = pair("llama")
    layer = fast.layers[0]
    assert isinstance(layer.attention.query_key_value, FusedLinear) and isinstance(
        layer.feed_forward.gate_up, FusedLinear
    )
    assert not any(name.endswith((".query.weight", ".up.weight")) for name, _ in fast.named_parameters())
    assert sum(p.numel() for p in fast.parameters()) == sum(p.numel() for p in pair("llama")[0].parameters())
    assert layer.attention_norm.native and not any(p.requires_grad for p in fast.parameters())


def test_greedy_text_is_the_same() -> None:
    for model_type in ("qwen3", "gemma3_text", "deepseek_v3", "qwen3_next"):
        exact, fast = pair(model_type)
        texts = [model.generate(ids(2, 9), max_new_tokens=12, do_sample=False) for model in (exact, fast)]
        assert torch.equal(*texts)


@pytest.mark.slow
def test_compiled_text_is_the_same() -> None:
    """A prompt and steps past what was free in a buffer, by inductor."""
    exact, fast = pair("llama")
    fast.optimize(compile=True)
    try:
        texts = [model.generate(ids(1, 24), max_new_tokens=30, do_sample=False) for model in (exact, fast)]
        assert torch.equal(*texts) and texts[0].shape[1] > 30
    finally:
        torch._dynamo.reset()


def test_an_optimised_model_is_moved_but_not_saved(tmp_path: Path) -> None:
    exact, fast = pair("llama")
    fast, exact = fast.to(torch.bfloat16), exact.to(torch.bfloat16)
    torch.testing.assert_close(fast(ids(1, 9)).logits, exact(ids(1, 9)).logits, rtol=0.1, atol=0.1)
    with pytest.raises(InputError, match=r"this model was optimised: .* save before"):
        fast.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved").exists()


# Buffers


def filled(state: KeyValueState, sizes: list[int], seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    """What each call gets back."""
    torch.manual_seed(seed)
    return [state.extend(torch.randn(2, 3, size, 4), torch.randn(2, 3, size, 5)) for size in sizes]


@pytest.mark.parametrize("sizes", [[5, 1, 1, 2], [1] * 9, [ROOM + 3, 1, ROOM, 1, 2 * ROOM, 1, 1], [3, 2 * ROOM + 9, 1]])
@pytest.mark.parametrize("window", [None, 1, 2, 7, ROOM + 20])
def test_a_buffered_state_holds_what_a_plain_one_does(sizes: list[int], window: int | None) -> None:
    plain = KeyValueState() if window is None else WindowState(window)
    roomy = BufferedKeyValueState() if window is None else BufferedWindowState(window)
    for expected, found in zip(filled(plain, sizes), filled(roomy, sizes), strict=True):
        assert torch.equal(found[0], expected[0]) and torch.equal(found[1], expected[1])
    assert plain.keys is not None and roomy.keys is not None and torch.equal(plain.keys, roomy.keys)


@pytest.mark.parametrize("window", [None, 4])
def test_forks_crops_and_picks_leave_each_other_alone(window: int | None) -> None:
    state = BufferedKeyValueState() if window is None else BufferedWindowState(window)
    filled(state, [3])
    other = state.fork()
    assert isinstance(other, KeyValueState)
    ours, theirs = filled(state, [1, 1], seed=1)[-1], filled(other, [1, 1], seed=2)[-1]
    assert not torch.equal(ours[0][:, :, -1], theirs[0][:, :, -1])
    again = BufferedKeyValueState() if window is None else BufferedWindowState(window)
    filled(again, [3])
    assert torch.equal(filled(again, [1, 1], seed=1)[-1][0], ours[0])
    state.select(torch.tensor([1, 1, 0]))
    assert state.keys is not None and state.keys.shape[0] == 3
    state.extend(torch.zeros(3, 3, 1, 4), torch.zeros(3, 3, 1, 5))
    assert torch.equal(filled(other, [1], seed=3)[0][0][:, :, -2], theirs[0][:, :, -1])


def test_a_step_copies_nothing() -> None:
    state = BufferedKeyValueState()
    filled(state, [8])
    assert state.keys is not None
    where = state.keys.data_ptr()
    filled(state, [1] * (ROOM - 1))
    assert state.keys.data_ptr() == where and state.keys.shape[-2] == 8 + ROOM - 1


def test_a_cropped_cache_goes_on() -> None:
    exact, fast = pair("llama")
    caches = [model.new_cache() for model in (exact, fast)]
    with torch.no_grad():
        for model, cache in zip((exact, fast), caches, strict=True):
            model(ids(2, 12), cache=cache)
            cache.crop(8)
        found = [m(ids(2, 12)[:, 8:], cache=c).logits for m, c in zip((exact, fast), caches, strict=True)]
    torch.testing.assert_close(found[1], found[0], **TOLERANCE)
