"""The one class as a transformers model: Auto classes, `generate`, pipelines, Trainer, PEFT, lm-eval and serving.

Importing this module registers it. `AutoModelForCausalLM.from_pretrained` then opens directories that
`UniversalTransformer.save_pretrained(…, format="nexus")` wrote; `NexusForCausalLM.from_pretrained` opens any.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from os import PathLike
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, GenerationMixin
from transformers.configuration_utils import PreTrainedConfig
from transformers.generation.continuous_batching.cache import PagedAttentionCache
from transformers.generation.continuous_batching.continuous_api import ContinuousBatchingManager
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.modeling_utils import PreTrainedModel

from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.source import NEXUS_TYPE
from nexus_universal.cache import Cache
from nexus_universal.integrations.paged import check_paged, packed_logits
from nexus_universal.integrations.past import NexusCache
from nexus_universal.layers.linear import Linear, PackedLinear
from nexus_universal.transformer import UniversalTransformer

PASSED_OVER: dict[str, str] = {
    **dict.fromkeys(("_from_auto", "_commit_hash", "adapter_kwargs", "code_revision"), "transformers' own bookkeeping"),
    **dict.fromkeys(("trust_remote_code", "weights_only", "use_safetensors"), "remote code and pickles never run"),
    **dict.fromkeys(("low_cpu_mem_usage", "tqdm_class", "max_memory"), "says how, not what is loaded"),
}
"""What transformers' loaders are given that changes no logit here."""

NEUTRAL: dict[str, tuple[Any, ...]] = {
    "attn_implementation": (None, "sdpa"),
    "output_loading_info": (False,),
    "quantization_config": (None,),
    "offload_folder": (None,),
    "subfolder": (None, ""),
    "variant": (None,),
}
"""What must be left alone: the kernel is n's, and rounding is `optimize(quantize=…)`'s."""

SAVED_ALIKE = ("state_dict", "safe_serialization", "is_main_process", "max_shard_size", "save_original_format")
"""What `save_pretrained` is given by Trainer and its kin, and does without."""

ATTENTION_PROJECTIONS = ("query", "key", "value", "output")


class NexusConfig(PreTrainedConfig):
    """n as a transformers config; what transformers asks of any config is read off n."""

    model_type = NEXUS_TYPE

    def __init__(self, n: dict[str, Any] | None = None, **kwargs: Any) -> None:
        if n is not None:
            parameter = ArchitectureParameter.from_json(json.dumps(n))
            self.n: dict[str, Any] = n
            kwargs = {**_said_by(parameter), **kwargs}
        super().__init__(**kwargs)

    @classmethod
    def of(cls, n: ArchitectureParameter, **kwargs: Any) -> NexusConfig:
        """The config of an n."""
        return cls(n=json.loads(n.to_json()), **kwargs)

    @property
    def parameter(self) -> ArchitectureParameter:
        """The n."""
        return ArchitectureParameter.from_huggingface({"model_type": NEXUS_TYPE, "n": getattr(self, "n", None)})


def _said_by(n: ArchitectureParameter) -> dict[str, Any]:
    text = n.text
    return {
        "vocab_size": n.d_vocab,
        "hidden_size": n.d_hidden,
        "num_hidden_layers": len(n.layers),
        "num_attention_heads": n.num_heads,
        "max_position_embeddings": text.context,
        "bos_token_id": text.bos,
        "eos_token_id": list(text.eos) or None,
        "pad_token_id": text.pad,
        "tie_word_embeddings": False,  # tied or not is n's business
    }


class NexusForCausalLM(PreTrainedModel, GenerationMixin):
    """Any n as a `PreTrainedModel`; the modules are those of `model`, a `UniversalTransformer`.

    Example:
        >>> model = NexusForCausalLM.from_pretrained("Qwen/Qwen3-0.6B")
        >>> model.generate(**tokenizer("Once", return_tensors="pt"), num_beams=4)
    """

    config_class = NexusConfig
    config: NexusConfig
    base_model_prefix = "model"
    main_input_name = "input_ids"
    supports_gradient_checkpointing = True
    _supports_sdpa = True

    def __init__(self, config: NexusConfig, model: UniversalTransformer | None = None) -> None:
        super().__init__(config)
        self.model = model or UniversalTransformer(config.parameter)
        if config.dtype is None:
            config.dtype = self.model.dtype
        if self.model.settings.raw:
            self.generation_config = GenerationConfig.from_dict(self.model.settings.raw)

    @classmethod
    def of(cls, model: UniversalTransformer) -> NexusForCausalLM:
        """The same model, weights and all, for transformers."""
        return cls(NexusConfig.of(model.n, dtype=model.dtype), model).train(model.training)

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | PathLike[str],
        *,
        config: Any = None,
        dtype: Any = None,
        torch_dtype: Any = None,
        device_map: Any = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | None = None,
        local_files_only: bool = False,
        ignore_keys: Sequence[str] = (),
        **others: Any,
    ) -> NexusForCausalLM:
        """Open a directory or repo, transformers' own or ours.

        `device_map` takes one device; of what else transformers accepts, that which changes no logit is passed over.

        Raises:
            InputError: a device map of several devices, or an option that this class does not have.
            NexusError: as `UniversalTransformer.from_pretrained`.
        """
        device = _one_device(device_map)
        for name, value in others.items():
            if name not in PASSED_OVER and value not in NEUTRAL.get(name, ()):
                raise InputError(f"NexusForCausalLM.from_pretrained: {name} = {value!r} is not known (or must be None)")
        hub = {"revision": revision, "token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        model = UniversalTransformer.from_pretrained(
            pretrained_model_name_or_path,
            dtype=dtype or torch_dtype or "auto",
            device=device,
            ignore_keys=ignore_keys,
            **{key: value for key, value in hub.items() if value},
        )
        return cls.of(model)

    def save_pretrained(self, save_directory: str | PathLike[str], **others: Any) -> None:  # type: ignore[override]
        """Write the nexus format, which the Auto classes open.

        Raises:
            InputError: an option that this class does not have, such as push_to_hub.
        """
        for name, value in others.items():
            if name not in SAVED_ALIKE and value:
                raise InputError(f"NexusForCausalLM.save_pretrained: {name} = {value!r} is not known")
        self.model.save_pretrained(save_directory, format="nexus")

    def get_input_embeddings(self) -> nn.Module:
        return self.model.embedding

    def get_output_embeddings(self) -> nn.Module:
        return self.model.head

    def resize_token_embeddings(self, *arguments: Any, **settings: Any) -> Any:
        """Refuse.

        Raises:
            InputError: the vocabulary is n's.
        """
        raise InputError("the vocabulary is n's: build another model from n.replace('embedding.vocab', …)")

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows seq"] | None = None,
        past_key_values: NexusCache | None = None,
        inputs_embeds: Float[Tensor, "batch seq d_hidden"] | None = None,
        labels: Int[Tensor, "batch seq"] | None = None,
        use_cache: bool | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        **kwargs: Any,
    ) -> CausalLMOutputWithPast:
        """As transformers' causal language models; `labels` are shifted inside, -100 is left out of the loss.

        Raises:
            InputError: a cache of another kind, or outputs that `model.record` gives instead.
        """
        for name in ("output_hidden_states", "output_attentions"):
            if kwargs.pop(name, None):
                raise InputError(f"{name}: read activation points instead, `with model.model.record(…)`")
        if isinstance(pages := kwargs.get("cache"), PagedAttentionCache):
            assert input_ids is not None and position_ids is not None and attention_mask is not None
            where = {"masks": attention_mask, "pages": pages, "batch": kwargs, "logits_to_keep": logits_to_keep}
            return CausalLMOutputWithPast(logits=packed_logits(self.model, input_ids, position_ids, **where))
        if use_cache is None:
            use_cache = getattr(self.config, "use_cache", self.model.n.text.use_cache) and not self.training
        if past_key_values is None and use_cache:
            past_key_values = NexusCache(self.model.new_cache())
        if past_key_values is not None and not isinstance(past_key_values, NexusCache):
            raise InputError(f"past_key_values is a {type(past_key_values).__name__}: must be a NexusCache")

        def call(cache: Cache | None, kept: int | None = None, **more: Any) -> Tensor:
            """This call, or one with its first tokens only."""
            given, embedded, positions = (
                each if each is None else each[:, :kept] for each in (input_ids, inputs_embeds, position_ids)
            )
            mask = attention_mask
            if mask is not None and kept is not None and cache is not None:
                mask = mask[:, : cache.length + kept]
            return self.model(given, mask, positions, embedded, cache, **more).logits

        cache = None if past_key_values is None else past_key_values.begin(torch.no_grad()(call))
        logits = call(cache, logits_to_keep=logits_to_keep)
        loss = None
        if labels is not None:
            loss = self.loss_function(logits=logits, labels=labels, vocab_size=self.config.vocab_size, **kwargs)
        return CausalLMOutputWithPast(loss=loss, logits=logits, past_key_values=past_key_values)

    def init_continuous_batching(self, *given: Any, **settings: Any) -> ContinuousBatchingManager:
        """As transformers', for `generate_batch` and serving.

        Raises:
            InputError: a mixer of n that pages cannot serve, by name.
        """
        for name, value in check_paged(self.model).said.items():
            setattr(self.config, name, value)
        return super().init_continuous_batching(*given, **settings)

    def _prepare_cache_for_generation(  # type: ignore[override]
        self, generation_config: GenerationConfig, model_kwargs: dict[str, Any], *rest: Any, **named: Any
    ) -> None:
        """Every mixer declares its own state: there is one implementation of a cache."""
        if generation_config.cache_implementation not in (None, "dynamic"):
            raise InputError(
                f"cache_implementation = {generation_config.cache_implementation!r}: must be None, for the cache is n's"
            )
        if model_kwargs.get("past_key_values") is None and generation_config.use_cache is not False:
            model_kwargs["past_key_values"] = NexusCache(self.model.new_cache())
            if generation_config.is_assistant:
                model_kwargs["past_key_values"].activate_past_recording()


def _one_device(device_map: Any) -> torch.device:
    if isinstance(device_map, dict):
        if set(device_map) != {""}:
            raise InputError("device_map names several devices: must be one ('cpu', 'cuda:0', {'': 0})")
        device_map = device_map[""]
    if device_map in ("auto", "balanced", "balanced_low_0", "sequential"):
        device_map = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device("cpu" if device_map is None else device_map)


def lora_targets(model: nn.Module, roles: Sequence[str] = ATTENTION_PROJECTIONS) -> list[str]:
    """Names of the modules that multiply these canonical roles, for PEFT's `target_modules`, packed or not.

    Example:
        >>> LoraConfig(target_modules=lora_targets(model, ["query", "value", "up", "down"]))

    Raises:
        InputError: a role that no module of this model has.
    """
    found = {
        name: set(module.roles) if isinstance(module, PackedLinear) else {name.rpartition(".")[2]}
        for name, module in model.named_modules()
        if isinstance(module, Linear)
    }
    held = set().union(*found.values())
    for role in roles:
        if role not in held:
            raise InputError(f"no module multiplies {role!r} (there are: {', '.join(sorted(held))})")
    return [name for name, those in found.items() if those & set(roles)]


AutoConfig.register(NEXUS_TYPE, NexusConfig)
AutoModelForCausalLM.register(NexusConfig, NexusForCausalLM)
