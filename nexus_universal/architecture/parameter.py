"""`ArchitectureParameter`, the n of the formula: everything in which transformers differ, as data."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable
from typing import Any

from nexus_universal.architecture import registry
from nexus_universal.architecture.bridge import Bridge
from nexus_universal.architecture.count import Count, count
from nexus_universal.architecture.distance import distance
from nexus_universal.architecture.ends import Embedding, Head, Origin, Register, Streams, Text
from nexus_universal.architecture.errors import InvalidArchitecture, UnsupportedConfig
from nexus_universal.architecture.feed_forward import FeedForward, MixtureOfExperts
from nexus_universal.architecture.formula import Formula, formula
from nexus_universal.architecture.fusion import Fusion, Join, bridges_of, members_of
from nexus_universal.architecture.mixers import Attention
from nexus_universal.architecture.part import Part, part
from nexus_universal.architecture.paths import leaves, ranges, replaced
from nexus_universal.architecture.position import LearnedPositions, Norm, Rope, SinusoidPositions
from nexus_universal.architecture.program import Branch, Program
from nexus_universal.architecture.serial import canonical_hash, from_data, to_data
from nexus_universal.architecture.source import NEXUS_TYPE, read_config
from nexus_universal.architecture.summary import layers_line
from nexus_universal.architecture.validate import problems


@dataclasses.dataclass(frozen=True, slots=True)
class Difference:
    """One place in which two n's differ; `layers` are the indices it holds for, `path` is relative to a layer then."""

    path: str
    left: Any
    right: Any
    layers: tuple[int, ...] = ()

    def __str__(self) -> str:
        where = f"layers.{ranges(self.layers)}.{self.path}" if self.layers else self.path
        return f"{where}: {self.left!r} → {self.right!r}"


class _Absent:
    def __repr__(self) -> str:
        return "—"


ABSENT = _Absent()
"""Stands in a `Difference` for a field that only the other n has."""


ENDS = ("embedding", "final_norm", "head", "registers", "streams", "fusion")
"""What of n is not its layers, and counts."""


@part
class ArchitectureParameter(Part):
    """n = (embedding, layers, final_norm, head), and the registers and streams that a few models add.

    A fused model is an n with a `fusion`: the members that stand beside it, and how they are joined.

    `text` and `origin` ride along outside equality, `diff` and `signature`.

    Example:
        >>> n = ArchitectureParameter.from_huggingface({"model_type": "qwen3", "num_hidden_layers": 2})
        >>> n.replace("layers.*.mixer.window", 4096).layers[0].steps[0].branches[0].part.window
        4096
    """

    embedding: Embedding
    layers: tuple[Program, ...]
    final_norm: Norm | None
    head: Head
    registers: tuple[Register, ...] = ()
    streams: Streams | None = None
    fusion: Fusion | None = None
    text: Text = dataclasses.field(default=Text(), compare=False)
    origin: Origin = dataclasses.field(default=Origin(), compare=False)

    @classmethod
    def from_huggingface(cls, source: Any, *, ignore_keys: Iterable[str] = (), **hub: Any) -> ArchitectureParameter:
        """Read the n of a repo id, a directory, a config.json, a dict or a transformers config object.

        A config of our own format holds n itself.

        `hub` takes `revision`, `token`, `cache_dir` and `local_files_only`. No weights are read and transformers is not
        imported.

        Raises:
            UnsupportedConfig: a key or value that the family cannot express, unless it is in `ignore_keys`.
            UnknownModelType: no family has this `model_type`; the nearest known one is named.
        """
        raw = read_config(source, **hub)
        if raw.get("model_type") == NEXUS_TYPE:
            return cls._from_data(raw.get("n"))
        return registry.family_of(raw).parameter(raw, ignore_keys=tuple(ignore_keys))

    def to_huggingface(self, *, family: str | None = None) -> dict[str, Any]:
        """A config.json that reads back as this n: its own, with what was changed since; or `family`'s.

        Raises:
            UnsupportedConfig: n has no family and none is named, or the family's config cannot say what n is.
            UnknownModelType: no such family.
        """
        if self.fusion is not None:
            raise UnsupportedConfig("a fused n has no config of transformers: save it as 'nexus'")
        name = family or self.origin.family
        if name is None:
            raise UnsupportedConfig(
                "this n was not read from a HuggingFace config: name a family, or save it as 'nexus'"
            )
        return registry.family(name).config(self)

    def to_json(self, *, indent: int | None = 2) -> str:
        """Exact JSON: `from_json` gives back an equal n, floats and all."""
        return json.dumps(to_data(self), indent=indent)

    @classmethod
    def from_json(cls, text: str) -> ArchitectureParameter:
        """Read what `to_json` wrote, and validate it.

        Raises:
            InvalidArchitecture: not JSON, an unknown part or field, or contradicting fields.
        """
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise InvalidArchitecture(f"not JSON: {error}") from None
        return cls._from_data(data)

    @classmethod
    def _from_data(cls, data: Any) -> ArchitectureParameter:
        n = from_data(data)
        if not isinstance(n, cls):
            raise InvalidArchitecture(f"n.part = {type(n).__name__!r} (must be 'ArchitectureParameter')")
        return n.validate()

    def replace(self, path: str, value: Any) -> ArchitectureParameter:
        """A validated copy with `value` at `path`: `layers.*.mixer.window`, `layers.3.attention.heads`, `head.softcap`.

        Raises:
            InvalidArchitecture: the path names nothing, or the result contradicts itself.
        """
        return replaced(self, path, value).validate()

    def validate(self) -> ArchitectureParameter:
        """Return self.

        Raises:
            InvalidArchitecture: naming the field, its value and what would be allowed.
        """
        for path, value, message in problems(self):
            raise InvalidArchitecture(f"{path} = {value!r} {message}")
        return self

    def diff(self, other: ArchitectureParameter) -> list[Difference]:
        """Where two n's differ, equal differences of several layers gathered into one entry."""
        found: list[Difference] = []
        for name in ENDS:
            left, right = leaves(getattr(self, name), name), leaves(getattr(other, name), name)
            found += _leaf_differences(dict(left), dict(right))
        if len(self.layers) != len(other.layers):
            found.append(Difference("num_layers", len(self.layers), len(other.layers)))
        gathered: dict[tuple[str, str, str], Difference] = {}
        for index, (left, right) in enumerate(zip(self.layers, other.layers, strict=False)):
            if left == right:
                continue
            for change in _leaf_differences(_layer_leaves(left), _layer_leaves(right)):
                key = (change.path, repr(change.left), repr(change.right))
                earlier = gathered.get(key, change)
                gathered[key] = dataclasses.replace(earlier, layers=(*earlier.layers, index))
        return found + list(gathered.values())

    def distance(self, other: ArchitectureParameter) -> float:
        """How many leaves of n must be edited to reach `other`: a metric, 0 only between equal n's.

        A number counts by how many times it is doubled, up to one edit; layers are aligned first, so that one more
        layer costs its own leaves and no others.

        Example:
            >>> n.distance(n.replace("layers.0.feed_forward.width", 2 * n.d_feed_forward))
            1.0
        """
        return distance(self, other, ends=ENDS)

    @property
    def signature(self) -> str:
        """A human line, and a hash of the canonical JSON: `d64 v99 · 2 × [attention 4/2×16 + ffn 128] · #1a2b…`."""
        if self.fusion is not None:
            told = (f"{name} ({n.signature.rpartition(' · ')[0]})" for name, n in self.branches.items())
            return f"{self.fusion.join} of {' ⊕ '.join(told)} · #{self.hash}"
        ends = f"d{self.d_hidden} v{self.d_vocab}{' tied' if self.head.tied else ''}"
        return f"{ends} · {layers_line(self.layers)} · #{self.hash}"

    @property
    def hash(self) -> str:
        """Twelve hex digits of the canonical JSON, without `text` and `origin`."""
        fusion = self.fusion
        if fusion is not None:
            bare = tuple(dataclasses.replace(each, n=_bare(each.n)) for each in fusion.members)
            fusion = dataclasses.replace(fusion, members=bare)
        return canonical_hash(dataclasses.replace(_bare(self), fusion=fusion))

    @property
    def branches(self) -> dict[str, ArchitectureParameter]:
        """The members of a fused n by name, the first one first; empty where a model stands alone."""
        return members_of(self)

    @property
    def join(self) -> Join | None:
        """How branches are joined: "route", "mixture" or "all"; None where a model stands alone."""
        return self.fusion.join if self.fusion else None

    @property
    def bridges(self) -> dict[str, Bridge]:
        """What the first member reads of the others, by place: `layers.3.bridge`."""
        return bridges_of(self)

    def count(self, *, context: int = 1, dtype: str | None = None) -> Count:
        """Parameters, active parameters, FLOPs per token at `context` positions, cache bytes per token: exact."""
        return count(self, context=context, dtype=dtype or self.text.dtype or "float32")

    def formula(self) -> Formula:
        """The equations of this very model, as Unicode and LaTeX."""
        return formula(self)

    # The flat view: names that users of other libraries look for, derived and read-only.

    @property
    def d_hidden(self) -> int:
        """Width of the residual."""
        return self.embedding.width

    @property
    def d_vocab(self) -> int:
        """Number of token rows."""
        return self.embedding.vocab

    @property
    def num_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @property
    def num_heads(self) -> int | None:
        """Query heads; the commonest value where layers differ."""
        return self._commonest("heads", "value_heads")

    @property
    def num_kv_heads(self) -> int | None:
        """Key/value heads; the commonest value among softmax attention layers (latent attention has one per head)."""
        return self._commonest("kv_heads", "heads", "key_heads")

    @property
    def head_dim(self) -> int | None:
        """Width of a query head; the commonest value where layers differ."""
        return self._commonest("head_dim", "key_dim")

    @property
    def d_feed_forward(self) -> int | None:
        """Width of the feed-forward, of one expert in a mixture; the commonest value where layers differ."""
        parts = [branch.part for branch in self._branches()]
        widths = [p.expert.width if isinstance(p, MixtureOfExperts) else getattr(p, "width", None) for p in parts]
        return _mode(widths)

    @property
    def pos_embedding_type(self) -> str:
        """One of "rope", "alibi", "learned", "sinusoid" and "none"; "rope" if any layer rotates."""
        for kind in ("rope", "alibi"):
            if self._commonest(kind) is not None:
                return kind
        kinds = {LearnedPositions: "learned", SinusoidPositions: "sinusoid"}
        return kinds.get(type(self.embedding.positions), "none")

    @property
    def rope_base(self) -> float | None:
        """RoPE's theta; the commonest value where layers differ."""
        rope = self._commonest("rope")
        return rope.theta if isinstance(rope, Rope) else None

    @property
    def rope_scaling(self) -> Any:
        """RoPE's scaling part; that of the commonest RoPE where layers differ."""
        rope = self._commonest("rope")
        return rope.scaling if isinstance(rope, Rope) else None

    @property
    def activation_fn(self) -> str | None:
        """The feed-forward's activation; the commonest value where layers differ."""
        parts = [branch.part for branch in self._branches()]
        experts = [p.expert if isinstance(p, MixtureOfExperts) else p for p in parts]
        return _mode([p.activation for p in experts if isinstance(p, FeedForward)])

    @property
    def norm_type(self) -> str | None:
        """Either "rms" or "layer": the final norm's kind, or the commonest of the layers'."""
        norm = self.final_norm or _mode([step.norm for layer in self.layers for step in layer.steps])
        return norm.kind if norm else None

    @property
    def ln_eps(self) -> float | None:
        """The final norm's epsilon."""
        return self.final_norm.eps if self.final_norm else None

    @property
    def use_bias(self) -> bool:
        """Whether any projection in any layer has a bias."""
        return any(getattr(branch.part, "biases", ()) for branch in self._branches())

    @property
    def use_cache(self) -> bool:
        """Whether the checkpoint's config asks for a cache in generation."""
        return self.text.use_cache

    @property
    def bos_token_id(self) -> int | None:
        """Beginning-of-text id."""
        return self.text.bos

    @property
    def eos_token_id(self) -> int | list[int] | None:
        """End-of-text id, or a list of several."""
        return (self.text.eos[0] if len(self.text.eos) == 1 else list(self.text.eos)) if self.text.eos else None

    def _branches(self) -> Iterable[Branch]:
        return (branch for layer in self.layers for _, branch in layer.all_branches())

    def _commonest(self, *names: str) -> Any:
        """The commonest value of the first of `names` that any mixer has, softmax attention asked first."""
        mixers = [branch.part for branch in self._branches() if branch.part.role == "mixer"]
        for pool in ([m for m in mixers if isinstance(m, Attention)], mixers):
            for name in names:
                values = [getattr(mixer, name) for mixer in pool if getattr(mixer, name, None) is not None]
                if values:
                    return _mode(values)
        return None


def _bare(n: Any) -> ArchitectureParameter:
    """Without what rides along."""
    return dataclasses.replace(n, text=Text(), origin=Origin())


def _layer_leaves(layer: Program) -> dict[str, Any]:
    return {path.removeprefix("."): value for path, value in leaves(layer)}


def _leaf_differences(left: dict[str, Any], right: dict[str, Any]) -> list[Difference]:
    paths = list(dict.fromkeys([*left, *right]))
    pairs = [(path, left.get(path, ABSENT), right.get(path, ABSENT)) for path in paths]
    return [Difference(path, a, b) for path, a, b in pairs if a != b]


def _mode(values: Iterable[Any]) -> Any:
    counted = Counter(value for value in values if value is not None)
    return counted.most_common(1)[0][0] if counted else None
