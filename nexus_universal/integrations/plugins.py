"""Plugins for inference services: four calls over the one class, and presets that are nothing but data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any

import torch

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.generation.text import Message, generate_text, load_tokenizer
from nexus_universal.transformer import UniversalTransformer


@dataclass(frozen=True, kw_only=True)
class Preset:
    """Where a model is published, and what its checkpoints are: a directory of another type is not taken for it."""

    name: str
    repo: str
    model_type: str


GLM_4_7_FLASH = Preset(name="glm_4_7_flash", repo="zai-org/GLM-4.7-Flash", model_type="glm4_moe_lite")
QWEN3_CODER_30B = Preset(name="qwen3_coder_30b", repo="Qwen/Qwen3-Coder-30B-A3B-Instruct", model_type="qwen3_moe")
QWEN3_4B_INSTRUCT_2507 = Preset(name="qwen3_4b_instruct_2507", repo="Qwen/Qwen3-4B-Instruct-2507", model_type="qwen3")


class ModelPlugin:
    """One model from `initialize` to `cleanup`.

    Example:
        >>> plugin = create_qwen3_4b_instruct_2507_plugin()
        >>> plugin.initialize(device="cuda")
        >>> plugin.load_model()
        >>> plugin.chat_completion([{"role": "user", "content": "Name a prime."}], max_new_tokens=20)
    """

    def __init__(self, preset: Preset) -> None:
        self.preset = preset
        self.n: ArchitectureParameter | None = None
        self._model: UniversalTransformer | None = None
        self._tokenizer: Any = None

    def initialize(
        self,
        source: str | PathLike[str] | None = None,
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        **hub: Any,
    ) -> ArchitectureParameter:
        """Read n and settle where the model will run; no weights are read. `source` None is the published repo.

        Raises:
            InputError: a checkpoint of another type.
            NexusError: as `ArchitectureParameter.from_huggingface`.
        """
        source = source if source is not None else self.preset.repo
        n = ArchitectureParameter.from_huggingface(source, **hub)
        if n.origin.family != self.preset.model_type:
            expected = f"{self.preset.name} is a {self.preset.model_type}"
            raise InputError(f"{source}: model_type is {n.origin.family!r}, but {expected}")
        self._where: dict[str, Any] = {"source": source, "dtype": dtype, "device": device, **hub}
        self._hub, self.n = hub, n
        return n

    def load_model(self) -> UniversalTransformer:
        """Load tokenizer and weights, once.

        Raises:
            InputError: `initialize` was not called.
            NexusError: as `UniversalTransformer.from_pretrained`.
        """
        if self.n is None:
            raise InputError(f"{self.preset.name}: call initialize() before load_model()")
        if self._model is None:
            self._tokenizer = load_tokenizer(self._where["source"], **self._hub)
            self._model = UniversalTransformer.from_pretrained(**self._where)
        return self._model

    @property
    def model(self) -> UniversalTransformer:
        """The loaded model.

        Raises:
            InputError: there is none.
        """
        if self._model is None:
            raise InputError(f"{self.preset.name}: call load_model() first")
        return self._model

    def infer(self, data: str | Mapping[str, Any], **settings: Any) -> str:
        """The continuation of a text, given alone or as {"text": …}.

        Raises:
            InputError: another key, such as an image: this model reads text.
        """
        if isinstance(data, str):
            return self.generate_text(data, **settings)
        others = [key for key in data if key != "text"]
        if others or not isinstance(data.get("text"), str):
            raise InputError(f"{self.preset.name} reads {{'text': …}} only, not {', '.join(others) or 'nothing'}")
        return self.generate_text(data["text"], **settings)

    def generate_text(self, prompt: str, **settings: Any) -> str:
        """The continuation of a prompt; settings as in `generate`.

        Raises:
            InputError: nothing is loaded, or a setting out of range.
        """
        return str(generate_text(self.model, self._tokenizer, prompt, **settings))

    def chat_completion(self, messages: Sequence[Message], **settings: Any) -> str:
        """The answer to a conversation, by the checkpoint's own chat template.

        Raises:
            InputError: as `generate_text`, or messages that the template refuses.
        """
        if isinstance(messages, str) or not all(isinstance(message, Mapping) for message in messages):
            raise InputError("messages must be a list of dicts with 'role' and 'content'")
        return str(generate_text(self.model, self._tokenizer, list(messages) or [{}], **settings))

    def cleanup(self) -> None:
        """Let go of model and tokenizer; `load_model` loads them again."""
        self._model = self._tokenizer = None


def create_glm_4_7_flash_plugin() -> ModelPlugin:
    """GLM-4.7-Flash: latent attention, 64 experts."""
    return ModelPlugin(GLM_4_7_FLASH)


def create_qwen3_coder_30b_plugin() -> ModelPlugin:
    """Qwen3-Coder-30B-A3B: grouped-query attention, 128 experts."""
    return ModelPlugin(QWEN3_CODER_30B)


def create_qwen3_4b_instruct_2507_plugin() -> ModelPlugin:
    """Qwen3-4B-Instruct-2507: dense."""
    return ModelPlugin(QWEN3_4B_INSTRUCT_2507)
