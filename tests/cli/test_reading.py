"""`inspect`, `diff` and `families`: what they say is what n says, at once and without torch."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from nexus_universal import ArchitectureParameter, UniversalTransformer, __version__, families
from nexus_universal.architecture.program import Program
from nexus_universal.architecture.serial import from_data
from tests.cli.support import TRAINED, Result, change_config

Run = Callable[..., Result]


@pytest.mark.parametrize(
    "args", ["--help", "--version", "families", "inspect --family gemma3_text", "diff qwen3 llama"]
)
def test_reading_needs_no_torch(args: str) -> None:
    code = """
import sys
from nexus_universal.cli import run
status = run(sys.argv[1:])
assert not {"torch", "transformers", "huggingface_hub"} & {*sys.modules}
sys.exit(status)
"""
    ran = subprocess.run(
        [sys.executable, "-c", code, *args.split()], capture_output=True, text=True, check=False, timeout=60
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout and not ran.stderr


def test_version_and_help(nexus: Run) -> None:
    assert nexus("--version") == Result(0, f"nexus_universal {__version__}\n", "")
    shown = nexus("--help")
    assert shown.status == 0
    for command in ("inspect", "diff", "families", "verify", "generate"):
        assert command in shown.out
        assert nexus(command, "--help").status == 0


def test_a_bare_command_shows_the_help(nexus: Run) -> None:
    result = nexus()
    assert result.status == 2 and "Usage: nexus" in result.out + result.err


@pytest.mark.parametrize("model_type", families.model_types())
def test_inspect_shows_the_tree_the_counts_and_the_equations(model_type: str, nexus: Run) -> None:
    n = families.find(model_type).example()
    shown = nexus("inspect", "--family", model_type)
    assert (shown.status, shown.err) == (0, "")
    context = n.text.context
    count = n.count(context=context or 1)
    for text in (
        n.signature,
        f"{count.parameters:,}",
        f"{count.flops_per_token:,}",
        n.formula().unicode,
        f"{context:,}" if context else "",
    ):
        assert text in shown.out
    for layer in n.layers:
        for _, branch in layer.all_branches():
            kind = "program" if isinstance(branch.part, Program) else type(branch.part).__name__
            assert f"{branch.name}: {kind}" in shown.out
    without = nexus("inspect", "--family", model_type, "--no-formula")
    assert n.formula().unicode not in without.out and n.signature in without.out


def test_a_tree_says_each_run_of_layers_once(nexus: Run) -> None:
    tree = nexus("inspect", "--family", "qwen3_next", "--no-formula").out
    assert tree.count("GatedDeltaRule") == 1 and tree.count(": Attention") == 1
    assert "layers 0–47: 12 × 4 layers" in tree and "layers 0–2" in tree and "layer 3" in tree
    dense = nexus("inspect", "--family", "glm4_moe_lite", "--no-formula").out
    assert "layer 0" in dense and "layers 1–46" in dense


@pytest.mark.parametrize("source", [TRAINED, TRAINED / "config.json"])
def test_inspect_as_json_is_exact(source: Path, nexus: Run) -> None:
    n = ArchitectureParameter.from_huggingface(TRAINED)
    data = nexus("inspect", source, "--json", "--context", 7).json
    assert from_data(data["n"]) == n
    assert data["count"] == asdict(n.count(context=7))
    assert (data["signature"], data["hash"], data["family"]) == (n.signature, n.hash, "qwen3")
    assert data["formula"] == {"unicode": n.formula().unicode, "latex": n.formula().latex}
    assert data["quantised"] is None and data["ignored_keys"] == []
    assert "formula" not in nexus("inspect", source, "--json", "--no-formula").json


def test_counts_speak_of_the_context_unless_told(nexus: Run) -> None:
    assert nexus("inspect", TRAINED, "--json").json["count"]["context"] == 512
    assert "FLOPs per token at 512" in nexus("inspect", TRAINED).out
    assert "FLOPs per token at 1,000" in nexus("inspect", TRAINED, "--context", 1000).out


def test_a_quantised_config_is_read_and_named(copy: Path, nexus: Run) -> None:
    plain = nexus("inspect", copy, "--json").json
    change_config(copy, quantization_config={"quant_method": "gptq", "bits": 4})
    assert "quantised: gptq, 4 bits" in nexus("inspect", copy).out
    assert nexus("inspect", copy, "--json").json == plain | {"quantised": "gptq, 4 bits"}


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"quant_method": "fp8", "weight_block_size": [64, 128]}, "fp8, blocks of 64 × 128"),
        ({"quant_method": "fp8", "weight_block_size": None}, "fp8, a scale per matrix"),
        ({"quant_method": "mxfp4"}, "mxfp4, blocks of 32"),
        ({"quant_method": "fp8", "new_key": 1}, "fp8"),
        ({"new_key": 1}, "unknown method"),
    ],
)
def test_a_method_that_loads_is_said_with_its_blocks(said: dict[str, Any], words: str, copy: Path, nexus: Run) -> None:
    change_config(copy, quantization_config=said)
    assert nexus("inspect", copy, "--json").json["quantised"] == words
    assert f"quantised: {words} (n and" in nexus("inspect", copy).out


def test_ignored_keys_are_named(copy: Path, nexus: Run) -> None:
    change_config(copy, new_key=1)
    assert nexus("inspect", copy).status == nexus("diff", copy, TRAINED).status == 2
    assert nexus("inspect", copy, "--ignore-key", "new_key", "--json").json["ignored_keys"] == ["new_key"]
    assert "ignored keys: new_key" in nexus("inspect", copy, "--ignore-key", "new_key").out
    assert nexus("diff", copy, TRAINED, "--ignore-key", "new_key", "--json").json["equal"]


def test_nexus_checkpoints_are_read(tmp_path: Path, nexus: Run) -> None:
    model = UniversalTransformer.from_pretrained(TRAINED)
    model.save_pretrained(tmp_path / "ours", format="nexus")
    for source in (tmp_path / "ours", tmp_path / "ours" / "config.json"):
        assert nexus("inspect", source, "--json").json["hash"] == model.n.hash
        assert nexus("diff", source, TRAINED, "--json").json["equal"]


def test_diff_of_equals_says_so(nexus: Run) -> None:
    assert "equal: the same n" in nexus("diff", TRAINED, TRAINED / "config.json").out


def test_diff_as_json_lists_every_field(nexus: Run) -> None:
    a, b = (ArchitectureParameter.from_huggingface({"model_type": name}) for name in ("qwen3", "llama"))
    data = nexus("diff", "qwen3", "llama", "--json").json
    assert not data["equal"] and (data["a"]["signature"], data["b"]["signature"]) == (a.signature, b.signature)
    assert [found["path"] for found in data["differences"]] == [change.path for change in a.diff(b)]
    by_path = {found["path"]: found for found in data["differences"]}
    assert (by_path["embedding.vocab"]["a"], by_path["embedding.vocab"]["b"]) == (a.d_vocab, b.d_vocab)
    assert "b" not in by_path["attention.qk_norm.is"] and by_path["attention.qk_norm.is"]["a"] == "QueryKeyNorm"


def test_diff_gathers_layers_and_the_fields_of_a_part(nexus: Run) -> None:
    shown = nexus("diff", "qwen3", "llama").out
    lines = [line for line in shown.splitlines() if "qk_norm" in line]
    assert len(lines) == 1 and lines[0].startswith("layers.0-31.attention.qk_norm ")
    assert "QueryKeyNorm norm.kind=rms norm.eps=1e-06" in lines[0] and lines[0].rstrip().endswith("None")
    assert "3 differences" in shown
    experts = nexus("diff", "qwen3", "qwen3_moe").out
    assert experts.count("feed_forward") == 1 and "MixtureOfExperts experts=128 per_token=8" in experts


def test_why_a_type_is_refused_or_what_was_proven_of_it(nexus: Run) -> None:
    refused = nexus("families", "--why", "reformer")
    assert (refused.status, refused.out) == (0, f"reformer is refused: it {families.REFUSED['reformer']}\n")
    shown = nexus("families", "--why", "qwen3").out
    assert "qwen3: Qwen3" in shown and "float32: bit-equal" in shown and "cached decode: bit-equal" in shown
    assert nexus("families", "--why", "qwen3", "--json").json["proven"]["bfloat16"]["verdict"] == "bit-equal"
    assert nexus("families", "--why", "quen3").status == 2


def test_families_lists_them_all(nexus: Run) -> None:
    shown, data = nexus("families"), nexus("families", "--json").json
    assert [row["type"] for row in data] == list(families.model_types())
    for row in data:
        assert row["type"] in shown.out and row["title"] in shown.out and row["mixers"]
        assert row["feed_forwards"] or row["type"] in ("mamba", "mamba2", "falcon_mamba", "rwkv")  # rwkv's is recurrent
    by_type = {row["type"]: row for row in data}
    assert by_type["qwen3_next"]["mixers"] == ["gated delta rule", "attention"]
    assert by_type["cohere2"]["mixers"] == ["attention (window 4096)", "attention (no rope)"]
    assert by_type["glm4_moe_lite"]["feed_forwards"] == ["feed forward", "mixture of experts"]


def test_a_directory_named_like_a_model_type_is_that_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, nexus: Run
) -> None:
    (tmp_path / "llama").mkdir()
    (tmp_path / "llama" / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 3}))
    monkeypatch.chdir(tmp_path)
    assert nexus("inspect", "llama", "--json").json["signature"].count("3 × [")
    assert nexus("inspect", "--family", "llama", "--json").json["signature"].count("32 × [")
