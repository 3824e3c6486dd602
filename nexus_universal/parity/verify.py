"""`nexus verify`: hold the one class to its reference, on a checkpoint or on random draws of a family."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable
from os import PathLike
from pathlib import Path
from typing import Any

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import CheckpointError, InputError, UnknownModelType
from nexus_universal.checkpoint.files import TensorStore, dtype_named, find_checkpoint
from nexus_universal.checkpoint.quantisation import CONFIG_KEYS
from nexus_universal.families.shared.family import Family
from nexus_universal.parity.certificate import Certificate
from nexus_universal.parity.coverage import LineCoverage, forward_lines, recorded
from nexus_universal.parity.draws import draw_configs, longest_sample
from nexus_universal.parity.modes import in_chunks, prefill, sample
from nexus_universal.parity.prove import Pair, Progress, prove, prove_gradients, say
from nexus_universal.parity.references import quiet, reference_and_n
from nexus_universal.transformer import UniversalTransformer

FAMILY_LENGTH, CHECKPOINT_LENGTH = 90, 160


@quiet()
def verify_family(
    model_type: str,
    *,
    draws: int = 12,
    seed: int = 0,
    dtype: str = "float32",
    gradients: bool = True,
    progress: Progress | None = None,
) -> Certificate:
    """Prove a family on `draws` random configs with wide random weights; nothing is downloaded.

    Raises:
        UnknownModelType: no such family, or none of that name in transformers.
        InputError: a dtype in which the reference of such a family would prove nothing.
    """
    family = registry.family(model_type)
    certificate: Certificate | None = None
    lines: LineCoverage | None = None
    torch_dtype = dtype_named(dtype)
    for index, config in enumerate(draw_configs(family, draws, seed=seed)):
        say(progress, f"{model_type}: draw {index + 1} of {draws}")
        reference_cfg, n = reference_and_n(family, config)
        if certificate is None:
            certificate = Certificate(f"family {model_type}", model_type, n.signature, dtype)
            certificate.notes += _borrowed(family, dtype)
        pair = Pair.built(reference_cfg, n, dtype=torch_dtype, seed=seed + index)
        length = longest_sample(n, wanted=FAMILY_LENGTH)
        drawn = sample(n.d_vocab, length=length, batch=3, seed=seed + index, pad=n.text.pad)
        prove(certificate, pair, drawn, config=config)
        lines = lines or forward_lines(pair.reference.model)
        with recorded(lines):
            prefill(pair.reference, drawn)
            in_chunks(pair.reference, drawn)
        if gradients and dtype == "float32":
            prove_gradients(certificate, pair, drawn, config=config)
    assert certificate is not None and lines is not None
    missed = f"; never ran: {', '.join(map(str, lines.missed))}" if lines.missed else ""
    certificate.coverage = f"{lines.share:.0%} of {len(lines.wanted)} in {Path(lines.file).name}{missed}"
    return certificate


def _borrowed(family: Family, dtype: str) -> list[str]:
    """What a certificate says where the reference is another type's class.

    Raises:
        InputError: a dtype in which that class would prove nothing.
    """
    if family.reference is None:
        return []
    if dtype != "float32" and not family.reference.rounds_alike:
        raise InputError(
            f"{family.model_type}: {family.reference.model_type}, which it is held to, rounds {dtype} at other places: "
            "only float32 proves it"
        )
    return [f"transformers has no class for {family.model_type!r}: held to {family.reference.model_type!r}."]


@quiet()
def verify_checkpoint(
    source: str | PathLike[str],
    *,
    ignore_keys: Iterable[str] = (),
    dtype: str = "auto",
    seed: int = 0,
    progress: Progress | None = None,
    **hub: Any,
) -> Certificate:
    """Prove that a checkpoint loses nothing in the one class.

    Raises:
        CheckpointError: it does not load, or does not fit in memory twice (the error says how much that takes).
        UnsupportedConfig: its config holds a key that the family cannot express.
        UnknownModelType: transformers has no class of its own for this type.
    """
    directory, ignore_keys = find_checkpoint(source, **hub), tuple(ignore_keys)
    say(progress, "loading ours")
    model = UniversalTransformer.from_pretrained(directory, dtype=dtype, ignore_keys=ignore_keys)
    store = TensorStore.open(directory)
    double = _must_fit(sum(tensor.nbytes for _, tensor in model.named_slots()), str(source))
    family = registry.family(model.n.origin.family or "")
    if family.reference is not None:
        raise UnknownModelType(
            f"transformers has no class to load {source} with: `nexus verify --family {family.model_type}` holds the "
            f"family to {family.reference.model_type!r}"
        )
    say(progress, "loading the reference")
    pair = Pair.loaded(directory, model)
    certificate = Certificate(
        str(source), model.n.origin.family or "", model.n.signature, str(model.dtype).removeprefix("torch.")
    )
    of_quantisation = [key for key in ignore_keys if key.startswith(CONFIG_KEYS)]
    certificate.ignored_keys = [*model.n.origin.ignored_keys, *of_quantisation]
    certificate.passed_over = model.passed_over
    certificate.hashes = {"n": model.n.hash, "weights": _hash_weights(store)}
    length = min(longest_sample(model.n, wanted=CHECKPOINT_LENGTH), model.n.text.context or CHECKPOINT_LENGTH)
    drawn = sample(model.n.d_vocab, length=length, batch=3, seed=seed, pad=model.n.text.pad)
    if not double:
        certificate.notes.append("The float64 variation was left out of the floor: it does not fit in memory.")
    prove(certificate, pair, drawn, config=None, double=double, progress=progress)
    return certificate


def _must_fit(nbytes: int, source: str) -> bool:
    """Whether the float64 variation fits too.

    Raises:
        CheckpointError: the checkpoint does not fit in memory twice.
    """
    free = os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 0
    available = _available_memory() or free
    if available and 2 * nbytes > available:
        need, have = 2 * nbytes / 2**30, available / 2**30
        raise CheckpointError(
            f"{source}: verifying takes {need:.1f} GiB (ours and the reference), {have:.1f} GiB are free"
        )
    return not available or 8 * nbytes < available


def _available_memory() -> int | None:
    """Linux's own estimate of what can be had without swapping."""
    try:
        for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        return None
    return None


def _hash_weights(store: TensorStore) -> str:
    """A hash over the names, shapes and bytes of the files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted({info.file for info in store.infos.values()}):
        with path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:16]
