"""Steps in fixed memory: the same function, whatever comes between them, and nothing in them that asks for data."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.cache import Cache, static
from nexus_universal.cache.static import FixedCache, StaticCache
from nexus_universal.layers import running
from nexus_universal.layers.grouped import grouped_linear
from nexus_universal.layers.running import Recorded, Running
from tests.fusion.cross.pieces import KINDS as CROSSINGS
from tests.fusion.cross.pieces import attached, loaded
from tests.helpers import MODEL_TYPES, STEADY, floor_of, reference, single_changes, universal
from tests.helpers import ids_without_pads as ids

LENGTH, PROMPT = 40, 30
SAMPLE = ("llama", "qwen3_next")
KINDS = ["deepseek_v4", "qwen3", "gemma3_text", "deepseek_v32", "qwen3_next", "mamba2", "opt", "bloom", "qwen3_moe"]
ROPES = [("llama", {key: value}) for key, value in single_changes("llama") if key == "rope_parameters"]


@pytest.fixture(autouse=True)
def little_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Room is used up several times."""
    monkeypatch.setattr(static, "ROOM", 4)


def models(model_type: str, **changes: Any) -> tuple[Any, UniversalTransformer, UniversalTransformer]:
    """The reference, the one class as it is, and with a static cache."""
    theirs = reference(model_type, **{**STEADY.get(model_type, {}), **changes}).eval()
    return theirs, universal(theirs).eval(), universal(theirs).optimize(cache="static")


def in_steps(
    model: UniversalTransformer, cache: Cache, tokens: Tensor, mask: Tensor | None = None, *, sizes: list[int]
) -> Tensor:
    """The logits of calls of these sizes, which go on where the cache ends."""
    found = []
    with torch.no_grad():
        for size in sizes:
            end = cache.length + size
            seen = None if mask is None else mask[:, :end]
            found.append(model(tokens[:, cache.length : end], attention_mask=seen, cache=cache).logits)
    return torch.cat(found, dim=1)


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_steps_stay_within_the_floor(model_type: str) -> None:
    theirs, exact, fast = models(model_type)
    tokens, mask = ids(2, LENGTH), torch.ones(2, LENGTH, dtype=torch.long)
    mask[0, :7] = 0
    floor, sizes = floor_of(theirs, exact.n, length=LENGTH), [PROMPT, 1, 1, 1, 3, 1, 1, 1, 1]
    for padding in (None, mask):
        cache = fast.new_cache()
        found, expected = in_steps(fast, cache, tokens, padding, sizes=sizes), exact_of(exact, tokens, padding, sizes)
        assert isinstance(cache, StaticCache) and cache.bound is not None and cache.length == LENGTH
        assert float((found - expected)[mask.bool()].abs().max()) <= floor


def assert_close(found: Tensor, expected: Tensor, *, of: Any) -> None:
    """Within the floor that is measured on the reference `of` these logits."""
    floor = floor_of(of, ArchitectureParameter.from_huggingface(of.config), length=LENGTH)
    assert float((found - expected).abs().max()) <= floor


def exact_of(model: UniversalTransformer, tokens: Tensor, mask: Tensor | None, sizes: list[int]) -> Tensor:
    return in_steps(model, model.new_cache(), tokens, mask, sizes=sizes)


@pytest.mark.parametrize("model_type", KINDS)
def test_nothing_moves_from_step_to_step(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "ROOM", 64)
    *_, fast = models(model_type)
    cache, seen = fast.new_cache(), []
    assert isinstance(cache, StaticCache)
    for sizes in ([1, 1], [1], [1]):
        in_steps(fast, cache, ids(2, 20), sizes=sizes)
        assert cache.bound is not None
        kept = {f"{key}.{name}": t for key, state in cache.bound.states.items() for name, t in state.tensors().items()}
        seen.append({name: (tensor.data_ptr(), tensor.shape) for name, tensor in kept.items()})
    assert seen[0] and seen[0] == seen[1] == seen[2]


class NothingFromTheHost(TorchDispatchMode):
    """Refuses what would make a device wait for data of this machine."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if func.name() in ("aten::_to_copy", "aten::copy_"):
            given = args[func.name() == "aten::copy_"]
            assert given.device == out.device, f"{func.name()} of {tuple(given.shape)} from {given.device}"
        return out


class NothingFromPython(TorchFunctionMode):
    """And what makes tensors of Python's numbers, which travel too, but which a device without data passes over."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        assert func not in (torch.tensor, torch.as_tensor, torch.from_numpy, Tensor.new_tensor), func
        if func in (Tensor.__getitem__, Tensor.__setitem__):
            assert not any(isinstance(each, list) for each in (args[1] if isinstance(args[1], tuple) else (args[1],)))
        return func(*args, **(kwargs or {}))


def moved_to_meta(model: UniversalTransformer, cache: StaticCache) -> FixedCache:
    """Model and fixed memory on a device that has shapes, but no data: whoever asks for any fails."""
    bound = cache.bound
    assert bound is not None
    model.to("meta")
    bound.place = bound.place.to("meta")
    for key, state in bound.states.items():
        for name, tensor in state.tensors().items():
            setattr(state, name, tensor.to("meta"))
        if hasattr(state, "place"):
            state.place = bound.place  # type: ignore[attr-defined]
        bound.homes[key] = {name: getattr(state, name) for name in bound.homes[key]}
    return bound


@pytest.mark.parametrize("dtype", [torch.float32, pytest.param(torch.bfloat16, marks=pytest.mark.slow)], ids=str)
@pytest.mark.parametrize(
    ("model_type", "changes"),
    [*((model_type, {}) for model_type in MODEL_TYPES), *ROPES],
    ids=[
        *MODEL_TYPES,
        *(f"llama, {changes['rope_parameters']['rope_type']} {i}" for i, (_, changes) in enumerate(ROPES)),
    ],
)
def test_a_step_asks_for_no_data(
    model_type: str, changes: dict[str, Any], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So a GPU can record it."""
    monkeypatch.setattr(static, "ROOM", 64)
    fast = universal(reference(model_type, **{**STEADY.get(model_type, {}), **changes}).eval())
    fast = fast.to(dtype).optimize(cache="static")
    cache, one = fast.new_cache(), torch.zeros(2, 1, dtype=torch.long, device="meta")
    assert isinstance(cache, StaticCache)
    in_steps(fast, cache, ids(2, 12), sizes=[9, 1])
    bound = moved_to_meta(fast, cache)
    # A mask is asked on the host, before the step, whether it has pads between a row's tokens.
    monkeypatch.setattr(fast.plan, "refuse_inner_pads", lambda mask: None)
    with torch.no_grad():
        fast(one, cache=cache)  # moves what is kept for each device
        for length, padded in ((12, False), (13, True)):
            mask = torch.ones(2, length, dtype=torch.long, device="meta") if padded else None
            with NothingFromTheHost(), NothingFromPython():
                assert fast(one, mask, cache=cache).logits.is_meta
    assert cache.bound is bound and cache.length == 13


def graphs_of(fast: UniversalTransformer) -> list[Any]:
    """What a compiler is given for steps from now on."""
    torch._dynamo.reset()
    seen: list[Any] = []

    def backend(graph: Any, _: Any) -> Any:
        seen.append(graph)
        return graph.forward

    assert fast.optimised is not None
    run = Running(step=torch.compile(running.step, fullgraph=True, backend=backend))
    fast.optimised = dataclasses.replace(fast.optimised, run=run)
    return seen


@pytest.mark.parametrize(
    "model_type", [*SAMPLE, *(pytest.param(each, marks=pytest.mark.slow) for each in MODEL_TYPES if each not in SAMPLE)]
)
def test_a_step_is_one_graph(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And so are all steps in whatever room: the first one's, and one for all sizes."""
    monkeypatch.setattr(static, "ROOM", 16)  # compilers treat a dimension of 1 by itself
    theirs, exact, fast = models(model_type)
    seen, sizes = graphs_of(fast), [5] + [1] * 28
    try:
        found = in_steps(fast, fast.new_cache(), ids(2, 33), sizes=sizes)
    finally:
        torch._dynamo.reset()
    assert_close(found, exact_of(exact, ids(2, 33), None, sizes), of=theirs)
    assert len(seen) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("model_type", ["llama", "deepseek_v3", "qwen3_next"])
def test_compiled_steps_write_the_same_text(model_type: str) -> None:
    """By inductor, past what there is room for."""
    _theirs, exact, fast = models(model_type)
    fast.optimize(compile=True)
    assert fast.optimised is not None and fast.optimised.cache == "static"
    torch._dynamo.reset()
    try:
        texts = [model.generate(ids(2, 9), max_new_tokens=12, do_sample=False) for model in (exact, fast)]
    finally:
        torch._dynamo.reset()
    assert torch.equal(*texts)


class OnPaper:
    """Captures as a GPU does: what is captured computes nothing yet; a replay does, and leaves it in the same place."""

    def __init__(self, cache: FixedCache) -> None:
        self.cache, self.replays = cache, 0

    def __call__(self, run: Callable[[], Tensor], *, tried: Callable[[], None]) -> tuple[Callable[[], None], Tensor]:
        tried()
        before = [tensor.clone() for tensor in self.cache.moving()]
        result = run()
        for tensor, was in zip(self.cache.moving(), before, strict=True):
            tensor.copy_(was)

        def replay() -> None:
            self.replays += 1
            result.copy_(run())

        return replay, result


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("model_type", KINDS)
def test_a_recorded_step_goes_on(model_type: str, padded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "ROOM", 64)
    theirs, exact, fast = models(model_type)
    tokens, mask = ids(2, 16), torch.ones(2, 16, dtype=torch.long)
    mask[0, :3] = 0
    padding, sizes = mask if padded else None, [9, 1, 1, 1, 1, 1, 1]
    cache = fast.new_cache()
    assert isinstance(cache, StaticCache)
    in_steps(fast, cache, tokens, padding, sizes=[9])
    with torch.no_grad():
        bound = cache.bind(tokens.device)
        monkeypatch.setattr(running, "captured", paper := OnPaper(bound))
        seen = None if padding is None else torch.nn.functional.pad(padding[:, :10], (0, 54), value=1)
        cache.recorded = Recorded(running.step, fast, (tokens[:, 9:10], seen, None), cache=bound)
    found = in_steps(fast, cache, tokens, padding, sizes=sizes[1:])
    expected = exact_of(exact, tokens, padding, sizes)[:, 9:]
    assert paper.replays == 6 and cache.bound is bound
    assert_close(found, expected, of=theirs)
    assert len({row.data_ptr() for row in found.split(1, dim=1)}) == 6


def test_what_was_recorded_stands_for_no_other_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mask that was not there, or another model of the same n."""
    monkeypatch.setattr(static, "ROOM", 64)
    theirs, exact, fast = models("qwen3")
    theirs_too, other, fast_other = models("qwen3", seed=3)
    tokens, mask = ids(2, 16), torch.ones(2, 16, dtype=torch.long)
    mask[0, 2:6] = 0
    first = (None, fast, exact)
    calls = (first, (mask, fast, exact), (None, fast_other, other), (None, fast_other, other))
    for (padding, model, plain), ready in zip(calls[1:], calls, strict=False):
        cache, expected = ready[1].new_cache(), ready[2].new_cache()
        assert isinstance(cache, StaticCache)
        for each, kept in ((ready[1], cache), (ready[2], expected)):
            in_steps(each, kept, tokens, sizes=[9])
        with torch.no_grad():
            bound = cache.bind(tokens.device)
            monkeypatch.setattr(running, "captured", OnPaper(bound))
            cache.recorded = Recorded(running.step, ready[1], (tokens[:, 9:10], None, None), cache=bound)
        for each, kept in ((ready[1], cache), (ready[2], expected)):
            in_steps(each, kept, tokens, sizes=[1])
        assert cache.recorded is not None
        if model is ready[1] and padding is None:  # a longer call: the memory that was recorded is given up
            ours, plainly = (
                in_steps(each, kept, tokens, sizes=[2]) for each, kept in ((model, cache), (plain, expected))
            )
            assert_close(ours, plainly, of=theirs_too)
            assert cache.recorded is None
        reference_of = theirs if model is fast else theirs_too
        found = in_steps(model, cache, tokens, padding, sizes=[1, 1])
        assert cache.recorded is None
        wanted = in_steps(plain, expected, tokens, padding, sizes=[1, 1])
        assert_close(found, wanted, of=reference_of)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("model_type", KINDS)
def test_a_gpu_replays_what_it_recorded(model_type: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(static, "ROOM", 64)
    theirs, exact, fast = models(model_type)
    exact, fast = exact.to("cuda"), fast.to("cuda")
    cache, tokens, sizes = fast.new_cache(), ids(2, 16).cuda(), [9, 1, 1, 1, 1, 1, 1]
    found = in_steps(fast, cache, tokens, sizes=sizes)
    assert isinstance(cache, StaticCache) and isinstance(cache.recorded, Recorded)
    assert_close(found, exact_of(exact, tokens, None, sizes), of=theirs)


@pytest.mark.parametrize("model_type", KINDS)
def test_one_position_after_the_other_from_the_first_on(model_type: str) -> None:
    """Windows, groups and convolutions that are not full yet."""
    theirs, exact, fast = models(model_type)
    floor = floor_of(theirs, exact.n, length=LENGTH)
    found = in_steps(fast, fast.new_cache(), ids(2, LENGTH), sizes=[1] * LENGTH)
    assert float((found - exact_of(exact, ids(2, LENGTH), None, [1] * LENGTH)).abs().max()) <= floor


# What else is done with a cache


@pytest.mark.parametrize("model_type", KINDS)
def test_between_steps_it_is_a_cache_like_any_other(model_type: str, tmp_path: Any) -> None:
    """Forks go their own ways, rows are picked, files are read again; no step has touched what others hold."""
    theirs, exact, fast = models(model_type)
    tokens = ids(2, 20)

    def through(model: UniversalTransformer) -> list[Tensor]:
        cache = model.new_cache()
        found = [in_steps(model, cache, tokens, sizes=[9, 1, 1])]
        fork = cache.fork()
        found.append(in_steps(model, cache, tokens, sizes=[1, 1, 1]))
        found.append(in_steps(model, fork, tokens.flip(0), sizes=[1, 1]))
        fork.save(tmp_path / "cache")
        fork.select(torch.tensor([1, 1, 0]))
        found.append(in_steps(model, fork, tokens[[0, 1, 1]], sizes=[1, 1]))
        found.append(in_steps(model, Cache.load(tmp_path / "cache", model.new_cache), tokens, sizes=[1, 2, 1]))
        (tmp_path / "cache").unlink()
        return found

    for found, expected in zip(through(fast), through(exact), strict=True):
        assert_close(found, expected, of=theirs)


def test_a_cropped_one_goes_on() -> None:
    theirs, exact, fast = models("llama")
    ends = []
    for model in (exact, fast):
        cache = model.new_cache()
        in_steps(model, cache, ids(2, 12), sizes=[6, 1, 1, 1])
        cache.crop(7)
        ends.append(in_steps(model, cache, ids(2, 12).flip(0), sizes=[1, 1, 1]))
    assert_close(*ends, of=theirs)


@pytest.mark.parametrize("model_type", KINDS)
def test_greedy_text_is_the_same(model_type: str) -> None:
    _theirs, exact, fast = models(model_type)
    mask = torch.ones(2, 9, dtype=torch.long)
    mask[1, :4] = 0
    texts = [model.generate(ids(2, 9), mask, max_new_tokens=14, do_sample=False) for model in (exact, fast)]
    assert torch.equal(*texts)


def test_modes_without_gradients_follow_each_other() -> None:
    theirs, exact, fast = models("qwen3_next")
    cache, found = fast.new_cache(), []
    for position, mode in enumerate((torch.inference_mode, torch.inference_mode, torch.no_grad, torch.inference_mode)):
        with mode():
            found.append(fast(ids(2, 9)[:, position : position + 1], cache=cache).logits.clone())
    expected = exact_of(exact, ids(2, 9), None, [1, 1, 1, 1])
    assert_close(torch.cat(found, dim=1), expected, of=theirs)


def test_who_looks_into_a_step_sees_it() -> None:
    *_, fast = models("qwen3")
    cache = fast.new_cache()
    assert isinstance(cache, StaticCache)
    in_steps(fast, cache, ids(2, 12), sizes=[9, 1])
    with fast.record("layers.*.attention.output") as seen:
        in_steps(fast, cache, ids(2, 12), sizes=[1])
    assert len(seen) == len(fast.layers) and cache.bound is None
    in_steps(fast, cache, ids(2, 12), sizes=[1])
    assert cache.bound is not None and not fast.plan.looked_into


def test_any_other_call_is_answered_as_ever() -> None:
    theirs, exact, fast = models("qwen3")
    tokens = ids(2, 12)
    caches = [model.new_cache() for model in (exact, fast)]
    for model, cache in zip((exact, fast), caches, strict=True):
        in_steps(model, cache, tokens, sizes=[9, 1])
        with pytest.raises(InputError, match=r"attention_mask has shape \(2, 5\), must be \(2, 11\)"), torch.no_grad():
            model(tokens[:, :1], torch.ones(2, 5), cache=cache)
        with pytest.raises(InputError, match="the cache holds 2 rows, the call has 1"), torch.no_grad():
            model(tokens[:1, :1], cache=cache)
        with pytest.raises(InputError, match="exactly one of input_ids and inputs_embeds"), torch.no_grad():
            model(tokens[:, :1], inputs_embeds=torch.zeros(2, 1, model.n.d_hidden), cache=cache)
        assert cache.length == 10
    with torch.no_grad():
        none = [
            model(tokens[:, :1], cache=cache, logits_to_keep=torch.tensor([], dtype=torch.long)).logits.shape
            for model, cache in zip((exact, fast), caches, strict=True)
        ]
    assert none[0] == none[1] == (2, 0, exact.n.d_vocab)
    found = [
        in_steps(model, cache, tokens, sizes=[1]) for model, cache in zip((fast, exact), caches[::-1], strict=True)
    ]
    assert_close(*found, of=theirs)


def test_with_gradients_nothing_is_overwritten() -> None:
    *_, fast = models("llama")
    cache = fast.new_cache()
    assert isinstance(cache, StaticCache)
    in_steps(fast, cache, ids(2, 12), sizes=[9, 1])
    fast(ids(2, 1), cache=cache)
    assert cache.bound is None and cache.length == 11


def test_where_a_bridge_reads_another_model_no_step_is_fixed() -> None:
    host, donor = loaded("qwen3_tiny"), loaded("gemma3_tiny")
    model = attached(host, donor, **CROSSINGS["projection"]).model
    with pytest.raises(InputError, match=r"cache = 'static': layers\.1\.bridge_donor_3_2 reads another model"):
        model.optimize(cache="static")
    kinds = [each.optimize(compile=True).optimised for each in (model, host)]
    assert [each.cache for each in kinds if each] == ["exact", "static"]


def test_pads_within_a_row_are_refused_as_ever() -> None:
    _theirs, exact, fast = models("mistral", sliding_window=6)
    right = torch.ones(2, 12, dtype=torch.long)
    right[0, 5:9] = 0
    for model in (exact, fast):
        cache = model.new_cache()
        in_steps(model, cache, ids(2, 12), right, sizes=[5])
        with pytest.raises(InputError, match="a right-padded batch cannot be continued past a window of 6"):
            in_steps(model, cache, ids(2, 12), right, sizes=[1, 1, 1, 1, 1])


@pytest.mark.parametrize("experts_without_matrix", [0, 2])
@pytest.mark.parametrize("width", [8, 7])
def test_experts_that_ask_for_no_run_compute_the_same(experts_without_matrix: int, width: int) -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(6, 8), torch.randn(4, width, 8)
    ends = torch.tensor([0, 2, 2, 5, *(6,) * experts_without_matrix][: 4 + experts_without_matrix], dtype=torch.int32)
    ends[-1] = 6
    expected = grouped_linear(x, weight, ends, form="apart")
    torch.testing.assert_close(grouped_linear(x, weight, ends, form="unseen"), expected)
