"""Low-rank adapters (arXiv 2106.09685) in PEFT's files: extracted from a difference, and united without loss."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.architecture.source import load_json
from nexus_universal.checkpoint.opened import OpenedCheckpoint, open_checkpoint
from nexus_universal.checkpoint.rules import Direct, Transposed
from nexus_universal.checkpoint.stream import new_directory, published_layouts, read_rows, row_count
from nexus_universal.fusion.merging.measure import tokens_of
from nexus_universal.fusion.merging.preflight import compared
from nexus_universal.fusion.retention import Evidence, RetentionCertificate, Tier, certified
from nexus_universal.layers.linear import Linear
from nexus_universal.parity.modes import compare
from nexus_universal.transformer import UniversalTransformer

Opened = OpenedCheckpoint[UniversalTransformer]

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
PREFIX, A, B = "base_model.model.", ".lora_A.weight", ".lora_B.weight"
PLAIN: Mapping[str, Any] = {"bias": "none", "use_dora": False, "lora_bias": False, "modules_to_save": None}
"""What an adapter must be for W + s·BA to be all of it."""


@dataclass(frozen=True)
class Factors:
    """An addition B A to one matrix, its scale within B."""

    a: Float[Tensor, "rank d_in"]
    b: Float[Tensor, "d_out rank"]


@dataclass(frozen=True)
class Adapter:
    """Low-rank additions by the reference's module names; `transposed` where its matrices are stored [in, out]."""

    factors: Mapping[str, Factors]
    base: str | None = None
    transposed: bool = False

    @classmethod
    def read(cls, directory: str | PathLike[str]) -> Adapter:
        """An adapter that PEFT wrote.

        Raises:
            CheckpointError: files that are missing, or an adapter that is more than W + s·BA.
        """
        from safetensors import safe_open

        root = Path(directory)
        if not (root / CONFIG).is_file() or not (root / WEIGHTS).is_file():
            raise CheckpointError(f"{root}: holds no adapter ({CONFIG} and {WEIGHTS})")
        raw = load_json(root / CONFIG)
        if raw.get("peft_type") != "LORA":
            raise CheckpointError(f"{root}: is a {raw.get('peft_type')} adapter, and LORA is known")
        for key, plain in PLAIN.items():
            if raw.get(key, plain) not in (plain, None, []):
                raise CheckpointError(f"{root}: {key} = {raw[key]!r} is more than W + s·BA")
        factors = {}
        with safe_open(root / WEIGHTS, framework="pt") as file:
            names = set(file.keys())
            modules = sorted({name.removeprefix(PREFIX).removesuffix(A).removesuffix(B) for name in names})
            for module in modules:
                pair = PREFIX + module + A, PREFIX + module + B
                if missing := [name for name in pair if name not in names]:
                    raise CheckpointError(f"{root}: {module} is more, or less, than B A: {missing[0]} is missing")
                a, b = (file.get_tensor(name).float() for name in pair)
                factors[module] = Factors(a, b * _scale(raw, module, a.shape[0]))
        return cls(factors, raw.get("base_model_name_or_path"), bool(raw.get("fan_in_fan_out")))

    def write(self, directory: str | PathLike[str]) -> None:
        """Write a new directory that PEFT opens."""
        with new_directory(Path(directory)) as beside:
            self.fill(beside)

    def fill(self, directory: Path) -> None:
        """Write its files into a directory that exists."""
        from safetensors.torch import save_file

        ranks = {module: each.a.shape[0] for module, each in self.factors.items()}
        common = max(ranks.values())
        apart = {module: rank for module, rank in ranks.items() if rank != common}
        config = {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": self.base,
            "r": common,
            "lora_alpha": common,
            "rank_pattern": apart,
            "alpha_pattern": apart,
            "target_modules": sorted(ranks),
            "fan_in_fan_out": self.transposed,
            "bias": "none",
            "inference_mode": True,
        }
        (directory / CONFIG).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
        tensors = {}
        for module, each in self.factors.items():
            tensors[PREFIX + module + A] = each.a.contiguous()
            tensors[PREFIX + module + B] = each.b.contiguous()
        save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})


def _scale(raw: Mapping[str, Any], module: str, rank: int) -> float:
    """What PEFT multiplies B A by."""
    own = raw.get("alpha_pattern") or {}
    alpha = next((own[key] for key in own if f".{module}".endswith(f".{key}")), raw["lora_alpha"])
    return alpha / (rank**0.5 if raw.get("use_rslora") else rank)


def union(adapters: Sequence[Adapter], *, weights: Sequence[float] | None = None) -> Adapter:
    """One adapter whose addition is Σ w_i B_i A_i = [w_1 B_1 | …] [A_1; …]: exact in real arithmetic (R2).

    Raises:
        InputError: no adapters, or as many weights as there are not; adapters of different layouts or matrices.
    """
    shares = [1.0] * len(adapters) if weights is None else list(weights)
    if not adapters or len(shares) != len(adapters):
        raise InputError(f"{len(adapters)} adapters and {len(shares)} weights: as many of each, and at least one")
    if len({adapter.transposed for adapter in adapters}) > 1:
        raise InputError("adapters of matrices stored [in, out] and [out, in] cannot be one")
    factors: dict[str, Factors] = {}
    for module in dict.fromkeys(module for adapter in adapters for module in adapter.factors):
        own = [(a.factors[module], w) for a, w in zip(adapters, shares, strict=True) if module in a.factors]
        shapes = {(each.b.shape[0], each.a.shape[1]) for each, _ in own}
        if len(shapes) > 1:
            raise InputError(f"{module} is {' and '.join(map(str, sorted(shapes)))} in different adapters")
        factors[module] = Factors(
            torch.cat([each.a for each, _ in own]), torch.cat([each.b * weight for each, weight in own], dim=1)
        )
    return Adapter(factors, adapters[0].base, adapters[0].transposed)


def extract(
    source: str | PathLike[str],
    base: str | PathLike[str],
    out: str | PathLike[str],
    *,
    rank: int,
    text: str | None = None,
) -> RetentionCertificate:
    """Write the adapter of `rank` that comes nearest to a fine-tuned model, by SVD of each matrix's difference.

    R3, measured with the adapter added to the base in float32: the certificate says how much of the differences'
    energy is kept, and which differences no adapter holds (norms, token rows). Exact where every difference has that
    rank and nothing else changed.

    Raises:
        CheckpointError: models of different n.
    """
    if rank < 1:
        raise InputError(f"rank = {rank} must be at least 1")
    tuned, plain = (open_checkpoint(each, UniversalTransformer) for each in (source, base))
    compared(plain.n, tuned.n, str(base), str(source))
    modules = adapted_modules(plain)
    factors: dict[str, Factors] = {}
    kept = total = 0.0
    notes = []
    for name, slot in plain.slots.items():
        rows = row_count(slot)
        difference = read_rows(tuned, name, 0, rows).float() - read_rows(plain, name, 0, rows).float()
        if not difference.any():
            continue
        if name not in modules:
            notes.append(f"{name} differs (norm {float(difference.norm()):.3g}), and is left out: no adapter holds it")
            continue
        u, sigma, vh = torch.linalg.svd(difference, full_matrices=False)
        root = sigma[:rank].sqrt()
        factors[modules[name]] = Factors(root[:, None] * vh[:rank], u[:, :rank] * root)
        kept, total = kept + float(sigma[:rank].square().sum()), total + float(sigma.square().sum())
    if not factors:
        raise InputError(f"{source} and {base} differ in no matrix that an adapter can add to")
    notes.append(f"{kept / total:.4%} of the differences' energy is kept")
    transposed = any(isinstance(layout.rule, Transposed) for layout in _published(plain).values())
    adapter = Adapter(factors, str(base), transposed)
    with new_directory(Path(out)) as beside:
        adapter.fill(beside)
        rebuilt = added(UniversalTransformer.from_pretrained(base, dtype="float32"), adapter, plain)
        original = UniversalTransformer.from_pretrained(source, dtype="float32")
        evidence = _evidence(str(source), original, rebuilt, tuned.directory, text)
        return certified("extract lora", Tier.STATISTICAL, evidence, notes=tuple(notes))


def unite(
    sources: Sequence[str | PathLike[str]],
    out: str | PathLike[str],
    *,
    base: str | PathLike[str],
    weights: Sequence[float] | None = None,
    text: str | None = None,
) -> RetentionCertificate:
    """Write one adapter in the place of several that are added to the same base: R2, shown on the base's logits.

    Raises:
        RetentionError: the one adapter does not give what all of them give; nothing is written.
    """
    adapters = [Adapter.read(source) for source in sources]
    together = union(adapters, weights=weights)
    opened = open_checkpoint(base, UniversalTransformer)
    with new_directory(Path(out)) as beside:
        together.fill(beside)
        once = added(UniversalTransformer.from_pretrained(base, dtype="float32"), together, opened)
        apart = UniversalTransformer.from_pretrained(base, dtype="float32")
        for adapter, weight in zip(adapters, weights or [1.0] * len(adapters), strict=True):
            apart = added(apart, union([adapter], weights=[weight]), opened)
        name = " + ".join(map(str, sources))
        return certified("unite lora", Tier.REAL, _evidence(name, apart, once, opened.directory, text))


@torch.no_grad()
def added(model: UniversalTransformer, adapter: Adapter, opened: Opened) -> UniversalTransformer:
    """The model, its matrices with the adapter's additions.

    Raises:
        CheckpointError: the adapter names a module that the model has not, or does not fit it.
    """
    canonical = {module: name for name, module in adapted_modules(opened).items()}
    for module, each in adapter.factors.items():
        if module not in canonical:
            raise CheckpointError(f"the adapter adds to {module}, which is no matrix of {opened.directory}")
        path, _, leaf = canonical[module].rpartition(".")
        owner = model.get_submodule(path)
        weight = getattr(owner, leaf)
        if weight.shape != (each.b.shape[0], each.a.shape[1]):
            raise CheckpointError(
                f"the adapter's {module} is {(each.b.shape[0], each.a.shape[1])}, the model's {tuple(weight.shape)}"
            )
        setattr(owner, leaf, torch.nn.Parameter(weight + (each.b @ each.a).to(weight.dtype)))
    return model


def adapted_modules(opened: Opened) -> dict[str, str]:
    """Canonical matrix → the module that PEFT adapts, of every projection that lies in a file as it is here."""
    linear = {f"{path}.weight" for path, module in opened.model.named_modules() if isinstance(module, Linear)}
    return {
        name: layout.names[0].removesuffix(".weight")
        for name, layout in _published(opened).items()
        if name in linear and isinstance(layout.rule, Direct | Transposed)
    }


def _published(opened: Opened) -> dict[str, Any]:
    family = opened.n.origin.family
    if family not in registry.known_families() or family is None:
        raise CheckpointError(f"{opened.directory}: no family says what its modules are called")
    return published_layouts(opened.model, registry.family(family).weights)


@torch.no_grad()
def _evidence(
    name: str, before: UniversalTransformer, after: UniversalTransformer, directory: Path, text: str | None
) -> Evidence:
    rows = tokens_of(before, directory, text)
    logits = [torch.cat([model(row).logits[0] for row in rows]) for model in (before, after)]
    return Evidence(source=name, logits=compare(*logits))
