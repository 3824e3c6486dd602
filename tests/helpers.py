"""What the tests share: tiny references with wide weights, the one class beside them, and ids to feed both.

Wide weights (std 1.5/√fan-in, norms and buffers perturbed) make a wrong detail show: with the usual 0.02 it drowns.
"""

from __future__ import annotations

import copy
import functools
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import hypothesis
import torch
import transformers
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING

import nexus_universal
from nexus_universal import ArchitectureParameter, UniversalTransformer, copy_weights, families
from nexus_universal.families.shared.draws import PER_PAIR
from nexus_universal.families.shared.reader import INERT
from nexus_universal.parity import references
from nexus_universal.parity.draws import scans_restart, steps_differ
from nexus_universal.parity.floors import measure_floor
from nexus_universal.parity.modes import Reference, sample
from nexus_universal.parity.quirks import quirks

transformers.logging.set_verbosity_error()
hypothesis.settings.register_profile(
    "tests",
    deadline=None,
    derandomize="NEXUS_EXPLORE" not in os.environ,  # the same draws in every run, unless one goes looking for new ones
    suppress_health_check=[hypothesis.HealthCheck.too_slow, hypothesis.HealthCheck.function_scoped_fixture],
)
hypothesis.settings.load_profile("tests")

ROOT = Path(nexus_universal.__file__).resolve().parents[1]
"""Where the package that is tested lies: subprocesses start there."""

MODEL_TYPES: tuple[str, ...] = tuple(name for name in families.model_types() if not families.find(name).reference)
"""Those that transformers has a class of its own for."""

UNTOLD = ("whisper", *(name for name in MODEL_TYPES if quirks(name).counts_slots))
"""Types whose generation counts pads as positions: nobody tells them otherwise, even if they would listen."""

STEADY: dict[str, dict[str, Any]] = {key: {"time_step_min": 1e-30} for key in ("nemotron_h", "zamba2")}
"""Changes with which a step is a scan of one position: the reference bounds time steps from below in scans only."""


def explicit(model_type: str, **changes: Any) -> dict[str, Any]:
    """A family's tiny config with changes, as the keyword arguments of the reference's config class."""
    values = copy.deepcopy(
        {**families.find(model_type).tiny, **changes}
    )  # config classes write into what they are given
    return {key: _with_factors(value, values, families.find(model_type)) for key, value in values.items()}


def _with_factors(value: Any, values: dict[str, Any], family: families.Family) -> Any:
    """One factor per rotated pair where a draw says so, all different."""
    if not isinstance(value, dict) or PER_PAIR not in value.values():
        return value
    heads = values["hidden_size"] // values["num_attention_heads"]
    turned = values.get("qk_rope_head_dim") or values.get("head_dim") or heads
    pairs = int(turned * (family.partial_rotary_factor or 1.0)) // 2
    factors = {
        name: [1 + step * i for i in range(pairs)] for name, step in (("short_factor", 0.1), ("long_factor", 0.7))
    }
    return {key: factors.get(key, item) for key, item in value.items()}


def raw(model_type: str, **changes: Any) -> dict[str, Any]:
    """The same as a raw config.json."""
    return {"model_type": model_type, **explicit(model_type, **changes)}


def config(model_type: str, **changes: Any) -> PreTrainedConfig:
    """The same as the reference's config object."""
    return CONFIG_MAPPING[model_type](**explicit(model_type, **changes))


def inert_values(model_type: str, key: str) -> tuple[Any, ...]:
    """The values at which a key changes nothing; a reference without fused attention has "eager" for "sdpa",
    and one that takes its experts one after another says nothing of them.

    Beside a tower neither is said: one without fused attention is given another kernel than its text model.
    """
    if key in families.find(model_type).completes:
        return (families.find(model_type).completes[key],) * len(INERT[key])
    if families.find(model_type).sections:
        return tuple(None if value == "sdpa" else value for value in INERT[key])
    model = MODEL_FOR_CAUSAL_LM_MAPPING[type(config(model_type))]
    instead = {} if model._supports_sdpa else {"sdpa": "eager"}
    if not model._can_set_experts_implementation():
        instead["grouped_mm"] = None
    return tuple(instead.get(value, value) if isinstance(value, str) else value for value in INERT[key])


def single_changes(model_type: str) -> list[tuple[str, Any]]:
    """Every (key, value) that the family lets a proof draw."""
    return [(key, value) for key, values in families.find(model_type).draws.items() for value in values]


def labelled(changes: list[tuple[str, str, Any]]) -> list[str]:
    """Readable test ids for (model type, key, value)."""
    return [f"{model_type}-{key}={_short(value)}" for model_type, key, value in changes]


def _short(value: Any) -> str:
    if isinstance(value, dict):
        return "-".join(str(item) for key, item in value.items() if key not in ("short_factor", "long_factor"))
    return str(value).replace("_attention", "")


def widen(model: nn.Module, seed: int = 0) -> nn.Module:
    """The model, every parameter and buffer of its state dict random and wide."""
    references.widen(model, seed=seed)
    return model


def built(settled: Any) -> nn.Module:
    """The reference model of a config; beside towers it may be the text model's own class, on that section."""
    kind = MODEL_FOR_CAUSAL_LM_MAPPING[type(settled)]
    return kind(settled if isinstance(settled, kind.config_class) else settled.get_text_config())


def reference(model_type: str, *, seed: int = 0, **changes: Any) -> nn.Module:
    """The reference model of a tiny config, with wide weights."""
    settled = config(model_type, **changes)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # some parameters (a delta rule's decays) start from a draw that widening only shifts
        model = built(settled)
    return widen(model, seed).eval()


def universal(model: Any) -> UniversalTransformer:
    """The one class with a reference's n and weights."""
    with torch.device("meta"):
        ours = UniversalTransformer(ArchitectureParameter.from_huggingface(model.config))
    copy_weights(model, ours)
    return ours.eval()


@functools.cache
def pair(model_type: str) -> tuple[Any, UniversalTransformer]:
    """Reference and one class of the tiny config. Shared between tests: read only."""
    theirs = reference(model_type)
    return theirs, universal(theirs)


def pieces(model_type: str) -> list[int]:
    """How 20 positions may be cut where the reference's bits are compared: see `scans_restart`."""
    return [14, *(1,) * 6] if scans_restart(pair(model_type)[1].n) else [14, 1, 5]


def rows(model_type: str, count: int) -> int:
    """How many rows go on together where the reference's bits are compared: one where its steps mix them."""
    return 1 if quirks(model_type).steps_alone else count


def ids(batch: int, seq: int, *, seed: int = 1, vocab: int = 97) -> Tensor:
    """Random ids."""
    return torch.randint(0, vocab, (batch, seq), generator=torch.Generator().manual_seed(seed))


def ids_without_pads(batch: int, seq: int, *, seed: int = 1) -> Tensor:
    """Random ids without the pad that RoBERTa and its kin do not count as a position."""
    found = ids(batch, seq, seed=seed)
    return torch.where(found == 1, 2, found)


def same(left: Tensor, right: Tensor) -> bool:
    """Equal in dtype, shape and every bit (but for the sign of zero)."""
    return left.dtype == right.dtype and left.shape == right.shape and torch.equal(left, right)


def furthest(left: Tensor, right: Tensor) -> float:
    """The largest difference, relative to the largest value."""
    return float((left - right).detach().abs().max() / right.detach().abs().max())


@contextmanager
def full_disk(limit: int) -> Iterator[None]:
    """No file of this process grows past `limit` bytes, whoever writes it: the system refuses, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def floor_of(theirs: Any, n: ArchitectureParameter, *, length: int) -> float:
    """How far harmless variations move the reference itself: the proof's own measure."""
    drawn = sample(n.d_vocab, length=length, batch=2, seed=0, pad=n.text.pad)
    return measure_floor(Reference(theirs), drawn, steps=not steps_differ(n)).value
