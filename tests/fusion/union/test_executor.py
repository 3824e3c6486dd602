"""Many models within a budget: the same bits at every budget, and never more bytes than it allows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.union import executor as module
from nexus_universal.fusion.union.archive import Archive
from nexus_universal.fusion.union.executor import ModelExecutor
from nexus_universal.fusion.union.pack import pack
from nexus_universal.fusion.union.pool import compact
from tests.checkpoint.on_disk import published
from tests.fusion.union.checkpoints import DATA, IDS, seeded

SOURCES = {"prose": "qwen3_tiny", "window": "gemma3_tiny", "experts": "glm4_moe_lite_tiny"}


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Archive:
    out = tmp_path_factory.mktemp("union") / "all.nxu"
    pack({name: DATA / source for name, source in SOURCES.items()}, out)
    return Archive(out)


@pytest.fixture(scope="module")
def alone() -> dict[str, torch.Tensor]:
    with torch.no_grad():
        models = {name: UniversalTransformer.from_pretrained(DATA / source) for name, source in SOURCES.items()}
        return {name: model(IDS).logits for name, model in models.items()}


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> Callable[[ModelExecutor], list[int]]:
    """Bytes of all weights in memory whenever one is put in place: counted from the models, not from the accounts."""
    seen: list[int] = []
    put = module.put

    def watch(executor: ModelExecutor) -> list[int]:
        def counted(*args: object) -> None:
            put(*args)  # type: ignore[arg-type]
            models = (each.opened.model for each in executor._known.values())
            tensors = (tensor for model in models for _, tensor in model.named_slots() if not tensor.is_meta)
            held = {each.untyped_storage().data_ptr(): each.untyped_storage().nbytes() for each in tensors}
            seen.append(sum(held.values()))

        monkeypatch.setattr(module, "put", counted)
        return seen

    return watch


@pytest.mark.parametrize("share", ["all", "two", "one", "least"])
def test_the_peak_stays_within_the_budget_and_logits_stay_the_same(
    share: str, archive: Archive, alone: dict[str, torch.Tensor], watched: Callable[[ModelExecutor], list[int]]
) -> None:
    sizes = ModelExecutor(archive, 0)
    whole = [sizes.nbytes(name) + sizes._opened(name).scratch for name in SOURCES]
    least = max(sizes._opened(name).least for name in SOURCES)
    budget = {"all": sum(whole), "two": sum(sorted(whole)[1:]), "one": max(whole), "least": least}[share]
    executor = ModelExecutor(archive, budget)
    seen = watched(executor)
    for name in [*SOURCES, *reversed(SOURCES), "prose", "prose"]:
        assert torch.equal(executor.execute(name, {"input_ids": IDS}).logits, alone[name])
        assert executor.get_vram_usage() <= budget
    assert max(seen) <= executor.peak_bytes <= budget
    if share == "least":
        assert max(seen) < max(whole)
    assert (len(executor.loaded) == 3) == (share == "all")
    for name in SOURCES:
        executor.unload(name)
    assert executor.get_vram_usage() == 0 and not executor.loaded


def test_a_streamed_model_generates_the_same(archive: Archive) -> None:
    whole, floor = ModelExecutor(archive, 1 << 30), ModelExecutor(archive, 0)
    streamed = ModelExecutor(archive, floor._opened("window").least)
    settings = {"max_new_tokens": 5, "do_sample": False}
    ids = whole.load("window").generate(IDS, **settings)
    assert torch.equal(streamed.load("window").generate(IDS, **settings), ids)
    assert streamed.peak_bytes < whole.peak_bytes


def test_too_small_a_budget_is_refused_with_the_least_that_would_do(archive: Archive) -> None:
    least = ModelExecutor(archive, 0)._opened("prose").least
    with pytest.raises(InputError, match=f"budget of {least - 1:,} bytes is too small: at least {least:,} are needed"):
        ModelExecutor(archive, least - 1).load("prose")
    ModelExecutor(archive, least).execute("prose", {"input_ids": IDS})
    with pytest.raises(InputError, match=r"branch 'poetry' \(known: prose, window, experts\)"):
        ModelExecutor(archive, least).load("poetry")


def test_shared_tensors_are_held_once(tmp_path: Path) -> None:
    first = seeded(tmp_path / "first", 0)
    model = UniversalTransformer.from_pretrained(first)
    with torch.no_grad():
        model.layers[2].get_parameter("feed_forward.down.weight").mul_(1.5)
    model.save_pretrained(tmp_path / "second")
    pack([first, tmp_path / "second"], tmp_path / "both.nxu")
    executor = ModelExecutor(Archive(tmp_path / "both.nxu"), 1 << 30)
    executor.load("first")
    alone = executor.get_vram_usage()
    executor.load("second")
    changed = model.layers[2].get_parameter("feed_forward.down.weight").nbytes
    assert executor.get_vram_usage() == alone + changed
    executor.unload("first")
    assert executor.get_vram_usage() == alone
    with torch.no_grad():
        assert torch.equal(executor.execute("second", {"input_ids": IDS}).logits, model(IDS).logits)


def test_what_was_not_used_for_longest_goes_first(tmp_path: Path) -> None:
    sources = {name: seeded(tmp_path / name, seed, num_hidden_layers=1) for seed, name in enumerate("abc")}
    pack(sources, tmp_path / "abc.nxu")
    archive = Archive(tmp_path / "abc.nxu")
    executor = ModelExecutor(archive, 2 * ModelExecutor(archive, 0).nbytes("a"))
    for name, left in (("a", "a"), ("b", "ab"), ("c", "bc"), ("b", "bc"), ("a", "ab"), ("c", "ac")):
        executor.load(name)
        assert sorted(executor.loaded) == sorted(left)


def test_of_two_that_were_used_alike_the_one_that_is_cheaper_to_read_again_goes(tmp_path: Path) -> None:
    sources = {"noise": seeded(tmp_path / "noise", 0), "zeros": tmp_path / "zeros", "other": seeded(tmp_path / "b", 1)}
    model = UniversalTransformer.from_pretrained(sources["noise"])
    with torch.no_grad():
        for index, (_, tensor) in enumerate(model.named_slots()):
            tensor.fill_(index)
    model.save_pretrained(sources["zeros"])
    pack(sources, tmp_path / "all.nxu")
    archive = Archive(tmp_path / "all.nxu")
    sizes = ModelExecutor(archive, 0)
    executor = ModelExecutor(archive, sizes.nbytes("noise") + sizes.nbytes("zeros"))
    for name in ("noise", "zeros", "other"):
        executor.load(name)
    assert sorted(executor.loaded) == ["noise", "other"]


def test_a_guest_beside_a_streamed_model_leaves_room_for_its_layers(
    tmp_path: Path, watched: Callable[[ModelExecutor], list[int]]
) -> None:
    small: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "vocab_size": 64, "num_hidden_layers": 1}
    pack({"host": seeded(tmp_path / "host", 0), "guest": seeded(tmp_path / "guest", 1, **small)}, tmp_path / "a.nxu")
    executor = ModelExecutor(Archive(tmp_path / "a.nxu"), 0)
    executor.budget_bytes = executor._opened("host").least + executor.nbytes("guest") // 2
    seen = watched(executor)
    for name in ("host", "guest", "host", "host"):
        executor.execute(name, {"input_ids": IDS % 64})
    assert max(seen) <= executor.peak_bytes <= executor.budget_bytes


def test_a_cast_needs_room_for_both(archive: Archive) -> None:
    wide = ModelExecutor(archive, 1 << 30, dtype="float32")
    wide.load("experts")
    assert wide.peak_bytes > wide.get_vram_usage() == wide.nbytes("experts")
    plain = ModelExecutor(archive, 1 << 30)
    plain.load("prose")
    assert plain.peak_bytes == plain.get_vram_usage()


def test_a_slice_is_held_without_the_rest() -> None:
    whole = torch.arange(32.0).view(4, 8)
    part = compact(whole[1:3])
    assert torch.equal(part, whole[1:3]) and part.untyped_storage().nbytes() == 64
    assert compact(whole.mT).data_ptr() == whole.data_ptr()


@pytest.mark.parametrize("model_type", ["gpt2", "mixtral", "kimi_linear", "dbrx", "hrm_text"])
def test_tensors_that_are_put_together_count_as_well(
    model_type: str, tmp_path: Path, watched: Callable[[ModelExecutor], list[int]]
) -> None:
    source = published(model_type)
    pack({"a": source}, tmp_path / "a.nxu")
    archive = Archive(tmp_path / "a.nxu")
    executor = ModelExecutor(archive, ModelExecutor(archive, 0)._opened("a").least)
    seen = watched(executor)
    with torch.no_grad():
        wanted = UniversalTransformer.from_pretrained(source)(IDS % 97).logits
    assert torch.equal(executor.execute("a", {"input_ids": IDS % 97}).logits, wanted)
    assert max(seen) <= executor.peak_bytes <= executor.budget_bytes
