"""Where settings come from, which are refused, and that every key of the reference is accounted for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, GenerationConfig

from nexus_universal import ArchitectureParameter, NexusError, UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, InputError, UnsupportedConfig
from nexus_universal.generation import GENERATION_CONFIG, GenerationSettings
from nexus_universal.generation.keys import ALWAYS, GREEDY, NEUTRAL, SAMPLING, TAKEN, WITHOUT_EFFECT
from tests.helpers import ids, pair, raw, reference

N = ArchitectureParameter.from_huggingface(raw("llama"))

CHANGES: dict[str, Any] = {
    "num_beams": 4,
    "num_beam_groups": 2,
    "num_return_sequences": 2,
    "constraints": [1],
    "force_words_ids": [[1]],
    "min_length": 3,
    "min_new_tokens": 3,
    "max_time": 1.5,
    "no_repeat_ngram_size": 2,
    "encoder_no_repeat_ngram_size": 2,
    "encoder_repetition_penalty": 1.5,
    "bad_words_ids": [[5]],
    "sequence_bias": [[[5], 1.0]],
    "suppress_tokens": [5],
    "begin_suppress_tokens": [5],
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 5,
    "remove_invalid_values": True,
    "exponential_decay_length_penalty": [2, 1.5],
    "guidance_scale": 1.5,
    "renormalize_logits": True,
    "watermarking_config": {"bias": 2.0},
    "token_healing": True,
    "prompt_lookup_num_tokens": 3,
    "assistant_early_exit": 1,
    "assistant_ensemble_weight": 0.5,
    "speculation_type": "dflash",
    "use_mtp": True,
    "dola_layers": "low",
    "cache_implementation": "quantized",
    "typical_p": 0.9,
    "epsilon_cutoff": 0.1,
    "eta_cutoff": 0.1,
    "top_h": 0.5,
    "penalty_alpha": 0.6,
}
"""A value of every key that changes the ids."""


def written(folder: Path, values: Any) -> Path:
    path = folder / GENERATION_CONFIG
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    return path


def test_every_key_of_the_reference_is_accounted_for() -> None:
    known = {key for key in vars(GenerationConfig()) if key not in ("_original_object_hash", "_mask_length")}
    assert known <= {*TAKEN, *NEUTRAL, *WITHOUT_EFFECT}
    assert set(CHANGES) == set(NEUTRAL)
    assert not ({*TAKEN} & {*NEUTRAL} | {*TAKEN} & {*WITHOUT_EFFECT} | {*NEUTRAL} & {*WITHOUT_EFFECT})


def test_defaults_are_the_references() -> None:
    defaults, plain = GenerationConfig._get_default_generation_params(), GenerationSettings()
    for key in ("do_sample", "temperature", "top_k", "top_p", "repetition_penalty", "use_cache"):
        assert getattr(plain, TAKEN[key]) == defaults[key]
    for key, neutral in NEUTRAL.items():
        assert defaults.get(key) is None or defaults[key] in neutral


@pytest.mark.parametrize("key", NEUTRAL)
def test_what_would_change_the_ids_is_refused_by_name(key: str, tmp_path: Path) -> None:
    settings = GenerationSettings.load(written(tmp_path, {key: CHANGES[key], "do_sample": key in SAMPLING}), N)
    with pytest.raises(UnsupportedConfig, match=key) as caught:
        settings.validate()
    assert "\n" not in str(caught.value) and repr(CHANGES[key]) in str(caught.value)
    settings.updated({key: None}).validate()
    for neutral in NEUTRAL[key]:
        GenerationSettings.load(written(tmp_path, {key: neutral}), N).validate()


def test_what_counts_only_while_sampling_or_not_is_refused_only_then() -> None:
    for key in SAMPLING:
        GenerationSettings().updated({key: CHANGES[key]}).validate()
    for key in GREEDY:
        GenerationSettings().updated({key: CHANGES[key], "do_sample": True}).validate()
    for key in ALWAYS:
        with pytest.raises(UnsupportedConfig):
            GenerationSettings().updated({key: CHANGES[key], "do_sample": True}).validate()


def test_a_call_refuses_before_it_computes(tmp_path: Path) -> None:
    _, ours = pair("llama")
    with pytest.raises(UnsupportedConfig, match="num_beams = 4 is not supported"):
        ours.generate(ids(1, 3), num_beams=4)
    assert ours.generate(ids(1, 3), num_beams=1, max_new_tokens=2).shape == (1, 5)


def test_a_file_is_read_and_kept_as_it_is(tmp_path: Path) -> None:
    values = {
        "eos_token_id": [2, 7],
        "top_p": 1,
        "temperature": None,
        "my_own": {"x": 1},
        "max_length": 33,
        "pad_token_id": 0,
    }
    settings = GenerationSettings.load(written(tmp_path, values), N)
    assert settings == GenerationSettings(eos=(2, 7), max_length=33, pad=0)
    assert settings.raw == values
    assert GenerationSettings.load(written(tmp_path, {"eos_token_id": 5}), N).eos == (5,)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("{", "not readable as JSON"),
        ("[]", "must hold a JSON object"),
        ({"temperature": "hot"}, "temperature = 'hot' must be of type float or int"),
        ({"eos_token_id": [1, "2"]}, "eos_token_id"),
        ({"top_k": 1.5}, "top_k = 1.5 must be of type int"),
        ({"do_sample": 1}, "do_sample"),
        ({"pad_token_id": [0]}, "pad_token_id"),
        ({"max_new_tokens": True}, "max_new_tokens"),
    ],
)
def test_a_damaged_file_is_refused_by_name(values: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises((CheckpointError, UnsupportedConfig), match=GENERATION_CONFIG) as caught:
        GenerationSettings.load(written(tmp_path, values), N)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"temperature": 0}, "temperature = 0.0 must be greater than 0"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": float("nan")}, "temperature"),
        ({"top_k": -1}, "top_k = -1 must be at least 0"),
        ({"top_p": 1.5}, "top_p = 1.5 must be in [0, 1]"),
        ({"top_p": -0.1}, "top_p"),
        ({"min_p": 2}, "min_p = 2.0 must be in [0, 1]"),
        ({"repetition_penalty": 0}, "repetition_penalty"),
        ({"max_new_tokens": 0}, "max_new_tokens = 0 must be at least 1"),
        ({"max_length": 0}, "max_length"),
        ({"seed": 1.5}, "seed"),
        ({"seed": 2**64}, "seed"),
        ({"stop_strings": ["a", ""]}, "stop_strings holds an empty string"),
        ({"temperature": "hot"}, "temperature = 'hot' must be of type float or int"),
        ({"max_tokens": 3}, "max_tokens is not a setting of generate (did you mean 'max_new_tokens'?"),
    ],
)
def test_a_call_out_of_range_is_refused_in_one_line(given: dict[str, Any], message: str) -> None:
    _, ours = pair("llama")
    with pytest.raises(InputError) as caught:
        ours.generate(ids(1, 3), **given)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def checkpoint(folder: Path, generation: dict[str, Any] | None, **config: Any) -> Path:
    """A saved reference whose generation_config.json is this, or missing, and whose config.json holds these keys."""
    reference("llama").save_pretrained(folder)
    (folder / GENERATION_CONFIG).unlink(missing_ok=True)
    if generation is not None:
        written(folder, generation)
    file = folder / "config.json"
    values = {key: value for key, value in json.loads(file.read_text()).items() if not key.endswith("_token_id")}
    file.write_text(json.dumps(values | config))
    return folder


@pytest.mark.parametrize(
    ("generation", "config"),
    [
        ({"eos_token_id": [3, 4], "max_new_tokens": 6}, {"eos_token_id": 9}),
        ({"max_length": 14}, {"eos_token_id": 9}),
        ({}, {"eos_token_id": 9}),
        ({"do_sample": True, "temperature": 2.0, "top_k": None}, {}),
        ({"do_sample": True, "top_k": 0, "use_cache": False}, {}),
        (None, {"eos_token_id": [9, 8], "pad_token_id": 1}),
        (None, {}),
        (None, {"temperature": 0.3, "do_sample": True, "max_length": 17}),
    ],
    ids=str,
)
@pytest.mark.parametrize(
    "call", [{}, {"max_length": 19}, {"max_new_tokens": 50, "eos_token_id": 5}, {"do_sample": True}], ids=str
)
@pytest.mark.filterwarnings("ignore:max_length", "ignore:Using the model-agnostic default")
def test_settings_count_as_in_the_reference(
    generation: dict[str, Any] | None, config: dict[str, Any], call: dict[str, Any], tmp_path: Path
) -> None:
    """A file hides the config's special tokens; without one, config.json's own keys count, not the class's defaults."""
    folder = checkpoint(tmp_path, generation, **config)
    theirs, ours = AutoModelForCausalLM.from_pretrained(folder).eval(), UniversalTransformer.from_pretrained(folder)
    for length in (3, 60):
        if length >= min(call.get("max_length", 64), (generation or config).get("max_length", 64)):
            continue
        torch.manual_seed(1)
        expected = theirs.generate(ids(1, length), **call)
        assert torch.equal(ours.generate(ids(1, length), seed=1, **call), expected)


def test_a_length_that_leaves_no_room_is_refused() -> None:
    _, ours = pair("llama")
    with pytest.raises(InputError, match=r"the prompt has 5 tokens, max_length = 5 leaves no room"):
        ours.generate(ids(1, 5), max_length=5)
    with pytest.raises(InputError, match=r"the prompt has 64 tokens, all of the context of 64"):
        ours.generate(ids(1, 64))


def test_new_tokens_win_over_a_length_and_say_so() -> None:
    _, ours = pair("llama")
    with pytest.warns(UserWarning, match="max_length = 9 is without effect"):
        assert ours.generate(ids(1, 5), max_length=9, max_new_tokens=2).shape == (1, 7)


def test_settings_come_back_byte_for_byte_when_saved(tmp_path: Path) -> None:
    values = {"eos_token_id": [3, 4], "my_own": [1, {"a": None}], "num_beams": 4, "transformers_version": "4.1"}
    folder = checkpoint(tmp_path / "a", values)
    UniversalTransformer.from_pretrained(folder).save_pretrained(tmp_path / "b")
    assert json.loads((tmp_path / "b" / GENERATION_CONFIG).read_text()) == values


def test_a_checkpoint_without_the_file_saves_none(tmp_path: Path) -> None:
    folder = checkpoint(tmp_path / "a", None, eos_token_id=9)
    UniversalTransformer.from_pretrained(folder).save_pretrained(tmp_path / "b")
    assert not (tmp_path / "b" / GENERATION_CONFIG).exists()


def test_settings_of_an_n_are_its_special_tokens() -> None:
    n = ArchitectureParameter.from_huggingface(raw("llama") | {"eos_token_id": [1, 2], "pad_token_id": 3})
    assert GenerationSettings.of(n) == GenerationSettings(eos=(1, 2), pad=3, bos=n.text.bos)


def test_errors_are_of_the_house() -> None:
    assert issubclass(InputError, NexusError)
    assert issubclass(UnsupportedConfig, NexusError)
