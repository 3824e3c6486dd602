"""The merge methods by name: their parameters as mergekit's YAML spells them, what they need, and where from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from nexus_universal.fusion.merging import combinations, differences
from nexus_universal.fusion.merging.blocks import Combine

REQUIRED = object()
"""Stands for the default of a parameter that must be given."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """A way to make one tensor of several.

    `per_model` parameters are given for each model that is merged, `shared` ones once, both with their defaults.
    `inert` are understood and change no number. `base` is what the merge is relative to, or, where it is "first", the
    first of two models. `draws` from a generator of random numbers.
    """

    prepare: Callable[..., Combine]
    source: str
    per_model: Mapping[str, Any] = field(default_factory=dict)
    shared: Mapping[str, Any] = field(default_factory=dict)
    inert: tuple[str, ...] = ()
    base: Literal["none", "first", "optional", "required"] = "none"
    least: int = 1
    most: int | None = None
    draws: bool = False

    @property
    def parameters(self) -> tuple[str, ...]:
        """Every name that a recipe may give a value to."""
        return (*self.per_model, *self.shared, *self.inert)


def _of_differences(
    prepare: Callable[..., Combine],
    source: str,
    *,
    normalize: bool,
    thinned: Mapping[str, float] | None = None,
    draws: bool = False,
) -> Method:
    """What all weighted sums of differences have in common; what is drawn may be divided by its chance."""
    return Method(
        prepare=prepare,
        source=source,
        per_model={"weight": REQUIRED, **(thinned or {})},
        shared={"normalize": normalize, "lambda": 1.0} | ({"rescale": True} if draws else {}),
        inert=("int8_mask",),
        base="required",
        draws=draws,
    )


METHODS: Mapping[str, Method] = {
    "linear": Method(
        prepare=combinations.linear,
        source="arXiv 2203.05482",
        per_model={"weight": REQUIRED},
        shared={"normalize": True},
    ),
    "slerp": Method(
        prepare=combinations.slerp,
        source="Shoemake 1985",
        shared={"t": REQUIRED},
        base="first",
        least=2,
        most=2,
    ),
    "multislerp": Method(
        prepare=combinations.multislerp,
        source="https://goddard.blog/posts/multislerp-wow-what-a-cool-idea",
        per_model={"weight": REQUIRED},
        shared={"normalize_weights": True, "eps": 1e-8},
        base="optional",
    ),
    "karcher": Method(prepare=combinations.karcher, source="arXiv 2603.04972", shared={"max_iter": 10, "tol": 1e-5}),
    "task_arithmetic": _of_differences(differences.task_arithmetic, "arXiv 2212.04089", normalize=False),
    "ties": _of_differences(differences.ties, "arXiv 2306.01708", normalize=True, thinned={"density": 1.0}),
    "dare_linear": _of_differences(
        partial(differences.dare, elect=False),
        "arXiv 2311.03099",
        normalize=False,
        draws=True,
        thinned={"density": 1.0},
    ),
    "dare_ties": _of_differences(
        partial(differences.dare, elect=True),
        "arXiv 2311.03099",
        normalize=False,
        draws=True,
        thinned={"density": 1.0},
    ),
    "della_linear": _of_differences(
        partial(differences.della, elect=False),
        "arXiv 2406.11617",
        normalize=False,
        draws=True,
        thinned={"density": 1.0, "epsilon": 0.15},
    ),
    "della": _of_differences(
        partial(differences.della, elect=True),
        "arXiv 2406.11617",
        normalize=True,
        draws=True,
        thinned={"density": 1.0, "epsilon": 0.15},
    ),
    "breadcrumbs": _of_differences(
        partial(differences.breadcrumbs, elect=False),
        "arXiv 2312.06795",
        normalize=False,
        thinned={"density": 1.0, "gamma": 0.01},
    ),
    "breadcrumbs_ties": _of_differences(
        partial(differences.breadcrumbs, elect=True),
        "arXiv 2312.06795",
        normalize=False,
        thinned={"density": 1.0, "gamma": 0.01},
    ),
    "sce": Method(
        prepare=differences.sce,
        source="arXiv 2408.07990",
        shared={"select_topk": 1.0},
        inert=("int8_mask",),
        base="required",
    ),
    "model_stock": Method(prepare=combinations.model_stock, source="arXiv 2403.19522", base="required", least=2),
    "nearswap": Method(
        prepare=differences.nearswap,
        source="https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001",
        shared={"t": REQUIRED},
        base="required",
        most=1,
    ),
    "passthrough": Method(prepare=combinations.passthrough, source="", shared={"scale": 1.0}, most=1),
}

SPELLED = {"lambda": "scale"}
"""A parameter's name in a recipe, where that is a word of Python's."""
