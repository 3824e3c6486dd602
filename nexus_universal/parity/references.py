"""The reference models that ours are held to, and how they are made hard to imitate by accident."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping
from os import PathLike
from typing import Any

import torch
from torch import nn

from nexus_universal.architecture.errors import CheckpointError, UnknownModelType
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.families.shared.family import Family
from nexus_universal.parity.quirks import quirks

COMPUTED = ("slope_rate", "query_decay", "key_decay", "diagonal_decay", "_multipliers", "_vocab_sizes", "_offsets")
"""Buffers that follow from the config: lightning attention's two forms agree for no other decays, and a table of
hashed n-grams has rows for no other numbers."""


SHUT = ("igate_preact.bias",)
"""Biases that start so low that a gate lets nothing in: whatever a memory holds would not show."""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' own warnings and progress bars: the certificate says what matters."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def reference_config(model_type: str, config: Mapping[str, Any]) -> Any:
    """The reference's own config object.

    Raises:
        UnknownModelType: transformers does not know the type.
    """
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if model_type not in CONFIG_MAPPING:
        raise UnknownModelType(f"transformers has no model_type {model_type!r} to compare with")
    with quiet():
        return CONFIG_MAPPING[model_type](**copy.deepcopy(dict(config)))


def reference_and_n(family: Family, config: Mapping[str, Any]) -> tuple[Any, ArchitectureParameter]:
    """The reference's config object for one of this family's configs, and the n of the same.

    Raises:
        UnknownModelType: transformers does not know the type.
    """
    if family.reference is None:
        theirs = reference_config(family.model_type, config)
        return theirs, ArchitectureParameter.from_huggingface(theirs)
    theirs = reference_config(family.reference.model_type, family.reference.config(config))
    return theirs, family.parameter({"model_type": family.model_type, **config})


def build_reference(config: Any, *, dtype: torch.dtype, seed: int, attention: str | None = None) -> Any:
    """A reference model with wide weights: see `widen`."""
    from transformers import AutoModelForCausalLM

    with quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(copy.deepcopy(config), dtype=dtype, attn_implementation=attention)
    if quirks(config.model_type).needs_float32:
        for name, tensor in (*model.named_parameters(), *model.named_buffers()):
            if any(kept in name for kept in model._keep_in_fp32_modules_strict):
                tensor.data = tensor.data.float()
    if tables := quirks(config.model_type).tables:
        for module in (module for module in model.modules() if hasattr(module, tables)):
            setattr(module, tables, getattr(module, tables).float())
            model._init_weights(module)
    widen(model, seed=seed)
    return model.eval()


def load_reference(directory: str | PathLike[str], *, dtype: torch.dtype, attention: str | None = None) -> Any:
    """A reference model with a checkpoint's weights, dequantised by the reference where they are quantised.

    Raises:
        CheckpointError: the reference cannot dequantise them.
    """
    from transformers import AutoConfig, AutoModelForCausalLM

    with quiet():
        config = AutoConfig.from_pretrained(directory, local_files_only=True)
        quantised = getattr(config, "quantization_config", None)
        settings = {"dtype": dtype, "local_files_only": True, "attn_implementation": attention}
        if not quantised:
            return AutoModelForCausalLM.from_pretrained(directory, **settings).eval()
        config.quantization_config = {**quantised, "dequantize": True}
        try:
            model = AutoModelForCausalLM.from_pretrained(directory, config=config, **settings)
        except (ImportError, RuntimeError, ValueError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{directory}: the reference cannot dequantise it ({reason})") from None
    # Tensors that are not quantised it leaves in the file's dtype (core_model_loading.py, `get_new_dtype`).
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model.eval()


@torch.no_grad()
def widen(model: nn.Module, *, seed: int) -> None:
    """Randomise every parameter and every buffer of the state dict, but for tables of sinusoids.

    The usual start (std 0.02, norms at 1, zero biases and routers) hides most faults: a dropped rope scaling, a wrong
    window or a missing norm stay within rounding. Matrices get std 1.5/√fan_in, vectors are perturbed by 0.3.
    """
    generator = torch.Generator().manual_seed(seed)
    computed = {f"{name}.weight" for name, module in model.named_modules() if "Sinusoid" in type(module).__name__}
    names = set(model.state_dict()) - computed
    tensors = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    for name in sorted(names & set(tensors)):
        tensor = tensors[name]
        if name.endswith(COMPUTED):
            continue
        if not tensor.is_floating_point():  # a table of choices: any of as many as it lists
            tensor.copy_(torch.randint(0, tensor.shape[-1], tensor.shape, generator=generator))
            continue
        if name.endswith(SHUT):
            tensor.zero_()
        noise = torch.randn(tensor.shape, generator=generator)
        if tensor.dim() > 1:
            tensor.copy_(noise * 1.5 / tensor.shape[-1] ** 0.5)
        else:
            tensor.add_((noise * 0.3).to(tensor.dtype))


class Rotary:
    """Undoes what calls leave behind in rotary modules: dynamic NTK keeps the longest length it has seen."""

    def __init__(self, model: nn.Module) -> None:
        self.kept = [
            (module, copy.deepcopy(module.__dict__))
            for module in model.modules()
            if "RotaryEmbedding" in type(module).__name__
        ]

    def reset(self) -> None:
        """As if no call had been made."""
        for module, state in self.kept:
            module.__dict__.clear()
            module.__dict__.update(copy.deepcopy(state))
