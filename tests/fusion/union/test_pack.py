"""One file keeps every model whole after the originals are gone, and takes what lossless coding needs."""

from __future__ import annotations

import hashlib
import json
import shutil
import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, InputError, UnsupportedConfig
from nexus_universal.checkpoint.files import TensorStore
from nexus_universal.fusion.retention import Tier, certified, evidence_of
from nexus_universal.fusion.union import pack as packing
from nexus_universal.fusion.union.archive import Archive
from nexus_universal.fusion.union.branch import load_branch, load_branch_tokenizer
from nexus_universal.fusion.union.executor import ModelExecutor
from nexus_universal.fusion.union.pack import pack
from nexus_universal.fusion.union.registry import Capability
from nexus_universal.fusion.union.verify import verify_union
from tests.checkpoint.quantised import block_scaled
from tests.fusion.union.checkpoints import DATA, IDS, fine_tuned, seeded, size

TRAINED = {"prose": "qwen3_tiny", "window": "gemma3_tiny", "experts": "glm4_moe_lite_tiny"}


def raw_bytes(tensor: torch.Tensor) -> bytes:
    return tensor.contiguous().view(-1).view(torch.uint8).numpy().tobytes()


@torch.no_grad()
def test_every_branch_is_whole_after_the_originals_are_gone(tmp_path: Path) -> None:
    sources = {name: Path(shutil.copytree(DATA / kept, tmp_path / name)) for name, kept in TRAINED.items()}
    hashes, logits, words, settings = {}, {}, {}, {}
    for name, source in sources.items():
        store = TensorStore.open(source)
        hashes[name] = {key: hashlib.sha256(raw_bytes(store.read(key))).hexdigest() for key in store.infos}
        reference = AutoModelForCausalLM.from_pretrained(source, dtype="auto")
        logits[name] = reference(IDS).logits
        own = UniversalTransformer.from_pretrained(source)
        assert torch.equal(logits[name], own(IDS).logits)
        settings[name] = own.settings
        words[name] = {file.name: file.read_bytes() for file in source.glob("*.json") if "index" not in file.name}
        del store, reference, own
    pack(sources, tmp_path / "all.nxu")
    for source in sources.values():
        shutil.rmtree(source)
    archive = Archive(tmp_path / "all.nxu")
    for name in sources:
        tensors = archive.branch(name).tensors
        found = {key: hashlib.sha256(raw_bytes(archive.tensor(name, key))).hexdigest() for key in tensors}
        assert found == hashes[name]
        model = load_branch(archive, name)
        evidence = evidence_of(name, logits[name], model(IDS).logits, weights_equal=True)
        assert certified("union", Tier.WEIGHTS, evidence).tier is Tier.WEIGHTS
        assert {file: archive.document(name, file) for file in words[name]} == words[name]
        assert archive.branch(name).parameter == model.n
        assert model.settings == settings[name] and model.settings.raw == settings[name].raw
        assert load_branch_tokenizer(archive, name)("a word")["input_ids"]
        model.save_pretrained(tmp_path / name)
        assert torch.equal(UniversalTransformer.from_pretrained(tmp_path / name)(IDS).logits, logits[name])
    assert verify_union(tmp_path / "all.nxu").tier is Tier.WEIGHTS
    with safe_open(tmp_path / "all.nxu", framework="pt") as file:
        assert set(file.keys()) == set(archive.blobs.known)
        blob = archive.branch("prose").tensors["model.norm.weight"].blob
        assert file.get_tensor(blob).dtype == torch.uint8


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return seeded(tmp_path_factory.mktemp("base") / "base", 0)


@pytest.mark.parametrize(
    ("other", "bound"), [("independent", 0.70), (0.01, 0.55), (0.001, 0.46), ("copy", 0.70 / 2 + 0.005)]
)
def test_the_size_of_two(other: str | float, bound: float, base: Path, tmp_path: Path) -> None:
    if other == "independent":
        second = seeded(tmp_path / "second", 1)
    elif other == "copy":
        second = Path(shutil.copytree(base, tmp_path / "second"))
    else:
        second = fine_tuned(base, tmp_path / "second", float(other))
    first, added = pack([base, second], tmp_path / "both.nxu")
    assert (tmp_path / "both.nxu").stat().st_size <= bound * (size(base) + size(second))
    assert first.against_base == 0
    matrices = sum(info.nbytes > 4096 for info in TensorStore.open(second).infos.values())
    if other == "copy":
        pack([base], tmp_path / "one.nxu")
        one = (tmp_path / "one.nxu").stat().st_size
        assert added.written == 0 and (tmp_path / "both.nxu").stat().st_size - one < 0.01 * size(base)
        assert one < 1.01 * size(base)
    else:
        assert added.against_base == (0 if other == "independent" else matrices)
    archive = Archive(tmp_path / "both.nxu")
    store = TensorStore.open(second)
    assert all(raw_bytes(archive.tensor("second", key)) == raw_bytes(store.read(key)) for key in store.infos)


def test_packing_holds_less_than_the_largest_tensor_thrice(tmp_path: Path) -> None:
    source = seeded(tmp_path / "one", 0, vocab_size=1 << 15, num_hidden_layers=1)
    again = fine_tuned(source, tmp_path / "two", 0.01)
    largest = max(info.nbytes for info in TensorStore.open(source).infos.values())
    pack([source], tmp_path / "warm.nxu")
    tracemalloc.start()
    pack([source, again], tmp_path / "both.nxu")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert largest == 1 << 23 and peak < 3 * largest


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A union of two, the second against the first."""
    folder = tmp_path_factory.mktemp("small")
    first = seeded(folder / "first", 0, hidden_size=32, intermediate_size=32, vocab_size=64, num_hidden_layers=1)
    pack([first, fine_tuned(first, folder / "second", 0.01)], folder / "small.nxu")
    return folder / "small.nxu"


def test_one_flipped_bit_is_found(small: Path, tmp_path: Path) -> None:
    whole = small.read_bytes()
    damaged = tmp_path / "damaged.nxu"
    draw = torch.Generator().manual_seed(0)
    header = int.from_bytes(whole[:8], "little")
    in_header = torch.randint(0, 8 + header, (40,), generator=draw).tolist()
    in_blobs = torch.randint(8 + header, len(whole), (40,), generator=draw).tolist()
    for at in (0, 7, 8, *in_header, *in_blobs, len(whole) - 1):
        changed = bytearray(whole)
        changed[at] ^= 1 << (at % 8)
        damaged.write_bytes(changed)
        with pytest.raises(CheckpointError, match=r"damaged\.nxu"):
            verify_union(damaged)


def test_damage_names_the_tensors_that_it_reaches(small: Path, tmp_path: Path) -> None:
    archive = Archive(small)
    name = "model.embed_tokens.weight"
    blob = archive.branch("first").tensors[name].blob
    assert archive.blobs.known[archive.branch("second").tensors[name].blob].base == blob
    start, length = archive.blobs.spans[blob]
    changed = bytearray(small.read_bytes())
    changed[start + length // 4] ^= 1  # among the mantissas, which are stored as they are
    damaged = tmp_path / "damaged.nxu"
    damaged.write_bytes(changed)
    with pytest.raises(CheckpointError, match=f"first: {name}: its coded bytes have changed"):
        verify_union(damaged)
    for branch in ("first", "second"):
        with pytest.raises(CheckpointError, match=f"{branch}: {name}: its bytes are not those that were packed"):
            load_branch(Archive(damaged), branch)
    for end, error in ((-1, "truncated"), (100, "truncated within its header")):
        damaged.write_bytes(small.read_bytes()[:end])
        with pytest.raises(CheckpointError, match=error):
            Archive(damaged)


def test_a_manifest_is_held_to_its_own_hash_and_to_the_header(small: Path, tmp_path: Path) -> None:
    forged = tmp_path / "forged.nxu"
    tensors = load_file(small)
    with safe_open(small, framework="pt") as file:
        metadata = file.metadata()
    save_file(dict(list(tensors.items())[1:]), forged, metadata=metadata)
    with pytest.raises(CheckpointError, match="its manifest and its header speak of different tensors"):
        Archive(forged)
    save_file(tensors, forged, metadata=metadata | {"manifest": metadata["manifest"].replace("first", "other")})
    with pytest.raises(CheckpointError, match="its manifest is damaged"):
        Archive(forged)
    shutil.copy(DATA / "qwen3_tiny" / "model.safetensors", forged)
    with pytest.raises(CheckpointError, match="not a union"):
        Archive(forged)


@pytest.mark.parametrize("forgery", ["a base of itself", "no such base", "another shape", "an unknown key"])
def test_a_manifest_that_contradicts_itself_is_refused(forgery: str, small: Path, tmp_path: Path) -> None:
    tensors = load_file(small)
    with safe_open(small, framework="pt") as file:
        metadata = file.metadata()
    said = json.loads(metadata["manifest"])
    tensor = next(iter(said["branches"][0]["tensors"].values()))
    if forgery == "another shape":
        tensor["shape"] = [1, *tensor["shape"], 2]
    elif forgery == "an unknown key":
        tensor["strides"] = []
    else:
        said["blobs"][tensor["blob"]]["base"] = tensor["blob"] if forgery == "a base of itself" else "0" * 64
    forged = tmp_path / "forged.nxu"
    save_file(tensors, forged, metadata=metadata | signed(said))
    with pytest.raises(CheckpointError, match=r"forged\.nxu: its manifest is damaged"):
        Archive(forged)


def signed(manifest: dict[str, Any]) -> dict[str, str]:
    """A manifest with the hash that goes with it."""
    text = json.dumps(manifest)
    return {"manifest": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def test_a_branch_must_have_the_n_that_its_config_gives(small: Path, tmp_path: Path) -> None:
    with safe_open(small, framework="pt") as file:
        metadata = file.metadata()
    said = json.loads(metadata["manifest"])
    other = UniversalTransformer.from_pretrained(DATA / "qwen3_tiny").n
    said["branches"][1]["n"] = json.loads(other.to_json())
    save_file(load_file(small), tmp_path / "forged.nxu", metadata=metadata | signed(said))
    with pytest.raises(CheckpointError, match="second: its config no longer gives the n that was packed"):
        verify_union(tmp_path / "forged.nxu")


def test_a_sample_is_spaced_evenly_over_all_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nexus_universal.fusion.union.sources.CHUNK", 64)
    monkeypatch.setattr(packing, "SAMPLE", 20)
    numbers = torch.arange(150, dtype=torch.int16)
    save_file({"a": numbers}, tmp_path / "model.safetensors")
    blob, sample = packing._hashed(TensorStore.open(tmp_path), "a")
    assert blob == hashlib.sha256(raw_bytes(numbers)).hexdigest()
    assert sample.tolist() == numbers[::7].tolist()


def test_a_key_that_was_passed_over_stays_passed_over(tmp_path: Path) -> None:
    source = Path(shutil.copytree(DATA / "qwen3_tiny", tmp_path / "odd"))
    config = json.loads((source / "config.json").read_text()) | {"made_by": "somebody"}
    (source / "config.json").write_text(json.dumps(config))
    with pytest.raises(UnsupportedConfig, match="made_by"):
        pack([source], tmp_path / "odd.nxu")
    pack([source], tmp_path / "odd.nxu", ignore_keys=["made_by"])
    assert load_branch(Archive(tmp_path / "odd.nxu"), "odd").n.d_hidden == 96


def test_a_union_grows_by_another_model_and_by_another_union(base: Path, tmp_path: Path) -> None:
    second = fine_tuned(base, tmp_path / "second", 0.01)
    pack({"first": base}, tmp_path / "one.nxu", capabilities={"first": [Capability.AGENT]})
    pack([second], tmp_path / "two.nxu")
    pack([tmp_path / "one.nxu", second], tmp_path / "grown.nxu")
    pack([tmp_path / "one.nxu", tmp_path / "two.nxu"], tmp_path / "united.nxu")
    pack({"first": base, "second": second}, tmp_path / "direct.nxu", capabilities={"first": [Capability.AGENT]})
    direct = Archive(tmp_path / "direct.nxu")
    for name in ("grown", "united"):
        found = Archive(tmp_path / f"{name}.nxu")
        assert found.branches == {k: replace(v, source=found.branches[k].source) for k, v in direct.branches.items()}
        assert found.blobs.known == direct.blobs.known
    pack({"other": tmp_path / "one.nxu"}, tmp_path / "named.nxu")
    assert Archive(tmp_path / "named.nxu").branches["other"].capabilities == ("agent",)
    with pytest.raises(InputError, match="the name 'first' stands twice"):
        pack([tmp_path / "one.nxu", tmp_path / "one.nxu"], tmp_path / "twice.nxu")


def test_what_is_quantised_stays_so(tmp_path: Path) -> None:
    source = block_scaled("deepseek_v3", tmp_path / "fp8", block=[4, 8])
    pack([source], tmp_path / "fp8.nxu")
    archive = Archive(tmp_path / "fp8.nxu")
    assert "F8_E4M3" in {tensor.dtype for tensor in archive.branch("fp8").tensors.values()}
    with torch.no_grad():
        wanted = UniversalTransformer.from_pretrained(source)(IDS % 97).logits
        assert torch.equal(load_branch(archive, "fp8")(IDS % 97).logits, wanted)
        executor = ModelExecutor(archive, ModelExecutor(archive, 0)._opened("fp8").least)
        assert torch.equal(executor.execute("fp8", {"input_ids": IDS % 97}).logits, wanted)


def test_a_pickled_checkpoint_is_packed_too(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "old")
    state = load_file(tmp_path / "old" / "model.safetensors")
    (tmp_path / "old" / "model.safetensors").unlink()
    torch.save(state, tmp_path / "old" / "pytorch_model.bin")
    _, old = pack([base, tmp_path / "old"], tmp_path / "both.nxu")
    assert old.duplicates == old.tensors == len(state)


def test_an_interrupted_pack_leaves_nothing(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    add, calls = packing.ArchiveWriter.add, []

    def interrupted(*args: object, **options: object) -> int:
        calls.append(args)
        if len(calls) == 9:
            raise KeyboardInterrupt
        return add(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(packing.ArchiveWriter, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        pack([base], tmp_path / "half.nxu")
    assert not list(tmp_path.iterdir())


def test_what_is_on_the_way_does_not_open(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that is killed cleans nothing up."""
    monkeypatch.setattr("nexus_universal.fusion.union.writer.shutil.rmtree", lambda *_, **__: None)
    monkeypatch.setattr(packing._Packer, "_add_file", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        pack([base], tmp_path / "half.nxu")
    left = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert left
    for file in left:
        with pytest.raises(CheckpointError):
            Archive(file)


def test_what_cannot_be_packed_is_refused(base: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="nothing to unite"):
        pack([], tmp_path / "a.nxu")
    with pytest.raises(InputError, match="'2b' must be an identifier"):
        pack({"2b": base}, tmp_path / "a.nxu")
    with pytest.raises(InputError, match=r"capabilities of code: there is no such model \(known: base\)"):
        pack([base], tmp_path / "a.nxu", capabilities={"code": []})
    with pytest.raises(CheckpointError, match="no such directory"):
        pack([base, tmp_path / "nowhere"], tmp_path / "a.nxu")
    assert not list(tmp_path.iterdir())
    (tmp_path / "a.nxu").touch()
    with pytest.raises(CheckpointError, match="exists already"):
        pack([base], tmp_path / "a.nxu")
    names = pack([base, base, base], tmp_path / "b.nxu")
    assert [each.name for each in names] == ["base", "base_2", "base_3"]
