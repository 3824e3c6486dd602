"""`nexus generate` prints what the reference would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from tests.cli.support import TRAINED, Result

Run = Callable[..., Result]
ROOT = Path(__file__).parents[2]
PROMPT = "Create a new"


@pytest.fixture(scope="module")
def reference() -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(TRAINED).eval(), AutoTokenizer.from_pretrained(TRAINED)


def expected(reference: tuple[Any, Any], *prompts: str, seed: int = 0, **settings: Any) -> list[list[int]]:
    """New ids of each row, up to its own end."""
    model, tokenizer = reference
    given = tokenizer(list(prompts), return_tensors="pt", padding=True, padding_side="left", add_special_tokens=True)
    torch.manual_seed(seed)
    rows = model.generate(**given, **settings)[:, given["input_ids"].shape[1] :].tolist()
    eos = model.generation_config.eos_token_id
    ends = [next((at + 1 for at, token in enumerate(row) if token in eos), len(row)) for row in rows]
    return [row[:end] for row, end in zip(rows, ends, strict=True)]


def test_greedy_text_is_the_references(reference: Any, nexus: Run) -> None:
    new = expected(reference, PROMPT, do_sample=False, max_new_tokens=24)
    shown = nexus("generate", TRAINED, "--prompt", PROMPT, "--greedy", "--max-new-tokens", 24)
    text = reference[1].decode(new[0], skip_special_tokens=True)
    assert shown == Result(0, f"{text}\n", "")
    assert nexus("generate", TRAINED, "-p", PROMPT, "--greedy", "--max-new-tokens", 24, "--stream") == shown
    ids = reference[1](PROMPT)["input_ids"]
    listed = nexus("generate", TRAINED, "--ids", ",".join(map(str, ids)), "--greedy", "--max-new-tokens", 24)
    assert listed.out == ",".join(map(str, new[0])) + "\n"


def test_without_options_the_checkpoints_own_settings_count(reference: Any, nexus: Run) -> None:
    """This checkpoint samples, and ends at either of two ids."""
    shown = nexus("generate", TRAINED, "--prompt", PROMPT, "--seed", 3, "--json")
    assert shown.json[0]["ids"] == expected(reference, PROMPT, seed=3)[0]


@pytest.mark.parametrize(
    ("options", "settings"),
    [
        (["--temperature", 1.7], {"temperature": 1.7}),
        (["--top-k", 3], {"top_k": 3}),
        (["--top-p", 0.4], {"top_p": 0.4}),
        (["--min-p", 0.3], {"min_p": 0.3}),
        (["--repetition-penalty", 1.8], {"repetition_penalty": 1.8}),
        (["--sample"], {"do_sample": True}),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_options_are_the_references_settings(
    options: list[Any], settings: dict[str, Any], reference: Any, nexus: Run
) -> None:
    shown = nexus("generate", TRAINED, "--prompt", PROMPT, "--seed", 5, "--max-new-tokens", 12, "--json", *options)
    assert shown.json[0]["ids"] == expected(reference, PROMPT, seed=5, max_new_tokens=12, **settings)[0]


def test_options_for_drawing_draw_though_the_checkpoint_would_not(copy: Any, nexus: Run) -> None:
    (copy / "generation_config.json").write_text('{"eos_token_id": 0}')
    call = ["generate", copy, "--ids", "5,6,7", "--max-new-tokens", 12, "--seed"]
    greedy = {nexus(*call, seed).out for seed in range(4)}
    drawn = {nexus(*call, seed, "--temperature", 3).out for seed in range(4)}
    assert len(greedy) == 1 < len(drawn)


def test_several_prompts_run_as_a_batch(reference: Any, nexus: Run) -> None:
    prompts = [PROMPT, "Create a new object from"]
    new = expected(reference, *prompts, do_sample=False, max_new_tokens=16)
    args = ["generate", TRAINED, *(item for prompt in prompts for item in ("--prompt", prompt)), "--greedy"]
    rows = nexus(*args, "--max-new-tokens", 16, "--json").json
    assert [row["ids"] for row in rows] == new and [row["prompt"] for row in rows] == prompts
    shown = nexus(*args, "--max-new-tokens", 16).out
    assert shown == "\n".join(f"--- {row['prompt']}\n{row['text']}\n" for row in rows)


def test_stop_strings_end_the_text(reference: Any, nexus: Run) -> None:
    call = ["generate", TRAINED, "--prompt", PROMPT, "--greedy", "--max-new-tokens", 30]
    whole = nexus(*call).out.rstrip("\n")
    stop = whole[2:4]
    for more in ([], ["--stop", "\x00"]):
        shown = nexus(*call, "--stop", stop, *more).out.rstrip("\n")
        assert whole.startswith(shown) and stop in shown and len(shown) < len(whole)


@pytest.mark.parametrize("checkpoint", sorted(path.parent for path in TRAINED.parent.glob("*/config.json")), ids=str)
def test_a_chat_goes_through_the_template(checkpoint: Path, nexus: Run) -> None:
    """Where a tokenizer puts a special token in front, the template has done so already."""
    model, tokenizer = (
        AutoModelForCausalLM.from_pretrained(checkpoint).eval(),
        AutoTokenizer.from_pretrained(checkpoint),
    )
    messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is a list?"}]
    given = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    new = model.generate(**given, do_sample=False, max_new_tokens=10)[0, given["input_ids"].shape[1] :]
    options = ["--chat", "--system", "Be brief.", "--greedy", "--max-new-tokens", 10]
    row = nexus("generate", checkpoint, "-p", "What is a list?", *options, "--json").json[0]
    assert row["ids"] == new.tolist() and row["prompt_ids"] == given["input_ids"][0].tolist()
    streamed = nexus("generate", checkpoint, "-p", "What is a list?", *options, "--stream")
    assert streamed.out == row["text"] + "\n"


def test_a_dtype_is_computed_in(nexus: Run) -> None:
    shown = nexus("generate", TRAINED, "--prompt", PROMPT, "--greedy", "--dtype", "bfloat16", "--max-new-tokens", 4)
    assert shown.status == 0 and shown.out


def test_the_script_runs_from_anywhere(tmp_path: Any) -> None:
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r}); from nexus_universal.cli import main; main()"
    args = ["generate", str(TRAINED), "--prompt", PROMPT, "--greedy", "--max-new-tokens", "5"]
    ran = subprocess.run(
        [sys.executable, "-c", code, *args], capture_output=True, text=True, check=False, timeout=120, cwd=tmp_path
    )
    assert (ran.returncode, ran.stderr) == (0, "") and ran.stdout.strip()
