"""`NexusUnifiedModel`: several models as one, from one file, each answering exactly as it would alone."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.architecture.fusion import Join
from nexus_universal.fusion.branches import join_models
from nexus_universal.fusion.retention import RetentionCertificate
from nexus_universal.fusion.union.archive import Archive
from nexus_universal.fusion.union.branch import load_branch, load_branch_tokenizer
from nexus_universal.fusion.union.executor import ModelExecutor
from nexus_universal.fusion.union.pack import pack
from nexus_universal.fusion.union.registry import Capability, ModelRegistry, ModelSpec
from nexus_universal.fusion.union.router import BitsOf, CapabilityRouter, Route, bits_of
from nexus_universal.fusion.union.sources import Source
from nexus_universal.fusion.union.verify import verify_union
from nexus_universal.generation.text import TOKENIZER_FILES, Message, generate_text
from nexus_universal.transformer import UniversalTransformer

Prompt = str | Sequence[Message]


@dataclass(frozen=True, kw_only=True)
class UnifiedOutput:
    """What was asked for, of which kind it is, who made it and why, and the most bytes of weights that took."""

    output: str
    modality: str
    capabilities: tuple[Capability, ...]
    route: Route
    memory_peak_bytes: int


class NexusUnifiedModel:
    """All models of a union file behind one `generate`; no weights are read before they are needed.

    Example:
        >>> both = NexusUnifiedModel.from_teacher_models({"prose": "models/a", "code": "models/b"}, out="both.nxu")
        >>> both.generate(text="def add(a, b):", capability="code", max_new_tokens=20).output
    """

    def __init__(
        self,
        path: str | PathLike[str],
        *,
        budget_bytes: int | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
    ) -> None:
        """Open a union file; see `ModelExecutor` for what `budget_bytes` counts. None sets no bound.

        Raises:
            CheckpointError: not a union, or a damaged one.
        """
        self.archive = Archive(path)
        budget = sys.maxsize if budget_bytes is None else budget_bytes
        self.executor = ModelExecutor(self.archive, budget, dtype=dtype, device=device)
        self.registry = ModelRegistry(_specs(self.archive))
        self._tokenizers: dict[str, Any] = {}
        self._scratch: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def from_teacher_models(
        cls,
        models: Sequence[Source] | Mapping[str, Source],
        *,
        out: str | PathLike[str] | None = None,
        capabilities: Mapping[str, Iterable[Capability]] | None = None,
        budget_bytes: int | None = None,
        **hub: str,
    ) -> NexusUnifiedModel:
        """Pack checkpoints (directories or repo ids) into one file and open it; nothing is trained.

        Without `out` the file lives as long as the model: `save_pretrained` keeps it. The checkpoints are not needed
        afterwards.

        Raises:
            CheckpointError, InputError: as `pack`.
        """
        scratch = tempfile.TemporaryDirectory(prefix="nexus-union-") if out is None else None
        path = Path(out) if scratch is None and out is not None else Path(scratch.name if scratch else "") / "union.nxu"
        pack(models, path, capabilities=capabilities, **hub)
        model = cls(path, budget_bytes=budget_bytes)
        model._scratch = scratch
        return model

    @classmethod
    def from_pretrained(
        cls,
        path: str | PathLike[str],
        *,
        budget_bytes: int | None = None,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
    ) -> NexusUnifiedModel:
        """Open a union file; the same as calling the class."""
        return cls(path, budget_bytes=budget_bytes, dtype=dtype, device=device)

    def save_pretrained(self, path: str | PathLike[str]) -> None:
        """Write the union to a new file, byte for byte.

        Raises:
            CheckpointError: it exists already, or cannot be written.
        """
        target = Path(path)
        if target.exists():
            raise CheckpointError(f"{target}: exists already; choose a new file")
        beside = target.with_name(f".{target.name}.part")
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.archive.path, beside)
            os.replace(beside, target)
        except OSError as error:
            raise CheckpointError(f"{target}: could not be written ({error.strerror or error})") from None
        finally:
            beside.unlink(missing_ok=True)

    def verify(self) -> RetentionCertificate:
        """Hold every tensor to the hash of what was packed; see `verify_union`."""
        return verify_union(self.archive.path)

    def branch(self, name: str) -> UniversalTransformer:
        """One model by itself, outside the budget, as `UniversalTransformer.from_pretrained` loaded it before."""
        return load_branch(self.archive, name, dtype=self.executor.dtype, device=self.executor.device)

    def joined(self, join: Join = "route") -> UniversalTransformer:
        """All models as one fused `UniversalTransformer`, whole in memory.

        Raises:
            InvalidArchitecture: a single model, or a mixture over different vocabularies.
        """
        return join_models(join, weights=None, **{name: self.branch(name) for name in self.archive.branches})

    @cached_property
    def router(self) -> CapabilityRouter:
        """Chooses the branch of a call that names none; assign another to change how."""
        return CapabilityRouter(self.registry, {name: self._scorer(name) for name in self._with_tokenizer()})

    def generate(
        self,
        *,
        text: Prompt | None = None,
        image: object = None,
        audio: object = None,
        video: object = None,
        output_modality: str = "text",
        capability: str | None = None,
        **settings: Any,
    ) -> UnifiedOutput:
        """Continue a text, or the messages of a conversation.

        `capability` names a branch, or what it must be able to do; without it the router decides. `settings` are those
        of `generation.CallSettings`.

        Raises:
            InputError: nothing to continue, or a modality that no branch reads or writes.
        """
        given = {"text": text, "image": image, "audio": audio, "video": video}
        asked = {name for name, value in given.items() if value is not None}
        self._check_modalities(asked, output_modality)
        if text is None:
            raise InputError("there is nothing to continue: give text")
        last = text if isinstance(text, str) else str(text[-1].get("content", "")) if text else ""
        self.executor.forget_peak()
        route = self.router.choose(last, capability=capability)
        model = self.executor.load(route.name)
        output = generate_text(model, self.tokenizer(route.name), text, **settings)
        assert isinstance(output, str)
        return UnifiedOutput(
            output=output,
            modality=output_modality,
            capabilities=tuple(sorted(self.registry[route.name].capabilities)),
            route=route,
            memory_peak_bytes=self.executor.peak_bytes,
        )

    def tokenizer(self, name: str) -> Any:
        """A branch's own tokenizer.

        Raises:
            CheckpointError: it came without one.
        """
        if name not in self._tokenizers:
            self._tokenizers[name] = load_branch_tokenizer(self.archive, name)
        return self._tokenizers[name]

    def _check_modalities(self, asked: set[str], output_modality: str) -> None:
        reads = {each for spec in self.registry for each in spec.input_modalities}
        writes = {each for spec in self.registry for each in spec.output_modalities}
        if unread := sorted(asked - reads):
            raise InputError(f"{unread[0]}: no branch of {self.archive.path.name} reads it (read: {_listed(reads)})")
        if output_modality not in writes:
            raise InputError(
                f"output_modality {output_modality!r}: no branch of {self.archive.path.name} writes it"
                f" (written: {_listed(writes)})"
            )

    def _with_tokenizer(self) -> list[str]:
        branches = self.archive.branches.values()
        return [branch.name for branch in branches if not branch.files.keys().isdisjoint(TOKENIZER_FILES)]

    def _scorer(self, name: str) -> BitsOf:
        return lambda text: bits_of(self.executor.load(name), self.tokenizer(name), text)


def _specs(archive: Archive) -> list[ModelSpec]:
    """What the file says of its branches. All of them read and write text: towers are a later version's."""
    return [
        ModelSpec(
            model_id=name,
            capabilities=frozenset(map(Capability, branch.capabilities)),
            nbytes=branch.nbytes,
            huggingface_path=branch.source,
            precision=branch.parameter.text.dtype or "float32",
        )
        for name, branch in archive.branches.items()
    ]


def _listed(names: set[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"
