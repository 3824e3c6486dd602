"""Rounded keys and values: how far off they may be, how many bytes they take, and the laws of every state."""

from __future__ import annotations

import copy
import functools
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.cache import Cache, KeyValueState, RecurrentState, WindowState
from nexus_universal.cache.rounding import (
    GROUP,
    RECENT,
    Along,
    Rounded,
    RoundedKeyValueState,
    RoundedWindowState,
    rounded,
)
from nexus_universal.layers.quality import compared
from tests.helpers import ROOT, reference, same, universal
from tests.helpers import ids_without_pads as ids

TRAINED = ("qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny")
CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "full": ("qwen3", {"max_position_embeddings": 512}),
    "windows": ("gemma3_text", {"sliding_window": 112, "max_position_embeddings": 512}),
    "latent": ("glm4_moe_lite", {"max_position_embeddings": 512}),
    "recurrent": ("qwen3_next", {"max_position_embeddings": 512}),
}
LONG = 2 * (RECENT + GROUP)
"""Positions after which states hold rounded ones, and a window of 112 has dropped some."""

kinds = pytest.mark.parametrize("kind", ["int8", "int4"])
cases = pytest.mark.parametrize("case", CASES)


@functools.cache
def model_of(case: str) -> UniversalTransformer:
    model_type, changes = CASES[case]
    return universal(reference(model_type, **changes)).requires_grad_(False)


def filled(case: str, kind: Any, seq: int = LONG) -> Cache:
    cache = model_of(case).new_cache(kind=kind)
    model_of(case)(ids(2, seq), cache=cache)
    return cache


def onward(case: str, cache: Cache, *, seed: int = 5) -> Tensor:
    """Logits of a few further tokens, far enough for another group to be rounded."""
    pieces = ids(2, GROUP + 2, seed=seed).split([1, GROUP, 1], dim=1)
    return torch.cat([model_of(case)(piece, cache=cache).logits for piece in pieces], dim=1)


# The arithmetic


def numbers(seed: int, dtype: torch.dtype, *, spread: float, shift: float, flat: bool) -> Tensor:
    """[2, 3, 2 · GROUP, GROUP + 8], some channels far away from the others."""
    drawn = torch.randn(2, 3, 2 * GROUP, GROUP + 8, generator=torch.Generator().manual_seed(seed)) * spread + shift
    drawn[..., 3] *= 30
    return (drawn.clamp(max=shift) if flat else drawn).to(dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**16),
    bits=st.sampled_from([4, 8]),
    along=st.sampled_from(["positions", "channels"]),
    spread=st.sampled_from([0.0, 1e-30, 1e-4, 1.0, 300.0]),
    shift=st.sampled_from([0.0, -1.0, 20.0, 500.0]),
    flat=st.booleans(),
)
def test_no_number_moves_by_more_than_half_a_step(
    dtype: torch.dtype, seed: int, bits: int, along: Along, spread: float, shift: float, flat: bool
) -> None:
    """float32 divides and rounds once each, at most 255 steps: 2⁻¹⁴ of a step. What is given back is rounded once."""
    x = numbers(seed, dtype, spread=spread, shift=shift, flat=flat)
    held = Rounded.of(x, bits=bits, along=along)
    step = held.scales.double().expand_as(grouped(x, along)).reshape(x.shape)
    last = torch.finfo(dtype).eps * x.double().abs().amax()
    assert ((held.restored().double() - x.double()).abs() <= step * (0.5 + 2**-14) + last).all()
    assert held.restored().dtype == dtype


def grouped(x: Tensor, along: Along) -> Tensor:
    return x.unflatten(-2, (-1, GROUP)) if along == "positions" else x.unflatten(-1, (-1, GROUP + 8))


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize(("along", "channels"), [("positions", 40), ("channels", 40), ("channels", 2 * GROUP)])
def test_steps_are_as_small_as_the_range_allows(bits: int, along: Along, channels: int) -> None:
    x = torch.randn(1, 2, 2 * GROUP, channels, generator=torch.Generator().manual_seed(0))
    held = Rounded.of(x, bits=bits, along=along)
    size, at = (GROUP, -2) if along == "positions" else (GROUP if channels % GROUP == 0 else channels, -1)
    parts = x.unflatten(at, (-1, size))
    wide = parts.amax(at, keepdim=True) - parts.amin(at, keepdim=True)
    torch.testing.assert_close(held.scales, wide / (2**bits - 1), rtol=1e-5, atol=0)


def test_sixteen_steps_are_told_apart_two_to_a_byte() -> None:
    x = torch.arange(16.0).repeat(1, 1, GROUP, 2)
    held = Rounded.of(x, bits=4, along="channels")
    torch.testing.assert_close(held.restored(), x, rtol=1e-6, atol=0)
    assert held.codes.shape[-1] == 16 and held.codes[0, 0, 0].tolist() == [17 * code for code in range(16)]


def test_what_is_not_finite_stays_so() -> None:
    x = torch.zeros(1, 1, GROUP, 8)
    x[..., 5, 2] = torch.nan
    assert Rounded.of(x, bits=8, along="positions").restored()[..., 5, 2].isnan()


def test_an_odd_width_is_not_packed() -> None:
    with pytest.raises(InputError, match="int4 packs channels in pairs: keys and values of 5 channels cannot be"):
        Rounded.of(torch.zeros(1, 1, GROUP, 5), bits=4, along="channels")


@pytest.mark.parametrize(("bits", "a_number"), [(8, 8 + 2 * 16 / GROUP), (4, 4 + 2 * 16 / GROUP)])
def test_bytes_are_codes_and_a_scale_and_a_lowest_value_per_group(bits: int, a_number: float) -> None:
    """In bfloat16, of 16 bits: 9 bits, or 5."""
    seq, state = RECENT + 10 * GROUP, RoundedKeyValueState(bits=bits)
    state.extend(torch.randn(2, 3, seq, 64).bfloat16(), torch.randn(2, 3, seq, 64).bfloat16())
    per_position = 2 * 2 * 3 * 64
    assert Cache({"a": state}, signature="").nbytes * 8 == per_position * (RECENT * 16 + 10 * GROUP * a_number)
    for tensor in state.tensors().values():
        assert tensor.untyped_storage().nbytes() == tensor.nbytes, "a slice keeps all that it was cut from"


def test_a_large_channel_costs_keys_nothing_and_a_large_position_values() -> None:
    """Keys share a scale along positions, values along channels: one far away spoils its own group only."""
    keys, values = torch.randn(2, 1, 1, RECENT + GROUP, 64, generator=torch.Generator().manual_seed(0))
    keys[..., 3] += 1000 * torch.randn(RECENT + GROUP)
    values[..., 5, :] *= 1000
    state = RoundedKeyValueState(bits=8)
    state.extend(keys, values)
    held = {role: state.rounded(role).restored() for role in ("keys", "values")}  # type: ignore[union-attr]
    others = torch.arange(64) != 3
    assert (held["keys"] - keys[..., :GROUP, :])[..., others].abs().max() < 0.02
    assert (held["values"] - values[..., :GROUP, :])[..., torch.arange(GROUP) != 5, :].abs().max() < 0.02


def test_the_divergence_is_that_of_the_rounded_from_the_exact() -> None:
    before, after = torch.tensor([[[0.0, 0.0]]]), torch.tensor([[[0.0, 5.0]]])
    found = compared("int8", before, after, rounded=0.5, of="cache saved").kl
    assert found == pytest.approx(float((0.5 * (torch.tensor(0.5).log() - after.log_softmax(-1))).sum()))


# One state


def fed(state: KeyValueState, sizes: list[int]) -> list[tuple[Tensor, Tensor]]:
    """What each call gets back; key and value at a position are that position, and noise."""
    noise, at, found = torch.randn(2, 2, sum(sizes), 4, generator=torch.Generator().manual_seed(3)), 0, []
    for size in sizes:
        new = noise[:, :, at : at + size] + torch.arange(at, at + size).view(1, 1, -1, 1)
        found.append(state.extend(new, -new))
        at += size
    return found


SIZES = [[LONG, 1, 1, GROUP, 5], [1] * 3 * GROUP * 2, [GROUP - 1] * 9, [RECENT, 3 * GROUP, 1]]


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("window", [None, RECENT + GROUP + 1, LONG - 5, 10_000])
@pytest.mark.parametrize("bits", [8, 4])
def test_calls_get_back_what_a_plain_state_gives_but_for_rounding(
    bits: int, window: int | None, sizes: list[int]
) -> None:
    plain = KeyValueState() if window is None else WindowState(window)
    state = rounded(copy.copy(plain), bits=bits)
    assert isinstance(state, RoundedKeyValueState) and isinstance(state, RoundedWindowState) == (window is not None)
    seen = 0
    for size, expected, found in zip(sizes, fed(plain, sizes), fed(state, sizes), strict=True):
        exact = size + min(seen, RECENT)
        for left, right in zip(expected, found, strict=True):
            assert left.shape == right.shape and right.shape[-2] == plain.extent(seen, size)[0]
            assert torch.equal(left[..., -exact:, :], right[..., -exact:, :]), "the newest are exact"
            torch.testing.assert_close(left, right, rtol=0, atol=(GROUP + 8) / (2**bits - 1))
        seen += size
    assert state.keys is not None and RECENT <= state.keys.shape[-2] < RECENT + GROUP
    if window is not None and seen > window:
        held = state.keys.shape[-2] + state.tensors()["keys_codes"].shape[-2]
        assert window - 1 <= held < window - 1 + GROUP


@pytest.mark.parametrize("length", [0, 1, GROUP, GROUP + 7, LONG - RECENT, LONG - 3, LONG])
def test_what_a_crop_leaves_reads_as_before(length: int) -> None:
    state = RoundedKeyValueState(bits=8)
    fed(state, [LONG])
    more = torch.randn(2, 2, 2 * LONG, 4)
    before = state.fork()
    assert isinstance(before, RoundedKeyValueState)
    held = before.extend(more[:, :, :1], more[:, :, :1])[0]
    state.crop(length, seen=LONG)
    found = state.extend(more, more)[0]
    assert torch.equal(found[..., :length, :], held[..., :length, :]) and found.shape[-2] == length + 2 * LONG


def test_short_windows_and_other_states_stay_as_they_are() -> None:
    for state in (WindowState(RECENT + GROUP), RecurrentState()):
        assert rounded(state, bits=8) is state


# Whole models


@cases
@kinds
def test_the_kinds_of_states(case: str, kind: str) -> None:
    found = {type(state).__name__ for state in filled(case, kind).states.values()}
    expected = {
        "windows": {"RoundedKeyValueState", "RoundedWindowState"},
        "recurrent": {"RoundedKeyValueState", "RecurrentState"},
    }
    assert found == expected.get(case, {"RoundedKeyValueState"})
    assert filled(case, kind).nbytes < 0.85 * filled(case, "exact").nbytes


@cases
@kinds
def test_a_fork_goes_its_own_way(case: str, kind: str) -> None:
    cache, untouched = filled(case, kind), filled(case, kind)
    fork = cache.fork()
    first, other = onward(case, fork), onward(case, cache.fork(), seed=6)
    assert same(onward(case, cache), first) and same(first, onward(case, untouched))
    assert not torch.equal(first, other)


@cases
@kinds
def test_rows_are_selected(case: str, kind: str) -> None:
    cache, whole = filled(case, kind), filled(case, kind)
    cache.select(torch.tensor([1, 1, 0]))
    more = ids(2, 1, seed=5)
    found = model_of(case)(more[[1, 1, 0]], cache=cache).logits
    expected = model_of(case)(more, cache=whole).logits[[1, 1, 0]]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4 * float(expected.abs().max()))


@cases
@kinds
def test_a_saved_cache_continues_with_the_same_bits(case: str, kind: Any, tmp_path: Path) -> None:
    cache = filled(case, kind)
    cache.save(tmp_path / "cache")
    loaded = Cache.load(tmp_path / "cache", lambda: model_of(case).new_cache(kind=kind))
    assert loaded.length == LONG and loaded.nbytes == cache.nbytes
    assert same(onward(case, loaded), onward(case, cache))


def test_an_exact_cache_is_rounded_as_it_goes_on_and_not_the_other_way(tmp_path: Path) -> None:
    model = model_of("full")
    filled("full", "exact").save(tmp_path / "exact")
    loaded = Cache.load(tmp_path / "exact", lambda: model.new_cache(kind="int8"))
    model(ids(2, 1), cache=loaded)
    assert loaded.nbytes < 0.7 * filled("full", "exact").nbytes
    filled("full", "int8").save(tmp_path / "int8")
    with pytest.raises(InputError, match=r"saved by another kind of cache: this one's layers\.0\.\w+ holds no keys_"):
        Cache.load(tmp_path / "int8", model.new_cache)


def plain(cache: Cache, case: str, length: int) -> Cache:
    """An exact cache that holds what a rounded one gives back of the first positions."""
    made = model_of(case).new_cache()
    for key, state in cache.states.items():
        assert isinstance(state, RoundedKeyValueState)
        for role in ("keys", "values"):
            older = state.rounded(role)
            assert older is not None
            setattr(made[key], role, torch.cat([older.restored(), getattr(state, role)], dim=-2)[..., :length, :])
    made.length = length
    return made


@pytest.mark.parametrize("case", ["full", "latent"])
@pytest.mark.parametrize("length", [LONG, LONG - RECENT - 5, GROUP, 7])
@kinds
def test_a_cropped_cache_goes_on(case: str, length: int, kind: str) -> None:
    cache, more = filled(case, kind), ids(2, 4, seed=5)
    expected = model_of(case)(more, cache=plain(cache, case, length)).logits
    cache.crop(length)
    assert same(model_of(case)(more, cache=cache).logits, expected)


def test_a_window_that_has_moved_on_cannot_be_cropped() -> None:
    with pytest.raises(InputError, match="a window of 112 has dropped positions"):
        filled("windows", "int8").crop(9)


def test_a_cache_moves() -> None:
    cache = filled("full", "int4").to("meta")
    assert {t.device.type for state in cache.states.values() for t in state.tensors().values()} == {"meta"}


# What it costs is measured and said


TEXT = (ROOT / "README.md").read_text()


def sample_of(name: str) -> Tensor:
    from transformers import AutoTokenizer

    text = AutoTokenizer.from_pretrained(ROOT / "tests" / "data" / name)(TEXT, return_tensors="pt")["input_ids"]
    return text[:, : 2 * LONG].view(2, LONG)


@pytest.mark.parametrize("name", TRAINED)
@pytest.mark.parametrize(("kind", "most"), [("int8", 1e-4), ("int4", 0.02)])
def test_trained_models_keep_their_distributions(
    name: str, kind: Any, most: float, capsys: pytest.CaptureFixture[str]
) -> None:
    model = UniversalTransformer.from_pretrained(ROOT / "tests" / "data" / name, dtype="float32")
    quality = model.optimize(cache=kind, sample=sample_of(name)).optimised.cache_quality  # type: ignore[union-attr]
    assert quality is not None and 0 < quality.kl < most and quality.flips < 0.05 and quality.rounded > 0.2
    assert capsys.readouterr().err == f"cache rounded to {quality}\n"
    assert f"{kind}, {quality.rounded:.0%} of the cache saved: KL " in str(quality)
    assert "RoundedKeyValueState" in {type(state).__name__ for state in model.new_cache().states.values()}


def test_the_quality_is_that_of_logits_read_piece_by_piece() -> None:
    model = copy.deepcopy(model_of("full")).optimize(fuse=False, cache="int4", sample=ids(1, 2 * LONG))
    caches = [model.new_cache(kind=kind) for kind in ("exact", "int4")]
    before, after = (
        torch.cat([model(piece, cache=cache).logits for piece in ids(1, 2 * LONG).split(8, dim=1)], dim=1)[0].double()
        for cache in caches
    )
    expected = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1).mean()
    assert model.optimised is not None and model.optimised.cache_quality is not None
    assert model.optimised.cache_quality.kl == pytest.approx(float(expected), rel=1e-3)
    assert model.optimised.cache_quality.flips == float((before.argmax(-1) != after.argmax(-1)).float().mean())


def test_what_cannot_be_is_refused() -> None:
    model = copy.deepcopy(model_of("full"))
    with pytest.raises(InputError, match=r"cache = 'int2' \(known: exact, buffered, static, int8, int4\)"):
        model.optimize(cache="int2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"cache = 'int2'"):
        model.new_cache(kind="int2")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="compile=True cannot be had with cache='int8': it has a static one"):
        model.optimize(cache="int8", compile=True)
