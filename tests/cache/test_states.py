"""What a cache can be asked for: fork, select, crop, save, load, move; and what each kind of state refuses."""

from __future__ import annotations

import functools
import pickle
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.mixers import LatentAttention
from nexus_universal.cache import Cache, KeyValueState, RecurrentState, WindowState
from tests.cli.support import Code
from tests.helpers import MODEL_TYPES, STEADY, full_disk, raw, reference, same, universal
from tests.helpers import ids_without_pads as ids


def keeps_all(model_type: str) -> bool:
    """Whether every state of the family's tiny model holds all positions."""
    with torch.device("meta"):
        model = UniversalTransformer(ArchitectureParameter.from_huggingface(raw(model_type)))
    return all(type(state) is KeyValueState for state in model.new_cache().states.values())


KEEPS_ALL = [model_type for model_type in MODEL_TYPES if keeps_all(model_type)]
types = pytest.mark.parametrize("model_type", MODEL_TYPES)


@functools.cache
def model_of(model_type: str) -> UniversalTransformer:
    return universal(reference(model_type, **STEADY.get(model_type, {}))).requires_grad_(False)


def filled(model_type: str, *, batch: int = 2, seq: int = 20) -> Cache:
    cache = model_of(model_type).new_cache(batch)
    model_of(model_type)(ids(batch, seq), cache=cache)
    return cache


def onward(model_type: str, cache: Cache, *, batch: int = 2, seed: int = 5) -> Tensor:
    """Logits of five further tokens, one and four."""
    model, more = model_of(model_type), ids(batch, 5, seed=seed)
    return torch.cat([model(piece, cache=cache).logits for piece in more.split([1, 4], dim=1)], dim=1)


@types
def test_a_call_extends_the_cache_in_place_and_returns_it(model_type: str) -> None:
    model, cache = model_of(model_type), model_of(model_type).new_cache()
    out = model(ids(1, 3), cache=cache)
    assert out.cache is cache and cache.length == 3
    assert model(ids(1, 2), cache=cache).logits.shape == (1, 2, 97) and cache.length == 5
    assert model(ids(1, 2)).cache is None
    assert "length=5" in repr(cache)


@types
def test_a_fork_goes_its_own_way(model_type: str) -> None:
    cache, untouched = filled(model_type), filled(model_type)
    fork = cache.fork()
    first, other = onward(model_type, fork), onward(model_type, cache.fork(), seed=6)
    assert same(onward(model_type, cache), first), "the original moved with its fork"
    assert same(first, onward(model_type, untouched))
    assert not torch.equal(first, other)
    assert (fork.length, cache.length) == (25, 25)


@types
def test_a_fork_shares_memory_until_it_moves(model_type: str) -> None:
    cache = filled(model_type)
    fork = cache.fork()
    for key, state in cache.states.items():
        for name, tensor in state.tensors().items():
            assert fork[key].tensors()[name].data_ptr() == tensor.data_ptr()


@types
def test_no_call_writes_into_a_state(model_type: str) -> None:
    """A tensor that a fork shares must not change under it."""
    cache = filled(model_type)
    held = [(tensor, tensor.clone()) for state in cache.states.values() for tensor in state.tensors().values()]
    onward(model_type, cache)
    assert all(torch.equal(tensor, copy) for tensor, copy in held)


@types
@pytest.mark.parametrize("rows", [[1, 0], [1], [0, 0, 1], [1, 1, 1]])
def test_rows_are_selected(model_type: str, rows: list[int]) -> None:
    model, cache = model_of(model_type), filled(model_type)
    cache.select(torch.tensor(rows))
    more = ids(2, 1, seed=5)[rows]
    found = model(more, cache=cache).logits
    expected = model(torch.cat([ids(2, 20)[rows], more], dim=1)).logits[:, -1:]
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize("model_type", KEEPS_ALL)
@pytest.mark.parametrize("length", [0, 1, 7, 20])
def test_a_cropped_cache_is_as_if_it_had_never_gone_on(model_type: str, length: int) -> None:
    model, cache = model_of(model_type), filled(model_type)
    cache.crop(length)
    assert cache.length == length
    expected = model(torch.cat([ids(2, 20)[:, :length], ids(2, 5, seed=5)], dim=1)).logits[:, length:]
    assert torch.allclose(onward(model_type, cache), expected, atol=1e-4 * float(expected.abs().max()))


def test_a_window_that_still_holds_all_can_be_cropped() -> None:
    model, cache = model_of("gemma3_text"), model_of("gemma3_text").new_cache()
    model(ids(2, 15), cache=cache)  # the window is 16
    cache.crop(4)
    expected = model(torch.cat([ids(2, 15)[:, :4], ids(2, 5, seed=5)], dim=1)).logits[:, 4:]
    assert torch.allclose(onward("gemma3_text", cache), expected, atol=1e-4 * float(expected.abs().max()))


@pytest.mark.parametrize(
    ("model_type", "seq", "message"),
    [
        ("gemma3_text", 16, "a window of 16 has dropped positions that cropping 16 to 9 needs: fork"),
        ("gemma3_text", 20, "a window of 16 has dropped positions that cropping 20 to 9 needs: fork"),
        ("cohere2", 20, "a window of 16"),
        ("qwen3_next", 20, "a RecurrentState cannot be cropped to 9: fork"),
    ],
)
def test_what_cannot_be_cropped_says_so_and_stays_as_it_was(model_type: str, seq: int, message: str) -> None:
    cache, untouched = filled(model_type, seq=seq), filled(model_type, seq=seq)
    with pytest.raises(InputError, match=message):
        cache.crop(9)
    assert cache.length == seq
    assert same(onward(model_type, cache), onward(model_type, untouched))
    whole = filled(model_type, seq=seq)
    whole.crop(seq)
    assert same(onward(model_type, whole), onward(model_type, filled(model_type, seq=seq)))


def test_a_refused_crop_leaves_no_state_cropped() -> None:
    """Where the first state could be cropped and a later one cannot."""
    kinds = ["full_attention", "linear_attention"] * 2
    model = universal(reference("qwen3_next", layer_types=kinds)).requires_grad_(False)
    cache = model.new_cache()
    model(ids(1, 20), cache=cache)
    expected = model(ids(1, 1), cache=cache.fork()).logits
    with pytest.raises(InputError, match="cannot be cropped"):
        cache.crop(9)
    assert same(model(ids(1, 1), cache=cache).logits, expected)


@pytest.mark.parametrize("length", [-1, 21])
def test_a_crop_must_lie_inside(length: int) -> None:
    with pytest.raises(InputError, match=rf"crop to {length}: must lie in \[0, 20\]"):
        filled("llama").crop(length)


@types
def test_a_saved_cache_continues_with_the_same_bits(model_type: str, tmp_path: Path) -> None:
    cache = filled(model_type)
    cache.save(tmp_path / "cache.safetensors")
    loaded = Cache.load(tmp_path / "cache.safetensors", model_of(model_type).new_cache)
    assert loaded.length == 20 and loaded.nbytes == cache.nbytes
    assert same(onward(model_type, loaded), onward(model_type, cache))
    assert [path.name for path in tmp_path.iterdir()] == ["cache.safetensors"]


def test_an_empty_cache_can_be_saved(tmp_path: Path) -> None:
    model_of("llama").new_cache().save(tmp_path / "empty")
    loaded = Cache.load(tmp_path / "empty", model_of("llama").new_cache)
    assert loaded.length == 0 and loaded.nbytes == 0


def test_a_cache_of_another_n_is_refused(tmp_path: Path) -> None:
    filled("llama").save(tmp_path / "cache")
    ours, other = model_of("llama").n.hash, model_of("qwen3").n.hash
    with pytest.raises(InputError, match=f"a cache of the n #{ours}, this model's n is #{other}"):
        Cache.load(tmp_path / "cache", model_of("qwen3").new_cache)


@pytest.mark.parametrize("content", [b"", b"not a cache", None])
def test_a_file_that_is_no_cache_is_refused(content: bytes | None, tmp_path: Path) -> None:
    path = tmp_path / "cache"
    if content is None:
        filled("llama").save(path)
        content = path.read_bytes()[:-100]
    path.write_bytes(content)
    with pytest.raises(InputError, match="not readable as a saved cache"):
        Cache.load(path, model_of("llama").new_cache)
    with pytest.raises(InputError, match="missing"):
        Cache.load(tmp_path / "missing", model_of("llama").new_cache)


def test_a_disk_that_fills_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "cache"
    filled("llama").save(path)
    before = path.read_bytes()

    for limit in (0, 100, len(before) // 2, len(before) - 1):
        with full_disk(limit), pytest.raises(InputError, match=r"cache: could not be written \(.*File too large"):
            filled("llama").save(path)
        assert path.read_bytes() == before
        assert [found.name for found in tmp_path.iterdir()] == ["cache"]


def loaded_or_refused(path: Path, model_type: str) -> Cache | None:
    """What a file holds; None where it is refused in one line."""
    try:
        return Cache.load(path, model_of(model_type).new_cache)
    except InputError as error:
        assert "\n" not in str(error) and str(path) in str(error)
        return None


@settings(max_examples=60)
@given(data=st.data())
def test_a_saved_cache_cut_anywhere_is_refused(data: st.DataObject, tmp_path: Path) -> None:
    filled("qwen3_next").save(tmp_path / "whole")
    whole = (tmp_path / "whole").read_bytes()
    (tmp_path / "cut").write_bytes(whole[: data.draw(st.integers(0, len(whole) - 1))])
    assert loaded_or_refused(tmp_path / "cut", "qwen3_next") is None


@settings(max_examples=300)
@given(data=st.data())
def test_a_byte_changed_anywhere_is_found(data: st.DataObject, tmp_path: Path) -> None:
    """In the header and behind it: refused, or (a blank for a blank) the same cache."""
    cache = filled("qwen3_next", seq=5)
    cache.save(tmp_path / "whole")
    whole = bytearray((tmp_path / "whole").read_bytes())
    header = int.from_bytes(whole[:8], "little")
    at = data.draw(st.one_of(st.integers(0, header + 8), st.integers(0, len(whole) - 1)))
    whole[at] ^= data.draw(st.integers(1, 255))
    (tmp_path / "changed").write_bytes(whole)
    found = loaded_or_refused(tmp_path / "changed", "qwen3_next")
    if found is not None:
        assert found.length == cache.length and at < header + 8
        for key, state in cache.states.items():
            for name, tensor in state.tensors().items():
                assert same(found[key].tensors()[name], tensor)


def test_a_pickle_in_place_of_a_cache_is_not_run(tmp_path: Path) -> None:
    (tmp_path / "cache").write_bytes(pickle.dumps(Code(tmp_path / "ran")))
    torch.save({"layers.0.attention.keys": Code(tmp_path / "ran")}, tmp_path / "zipped")
    for name in ("cache", "zipped"):
        assert loaded_or_refused(tmp_path / name, "llama") is None
    assert not (tmp_path / "ran").exists()


@types
def test_a_cache_moves(model_type: str) -> None:
    cache = filled(model_type)
    assert cache.to("meta") is cache
    devices = {tensor.device.type for state in cache.states.values() for tensor in state.tensors().values()}
    assert devices == {"meta"}


@types
def test_bytes_are_those_of_the_tensors(model_type: str) -> None:
    cache = filled(model_type)
    assert cache.nbytes == sum(tensor.nbytes for state in cache.states.values() for tensor in state.tensors().values())
    assert model_of(model_type).new_cache().nbytes == 0


def test_a_window_keeps_only_what_it_needs() -> None:
    cache = filled("gemma3_text", seq=60)
    kept = {type(state).__name__: state.tensors()["keys"].shape[2] for state in cache.states.values()}
    assert kept == {"WindowState": 15, "KeyValueState": 60}


@types
def test_states_are_of_their_true_size(model_type: str) -> None:
    """Windows, latents and recurrences: what a state shows is what it keeps alive, and not what it was cut from."""
    cache = filled(model_type, seq=40)
    for key, state in cache.states.items():
        for name, tensor in state.tensors().items():
            assert tensor.untyped_storage().nbytes() <= 2 * tensor.nbytes, (key, name)


def test_a_latent_state_holds_one_latent_and_one_rotated_key() -> None:
    model, cache = model_of("glm4_moe_lite"), filled("glm4_moe_lite", seq=50)
    for layer, state in zip(model.n.layers, cache.states.values(), strict=True):
        part = next(branch.part for branch in layer.branches() if isinstance(branch.part, LatentAttention))
        found = {name: tuple(tensor.shape) for name, tensor in state.tensors().items()}
        assert found == {"keys": (2, 1, 50, part.latent_rank), "values": (2, 1, 50, part.rope_dim)}


def test_kinds_of_state() -> None:
    assert {type(state) for state in filled("llama").states.values()} == {KeyValueState}
    assert {type(state) for state in filled("cohere2").states.values()} == {KeyValueState, WindowState}
    assert {type(state) for state in filled("qwen3_next").states.values()} == {KeyValueState, RecurrentState}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_a_recurrent_state_is_float32(dtype: torch.dtype) -> None:
    model = universal(reference("qwen3_next")).to(dtype).requires_grad_(False)
    cache = model.new_cache()
    model(ids(1, 9), cache=cache)
    state = cache["layers.0.linear_attention"].tensors()
    assert state["recurrent"].dtype == torch.float32 and state["convolution"].dtype == dtype


@pytest.mark.parametrize(
    ("window", "seen", "new"), [(4, 0, 3), (4, 2, 1), (4, 3, 2), (4, 9, 5), (1, 7, 2), (100, 7, 2)]
)
def test_an_extent_foretells_what_extend_returns(window: int, seen: int, new: int) -> None:
    for state in (WindowState(window), KeyValueState()):
        if seen:
            state.extend(torch.arange(seen).float().view(1, 1, -1, 1), torch.zeros(1, 1, seen, 1))
        keys, offset = state.extent(seen, new)
        found, values = state.extend(
            torch.arange(seen, seen + new).float().view(1, 1, -1, 1), torch.zeros(1, 1, new, 1)
        )
        assert found.shape[2] == values.shape[2] == keys
        assert found.flatten().tolist() == list(range(offset, seen + new))
