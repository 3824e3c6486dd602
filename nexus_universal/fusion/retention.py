"""How much of a source a fused model keeps: declared by every operation, measured, and refused where it is less."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from enum import IntEnum

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from nexus_universal.architecture.errors import NexusError
from nexus_universal.parity.modes import Comparison, compare

REAL_TOLERANCE = 1e-4
"""Equal in real arithmetic: logits in float32 differ by no more than rounding makes of another order of sums."""


class RetentionError(NexusError):
    """A fused model keeps less of a source than its operation promises."""


class Tier(IntEnum):
    """What is kept of a source, the strongest first; a promise holds for all that are weaker."""

    WEIGHTS = 0
    """Every tensor, byte for byte, shown by hash."""
    BITS = 1
    """The logits' bits, in the same call on the same machine."""
    REAL = 2
    """The same function in real arithmetic: logits in float32 within 1e-4."""
    STATISTICAL = 3
    """Nothing is promised; what is left is measured and printed."""

    def __str__(self) -> str:
        return f"R{self.value}"

    @property
    def lossless(self) -> bool:
        """Whether the source's function is kept."""
        return self is not Tier.STATISTICAL


@dataclass(frozen=True, kw_only=True)
class Evidence:
    """What was measured of one source: hashes, or its logits beside the fused model's, or both."""

    source: str
    weights_equal: bool | None = None
    logits: Comparison | None = None
    bits_per_byte: tuple[float, float] | None = None
    """The source's on given text, and the fused model's."""

    @property
    def tier(self) -> Tier:
        """The strongest tier that was shown."""
        if self.weights_equal and (self.logits is None or self.logits.equal):
            return Tier.WEIGHTS
        if self.logits is None:
            return Tier.STATISTICAL
        if self.logits.equal:
            return Tier.BITS
        return Tier.REAL if self.logits.max_difference <= REAL_TOLERANCE else Tier.STATISTICAL

    def __str__(self) -> str:
        told = [f"{self.source}: {self.tier}"]
        if self.logits is not None:
            found = self.logits
            told.append(f"max |Δ| {found.max_difference:.3g}, KL {found.kl:.3g} nats, {found.flips} flips")
        if self.bits_per_byte is not None:
            told.append("{:.3f} → {:.3f} bits per byte".format(*self.bits_per_byte))
        return ", ".join(told)


@dataclass(frozen=True, kw_only=True)
class RetentionCertificate:
    """What an operation promised, and what was measured of each source."""

    operation: str
    promised: Tier
    evidence: tuple[Evidence, ...]
    notes: tuple[str, ...] = field(default=())

    @property
    def tier(self) -> Tier:
        """The weakest that was shown; nothing is shown by no evidence."""
        return max((each.tier for each in self.evidence), default=Tier.STATISTICAL)

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps({"tier": str(self.tier), **asdict(self)}, indent=2)

    def __str__(self) -> str:
        lines = [f"{self.operation}: {self.tier} (promised {self.promised})"]
        return "\n".join([*lines, *(f"  {each}" for each in self.evidence), *(f"  {note}" for note in self.notes)])


def certified(operation: str, promised: Tier, *evidence: Evidence, notes: tuple[str, ...] = ()) -> RetentionCertificate:
    """The certificate, if what was measured is no weaker than what is promised.

    Raises:
        RetentionError: a source of which less is kept, by name, with what was measured.
    """
    for each in evidence:
        if each.tier > promised:
            raise RetentionError(f"{operation} promises {promised}, but {each}")
    return RetentionCertificate(operation=operation, promised=promised, evidence=evidence, notes=notes)


def evidence_of(
    source: str,
    before: Float[Tensor, "*positions d_vocab"],
    after: Float[Tensor, "*positions d_vocab"],
    *,
    weights_equal: bool | None = None,
) -> Evidence:
    """A source's own logits beside those of the fused model for the same call."""
    return Evidence(source=source, weights_equal=weights_equal, logits=compare(before, after))


def bits_per_byte(logits: Float[Tensor, "batch seq d_vocab"], ids: Int[Tensor, "batch seq"], *, nbytes: int) -> float:
    """How well tokens are foretold, the first of each row apart, per byte of the text that they spell.

    Models with different vocabularies can be compared by it.
    """
    nats = F.cross_entropy(logits[:, :-1].float().flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    return float(nats) / 0.6931471805599453 / nbytes
