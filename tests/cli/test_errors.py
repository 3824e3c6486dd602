"""Everything that can be wrong with what a person gives is one line on stderr and exit status 2."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_universal.cli import app
from tests.cli import support
from tests.cli.support import TRAINED, Result, change_config
from tests.helpers import full_disk

Run = Callable[..., Result]
IDS = ("--ids", "1,2,3")


def one_line(result: Result, *words: str) -> None:
    assert result.status == 2
    assert result.err.startswith("nexus: ") and result.err.count("\n") == 1, result.err
    assert "Traceback" not in result.err and not result.out
    for word in words:
        assert word in result.err


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["bogus"], ["No such command 'bogus'", "nexus --help"]),
        (["inspect", "--bogus"], ["No such option", "--bogus"]),
        (["inspect", TRAINED, "--context", "0"], ["--context"]),
        (["inspect", TRAINED, "--context", "x"], ["--context"]),
        (["inspect"], ["SOURCE", "--family"]),
        (["inspect", TRAINED, "--family", "qwen3"], ["SOURCE", "--family"]),
        (["inspect", "/no/such/place"], ["/no/such/place: no such file or directory"]),
        (["inspect", "./nowhere"], ["./nowhere: no such"]),
        (["inspect", "nowhere"], ["nowhere: no such"]),
        (["inspect", TRAINED / "model.safetensors"], ["model.safetensors: not readable as JSON"]),
        (["inspect", TRAINED.parent], ["holds no config.json"]),
        (["inspect", "--family", "qwen33"], ["model_type 'qwen33' is not known", "did you mean 'qwen3' or "]),
        (["diff", TRAINED], ["Missing argument"]),
        (["diff", TRAINED, "lama"], ["lama: no such"]),
        (["diff", "llama", "/no/such/place"], ["/no/such/place"]),
        (["verify"], ["SOURCE", "--family"]),
        (["verify", "/no/such/place"], ["/no/such/place: no such"]),
        (["verify", "--family", "gemma3_txt"], ["did you mean 'gemma3_text'"]),
        (["verify", "--family", "llama", "--ignore-key", "a"], ["--ignore-key"]),
        (["verify", "--family", "llama", "--draws", "0"], ["--draws"]),
        (["verify", TRAINED, "--dtype", "int8"], ["--dtype", "bfloat16"]),
        (["generate", TRAINED], ["--prompt", "--ids"]),
        (["generate", TRAINED, *IDS, "--prompt", "a"], ["--prompt", "--ids"]),
        (["generate", TRAINED, *IDS, "--chat"], ["--ids", "--chat"]),
        (["generate", TRAINED, *IDS, "--stop", "a"], ["--ids", "--stop"]),
        (["generate", TRAINED, "--prompt", "a", "--system", "b"], ["--system needs --chat"]),
        (["generate", TRAINED, "--prompt", "a", "--prompt", "b", "--stream"], ["--stream needs exactly one"]),
        (["generate", TRAINED, "--prompt", "a", "--json", "--stream"], ["--stream needs exactly one"]),
        (["generate", TRAINED, "--ids", "1,b"], ["--ids '1,b' must be whole numbers"]),
        (["generate", TRAINED, "--ids", "1,1024"], ["input_ids hold 1024, outside the vocabulary", "[0, 1024)"]),
        (["generate", TRAINED, "--ids=-1"], ["input_ids hold -1, outside the vocabulary"]),
        (["generate", TRAINED, "--ids", ",".join(["1"] * 513)], ["the prompt has 513 tokens, the context is 512"]),
        (["generate", TRAINED, "--prompt", "word " * 2000], ["tokens, the context is 512"]),
        (["generate", TRAINED, "--prompt", ""], ["the prompt '' has no token"]),
        (["generate", TRAINED, *IDS, "--max-new-tokens", "0"], ["max_new_tokens = 0 must be at least 1"]),
        (["generate", TRAINED, *IDS, "--temperature", "0"], ["temperature = 0.0 must be greater than 0"]),
        (["generate", TRAINED, *IDS, "--top-p", "1.5"], ["top_p = 1.5 must be in [0, 1]"]),
        (["generate", TRAINED, *IDS, "--top-k", "-1"], ["top_k = -1"]),
        (["generate", TRAINED, *IDS, "--greedy", "--top-p", "0.5"], ["--top-p has no effect with --greedy"]),
        (["generate", TRAINED, *IDS, "--device", "nonsense"], ["device 'nonsense' cannot be used"]),
        (["generate", "/no/such/place", *IDS], ["/no/such/place: no such"]),
        (["generate", TRAINED / "config.json", *IDS], ["is a file"]),
    ],
    ids=lambda value: " ".join(map(str, value))[-60:] if isinstance(value, list) else None,
)
def test_bad_input_is_one_line(args: list[Any], words: list[str], nexus: Run) -> None:
    one_line(nexus(*args), *words)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (support.truncate, ["model.safetensors: truncated: holds"]),
        (support.truncate_shard, ["model-00002-of-00002.safetensors: truncated"]),
        (support.lose_shard, ["model-00002-of-00002.safetensors: this shard is missing"]),
        (support.lose_tensor, ["missing tensors: model.layers.0.mlp.up_proj.weight"]),
        (support.add_tensor, ["unexpected tensors: model.layers.0.extra.weight"]),
        (support.misshape_tensor, ["model.layers.0.mlp.up_proj.weight has shape (191, 96), but n asks for (192, 96)"]),
        (support.pickle_code, ["pytorch_model.bin: not a state dict of plain tensors"]),
        (lambda folder: (folder / "model.safetensors").unlink(), ["holds no weights"]),
        (lambda folder: (folder / "config.json").write_text("{"), ["config.json: not readable as JSON"]),
        (lambda folder: (folder / "config.json").write_text("[]"), ["config.json: must hold a JSON object"]),
        (lambda folder: (folder / "config.json").unlink(), ["holds no config.json"]),
        (lambda folder: (folder / "generation_config.json").write_text("{"), ["generation_config.json: not readable"]),
        (lambda folder: change_config(folder, model_type="qwen7"), ["model_type 'qwen7' is not known", "'qwen3'"]),
        (lambda folder: change_config(folder, model_type=None), ["no model_type"]),
        (lambda folder: change_config(folder, new_key=3), ["qwen3: new_key = 3 is not a key", "--ignore-key new_key"]),
        (lambda folder: change_config(folder, hidden_act="foo"), ["qwen3: hidden_act = 'foo'", "known:", "silu"]),
        (lambda folder: change_config(folder, quantization_config={"quant_method": "gptq"}), ["quantised by 'gptq'"]),
    ],
    ids=range(17),
)
@pytest.mark.parametrize("command", ["generate", "verify"])
def test_a_damaged_checkpoint_is_one_line(
    command: str, damage: Callable[[Path], object], words: list[str], copy: Path, nexus: Run
) -> None:
    damage(copy)
    one_line(nexus(command, copy, *(IDS if command == "generate" else ())), *words)
    assert not (copy / "ran").exists()


def test_a_shard_that_is_whole_loads(copy: Path, nexus: Run) -> None:
    """The damage above is found, not the sharding."""
    whole = nexus("generate", copy, *IDS, "--greedy")
    support.shard(copy)
    assert nexus("generate", copy, *IDS, "--greedy") == whole


def test_a_missing_tokenizer_is_one_line_and_ids_go_without(copy: Path, nexus: Run) -> None:
    (copy / "tokenizer.json").unlink()
    one_line(nexus("generate", copy, "--prompt", "a"), "holds no tokenizer")
    assert nexus("generate", copy, *IDS).status == 0
    (copy / "tokenizer.json").write_text("{}")
    one_line(nexus("generate", copy, "--prompt", "a"), "its tokenizer cannot be read")


def test_a_missing_template_is_one_line(copy: Path, nexus: Run) -> None:
    (copy / "chat_template.jinja").unlink()
    one_line(nexus("generate", copy, "--prompt", "a", "--chat"), "has no chat template")


def test_settings_that_are_not_done_are_one_line_unless_passed_over(copy: Path, nexus: Run) -> None:
    (copy / "generation_config.json").write_text('{"num_beams": 4, "eos_token_id": 0}')
    one_line(nexus("generate", copy, *IDS), "generation_config.json: num_beams = 4 is not supported")
    assert nexus("generate", copy, *IDS, "--ignore-key", "num_beams").status == 0


def test_an_unknown_key_is_passed_over_on_request(copy: Path, nexus: Run) -> None:
    change_config(copy, new_key=3)
    assert nexus("generate", copy, *IDS).status == 2
    assert nexus("generate", copy, *IDS, "--ignore-key", "new_key").status == 0


def test_a_repo_that_cannot_be_reached_is_one_line() -> None:
    """In a process of its own: the hub's library reads its settings once."""
    code = "from nexus_universal.cli import main; main()"
    ran = subprocess.run(
        [sys.executable, "-c", code, "inspect", "no-such-owner/no-such-repo"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    one_line(Result(ran.returncode, ran.stdout, ran.stderr), "no-such-owner/no-such-repo: no such directory")


def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path: Path, nexus: Run) -> None:
    with full_disk(100_000):
        result = nexus("convert", TRAINED, tmp_path / "new")
    one_line(result, f"{tmp_path / 'new'}: could not be written", "File too large")
    assert list(tmp_path.iterdir()) == []


def test_pickled_code_is_one_line_in_a_process_of_its_own_too(copy: Path) -> None:
    """There, what a library warns of would reach stderr."""
    support.pickle_code(copy)
    code = "from nexus_universal.cli import main; main()"
    command = [sys.executable, "-c", code, "generate", str(copy), *IDS]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    one_line(Result(ran.returncode, ran.stdout, ran.stderr), "pytorch_model.bin: not a state dict of plain tensors")
    assert not (copy / "ran").exists()


def test_debug_shows_the_traceback_wherever_it_stands(nexus: Run) -> None:
    for args in (["--debug", "inspect", "/no/such"], ["inspect", "/no/such", "--debug"]):
        result = nexus(*args)
        assert result.status == 2 and "Traceback" in result.err
        assert result.err.splitlines()[-1].startswith("nexus: /no/such: no such")


@pytest.mark.parametrize(
    ("raised", "status", "words"),
    [
        (KeyboardInterrupt(), 130, ""),
        (PermissionError(13, "Permission denied", "/secret"), 2, "nexus: /secret: Permission denied\n"),
        (MemoryError("12 GiB"), 2, "nexus: not enough memory (12 GiB)\n"),
        (RuntimeError("a\nb"), 2, "nexus: internal error, RuntimeError: a b (--debug shows where)\n"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_what_goes_wrong_inside_has_a_status_too(
    raised: BaseException, status: int, words: str, nexus: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object, **settings: object) -> None:
        raise raised

    monkeypatch.setattr(app.inspect.sources, "read_source", fail)
    result = nexus("inspect", TRAINED)
    assert (result.status, result.err) == (status, words)
