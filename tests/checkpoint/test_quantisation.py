"""Quantised checkpoints as people have them: loaded, verified and saved plain with the reference's bits, or refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, FineGrainedFP8Config
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils.quantization_config import Mxfp4Config

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, UnsupportedConfig
from nexus_universal.checkpoint.dequantise import DequantisedStore
from nexus_universal.checkpoint.files import TensorStore
from nexus_universal.checkpoint.quantisation import METHODS, BlockScaled, quantisation_of
from nexus_universal.parity.references import load_reference
from nexus_universal.parity.verify import verify_checkpoint
from tests.checkpoint.on_disk import SINGLE, changed, logits_of, same_logits, tensors_of
from tests.checkpoint.quantised import block_scaled, config_of, packed, random_values, scaled_names
from tests.helpers import same

BLOCKS = {"qwen3": [16, 8], "qwen3_moe": [8, 12], "glm4_moe_lite": [4, 8], "deepseek_v3": [4, 8]}
"""Blocks that divide most of a tiny model's matrices: the reference's quantiser leaves the others as they are."""

eights = pytest.mark.parametrize("model_type", BLOCKS)


def referred(directory: Path, **settings: Any) -> Any:
    """The reference's own dequantised model."""
    method = config_of(directory)["quantization_config"]["quant_method"]
    config = (Mxfp4Config if method == "mxfp4" else FineGrainedFP8Config)(dequantize=True)
    return AutoModelForCausalLM.from_pretrained(directory, quantization_config=config, dtype="auto", **settings).eval()


def made(model_type: str, target: Path, **config: Any) -> Path:
    """A quantised checkpoint as this type is published."""
    if model_type == "gpt_oss":
        return packed(target, **config)
    return block_scaled(model_type, target, block=BLOCKS[model_type], **config)


# Loaded


@eights
@pytest.mark.parametrize("scale_fmt", ["float", "ue8m0"])
def test_fp8_loads_with_the_references_bits(model_type: str, scale_fmt: str, tmp_path: Path) -> None:
    directory = block_scaled(model_type, tmp_path / "model", block=BLOCKS[model_type], scale_fmt=scale_fmt)
    names = scaled_names(tensors_of(directory))
    assert len(names) > 8 and any("experts" in name for name in names) == (model_type != "qwen3")
    ours = UniversalTransformer.from_pretrained(directory)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16} and ours.passed_over == {}
    assert same(logits_of(ours), logits_of(referred(directory)))


def test_quantised_layers_that_are_passed_over_take_their_scales_along(tmp_path: Path) -> None:
    """Multi-token prediction, in fp8 as the rest."""
    directory = block_scaled("deepseek_v3", tmp_path / "model", block=[4, 8])
    expected = logits_of(UniversalTransformer.from_pretrained(directory))
    name = f"model.layers.{config_of(directory)['num_hidden_layers']}.eh_proj.weight"
    more = {name: random_values(48, 96), f"{name}_scale_inv": torch.ones(12, 12)}
    save_file(tensors_of(directory) | more, directory / SINGLE, metadata={"format": "pt"})
    ours = UniversalTransformer.from_pretrained(directory)
    assert set(ours.passed_over) == {name}
    assert same(logits_of(ours), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_fp8_in_another_dtype(dtype: torch.dtype, tmp_path: Path) -> None:
    """Rounded from the float32 product, not from bfloat16. The reference leaves plain tensors in the file's dtype."""
    directory = block_scaled("qwen3", tmp_path / "model", block=[16, 8])
    ours = UniversalTransformer.from_pretrained(directory, dtype=dtype)
    assert {parameter.dtype for parameter in ours.parameters()} == {dtype}
    theirs = referred(directory) if dtype == torch.bfloat16 else load_reference(directory, dtype=dtype)
    assert same(logits_of(ours), logits_of(theirs))
    config = FineGrainedFP8Config(dequantize=True)
    mixed = AutoModelForCausalLM.from_pretrained(directory, quantization_config=config, dtype=dtype)
    assert {parameter.dtype for parameter in mixed.parameters()} == {dtype, torch.bfloat16}
    if dtype != torch.bfloat16:
        with pytest.raises(RuntimeError, match="dtype"):
            logits_of(mixed)


def test_one_scale_per_matrix_and_static_activations(tmp_path: Path) -> None:
    directory = block_scaled("qwen3", tmp_path / "model", block=None, activation_scheme="static", dequantize=False)
    tensors = tensors_of(directory)
    names = scaled_names(tensors)
    assert tensors[f"{names[0]}_scale_inv"].shape == (1, 1)
    scales = {f"{name.removesuffix('weight')}activation_scale": torch.tensor(0.3) for name in names}
    scalars = {f"{name}_scale_inv": tensors[f"{name}_scale_inv"].reshape(()) for name in names}
    save_file(tensors | scalars | scales, directory / SINGLE, metadata={"format": "pt"})
    ours = UniversalTransformer.from_pretrained(directory)
    assert set(ours.passed_over) == set(scales)
    assert same(logits_of(ours), logits_of(referred(directory)))


def test_mxfp8_has_exponents_as_bytes(tmp_path: Path) -> None:
    directory = block_scaled("qwen3", tmp_path / "model", block=[1, 16], scale_fmt="ue8m0", quant_method="mxfp8")
    tensors = tensors_of(directory)
    names = scaled_names(tensors)
    tensors |= {f"{name}_scale_inv": tensors[f"{name}_scale_inv"].view(torch.uint8) for name in names}
    save_file(tensors, directory / SINGLE, metadata={"format": "pt"})
    assert len(names) > 8
    assert same(logits_of(UniversalTransformer.from_pretrained(directory)), logits_of(referred(directory)))


def test_mxfp4_loads_with_the_references_bits(tmp_path: Path) -> None:
    directory = packed(tmp_path / "model")
    assert "dtype" not in config_of(directory)
    ours = UniversalTransformer.from_pretrained(directory)
    assert {parameter.dtype for parameter in ours.parameters()} == {torch.bfloat16}
    assert same(logits_of(ours), logits_of(referred(directory)))


def test_experts_are_dequantised_into_their_stack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No expert is held twice: each goes where it belongs as it is read."""
    whole: list[str] = []
    read = DequantisedStore.read
    monkeypatch.setattr(DequantisedStore, "read", lambda self, name: whole.append(name) or read(self, name))
    UniversalTransformer.from_pretrained(block_scaled("qwen3_moe", tmp_path / "model", block=[8, 12]))
    assert any("q_proj" in name for name in whole) and not any(".experts." in name for name in whole)


@pytest.mark.parametrize("pickled", [False, True])
def test_a_scale_may_lie_in_another_file(pickled: bool, tmp_path: Path) -> None:
    directory = block_scaled("qwen3", tmp_path / "model", block=[16, 8])
    expected = logits_of(UniversalTransformer.from_pretrained(directory))
    tensors = tensors_of(directory)
    (directory / SINGLE).unlink()
    prefix, suffix = ("pytorch_model", "bin") if pickled else ("model", "safetensors")
    weight_map: dict[str, str] = {}
    for part in ("scales", "others"):
        chosen = {name: t for name, t in tensors.items() if name.endswith("_scale_inv") == (part == "scales")}
        file = f"{prefix}-{part}.{suffix}"
        torch.save(chosen, directory / file) if pickled else save_file(chosen, directory / file)
        weight_map |= dict.fromkeys(chosen, file)
    (directory / f"{prefix}.{suffix}.index.json").write_text(json.dumps({"weight_map": weight_map}))
    assert same(logits_of(UniversalTransformer.from_pretrained(directory)), expected)


# Verified and saved


@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_a_quantised_checkpoint_is_verified(model_type: str, tmp_path: Path) -> None:
    directory = made(model_type, tmp_path / "model", some_key=1)
    key = "quantization_config.some_key"
    certificate = verify_checkpoint(directory, ignore_keys=[key])
    assert certificate.proven and certificate.verdict == "bit-equal"
    assert certificate.ignored_keys == [key]


def test_a_reference_that_cannot_dequantise_is_one_line(tmp_path: Path) -> None:
    directory = block_scaled("qwen3", tmp_path / "model", block=[16, 8])
    tensors = tensors_of(directory)
    name = "model.layers.0.mlp.up_proj.weight"
    tensors[f"{name}_scale_inv"] = torch.ones(3, 6)
    save_file(tensors, directory / SINGLE, metadata={"format": "pt"})
    with pytest.raises(CheckpointError, match="the reference cannot dequantise it") as caught:
        load_reference(directory, dtype=torch.bfloat16)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("format", ["huggingface", "nexus"])
@pytest.mark.parametrize("model_type", ["qwen3", "qwen3_moe", "gpt_oss"])
def test_what_is_saved_is_plain(model_type: str, format: Any, tmp_path: Path) -> None:
    ours = UniversalTransformer.from_pretrained(made(model_type, tmp_path / "model"))
    ours.save_pretrained(tmp_path / "saved", format=format)
    assert {tensor.dtype for tensor in tensors_of(tmp_path / "saved").values()} == {torch.bfloat16}
    assert same(logits_of(UniversalTransformer.from_pretrained(tmp_path / "saved")), logits_of(ours))
    if format == "huggingface":
        assert "quantization_config" not in config_of(tmp_path / "saved")
        opened: Any = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", output_loading_info=True)
        theirs, loading = opened
        assert not any(loading.values()) and theirs.dtype == torch.bfloat16
        assert same(logits_of(theirs.eval()), logits_of(ours))


def test_n_is_that_of_the_plain_checkpoint(tmp_path: Path) -> None:
    directory = block_scaled("qwen3", tmp_path / "model", block=[16, 8])
    plain = {key: value for key, value in config_of(directory).items() if key != "quantization_config"}
    assert UniversalTransformer.from_pretrained(directory).n == ArchitectureParameter.from_huggingface(plain)


# Refused


def refused(directory: Path, kind: type[Exception] = CheckpointError) -> str:
    with pytest.raises(kind) as caught:
        UniversalTransformer.from_pretrained(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


OTHERS = sorted({*AUTO_QUANTIZATION_CONFIG_MAPPING, "bitsandbytes", "modelopt", "exl2"} - set(METHODS))


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
@pytest.mark.parametrize("method", OTHERS)
def test_any_other_method_is_refused_by_name(
    method: str, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TensorStore, "open", None)
    said: dict[str, Any] = {key: {"quant_method": method, "bits": 4}}
    message = refused(changed("qwen3", tmp_path / "model", **said))
    assert message == (
        f"checkpoint quantised by {method!r} (known: fp8, mxfp8, mxfp4): "
        "load the one it was made from, or let its own library write it dequantised"
    )


@pytest.mark.parametrize(
    ("said", "name"),
    [({"load_in_4bit": True}, "'bitsandbytes'"), ({"bits": 4}, "'unknown'"), ("gptq", "'gptq'"), ([4], "[4]")],
)
def test_what_names_no_method_is_refused(said: Any, name: str, tmp_path: Path) -> None:
    assert f"quantised by {name} (known:" in refused(changed("qwen3", tmp_path / "model", quantization_config=said))


@pytest.mark.parametrize("said", [None, {}])
def test_an_empty_section_says_nothing(said: Any, tmp_path: Path) -> None:
    directory = changed("qwen3", tmp_path / "model", quantization_config=said)
    assert same_logits(UniversalTransformer.from_pretrained(directory), "qwen3")


@pytest.mark.parametrize(
    ("method", "setting", "words"),
    [
        ("fp8", {"weight_block_size": [128]}, "weight_block_size = [128] (must be two whole numbers of at least 1"),
        ("fp8", {"weight_block_size": [0, 8]}, "weight_block_size = [0, 8] (must be"),
        ("fp8", {"weight_block_size": 128}, "weight_block_size = 128 (must be of type list"),
        ("fp8", {"fmt": "e5m2"}, "fmt = 'e5m2' (known: 'e4m3')"),
        ("fp8", {"expert_dtype": "fp4"}, "expert_dtype = 'fp4' (known: 'fp8')"),
        ("fp8", {"modules_to_convert": ["embed_tokens"]}, "modules_to_convert = ['embed_tokens']"),
        ("fp8", {"new_key": 3}, "new_key = 3 is not a key"),
        ("mxfp4", {"new_key": 3}, "new_key = 3 is not a key"),
    ],
)
def test_a_setting_that_no_rule_takes_in_is_refused(
    method: str, setting: dict[str, Any], words: str, tmp_path: Path
) -> None:
    said = {"quant_method": method, **setting}
    message = refused(changed("qwen3", tmp_path / "model", quantization_config=said), UnsupportedConfig)
    assert message.startswith(f"{method}: quantization_config.{words}")


@pytest.mark.parametrize(
    "setting",
    [
        {"modules_to_not_convert": ["lm_head"]},
        {"ignored_layers": ["lm_head"]},
        {"modules_to_convert": None},
        {"expert_dtype": "fp8"},
        {"scale_fmt": "ue8m0"},
        {"activation_scheme": "static"},
        {"dequantize": True},
    ],
    ids=str,
)
def test_settings_that_the_tensors_say_or_that_speak_of_products_change_nothing(setting: dict[str, Any]) -> None:
    said = {"quant_method": "fp8", "fmt": "e4m3", "weight_block_size": [4, 8]}
    assert quantisation_of({"quantization_config": said | setting}) == BlockScaled("fp8", (4, 8))


def test_coverage_stays_strict(tmp_path: Path) -> None:
    whole = block_scaled("qwen3_moe", tmp_path / "whole", block=[8, 12])
    name = "model.layers.1.mlp.experts.5.up_proj.weight"
    cases: dict[str, tuple[dict[str, Tensor | None], str]] = {
        "no scale": ({f"{name}_scale_inv": None}, f"{name} stands alone: {name}_scale_inv is missing"),
        "no weight": ({name: None}, f"{name}_scale_inv stands alone: {name} is missing"),
        "neither": ({name: None, f"{name}_scale_inv": None}, f"missing tensors: {name}"),
        "one too many": ({"extra.weight": torch.ones(2)}, "unexpected tensors: extra.weight"),
        "another grid": ({f"{name}_scale_inv": torch.ones(4, 3)}, f"{name}_scale_inv has shape (4, 3), but {name} of"),
        "another shape": (
            {name: torch.ones(24, 36).to(torch.float8_e4m3fn), f"{name}_scale_inv": torch.ones(3, 3)},
            f"{name} has shape (24, 36), but n asks for (24, 48)",
        ),
    }
    for case, (edits, words) in cases.items():
        directory = Path(shutil.copytree(whole, tmp_path / case))
        tensors: dict[str, Any] = tensors_of(whole) | edits
        save_file({key: t for key, t in tensors.items() if t is not None}, directory / SINGLE)
        assert words in refused(directory), case
    data = (whole / SINGLE).read_bytes()
    (whole / SINGLE).write_bytes(data[:-1])
    assert f"{SINGLE}: truncated" in refused(whole)


def test_plain_tensors_under_a_quantised_config_are_not_mistaken(tmp_path: Path) -> None:
    """Where all tensors are plain there is nothing to dequantise, whatever the config says."""
    directory = changed("qwen3", tmp_path / "model", quantization_config={"quant_method": "fp8"})
    assert same_logits(UniversalTransformer.from_pretrained(directory), "qwen3")
