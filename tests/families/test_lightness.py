"""Reading an n is quick and pulls in nothing heavy: no torch, no transformers until something needs them."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from nexus_universal import ArchitectureParameter, UniversalTransformer
from tests.families.test_published import CONFIGS
from tests.helpers import ROOT, pair

MILLISECONDS = 50
"""What the test tolerates on a busy machine; the promise is 10."""


@pytest.mark.parametrize("name", CONFIGS)
def test_a_config_becomes_n_in_milliseconds(name: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS[name]))
    took = []
    for _ in range(7):
        started = time.process_time()
        ArchitectureParameter.from_huggingface(tmp_path)
        took.append(1000 * (time.process_time() - started))
    print(f"{name}: {statistics.median(took):.1f} ms")
    assert statistics.median(took) < MILLISECONDS


def run(code: str, *arguments: str) -> str:
    """Run code in a fresh process; what it prints at the end."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


HEAVY = """
import json, sys
def heavy():
    wanted = {"torch", "transformers", "safetensors", "numpy", "huggingface_hub"}
    return sorted({name.split(".")[0] for name in sys.modules} & wanted)
"""


def test_importing_and_reading_n_need_neither_torch_nor_transformers(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(CONFIGS["GLM-4.7-Flash"]))
    code = (
        HEAVY
        + """
import nexus_universal
from nexus_universal import ArchitectureParameter, NexusError
after_import = heavy()
n = ArchitectureParameter.from_huggingface(sys.argv[1])
n.signature, n.to_json(), n.num_heads, n.diff(n), n.replace("head.softcap", 3.0), n.to_huggingface(), n.count()
print(json.dumps([after_import, heavy()]))
"""
    )
    assert json.loads(run(code, str(tmp_path))) == [[], []]


def test_loading_and_running_need_no_transformers(tmp_path: Path) -> None:
    pair("qwen3_moe")[1].save_pretrained(tmp_path / "model")
    code = (
        HEAVY
        + """
from nexus_universal import UniversalTransformer
import torch
model = UniversalTransformer.from_pretrained(sys.argv[1])
cache = model.new_cache()
model(torch.tensor([[1, 2, 3]]), cache=cache)
model(torch.tensor([[4]]), cache=cache)
print("transformers" in heavy())
"""
    )
    assert run(code, str(tmp_path / "model")) == "False"


def test_lazy_names_are_what_they_say() -> None:
    import nexus_universal
    from nexus_universal import transformer

    assert nexus_universal.UniversalTransformer is transformer.UniversalTransformer is UniversalTransformer
    for name in nexus_universal.__all__:
        assert getattr(nexus_universal, name) is not None
    with pytest.raises(AttributeError, match="nothing_like_it"):
        _ = nexus_universal.nothing_like_it
