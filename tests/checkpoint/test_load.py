"""Loading: every layout that exists gives the reference's bits, without a copy where the layout coincides."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import AutoModelForCausalLM

from nexus_universal import UniversalTransformer, copy_weights, families
from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.checkpoint.load import slots
from nexus_universal.checkpoint.rules import Interleaved, Joined, Stacked
from nexus_universal.parity.modes import Reference
from nexus_universal.parity.quirks import quirks
from tests.checkpoint.on_disk import SINGLE, changed, logits_of, published, same_logits, tensors_of
from tests.helpers import MODEL_TYPES, furthest, ids, pair, pieces, reference, rows, same, universal


def in_pieces(model_type: str) -> bool:
    """Whether published files of this type hold one tensor per expert."""
    tensors = families.find(model_type).weights.tensors
    downs = [rules for name, rules in tensors.items() if name.endswith(".experts.down")]
    return any(isinstance(rules, tuple) and isinstance(rules[0], Stacked) for rules in downs)


SPARSE = tuple(filter(in_pieces, MODEL_TYPES))
types = pytest.mark.parametrize("model_type", MODEL_TYPES)


@types
def test_the_published_layout(model_type: str) -> None:
    ours = UniversalTransformer.from_pretrained(published(model_type))
    assert same_logits(ours, model_type)
    assert not ours.training and bool(ours.passed_over) <= bool(families.find(model_type).left_out)
    assert same_logits(UniversalTransformer.from_pretrained(str(published(model_type)), device="cpu"), model_type)


@types
@torch.no_grad()
def test_both_loaders_of_one_file_give_the_same_bits(model_type: str) -> None:
    """As they are loaded: mapped, however the file happens to align them."""
    theirs = type(pair(model_type)[0]).from_pretrained(published(model_type)).eval()
    ours = UniversalTransformer.from_pretrained(published(model_type))
    side, cache = Reference(theirs), ours.new_cache()
    kept = side.new_cache()
    assert same(ours(ids(2, 20)).logits, theirs(ids(2, 20), use_cache=False).logits)
    for piece in ids(rows(model_type, 2), 20).split(pieces(model_type), dim=1):
        expected, found = side(piece, cache=kept), ours(piece, cache=cache).logits
        assert furthest(found, expected) < 1e-5 if side.quirks.reads_anew else same(found, expected)


@pytest.mark.parametrize("model_type", SPARSE)
def test_the_layout_that_transformers_holds(model_type: str, tmp_path: Path) -> None:
    """`experts.gate_up_proj [E, 2I, H]` as in a state dict: assigned whole."""
    held = {name: tensor.clone() for name, tensor in pair(model_type)[0].state_dict().items()}
    assert any(name.endswith("experts.down_proj") for name in held)
    directory = changed(model_type, tmp_path / "held", lambda _: held)
    assert same_logits(UniversalTransformer.from_pretrained(directory), model_type)


def test_gpt2_without_prefix_and_with_causal_masks(tmp_path: Path) -> None:
    """The original files: no `transformer.`, and a triangle saved with every layer."""

    def original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        bare = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
        for layer in range(2):
            bare[f"h.{layer}.attn.bias"] = torch.ones(1, 1, 96, 96).tril()
            bare[f"h.{layer}.attn.masked_bias"] = torch.tensor(-1e4)
        return bare

    ours = UniversalTransformer.from_pretrained(changed("gpt2", tmp_path / "bare", original))
    assert same_logits(ours, "gpt2")
    assert ours.passed_over == {
        f"h.{layer}.attn.{name}": "causal masks are made per call"
        for layer in range(2)
        for name in ("bias", "masked_bias")
    }


def test_gpt_neox_with_causal_masks_and_frequencies(tmp_path: Path) -> None:
    """The original files: the head is called `embed_out`, and every layer holds what is computed here."""
    extra = {"attention.bias": torch.ones(1, 1, 64, 64).tril(), "attention.rotary_emb.inv_freq": torch.ones(2)}

    def original(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        assert "embed_out.weight" in tensors
        return tensors | {f"gpt_neox.layers.1.{name}": tensor for name, tensor in extra.items()}

    ours = UniversalTransformer.from_pretrained(changed("gpt_neox", tmp_path / "old", original))
    assert same_logits(ours, "gpt_neox")
    assert set(ours.passed_over) == {f"gpt_neox.layers.1.{name}" for name in extra}


@types
def test_shards(model_type: str, tmp_path: Path) -> None:
    theirs, ours = pair(model_type)
    theirs.save_pretrained(tmp_path / "theirs", max_shard_size="40KB")
    assert len(list((tmp_path / "theirs").glob("*.safetensors"))) > 2
    assert same_logits(UniversalTransformer.from_pretrained(tmp_path / "theirs"), model_type)
    ours.save_pretrained(tmp_path / "ours", shard_bytes=40_000)
    assert len(list((tmp_path / "ours").glob("*.safetensors"))) > 2
    assert same_logits(UniversalTransformer.from_pretrained(tmp_path / "ours"), model_type)


@pytest.mark.parametrize("model_type", ["llama", "gpt2", "qwen3_moe"])
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "before torch 1.6"])
@pytest.mark.parametrize("sharded", [True, False])
def test_pickles(model_type: str, zipped: bool, sharded: bool, tmp_path: Path) -> None:
    shutil.copytree(published(model_type), tmp_path / "model")
    tensors = tensors_of(tmp_path / "model")
    (tmp_path / "model" / SINGLE).unlink()
    names = sorted(tensors)
    groups = [names[::2], names[1::2]] if sharded else [names]
    files = ["pytorch_model-1-of-2.bin", "pytorch_model-2-of-2.bin"] if sharded else ["pytorch_model.bin"]
    for file, group in zip(files, groups, strict=True):
        state = {name: tensors[name] for name in group}
        torch.save(state, tmp_path / "model" / file, _use_new_zipfile_serialization=zipped)
    if sharded:
        index = {"weight_map": {name: file for file, group in zip(files, groups, strict=True) for name in group}}
        (tmp_path / "model" / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    assert same_logits(UniversalTransformer.from_pretrained(tmp_path / "model"), model_type)


class Bomb:
    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return Path.touch, (self.target,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_that_would_run_code_is_refused_and_not_run(zipped: bool, tmp_path: Path) -> None:
    shutil.copytree(published("llama"), tmp_path / "model")
    (tmp_path / "model" / SINGLE).unlink()
    state = {"model.norm.weight": torch.ones(48), "bomb": Bomb(tmp_path / "exploded")}
    torch.save(state, tmp_path / "model" / "pytorch_model.bin", _use_new_zipfile_serialization=zipped)
    with pytest.raises(CheckpointError, match=r"pytorch_model\.bin: not a state dict of plain tensors"):
        UniversalTransformer.from_pretrained(tmp_path / "model")
    assert not (tmp_path / "exploded").exists()
    torch.load(tmp_path / "model" / "pytorch_model.bin", weights_only=False)
    assert (tmp_path / "exploded").exists(), "the bomb is a dud: the test proves nothing"


@pytest.mark.parametrize("content", [[1, 2], torch.ones(3)])
def test_a_pickle_of_something_else_is_refused(content: Any, tmp_path: Path) -> None:
    shutil.copytree(published("llama"), tmp_path / "model")
    (tmp_path / "model" / SINGLE).unlink()
    torch.save(content, tmp_path / "model" / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="not a state dict of plain tensors"):
        UniversalTransformer.from_pretrained(tmp_path / "model")


# Without a copy


def mapping_of(tensor: Tensor) -> str:
    """The file that a tensor's memory is mapped from, or nothing."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        addresses, *rest = line.split(maxsplit=5)
        start, end = (int(address, 16) for address in addresses.split("-"))
        if start <= tensor.data_ptr() < end:
            return rest[4] if len(rest) == 5 else ""
    return ""


@types
def test_parameters_are_mapped_from_the_file(model_type: str) -> None:
    ours = UniversalTransformer.from_pretrained(published(model_type))
    for name, tensor in slots(ours).items():
        published_rule = families.find(model_type).weights.rules(name)[0][0]
        in_pieces = isinstance(published_rule, Interleaved | Joined | Stacked)  # what lies apart has to be put together
        assert mapping_of(tensor).endswith(SINGLE) != in_pieces, name


@pytest.mark.parametrize("model_type", SPARSE)
def test_stacked_experts_are_mapped_too(model_type: str, tmp_path: Path) -> None:
    held = {name: tensor.clone() for name, tensor in pair(model_type)[0].state_dict().items()}
    ours = UniversalTransformer.from_pretrained(changed(model_type, tmp_path / "held", lambda _: held))
    assert all(mapping_of(tensor).endswith(SINGLE) for tensor in slots(ours).values())


def test_a_conv1d_is_a_strided_view_of_the_file() -> None:
    ours = UniversalTransformer.from_pretrained(published("gpt2"))
    weight = ours.get_parameter("layers.0.attention.query_key_value.weight")
    assert weight.shape == (144, 48) and weight.stride() == (1, 144)
    assert mapping_of(weight).endswith(SINGLE)


def test_a_mapped_parameter_can_be_trained_and_the_file_stays(tmp_path: Path) -> None:
    directory = changed("llama", tmp_path / "model")
    before = (directory / SINGLE).read_bytes()
    ours = UniversalTransformer.from_pretrained(directory)
    ours(ids(1, 5)).logits.square().mean().backward()
    torch.optim.SGD(ours.parameters(), lr=0.1).step()
    assert not same_logits(ours, "llama")
    assert (directory / SINGLE).read_bytes() == before


# Dtypes


@pytest.mark.parametrize("model_type", ["llama", "glm4_moe_lite", "gpt2"])
@pytest.mark.parametrize(
    ("stored", "config", "asked", "expected"),
    [
        ("float32", "float32", "auto", "float32"),
        ("bfloat16", "bfloat16", "auto", "bfloat16"),
        ("bfloat16", None, "auto", "bfloat16"),
        ("float16", None, "auto", "float16"),
        ("float32", "bfloat16", "auto", "bfloat16"),
        ("bfloat16", "bfloat16", "float32", "float32"),
        ("float32", "float32", torch.bfloat16, "bfloat16"),
        ("float32", "float32", "float64", "float64"),
    ],
)
def test_dtypes(model_type: str, stored: str, config: str | None, asked: Any, expected: str, tmp_path: Path) -> None:
    def cast(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {
            name: tensor if "correction_bias" in name else tensor.to(getattr(torch, stored))
            for name, tensor in tensors.items()
        }

    directory = changed(model_type, tmp_path / "model", cast, dtype=config)
    ours = UniversalTransformer.from_pretrained(directory, dtype=asked)
    assert {parameter.dtype for parameter in ours.parameters()} == {getattr(torch, expected)}
    assert {buffer.dtype for buffer in ours.buffers()} <= {torch.float32}
    if expected in ("float32", "bfloat16"):
        theirs = AutoModelForCausalLM.from_pretrained(directory, dtype=asked).eval()
        assert same(logits_of(ours), logits_of(theirs))


@pytest.mark.parametrize("dtype", ["floaty", "int8", "nn"])
def test_an_unknown_dtype_is_refused(dtype: str) -> None:
    with pytest.raises(CheckpointError, match=f"dtype '{dtype}' is not known"):
        UniversalTransformer.from_pretrained(published("llama"), dtype=dtype)


def test_files_of_mixed_dtype(tmp_path: Path) -> None:
    """Norms in float32 beside matrices in bfloat16: one dtype for the model, as the reference does."""

    def mixed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.bfloat16() if tensor.dim() > 1 else tensor for name, tensor in tensors.items()}

    for config in ("bfloat16", "float32"):
        directory = changed("qwen3_moe", tmp_path / config, mixed, dtype=config)
        ours = UniversalTransformer.from_pretrained(directory)
        theirs = AutoModelForCausalLM.from_pretrained(directory).eval()
        assert {parameter.dtype for parameter in ours.parameters()} == {getattr(torch, config)}
        assert same(logits_of(ours), logits_of(theirs))


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_the_selection_bias_stays_float32(stored: torch.dtype, tmp_path: Path) -> None:
    def cast(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor.to(stored) if "correction_bias" in name else tensor for name, tensor in tensors.items()}

    directory = changed("glm4_moe_lite", tmp_path / "model", cast)
    for dtype in ("auto", "bfloat16"):
        ours = UniversalTransformer.from_pretrained(directory, dtype=dtype)
        bias = ours.get_buffer("layers.1.feed_forward.router.selection_bias")
        expected = pair("glm4_moe_lite")[0].model.layers[1].mlp.gate.e_score_correction_bias.to(stored).float()
        assert same(bias, expected)


@pytest.mark.parametrize("model_type", ["ernie4_5_moe", "hunyuan_v1_moe"])
def test_a_router_in_float32_stays_so_in_half_precision(model_type: str, tmp_path: Path) -> None:
    """From a published file as from one of ours, and the logits are the reference's."""
    theirs = AutoModelForCausalLM.from_pretrained(published(model_type), dtype=torch.bfloat16).eval()
    ours = UniversalTransformer.from_pretrained(published(model_type), dtype="bfloat16")
    ours.save_pretrained(tmp_path / "own", format="nexus")
    for model in (ours, UniversalTransformer.from_pretrained(tmp_path / "own", dtype="bfloat16")):
        routers = {name for name, _ in model.named_parameters() if name.endswith("router.weight")}
        assert routers == {name for name, each in model.named_parameters() if each.dtype == torch.float32}
        assert same(logits_of(model), logits_of(theirs))


# What is passed over

NEXT_LAYER = "a layer after the last: multi-token prediction"


@pytest.mark.parametrize(
    ("model_type", "extra", "reason"),
    [
        ("llama", "model.layers.0.self_attn.rotary_emb.inv_freq", "rotary buffers are computed from n"),
        ("glm4_moe_lite", "model.layers.3.eh_proj.weight", NEXT_LAYER),
        ("glm4_moe", "model.layers.3.shared_head.norm.weight", NEXT_LAYER),
        ("deepseek_v3", "model.layers.3.mlp.experts.0.up_proj.weight", NEXT_LAYER),
        ("qwen3_next", "mtp.layers.0.self_attn.q_proj.weight", "multi-token prediction"),
    ],
)
def test_declared_tensors_are_passed_over_and_listed(model_type: str, extra: str, reason: str, tmp_path: Path) -> None:
    directory = changed(model_type, tmp_path / "model", lambda tensors: tensors | {extra: torch.ones(3)})
    ours = UniversalTransformer.from_pretrained(directory)
    assert ours.passed_over == {extra: reason}
    assert same_logits(ours, model_type)


@pytest.mark.parametrize("extra", ["model.layers.4.eh_proj.weight", "model.layers.31.eh_proj.weight"])
def test_only_the_layer_right_after_the_last_is_passed_over(extra: str, tmp_path: Path) -> None:
    """A config that says too few layers does not load as if the others were for prediction."""
    directory = changed("deepseek_v3", tmp_path / "model", lambda tensors: tensors | {extra: torch.ones(3)})
    with pytest.raises(CheckpointError, match=f"unexpected tensors: {re.escape(extra)}"):
        UniversalTransformer.from_pretrained(directory)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text", "gpt2", "cohere2"])
def test_a_tied_head_may_be_absent_or_present(model_type: str, tmp_path: Path) -> None:
    """Present on disk though tied: the reference ignores it, whatever it holds."""
    theirs = reference(model_type, tie_word_embeddings=True)
    theirs.save_pretrained(tmp_path / "absent")
    assert "lm_head.weight" not in tensors_of(tmp_path / "absent")
    shutil.copytree(tmp_path / "absent", tmp_path / "present")
    table = next(t for name, t in tensors_of(tmp_path / "absent").items() if "embed_tokens" in name or "wte" in name)
    for content, name in ((table, "present"), (table * 0 + 5, "different")):
        shutil.copytree(tmp_path / "absent", tmp_path / name, dirs_exist_ok=True)
        tensors = tensors_of(tmp_path / "absent") | {"lm_head.weight": content.clone()}
        save_file(tensors, tmp_path / name / SINGLE, metadata={"format": "pt"})
    for name in ("absent", "present", "different"):
        ours = UniversalTransformer.from_pretrained(tmp_path / name)
        assert same(logits_of(ours), logits_of(theirs)), name
        assert ours.head.weight is None
        tied = {} if name == "absent" else {"lm_head.weight": "the head is tied to the token table"}
        assert ours.passed_over == tied


def test_a_free_head_is_its_own(tmp_path: Path) -> None:
    theirs = reference("gpt2", tie_word_embeddings=False)
    theirs.save_pretrained(tmp_path / "model")
    ours = UniversalTransformer.from_pretrained(tmp_path / "model")
    assert ours.head.weight is not None
    assert same(logits_of(ours), logits_of(theirs))


# From a model in memory


@types
def test_copied_weights_are_copies(model_type: str) -> None:
    theirs = reference(model_type)
    ours = universal(theirs)
    with torch.no_grad():
        expected = ours(ids(1, 9)).logits.clone()
        for tensor in theirs.state_dict().values():
            tensor.zero_()
        assert same(ours(ids(1, 9)).logits, expected)


def test_copied_weights_keep_their_dtype() -> None:
    theirs = AutoModelForCausalLM.from_pretrained(published("qwen3"), dtype=torch.bfloat16).eval()
    ours = universal(theirs)
    assert ours.dtype == torch.bfloat16
    assert same(logits_of(ours), logits_of(theirs))


def test_weights_of_another_model_are_refused() -> None:
    ours = UniversalTransformer(pair("llama")[1].n)
    with pytest.raises(CheckpointError, match=r"unexpected tensors: .*q_norm"):
        copy_weights(reference("qwen3", head_dim=12), ours)
    with pytest.raises(CheckpointError, match=r"missing tensors: model\.layers\.1\..*"):
        copy_weights(reference("llama", num_hidden_layers=1), ours)
    with pytest.raises(CheckpointError, match=r"has shape \(80, 48\), but n asks for"):
        copy_weights(reference("llama"), UniversalTransformer(ours.n.replace("layers.*.feed_forward.width", 64)))


def test_an_n_without_family_cannot_be_filled_from_a_reference() -> None:
    import dataclasses

    n = dataclasses.replace(pair("llama")[1].n, origin=type(pair("llama")[1].n.origin)())
    with pytest.raises(CheckpointError, match="no family says how tensors are named"):
        copy_weights(pair("llama")[0], UniversalTransformer(n))


# The build before the weights


@types
def test_a_model_is_built_on_the_meta_device(model_type: str) -> None:
    with torch.device("meta"):
        empty = UniversalTransformer(pair(model_type)[1].n)
    assert {tensor.device.type for tensor in slots(empty).values()} == {"meta"}
    assert isinstance(empty, nn.Module) and empty.device.type == "meta"
    filled = {name: tuple(tensor.shape) for name, tensor in slots(pair(model_type)[1]).items()}
    assert {name: tuple(tensor.shape) for name, tensor in slots(empty).items()} == filled


def test_nothing_is_left_on_the_meta_device() -> None:
    for model_type in MODEL_TYPES:
        ours = UniversalTransformer.from_pretrained(published(model_type))
        assert {tensor.device.type for tensor in [*ours.parameters(), *ours.buffers()]} == {"cpu"}


def test_a_quantised_checkpoint_is_refused_by_its_method(tmp_path: Path) -> None:
    directory = changed("llama", tmp_path / "model", quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(CheckpointError, match="quantised by 'gptq'"):
        UniversalTransformer.from_pretrained(directory)


REFUSES_HALF = ("deepseek_v4",)
"""Classes that keep some matrices in float32 in a model of float16, and multiply them with its numbers."""

OVERWRITTEN = {"zaya": "selection_bias"}
"""What a class fills anew behind the file: tests/families/test_reference_faults.py."""

IN_HALF = [
    (model_type, dtype)
    for model_type in MODEL_TYPES
    for dtype in ("bfloat16", "float16")
    if dtype == "bfloat16" or model_type not in REFUSES_HALF
]


@pytest.mark.parametrize(("model_type", "dtype"), IN_HALF)
def test_a_file_in_half_precision_is_the_references_model(model_type: str, dtype: str, tmp_path: Path) -> None:
    """Some classes keep tensors in float32 whatever they are loaded in, and cast buffers that others keep."""
    theirs = reference(model_type)
    theirs.save_pretrained(tmp_path)
    theirs = type(theirs).from_pretrained(tmp_path, dtype=getattr(torch, dtype)).eval()
    ours = UniversalTransformer.from_pretrained(tmp_path, dtype=dtype)
    expected = dict(universal(theirs).named_slots())
    assert {name: each.dtype for name, each in ours.named_parameters()} == {
        name: expected[name].dtype for name, _ in ours.named_parameters()
    }
    kept = {name: slot for name, slot in ours.named_slots() if not name.endswith(OVERWRITTEN.get(model_type, "."))}
    assert kept and all(torch.equal(slot.to(expected[name].dtype), expected[name]) for name, slot in kept.items())
    with torch.no_grad():
        asked = theirs(ids(2, 20), use_cache=quirks(model_type).needs_states)
        assert same(ours(ids(2, 20)).logits, asked.logits)


@pytest.mark.parametrize("model_type", ["deepseek_v4", "zamba", "ernie4_5_moe", "llama"])
def test_the_own_format_in_half_precision_keeps_the_same_in_float32(model_type: str, tmp_path: Path) -> None:
    reference(model_type).save_pretrained(tmp_path / "theirs")
    UniversalTransformer.from_pretrained(tmp_path / "theirs").save_pretrained(tmp_path / "own", format="nexus")
    both = (UniversalTransformer.from_pretrained(tmp_path / name, dtype="bfloat16") for name in ("theirs", "own"))
    theirs, own = ({name: each.dtype for name, each in model.named_parameters()} for model in both)
    assert own == theirs
