"""What is generated is current, what the README says runs, and the examples do what they show."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

from nexus_universal import families

ROOT = Path(__file__).parent.parent


def module_at(path: Path) -> ModuleType:
    """Import a script by its path."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_generated_documents_are_current() -> None:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "generate_docs.py"), "--check"], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_every_family_has_its_verdict() -> None:
    proven = json.loads((ROOT / "nexus_universal" / "parity" / "proven.json").read_text(encoding="utf-8"))
    assert set(proven["families"]) == set(families.model_types())
    for name, entry in proven["families"].items():
        n = families.find(name).parameter({"model_type": name, **families.find(name).tiny})
        assert entry["float32"]["signature"] == n.signature, f"{name} changed: run scripts/prove_families.py"


def test_the_readme_says_what_it_does(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.DOTALL)
    assert code is not None
    exec(compile(code[1], "README.md", "exec"), {})
    signature, verdict = capsys.readouterr().out.split("\n")[:2]
    assert signature in code[1]
    assert verdict == "bit-equal"


def test_the_page_of_integrations_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of its code, one piece after the other, in a folder where nothing is left behind."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)
    page = (ROOT / "docs" / "INTEGRATIONS.md").read_text(encoding="utf-8")
    pieces = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    assert len(pieces) == 9
    names: dict[str, Any] = {}
    for piece in pieces:
        exec(compile(piece, "INTEGRATIONS.md", "exec"), names)
    whole = names["fast"](names["ids"]).logits
    assert names["beams"].shape[1] > names["ids"].shape[1] and names["ablated"].shape == whole.shape
    assert (names["ablated"] - whole).abs().max() > 0.1
    assert names["share"].parameters < 0.51 * names["n"].count().parameters and names["way"].name == "FSDP 2"
    more, (first, *_) = names["ids"][:, :1], names["texts"]
    assert first.length == names["ids"].shape[1] and torch.equal(
        names["fast"](more, cache=first).logits, names["fast"](more, cache=names["cache"]).logits
    )


@pytest.mark.parametrize(("page", "pieces"), [("FUSION", 4), ("UNION", 1)])
def test_the_pages_of_fusion_run(page: str, pieces: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All of their code: what they promise is asserted there, or refused by the operations themselves."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    (tmp_path / "build").mkdir()
    monkeypatch.chdir(tmp_path)
    found = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8"), re.DOTALL)
    assert len(found) == pieces
    names: dict[str, Any] = {}
    for piece in found:
        exec(compile(piece, f"{page}.md", "exec"), names)


def test_the_page_of_attention_forms_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    page = (ROOT / "docs" / "ATTENTION_FORMS.md").read_text(encoding="utf-8")
    (piece,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    names: dict[str, Any] = {}
    exec(compile(piece, "ATTENTION_FORMS.md", "exec"), names)
    full, shared = (names[name].count(context=4096).cache_bytes_per_token for name in ("n", "shared"))
    assert shared * 2 == full and names["model"].optimised
    assert names["model"](torch.arange(40)[None]).logits.shape == (1, 40, 1024)


def test_the_script_of_attention_forms_says_what_falls() -> None:
    """The columns that are counted, on prompts too short to time."""
    script = module_at(ROOT / "scripts" / "attention_forms.py")
    with torch.no_grad():
        found = {row[0]: row for row in script.rows((64,), 1)}
    assert [found[name][3] for name in (script.FULL, "multi query", "sliding window 512")] == ["4.00", "1.00", "2.00"]
    assert float(found["full, written out"][6]) > float(found[script.FULL][6])


def test_load_and_infer_qwen() -> None:
    completion = module_at(ROOT / "examples" / "load_and_infer_qwen.py").main()
    assert len(completion.split()) > 5


def test_load_and_infer_llama() -> None:
    example = module_at(ROOT / "examples" / "load_and_infer_llama.py")
    assert len(example.main()) == 8
    assert example.main() == example.main()


def test_swap_architecture() -> None:
    moved = module_at(ROOT / "examples" / "swap_architecture.py").main()
    assert set(moved) == {
        "layers.*.mixer.window",
        "layers.*.mixer.rope.theta",
        "layers.*.feed_forward.activation",
        "layers",
    }
    assert min(moved.values()) > 0.01


def test_demo(capsys: pytest.CaptureFixture[str]) -> None:
    assert module_at(ROOT / "examples" / "demo.py").main() == 0
    out = capsys.readouterr().out
    assert out.count("bit-equal") >= 3 * 8
    assert out.count("all equal to the reference") == 3
    assert "DIFFERENT" not in out
