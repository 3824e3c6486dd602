"""Forms of attention as options of n: each function takes an n and returns a new one whose attention has that form.

A form changes what is computed. What a published model really uses is in its own n: GLM-4.7-Flash has latent attention,
Qwen3-Coder-30B grouped queries, Qwen3-Coder-Next gated delta rules beside full attention.

Example:
    >>> from nexus_universal import forms
    >>> small_cache = forms.sliding_window(forms.multi_query(n), 4096)
    >>> few_scores = forms.sparse(n, forms.BlockSparse(block=64, local_blocks=8))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from nexus_universal.architecture.convolved_attention import ConvolvedAttention
from nexus_universal.architecture.errors import InvalidArchitecture
from nexus_universal.architecture.mixers import Attention, CompressedAttention, LatentAttention
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.paths import replaced
from nexus_universal.architecture.sparsity import BlockSparse, Strided, TopK

Layers = Iterable[int] | None
"""Indices of layers; None are all that have attention of a kind that the form is for."""


def flash(n: ArchitectureParameter, *, layers: Layers = None) -> ArchitectureParameter:
    """Attention by torch's fused kernel, which never holds all scores (FlashAttention, arXiv 2205.14135).

    Nearly all models have it; it changes those whose reference writes attention out.

    Raises:
        InvalidArchitecture: no such attention, or one with softcap or sinks, which the kernel lacks.
    """
    return _with_form("flash", n, layers, (Attention, LatentAttention), _fused)


def grouped_query(n: ArchitectureParameter, kv_heads: int, *, layers: Layers = None) -> ArchitectureParameter:
    """Queries share `kv_heads` key/value heads (arXiv 2305.13245): as many times smaller are cache and projections.

    Raises:
        InvalidArchitecture: no such attention, or kv_heads does not divide its heads.
    """
    return _with_form("grouped_query", n, layers, (Attention,), lambda part: replace(part, kv_heads=kv_heads))


def multi_query(n: ArchitectureParameter, *, layers: Layers = None) -> ArchitectureParameter:
    """All queries share one key/value head (arXiv 1911.02150).

    Raises:
        InvalidArchitecture: no such attention, or one that pairs heads.
    """
    return _with_form("multi_query", n, layers, (Attention,), lambda part: replace(part, kv_heads=1))


def sliding_window(n: ArchitectureParameter, window: int, *, layers: Layers = None) -> ArchitectureParameter:
    """A query sees `window` keys, itself included, and the cache keeps no more (arXiv 2004.05150, 2310.06825).

    Raises:
        InvalidArchitecture: no such attention, a window below 1, or attention that chooses among all keys.
    """

    def windowed(part: Any) -> Any:
        sliding = {"chunked": False, "keeps": "window"} if isinstance(part, Attention) else {}
        return replace(part, window=window, **sliding)

    kinds = (Attention, LatentAttention, ConvolvedAttention, CompressedAttention)
    return _with_form("sliding_window", n, layers, kinds, windowed)


def sparse(
    n: ArchitectureParameter, pattern: BlockSparse | Strided | TopK, *, layers: Layers = None
) -> ArchitectureParameter:
    """A query keeps some of the keys before it: those of a pattern of places, or those with the highest scores.

    Raises:
        InvalidArchitecture: no such attention, or one that has a window (TopK joins it) or chooses keys already.
    """
    return _with_form("sparse", n, layers, (Attention,), lambda part: replace(part, sparsity=pattern))


def _fused(part: Any) -> Any:
    if isinstance(part, Attention):
        return replace(part, kernel="sdpa")
    if part.sinks:
        raise InvalidArchitecture("flash: LatentAttention.sinks = True must be False: the fused kernel has none")
    return part


def _with_form(
    form: str,
    n: ArchitectureParameter,
    layers: Layers,
    kinds: tuple[type[Part], ...],
    change: Callable[[Any], Any],
) -> ArchitectureParameter:
    """A copy of n with a change of every part of these kinds, in some layers or all.

    Raises:
        InvalidArchitecture: a layer, or all of n, has no such part, or n would contradict itself.
    """
    wanted = range(n.num_layers) if layers is None else sorted(set(layers))
    known, changed = " or ".join(kind.__name__ for kind in kinds), n
    for index in wanted:
        if not 0 <= index < n.num_layers:
            raise InvalidArchitecture(f"{form}: layers names {index}: must be of 0 … {n.num_layers - 1}")
        places = list(_places(n, index, kinds))
        if not places and layers is not None:
            raise InvalidArchitecture(f"{form}: layers.{index} has {_mixers(n, [index])}: needs {known}")
        for path, part in places:
            changed = replaced(changed, path, change(part))
    if changed is n:
        raise InvalidArchitecture(f"{form}: no layer has {known}, but {_mixers(n, wanted)}")
    try:
        return changed.validate()
    except InvalidArchitecture as error:
        raise InvalidArchitecture(f"{form}: {error}") from None


def _places(n: ArchitectureParameter, index: int, kinds: tuple[type[Part], ...]) -> Iterator[tuple[str, Part]]:
    """The paths of a layer's parts of these kinds, those of nested programs included."""
    for path, branch in n.layers[index].all_branches():
        if isinstance(branch.part, kinds):
            yield f"layers.{index}.{path}.part", branch.part


def _mixers(n: ArchitectureParameter, layers: Iterable[int]) -> str:
    """What mixes tokens there, for people."""
    parts = (branch.part for index in layers for _, branch in n.layers[index].all_branches())
    return ", ".join(dict.fromkeys(type(part).__name__ for part in parts if part.role == "mixer")) or "no mixer"
