"""How a checkpoint may be quantised, as data: what its config.json says of it, and which tensors make up one weight.

No torch here. `dequantise.py` computes what these rules say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from nexus_universal.architecture.errors import CheckpointError
from nexus_universal.families.shared.reader import ConfigReader

CONFIG_KEYS = ("quantization_config", "compression_config")
"""Where a config.json speaks of quantisation."""

PRESENCE = "which weights are quantised shows in the tensors"
IN_ARITHMETIC = "speaks of how quantised weights are multiplied; dequantised ones are multiplied as any"


@dataclass(frozen=True)
class BlockScaled:
    """A weight in float8_e4m3fn with one scale per block of rows × columns, or per matrix where `block` is None.

    DeepSeek-V3 (arXiv 2412.19437, 3.3); blocks of 1 × 32 scaled by powers of two are MXFP8 (OCP MX v1.0).
    The last block of a row or column may be cut short.
    """

    method: str
    block: tuple[int, int] | None

    values: ClassVar[str] = ""
    scales: ClassVar[str] = "_scale_inv"

    def __str__(self) -> str:
        return f"{self.method}, " + (
            "a scale per matrix" if self.block is None else "blocks of {} × {}".format(*self.block)
        )


@dataclass(frozen=True)
class Microscaled:
    """Experts in 4-bit floats (E2M1), two to a byte, 32 to a block with one power of two: MXFP4 (OCP MX v1.0).

    Stored [experts, out, blocks, 16] beside scales [experts, out, blocks]; the weight is [experts, in, out].
    """

    method: str

    values: ClassVar[str] = "_blocks"
    scales: ClassVar[str] = "_scales"

    def __str__(self) -> str:
        return f"{self.method}, blocks of 32"


Quantisation = BlockScaled | Microscaled
"""`values` and `scales` are what is added to a weight's plain name for its two tensors."""


def quantisation_of(raw: Mapping[str, Any], *, ignore_keys: Collection[str] = ()) -> Quantisation | None:
    """How the checkpoint of a raw config is quantised; None where it is not.

    Raises:
        CheckpointError: by a method that no rule dequantises.
        UnsupportedConfig: a setting of a known method that no rule takes in, unless in `ignore_keys`.
    """
    key = next((key for key in CONFIG_KEYS if raw.get(key)), None)
    if key is None:
        return None
    said = raw[key]
    method = _method(said) if isinstance(said, dict) else said
    if not isinstance(method, str) or method not in METHODS:
        raise CheckpointError(
            f"checkpoint quantised by {method!r} (known: {', '.join(METHODS)}): "
            "load the one it was made from, or let its own library write it dequantised"
        )
    reader = ConfigReader(method, said, path=f"{key}.", irrelevant=IRRELEVANT, ignore_keys=ignore_keys)
    found = METHODS[method](reader)
    reader.finish()
    return found


def _method(said: Mapping[str, Any]) -> Any:
    """Its name; bitsandbytes' older files tell by a flag only."""
    by_flag = "bitsandbytes" if said.get("load_in_8bit") or said.get("load_in_4bit") else "unknown"
    return said.get("quant_method") or by_flag


IRRELEVANT = {
    **dict.fromkeys(("modules_to_not_convert", "ignored_layers"), PRESENCE),
    **dict.fromkeys(("scale_fmt", "quant_method"), "the scales' dtype says it"),
    **dict.fromkeys(("activation_scheme",), IN_ARITHMETIC),
    **dict.fromkeys(("dequantize",), "weights are always dequantised"),
}


def _block_scaled(reader: ConfigReader, default: tuple[int, int]) -> BlockScaled:
    block = reader.take("weight_block_size", list(default), kinds=(list, type(None)))
    if block is not None and not (len(block) == 2 and all(type(side) is int and side > 0 for side in block)):
        raise reader.refuse("weight_block_size", block, "must be two whole numbers of at least 1, or null")
    reader.inert("fmt", "e4m3")
    reader.inert("expert_dtype", "fp8")
    reader.inert("modules_to_convert", None, [])
    return BlockScaled(reader.family, None if block is None else (block[0], block[1]))


METHODS: dict[str, Callable[[ConfigReader], Quantisation]] = {
    "fp8": lambda reader: _block_scaled(reader, (128, 128)),
    "mxfp8": lambda reader: _block_scaled(reader, (1, 32)),
    "mxfp4": lambda reader: Microscaled(reader.family),
}
