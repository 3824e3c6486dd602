"""Where a result is written: the layout of its files, settled before a number is known, and config.json."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import UnsupportedConfig
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.source import CONFIG_NAME, NEXUS_TYPE
from nexus_universal.checkpoint.load import in_float32, slots
from nexus_universal.checkpoint.quantisation import CONFIG_KEYS
from nexus_universal.checkpoint.rules import Transposed, WeightMap
from nexus_universal.checkpoint.save import published_tensors, write_document
from nexus_universal.checkpoint.stream import (
    Layout,
    TensorFiles,
    canonical_layouts,
    published_layouts,
    write_rows,
)
from nexus_universal.transformer import UniversalTransformer

Format = Literal["auto", "huggingface", "nexus"]


@dataclass(frozen=True)
class Target:
    """A checkpoint that is being written: every tensor of `model` has its place in `files`."""

    slots: Mapping[str, Tensor]
    layouts: Mapping[str, Layout]
    files: TensorFiles
    note: str | None

    @classmethod
    def of(
        cls,
        directory: Path,
        model: UniversalTransformer,
        *,
        dtype: torch.dtype,
        format: Format = "auto",
        family: str | None = None,
        carried: Mapping[str, Tensor] | None = None,
    ) -> Target:
        """Lay out `model`, which is built without storage, and write its config.

        `family` writes in another model type's words. `carried` are tensors that nothing is computed with, saved in a
        family's layout only.

        Raises:
            UnsupportedConfig: "huggingface", but the family's config cannot say what n is.
        """
        wanted = slots(model)
        raw, weights, note = _said(model.n, format=format, family=family)
        published = raw["model_type"] != NEXUS_TYPE
        layouts = published_layouts(model, weights) if published else canonical_layouts(model, weights)
        dtypes = _dtypes(model, weights, dtype)
        metadata = {"format": "pt"}
        if published:
            of_name = {part: dtypes[name] for name, layout in layouts.items() for part in layout.names}
            given = published_tensors(model, weights, carried=carried)
            shapes = {name: (tuple(tensor.shape), of_name.get(name, dtype)) for name, tensor in given.items()}
            beside = {name: tensor for name, tensor in given.items() if name not in of_name}
        else:
            lying = {name for name, layout in layouts.items() if isinstance(layout.rule, Transposed)}
            metadata["transposed"] = json.dumps(sorted(lying))
            shapes = {
                name: (tuple((slot.mT if name in lying else slot).shape), dtypes[name]) for name, slot in wanted.items()
            }
            beside = {}
            if carried:
                note = f"{', '.join(carried)}: nothing is computed with them, and the nexus format keeps none such"
        files = TensorFiles(directory, shapes, metadata=metadata)
        for name, tensor in beside.items():
            files[name].copy_(tensor)
        write_document(directory / CONFIG_NAME, raw | {"dtype": str(dtype).removeprefix("torch.")})
        return cls(wanted, layouts, files, note)

    def write(self, name: str, rows: Tensor, *, start: int = 0) -> None:
        """Put rows of a tensor in their place, rounded to its dtype."""
        dtype = self.files[self.layouts[name].names[0]].dtype
        write_rows(self.files, self.layouts[name], rows.to(dtype), start=start, slot=self.slots[name])


def _said(
    n: ArchitectureParameter, *, format: Format, family: str | None
) -> tuple[dict[str, Any], WeightMap, str | None]:
    """The config, the table of names that goes with it, and why it is not the family's where that was tried."""
    note = None
    if format != "nexus":
        try:
            said = n.to_huggingface(family=family or registry.saved_as(n.origin.family))
            plain = {key: value for key, value in said.items() if key not in ("torch_dtype", *CONFIG_KEYS)}
            return plain, registry.family_of(said).weights, None
        except UnsupportedConfig as error:
            if format == "huggingface":
                raise
            note = f"written in the nexus format: {error}"
    own = {"model_type": NEXUS_TYPE, "architectures": ["NexusForCausalLM"], "n": json.loads(n.to_json())}
    return own, _table(n.origin.family), note


def _table(family: str | None) -> WeightMap:
    known = family is not None and family in registry.known_families()
    return registry.family(family).weights if known and family else WeightMap(tensors={})


def _dtypes(model: UniversalTransformer, weights: WeightMap, dtype: torch.dtype) -> dict[str, torch.dtype]:
    """What a loader of this family would hold each tensor in."""
    wide = in_float32(model, weights, dtype)
    buffers = {name for name, _ in model.named_buffers()}
    return {
        name: torch.float32 if name in wide else slot.dtype if name in buffers else dtype
        for name, slot in slots(model).items()
    }
