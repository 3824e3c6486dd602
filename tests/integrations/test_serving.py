"""OpenAI's own client against `nexus serve`, over loopback: what it gets is what the model generates."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from openai import OpenAI
from transformers import AutoTokenizer
from typer.testing import CliRunner

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.cli.app import app
from tests.helpers import ROOT

TRAINED = ROOT / "tests" / "data" / "qwen3_tiny"
PATIENCE = 120.0
MESSAGES = [{"role": "user", "content": "Tell me a story"}]


PAGED = ("--continuous-batching", "--pages", "8", "--batch-tokens", "64")


@pytest.fixture(scope="module", params=["huggingface", "nexus", "paged"])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[OpenAI, str]]:
    """A client, and the name of the model that is served: the checkpoint as it is, and in the nexus format."""
    source: Path = TRAINED
    if request.param == "nexus":
        source = tmp_path_factory.mktemp("served") / "model"
        model = UniversalTransformer.from_pretrained(TRAINED)
        model.save_pretrained(source, format="nexus", tokenizer_from=TRAINED)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-c",
        "from nexus_universal.cli import main; main()",
        "serve",
        str(source),
        "--port",
        str(port),
        *(PAGED if request.param == "paged" else ()),
    ]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    try:
        _wait(process, f"http://localhost:{port}/health")
        yield OpenAI(base_url=f"http://localhost:{port}/v1", api_key="none", timeout=PATIENCE), str(source)
    finally:
        process.terminate()
        process.wait(timeout=30)


def _wait(process: subprocess.Popen[bytes], url: str) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        try:
            urllib.request.urlopen(url, timeout=2).read()
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.2)
    raise AssertionError("the server did not answer")


def expected(new: int) -> str:
    """What the model itself says."""
    tokenizer = AutoTokenizer.from_pretrained(TRAINED)
    prompt = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    model = UniversalTransformer.from_pretrained(TRAINED)
    text = model.generate(prompt["input_ids"], max_new_tokens=new, do_sample=False)
    return tokenizer.decode(text[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True)


def test_what_pages_cannot_serve_is_not_served() -> None:
    latent = str(ROOT / "tests" / "data" / "glm4_moe_lite_tiny")
    found = CliRunner().invoke(app, ["serve", latent, *PAGED])
    assert isinstance(found.exception, InputError) and "layers.0.attention is a LatentAttention" in str(found.exception)
    found = CliRunner().invoke(app, ["serve", str(TRAINED), "--pages", "8"])
    assert "--pages and --batch-tokens belong to --continuous-batching" in str(found.exception)


@pytest.mark.slow
def test_requests_that_come_together_are_answered_alike(served: tuple[OpenAI, str]) -> None:
    client, name = served
    settings = {"model": name, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}

    def ask(_: int) -> str | None:
        return client.chat.completions.create(**settings).choices[0].message.content  # type: ignore[call-overload]

    with ThreadPoolExecutor(4) as crowd:
        assert set(crowd.map(ask, range(6))) == {expected(12)}


@pytest.mark.slow
def test_the_client_reads_what_the_model_says(served: tuple[OpenAI, str]) -> None:
    client, name = served
    torch.manual_seed(0)
    settings = {"model": name, "messages": MESSAGES, "max_tokens": 12, "temperature": 0}
    answer = client.chat.completions.create(**settings)  # type: ignore[call-overload]
    assert answer.choices[0].message.content == expected(12)
    pieces = client.chat.completions.create(**settings, stream=True)  # type: ignore[call-overload]
    assert "".join(piece.choices[0].delta.content or "" for piece in pieces if piece.choices) == expected(12)
