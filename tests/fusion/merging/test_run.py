"""Whole merges: every family through one code path, on disk, within bounded memory, with what is left measured."""

from __future__ import annotations

import json
import shutil
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoModelForCausalLM

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.files import TensorStore
from nexus_universal.fusion.merging.methods import METHODS, REQUIRED
from nexus_universal.fusion.merging.preflight import preflight
from nexus_universal.fusion.merging.recipe import Recipe
from nexus_universal.fusion.merging.run import merge, write_merged
from nexus_universal.fusion.retention import Tier
from tests.checkpoint.on_disk import changed
from tests.fusion.merging.pairs import TEXT, logits, published, related, rewritten, tensors
from tests.helpers import MODEL_TYPES

DATA = Path(__file__).parents[2] / "data"
TRAINED = ("qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny")
FAMILIES = ("qwen3", "gemma3_text", "deepseek_v3", "glm4_moe_lite", "mamba2", "gpt2", "zamba2", "gpt_oss", "apertus")
"""Dense, windowed, latent with experts, recurrent, transposed, shared with adapters, interleaved, scalars."""


def recipe(method: str, *models: Path, base: Path | None = None, **parameters: Any) -> dict[str, Any]:
    """A recipe that gives every parameter that has no default 0.5."""
    known = METHODS[method]
    needed = {**known.per_model, **known.shared}
    given = {name: 0.5 for name, default in needed.items() if default is REQUIRED}
    found: dict[str, Any] = {
        "merge_method": method,
        "models": [{"model": str(model)} for model in models],
        "parameters": given | parameters,
    }
    return found | ({"base_model": str(base)} if base else {})


def of_one(method: str, model: Path) -> dict[str, Any]:
    """A recipe all of whose models are the same."""
    known = METHODS[method]
    count = known.most or max(known.least, 2)
    return recipe(method, *[model] * count, base=model if known.base in ("required", "optional") else None)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("name", [TRAINED[0], *(pytest.param(name, marks=pytest.mark.slow) for name in TRAINED[1:])])
def test_a_model_merged_with_itself_is_itself(method: str, name: str, tmp_path: Path) -> None:
    if METHODS[method].base in ("required", "optional"):  # the base listed among the models is no second model
        copies = [Path(shutil.copytree(DATA / name, tmp_path / f"copy{i}")) for i in range(2)]
        given = recipe(method, *copies[: METHODS[method].most or 2], base=DATA / name)
    else:
        given = of_one(method, DATA / name)
    certificate = merge(given, tmp_path / "out", text=TEXT)
    assert certificate.promised is Tier.STATISTICAL and certificate.tier is Tier.BITS
    assert "R3" in str(certificate).splitlines()[0] and "bits per byte" in str(certificate)
    before, after = tensors(DATA / name), tensors(tmp_path / "out")
    assert before.keys() == after.keys()
    assert all(torch.equal(before[key], after[key]) and before[key].dtype == after[key].dtype for key in before)
    theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert theirs is not None and (tmp_path / "out" / "tokenizer.json").is_file()


@pytest.mark.parametrize("model_type", FAMILIES)
@pytest.mark.parametrize("format", ["auto", "nexus"])
def test_every_family_goes_through_one_path(model_type: str, format: Any, tmp_path: Path) -> None:
    """Half of each, tensor by tensor; all of one, bit by bit."""
    a, b = published(model_type), related(model_type, tmp_path / "b")
    certificate = merge(recipe("linear", a, b), tmp_path / "half", format=format)
    assert certificate.tier is Tier.STATISTICAL and all(each.logits for each in certificate.evidence)
    left, right, half = tensors(a), tensors(b), tensors(tmp_path / "half")
    assert left.keys() == half.keys()
    for name, found in half.items():
        if found.is_floating_point():
            assert torch.allclose(found.double(), (left[name].double() + right[name].double()) / 2, atol=1e-6)
    weights = [{"model": str(a), "parameters": {"weight": 0}}, {"model": str(b), "parameters": {"weight": 1}}]
    merge({"merge_method": "linear", "models": weights}, tmp_path / "all", format=format)
    assert torch.equal(logits(tmp_path / "all"), logits(b))


@pytest.mark.slow
@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_every_type_can_be_merged(model_type: str, tmp_path: Path) -> None:
    a, b = published(model_type), related(model_type, tmp_path / "b", share=0.01)
    merge(recipe("slerp", a, b, t=0.0), tmp_path / "out")
    assert torch.equal(logits(tmp_path / "out"), logits(a))


@pytest.mark.parametrize(
    "method", [name for name, method in METHODS.items() if "weight" in method.per_model and not method.draws]
)
def test_all_the_weight_gives_the_parents_logits(method: str, tmp_path: Path) -> None:
    a, b = published("qwen3"), related("qwen3", tmp_path / "b")
    based = METHODS[method].base == "required"
    models = (b,) if based else (a, b)
    listed = [{"model": str(x), "parameters": {"weight": 1.0 if x is b else 0.0}} for x in models]
    given: dict[str, Any] = {"merge_method": method, "models": listed} | ({"base_model": str(a)} if based else {})
    certificate = merge(given, tmp_path / "out")
    [evidence] = [each for each in certificate.evidence if each.source == str(b)]
    assert evidence.tier <= (Tier.REAL if based or method == "multislerp" else Tier.BITS)


def test_layers_are_stacked_and_the_family_says_so(tmp_path: Path) -> None:
    """A frankenmerge: layers 0, 1, then 0, 1 of another; a gradient and a filter choose by place and name."""
    a, b = published("qwen3"), related("qwen3", tmp_path / "b")
    slices = [{"sources": [{"model": str(model), "layer_range": [0, 2]}]} for model in (a, b)]
    merge({"merge_method": "passthrough", "slices": slices}, tmp_path / "deep")
    raw = json.loads((tmp_path / "deep" / "config.json").read_text())
    assert (raw["model_type"], raw["num_hidden_layers"]) == ("qwen3", 4)
    left, right, deep = tensors(a), tensors(b), tensors(tmp_path / "deep")
    for name in left:
        if name.startswith("layers."):
            index, rest = name.removeprefix("layers.").split(".", 1)
            assert torch.equal(deep[name], left[name])
            assert torch.equal(deep[f"layers.{int(index) + 2}.{rest}"], right[name])
    assert torch.equal(deep["embedding.tokens.weight"], left["embedding.tokens.weight"])
    assert torch.equal(deep["head.weight"], right["head.weight"])


@pytest.mark.slow
def test_layers_of_two_families_are_an_n_like_any_other(tmp_path: Path) -> None:
    spans = {"qwen3_tiny": [0, 3], "gemma3_tiny": [4, 6]}
    slices = [{"sources": [{"model": str(DATA / name), "layer_range": span}]} for name, span in spans.items()]
    certificate = merge({"merge_method": "passthrough", "slices": slices}, tmp_path / "out")
    assert "written in the nexus format" in str(certificate) and "the head is tied" in str(certificate)
    opened = UniversalTransformer.from_pretrained(tmp_path / "out")
    parts = [UniversalTransformer.from_pretrained(DATA / name) for name in spans]
    assert opened.n.layers == (*parts[0].n.layers[:3], *parts[1].n.layers[4:])
    found, last = dict(opened.named_slots()), dict(parts[1].named_slots())
    assert torch.equal(found["layers.4.feed_forward.up.weight"], last["layers.5.feed_forward.up.weight"])
    assert torch.equal(found["final_norm.weight"], last["final_norm.weight"])


def test_parameters_by_place_and_by_name(tmp_path: Path) -> None:
    """mergekit's own example: t by self_attn, mlp and the rest; published names fit as canonical ones do."""
    a, b = published("qwen3"), related("qwen3", tmp_path / "b")
    t = [{"filter": "self_attn", "value": [0, 1]}, {"filter": "feed_forward", "value": [1, 0]}, {"value": 0}]
    merge(recipe("slerp", a, b, base=a, t=t), tmp_path / "out")
    left, right, found = tensors(a), tensors(b), tensors(tmp_path / "out")
    for name in left:
        second = (".attention." in name and "layers.1" in name) or ("feed_forward" in name and "layers.0" in name)
        assert torch.equal(found[name], (right if second else left)[name]), name


def test_the_dtype_is_the_recipes(tmp_path: Path) -> None:
    given = of_one("linear", DATA / "glm4_moe_lite_tiny") | {"dtype": "float32", "out_dtype": "float16"}
    merge(given, tmp_path / "out")
    opened = UniversalTransformer.from_pretrained(tmp_path / "out")
    assert opened.dtype == torch.float16
    kept = {name for name, slot in opened.named_slots() if slot.dtype == torch.float32}
    assert kept and all("selection_bias" in name for name in kept)


def test_draws_are_the_seeds(tmp_path: Path) -> None:
    a, b = published("qwen3"), related("qwen3", tmp_path / "b")
    given = recipe("dare_linear", b, base=a, density=0.5)
    for name, seed in (("one", 1), ("again", 1), ("two", 2)):
        merge(given | {"seed": seed}, tmp_path / name)
    one, again, two = (tensors(tmp_path / name) for name in ("one", "again", "two"))
    assert all(torch.equal(one[name], again[name]) for name in one)
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_tied_weights_are_saved_once(tmp_path: Path) -> None:
    """mergekit #390."""
    merge(of_one("linear", DATA / "qwen3_tiny"), tmp_path / "out")
    assert sum(file.stat().st_size for file in (tmp_path / "out").glob("*.safetensors")) <= sum(
        file.stat().st_size for file in (DATA / "qwen3_tiny").glob("*.safetensors")
    )


def test_what_is_not_computed_with_is_kept(tmp_path: Path) -> None:
    """mergekit PR 696: tensors silently dropped. What a family carries stays; what is passed over is said."""
    source = published("glm4_moe_lite")
    extra = {"model.layers.3.embed_tokens.weight": torch.zeros(97, 48)}
    a = changed("glm4_moe_lite", tmp_path / "a", lambda found: found | extra)
    certificate = merge(of_one("linear", a), tmp_path / "out")
    assert "model.layers.3.embed_tokens.weight passed over" in str(certificate)
    assert "passed over" not in str(merge(of_one("linear", source), tmp_path / "plain"))


def test_whole_numbers_that_differ_are_refused(tmp_path: Path) -> None:
    """Tables of experts by token cannot be averaged."""
    a = published("deepseek_v4")
    tables = [name for name, x in tensors(a).items() if not x.is_floating_point()]
    assert tables

    b = rewritten(a, tmp_path / "b", lambda found: {name: found[name].flip(0) for name in tables})
    merge(recipe("linear", a, a), tmp_path / "same")
    with pytest.raises(CheckpointError, match="whole numbers that differ"):
        merge(recipe("linear", a, b), tmp_path / "out")
    assert not (tmp_path / "out").exists() and not list(tmp_path.glob(".out*"))


class LiveBytes(TorchDispatchMode):
    """Counts the bytes of storages that operations made and that are still referred to; mapped files are not."""

    def __init__(self) -> None:
        super().__init__()
        self.live, self.peak, self.mapping = 0, 0, False
        self.known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = {x.untyped_storage()._cdata for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)}
        out = func(*args, **(kwargs or {}))
        if self.mapping or func is torch.ops.aten.from_file.default:
            return out
        for x in tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.device.type == "cpu":
                storage = x.untyped_storage()
                if storage._cdata not in given | self.known:
                    self._count(storage)
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        key, size = storage._cdata, storage.nbytes()
        self.known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self.known.discard(key)
        self.live -= size


QUICK = {("mixtral", "linear"), ("mixtral", "della"), ("mixtral", "sce"), ("qwen3", "linear")}
BOUNDED = [(model_type, method) for model_type in ("qwen3", "mixtral") for method in METHODS]


@pytest.mark.parametrize(
    ("model_type", "method"),
    [pytest.param(*pair, marks=() if pair in QUICK else pytest.mark.slow) for pair in BOUNDED],
)
def test_memory_is_bounded_by_the_largest_tensor(
    method: str, model_type: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three times the largest tensor, with four models and with experts that lie in files of their own."""
    a = published(model_type)
    known = METHODS[method]
    others = [related(model_type, tmp_path / f"b{i}", seed=i) for i in range(known.most or 4)]
    given = recipe(method, *others, base=a if known.base == "required" else None)
    plan = preflight(Recipe.of(given))
    (tmp_path / "out").mkdir()
    counted, read = LiveBytes(), TensorStore.read

    def mapped(store: TensorStore, name: str) -> torch.Tensor:
        counted.mapping = True
        tensor = read(store, name)
        counted.mapping = False
        return tensor

    monkeypatch.setattr(TensorStore, "read", mapped)
    with counted:
        write_merged(plan, tmp_path / "out")
    assert 0 < counted.peak <= 3 * plan.largest, counted.peak / plan.largest
