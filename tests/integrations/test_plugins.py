"""Plugins, on the small trained checkpoints and on the published configs: from initialize to cleanup."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.generation.text import generate_text, load_tokenizer
from nexus_universal.integrations.plugins import (
    ModelPlugin,
    create_glm_4_7_flash_plugin,
    create_qwen3_4b_instruct_2507_plugin,
    create_qwen3_coder_30b_plugin,
)
from tests.helpers import ROOT

DATA = ROOT / "tests" / "data"
LOADABLE: dict[Callable[[], ModelPlugin], Path] = {
    create_glm_4_7_flash_plugin: DATA / "glm4_moe_lite_tiny",
    create_qwen3_4b_instruct_2507_plugin: DATA / "qwen3_tiny",
}
MESSAGES = [{"role": "user", "content": "Tell me a story"}]
SETTINGS: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}


@pytest.mark.parametrize("create", LOADABLE, ids=lambda create: create.__name__)
def test_from_initialize_to_cleanup(create: Callable[[], ModelPlugin]) -> None:
    source, plugin = LOADABLE[create], create()
    n = plugin.initialize(source)
    assert plugin.load_model() is plugin.load_model() and plugin.model.n == n
    model, tokenizer = UniversalTransformer.from_pretrained(source), load_tokenizer(source)
    expected = generate_text(model, tokenizer, "Once upon a time", **SETTINGS)
    assert plugin.generate_text("Once upon a time", **SETTINGS) == expected
    assert (
        plugin.infer({"text": "Once upon a time"}, **SETTINGS)
        == expected
        == plugin.infer("Once upon a time", **SETTINGS)
    )
    assert plugin.chat_completion(MESSAGES, **SETTINGS) == generate_text(model, tokenizer, MESSAGES, **SETTINGS)
    plugin.cleanup()
    with pytest.raises(InputError, match="call load_model"):
        plugin.infer("Once")
    plugin.load_model()
    assert plugin.infer("Once upon a time", **SETTINGS) == expected


def test_what_is_asked_in_the_wrong_order_or_way_is_said(tmp_path: Path) -> None:
    plugin = create_qwen3_coder_30b_plugin()
    with pytest.raises(InputError, match=r"qwen3_coder_30b: call initialize\(\) before load_model"):
        plugin.load_model()
    with pytest.raises(InputError, match="model_type is 'qwen3', but qwen3_coder_30b is a qwen3_moe"):
        plugin.initialize(DATA / "qwen3_tiny")
    with pytest.raises(CheckpointError, match="holds no config"):
        plugin.initialize(tmp_path)
    plugin = create_qwen3_4b_instruct_2507_plugin()
    plugin.initialize(DATA / "qwen3_tiny")
    plugin.load_model()
    with pytest.raises(InputError, match=r"reads \{'text': …\} only, not image"):
        plugin.infer({"text": "What is this?", "image": "cat.png"})
    with pytest.raises(InputError, match="message 0 must be a dict"):
        plugin.chat_completion([])
    with pytest.raises(InputError, match="messages must be a list of dicts"):
        plugin.chat_completion("Hello")  # type: ignore[arg-type]


def test_a_preset_is_called_as_what_creates_it() -> None:
    created = (create_glm_4_7_flash_plugin, create_qwen3_coder_30b_plugin, create_qwen3_4b_instruct_2507_plugin)
    assert [create.__name__ for create in created] == [f"create_{create().preset.name}_plugin" for create in created]
