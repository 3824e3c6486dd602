"""`UniversalTransformer`: the one class. Built from n; loads, runs, generates and saves any architecture."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import InputError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.source import CONFIG_NAME, NEXUS_TYPE
from nexus_universal.cache import Cache, State
from nexus_universal.cache.kinds import CacheKind, empty
from nexus_universal.checkpoint.initialise import initialise
from nexus_universal.checkpoint.load import slots
from nexus_universal.checkpoint.opened import open_checkpoint
from nexus_universal.checkpoint.quantisation import CONFIG_KEYS
from nexus_universal.checkpoint.save import (
    SHARD_BYTES,
    canonical_tensors,
    published_tensors,
    tokenizer_files,
    write_directory,
)
from nexus_universal.generation.branch import BranchModel
from nexus_universal.generation.loop import generate
from nexus_universal.generation.settings import GENERATION_CONFIG, GenerationSettings
from nexus_universal.layers.block import UniversalTransformerBlock
from nexus_universal.layers.call import Call, CallPlan
from nexus_universal.layers.ends import UniversalEmbedding, UniversalHead
from nexus_universal.layers.members import Members
from nexus_universal.layers.memories import DonorInput, donor_states, remembered
from nexus_universal.layers.norms import UniversalNorm, residual_norms
from nexus_universal.layers.optimise import Optimised, optimise
from nexus_universal.layers.points import Recording, Touch, matching, points, recording, touching
from nexus_universal.layers.quantise import Quantisation
from nexus_universal.layers.sharing import Shares
from nexus_universal.layers.skipping import first_skipped, kept_early
from nexus_universal.layers.streams import UniversalStreams
from nexus_universal.layers.support import refuse_unless


@dataclass(frozen=True, slots=True)
class CausalOutput:
    """What a call returns: `logits` [batch, kept positions, d_vocab], and the cache it extended, if any."""

    logits: Float[Tensor, "batch kept d_vocab"]
    cache: Cache | None = None


class UniversalTransformer(nn.Module):
    """Any transformer, from its n.

    Example:
        >>> model = UniversalTransformer.from_pretrained("Qwen/Qwen3-0.6B")
        >>> model(torch.tensor([[1, 2, 3]])).logits.shape
        torch.Size([1, 3, 151936])
    """

    def __init__(self, n: ArchitectureParameter) -> None:
        """Build with random weights, by the reference's initialisation.

        Raises:
            UnsupportedPart: n is valid, but some part of it has no module yet.
        """
        super().__init__()
        self.n = n
        self.plan = CallPlan(wide=n.embedding.dtype != "model")
        self.settings = GenerationSettings.of(n)
        self.passed_over: dict[str, str] = {}
        self.carried: dict[str, Tensor] = {}
        self.embedding = UniversalEmbedding(n.embedding, layers=len(n.layers))
        self.streams = UniversalStreams(n.streams, d_model=n.d_hidden) if n.streams else None
        self.registers = nn.ParameterDict({each.name: nn.Parameter(torch.empty(n.d_hidden)) for each in n.registers})
        where, shares = {"d_model": n.d_hidden, "plan": self.plan}, Shares()
        layers = [
            UniversalTransformerBlock(program, layer_index=index, path=f"layers.{index}", shares=shares, **where)
            for index, program in enumerate(n.layers)
        ]
        if shares.known:
            self.shared = shares.tree()
        self.layers = nn.ModuleList(layers)
        if n.streams or any(norm is not None and norm.rounding == "native" for norm in residual_norms(n)):
            refuse_unless(n.embedding, dtype="model")  # projections and torch's kernel take no wider input than weights
        self.first_skipped = first_skipped(n)
        self.gradient_checkpointing = False
        self.optimised: Optimised | None = None
        self.final_norm = UniversalNorm.of(n.final_norm, n.d_hidden) if n.final_norm else None
        self.head = UniversalHead.of(n.head, d_model=n.d_hidden, vocab=n.d_vocab, spare=n.embedding.spare or 0)
        if self.device.type != "meta":
            initialise(self, n.text)
        self.members = Members(n.fusion, type(self))

    @property
    def device(self) -> torch.device:
        """Where the token table is."""
        return next(self.embedding.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The token table's dtype."""
        return next(self.embedding.parameters()).dtype

    def forward(
        self,
        input_ids: Int[Tensor, "batch seq"] | None = None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows seq"] | None = None,
        inputs_embeds: Float[Tensor, "batch seq d_hidden"] | None = None,
        cache: Cache | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        capability: str | None = None,
        donors: Mapping[str, DonorInput] | None = None,
    ) -> CausalOutput:
        """Logits for each position (or the last `logits_to_keep`, or the positions that a tensor lists).

        `attention_mask` is 1 (or True) for real tokens, [batch, past + seq], or a ready mask [batch, 1, seq, keys].
        `position_ids` None counts on from the cache. `cache` is extended in place. Of a fused model `capability` names
        the branch that computes, alone; None joins them as n says (then `input_ids` may be [batch, seq, branches]).
        `donors` says what branches read that bridges cross to by byte.

        Raises:
            InputError: ids outside the vocabulary, positions beyond a learned table, a mask of the wrong length, a
                capability that no branch has.
        """
        routed = self.members.routed(capability)
        asked: dict[str, Any] = {"attention_mask": attention_mask, "position_ids": position_ids, "donors": donors}
        asked |= {"inputs_embeds": inputs_embeds, "logits_to_keep": logits_to_keep, "cache": cache}
        if routed == "other":
            return self.members.find(capability, self)(input_ids, **asked)
        if routed == "joined":
            return CausalOutput(logits=self.members.joined(self, input_ids, **asked), cache=cache)
        compute = self.optimised.run if self.optimised else type(self).compute
        return CausalOutput(logits=compute(self, input_ids, **asked), cache=cache)

    def compute(
        self,
        input_ids: Int[Tensor, "batch seq"] | None,
        attention_mask: Tensor | None = None,
        position_ids: Int[Tensor, "rows seq"] | None = None,
        *,
        inputs_embeds: Float[Tensor, "batch seq d_hidden"] | None = None,
        cache: Cache | None = None,
        logits_to_keep: int | Int[Tensor, " kept"] = 0,
        donors: Mapping[str, DonorInput] | None = None,
    ) -> Float[Tensor, "batch kept d_vocab"]:
        """The logits of `forward`, by this model's own layers."""
        registers, call = self._begin(input_ids, attention_mask, position_ids, inputs_embeds, cache, donors)
        new = registers["e"].shape[1]
        for index, layer in enumerate(self.layers):
            if index == self.first_skipped and (kept := kept_early(call, logits_to_keep)):
                registers, call = {name: value[:, -kept:] for name, value in registers.items()}, call.only_last(kept)
            if self.gradient_checkpointing and self.training and cache is None:
                registers = self._gradient_checkpointing_func(layer, registers, call)
            else:
                registers = layer(registers, call)
        x = registers["x"] if self.streams is None else self.streams.merge(registers["x"])
        if self.final_norm is not None:
            x = self.final_norm(x.to(call.dtype) if self.n.embedding.dtype == "float32_layers" else x)
        if isinstance(logits_to_keep, Tensor):
            x = x[:, logits_to_keep, :]
        elif logits_to_keep:
            x = x[:, -logits_to_keep:, :]
        if cache is not None:
            cache.advance(new)
        if self.optimised:
            x = x.clone(memory_format=torch.contiguous_format)  # a slice of what frozen weights read copies the table
        return self.head(x.to(call.dtype), self.embedding.table)

    def _begin(
        self,
        input_ids: Tensor | None,
        mask: Tensor | None,
        positions: Tensor | None,
        inputs_embeds: Tensor | None,
        cache: Cache | None,
        donors: Mapping[str, DonorInput] | None = None,
    ) -> tuple[dict[str, Tensor], Call]:
        """The registers before the first layer, and what all layers look up."""
        if (input_ids is None) == (inputs_embeds is None):
            raise InputError("exactly one of input_ids and inputs_embeds must be given")
        try:
            x, call = self.embedding.begin(
                self.plan, input_ids, inputs_embeds, mask=mask, positions=positions, cache=cache
            )
        except IndexError:
            raise self.embedding.out_of_range(input_ids, self.n) from None
        # e is a view of its own: what its readers' gradients are is summed up before it meets the residual's.
        e = x.view_as(x)
        registers = {"x": x if self.streams is None else self.streams.fill(x), "e": e}
        for name, vector in self.registers.items():
            registers[name] = vector.detach().to(x.dtype).expand_as(x).contiguous()
        if bridges := self.plan.bridges:
            read: dict[str, Any] = {"mask": mask, "positions": positions, "cache": cache, "donors": donors}
            call.memories = remembered(bridges, self.members, input_ids, **read)
        return registers, call

    def residuals(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Tensor | None = None,
        *,
        after: Collection[int],
        position_ids: Int[Tensor, "rows seq"] | None = None,
        cache: Cache | None = None,
    ) -> dict[int, Float[Tensor, "batch seq d_hidden"]]:
        """The residual after so many layers, for each number in `after`; no layer behind the last of them runs."""
        registers, call = self._begin(input_ids, attention_mask, position_ids, None, cache)
        found = {0: registers["x"]}
        for index, layer in enumerate(self.layers[: max(after)], start=1):
            registers = layer(registers, call)
            found[index] = registers["x"]
        if cache is not None:
            cache.advance(input_ids.shape[1])
        return {layers: found[layers] for layers in after}

    @staticmethod
    def _gradient_checkpointing_func(layer: nn.Module, *arguments: Any) -> dict[str, Tensor]:
        """Keep what a layer read and gave; the rest is computed anew on the way back. transformers sets its own."""
        return checkpoint(layer, *arguments, use_reentrant=False)

    def branch(self, capability: str) -> BranchModel:
        """One branch of a fused model, with the face of a model that stands alone.

        Raises:
            InputError: there is none of this name.
        """
        settings = self.members.find(capability, self).settings
        return BranchModel(self, capability, self.n.branches[capability], settings)

    def new_cache(self, batch_size: int = 1, *, capability: str | None = None, kind: CacheKind | None = None) -> Cache:
        """An empty cache, for calls that name the same `capability`; `kind` None is what `optimize` was asked for.

        Its states take the batch of the first call; `batch_size` is accepted for familiarity.
        """
        routed = self.members.routed(capability)
        if routed == "other":
            return self.members.find(capability, self).new_cache(kind=kind)
        if routed == "joined":
            parts = {name: self.new_cache(capability=name, kind=kind) for name in self.members.names}
            return Cache.joined(parts, signature=self.n.hash)
        states: dict[str, State] = self.plan.new_states()
        for layer in self.layers:
            assert isinstance(layer, UniversalTransformerBlock)
            states.update(layer.new_states())
        states |= donor_states(self.plan.bridges, self.members)
        kind = kind or (self.optimised.cache if self.optimised else "exact")
        return empty(states, kind, signature=self.n.hash)

    def optimize(
        self,
        *,
        fuse: bool = True,
        cache: CacheKind = "buffered",
        compile: bool = False,
        quantize: Quantisation | None = None,
        sample: Int[Tensor, "batch seq"] | None = None,
    ) -> UniversalTransformer:
        """Make inference fast, in place, and return self: the same weights, within the floor instead of the same bits.

        `fuse`: one product of what reads the same, torch's norms, faster forms of attention and experts, windows and
        blocks without the keys beyond them. A "buffered" `cache` has room to grow: steps copy nothing; "int8" and
        "int4" round keys and values; of a "static" one every step without gradients finds all memory where it was (on
        a GPU a step is recorded once, as a CUDA graph, and replayed). `compile` compiles each kind of call when it
        first comes, with a static cache. `quantize` rounds projections by torchao. What rounding changes in the logits
        of `sample`, else of random tokens, is printed. Weights are frozen, and not saved.

        Example:
            >>> model = UniversalTransformer.from_pretrained("Qwen/Qwen3-0.6B").optimize()

        Raises:
            InputError: no such kind of cache, or one that cannot be had; no torchao; a fused model cannot be rounded.
        """
        return optimise(self, fuse=fuse, cache=cache, compile=compile, quantize=quantize, sample=sample)

    def generate(
        self,
        input_ids: Int[Tensor, "batch seq"],
        attention_mask: Tensor | None = None,
        *,
        capability: str | None = None,
        **settings: Any,
    ) -> Int[Tensor, "batch total"]:
        """Prompt and continuation, as transformers returns it; `generation.CallSettings` lists the settings.

        Raises:
            InputError: as the loop; a direct sum has several vocabularies, and goes on in one `capability` only.
        """
        if capability is None and self.n.join == "all":
            raise InputError(f"name the capability that goes on: {', '.join(self.n.branches)}")
        return generate(self if capability is None else self.branch(capability), input_ids, attention_mask, **settings)

    def points(self) -> list[str]:
        """The names of all activation points."""
        return points(self)

    def record(self, *patterns: str) -> AbstractContextManager[Recording]:
        """Note what activation points hold in the calls of a `with` block; `*` stands for one piece of a path.

        Example:
            >>> with model.record("layers.*.attention.output", "layers.0.attention.weights") as seen:
            ...     model(ids)

        Raises:
            InputError: a pattern that names no point; the nearest are said.
        """
        return recording(self, patterns)

    def intervene(self, pattern: str, change: Touch) -> AbstractContextManager[None]:
        """Put `change(value)` in the place of what points hold in the calls of a `with` block; None changes nothing.

        Example:
            >>> with model.intervene("layers.3.feed_forward.output", torch.zeros_like):
            ...     model(ids)
        """
        return touching(self, dict.fromkeys(matching(self, pattern), change))

    @classmethod
    def from_pretrained(
        cls,
        source: str | PathLike[str],
        *,
        dtype: str | torch.dtype = "auto",
        device: str | torch.device = "cpu",
        ignore_keys: Iterable[str] = (),
        **hub: Any,
    ) -> UniversalTransformer:
        """Load a checkpoint from a directory or a repo id.

        `dtype` "auto" keeps the checkpoint's own. `hub` takes `revision`, `token`, `cache_dir`, `local_files_only`.
        Tensors are memory-mapped and assigned without a copy wherever the file's layout is the model's; quantised ones
        are dequantised.

        Raises:
            CheckpointError: missing, truncated, unexpected or misshapen tensors; checked before any is read.
            UnsupportedConfig: a config key that the family cannot express, unless in `ignore_keys`.
        """
        opened = open_checkpoint(source, cls, dtype=dtype, ignore_keys=ignore_keys, **hub)
        model = opened.fill(torch.device(device))
        model.passed_over, model.carried = opened.plan.passed_over, opened.carried()
        model.settings = GenerationSettings.load(opened.directory / GENERATION_CONFIG, model.n)
        return model.eval()

    def save_pretrained(
        self,
        directory: str | PathLike[str],
        *,
        format: Literal["huggingface", "nexus"] = "huggingface",
        family: str | None = None,
        tokenizer_from: str | PathLike[str] | None = None,
        shard_bytes: int = SHARD_BYTES,
    ) -> None:
        """Write a new directory: one that `AutoModelForCausalLM.from_pretrained` opens, or (any n) the nexus format.

        `family` writes in the words of another model type, where those can say n: for a model whose towers were left
        out that of its text model, if nothing else is asked for. The tokenizer's files come along from
        the directory `tokenizer_from`.

        Raises:
            UnsupportedConfig: "huggingface", but the family's config cannot say what n is.
            CheckpointError: the directory exists and is not empty, or cannot be written.
        """
        if self.optimised and (self.optimised.fuse or self.optimised.quality):
            raise InputError("this model was optimised: its tensors are no longer those of a checkpoint; save before")
        documents: dict[str, dict[str, Any]] = {}
        if self.settings.raw:
            documents[GENERATION_CONFIG] = self.settings.raw
        metadata = {"format": "pt"}
        if format == "nexus":
            tensors, transposed = canonical_tensors(self)
            metadata["transposed"] = json.dumps(transposed)
            raw = {"model_type": NEXUS_TYPE, "architectures": ["NexusForCausalLM"], "n": json.loads(self.n.to_json())}
        else:
            raw = self.n.to_huggingface(family=family or registry.saved_as(self.n.origin.family))
            tensors = published_tensors(self, registry.family_of(raw).weights, carried=self.carried)
            raw = {key: value for key, value in raw.items() if key not in ("torch_dtype", *CONFIG_KEYS)}
        documents[CONFIG_NAME] = raw | {"dtype": str(self.dtype).removeprefix("torch.")}
        write_directory(
            Path(directory),
            tensors,
            documents=documents,
            companions=tokenizer_files(Path(tokenizer_from)) if tokenizer_from is not None else (),
            metadata=metadata,
            shard_bytes=shard_bytes,
        )

    def named_slots(self) -> Iterator[tuple[str, Tensor]]:
        """Canonical names and tensors of everything that a checkpoint holds."""
        yield from slots(self).items()
