"""The certificate: what was compared, how, with what versions, and the verdict."""

from __future__ import annotations

import json
import platform
from dataclasses import asdict, dataclass, field
from typing import Literal

import torch

from nexus_universal.parity.floors import Floor
from nexus_universal.parity.modes import Comparison

Verdict = Literal["bit-equal", "within floor", "inconclusive", "wrong"]
ORDER: tuple[Verdict, ...] = ("bit-equal", "within floor", "inconclusive", "wrong")


def worst_of(verdicts: list[Verdict]) -> Verdict:
    """The least proven of several."""
    return ORDER[max((ORDER.index(verdict) for verdict in verdicts), default=ORDER.index("inconclusive"))]


def judge(comparison: Comparison, floor: Floor) -> Verdict:
    """Equal bits need no tolerance; a difference must lie within a floor that still means something."""
    if comparison.equal:
        return "bit-equal"
    if not floor.conclusive:
        return "wrong" if comparison.max_difference > floor.value else "inconclusive"
    return "within floor" if comparison.max_difference <= floor.value else "wrong"


@dataclass
class ModeRow:
    """One mode over all draws: the worst of everything."""

    mode: str
    verdict: Verdict = "bit-equal"
    draws: int = 0
    equal: int = 0
    max_difference: float = 0.0
    floor: float = 0.0
    kl: float = 0.0
    flips: int = 0
    note: str = ""

    def add(self, comparison: Comparison, floor: Floor) -> Verdict:
        """Take in one draw; returns its own verdict."""
        verdict = judge(comparison, floor)
        self.verdict = worst_of([self.verdict, verdict])
        self.draws += 1
        self.equal += comparison.equal
        self.max_difference = max(self.max_difference, comparison.max_difference)
        self.floor = max(self.floor, floor.value)
        self.kl = max(self.kl, comparison.kl)
        self.flips += comparison.flips
        return verdict


@dataclass
class LawRow:
    """One law over all draws."""

    law: str
    holds: bool = True
    difference: float = 0.0
    floor: float = 0.0


def versions() -> dict[str, str]:
    """What the proof ran on."""
    import transformers

    import nexus_universal

    return {
        "nexus_universal": nexus_universal.__version__,
        "transformers": transformers.__version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
    }


@dataclass
class Certificate:
    """The outcome of `nexus verify`, as data; `to_json` and `to_markdown` write it down."""

    subject: str
    model_type: str
    signature: str
    dtype: str
    rows: list[ModeRow] = field(default_factory=list)
    laws: list[LawRow] = field(default_factory=list)
    versions: dict[str, str] = field(default_factory=versions)
    hashes: dict[str, str] = field(default_factory=dict)
    ignored_keys: list[str] = field(default_factory=list)
    passed_over: dict[str, str] = field(default_factory=dict)
    divergence: str = ""
    failing_config: dict[str, object] = field(default_factory=dict)
    coverage: str = ""
    notes: list[str] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """The worst mode's; a broken law makes it wrong."""
        broken: list[Verdict] = ["wrong"] if any(not law.holds for law in self.laws) else []
        return worst_of([*(row.verdict for row in self.rows), *broken])

    @property
    def proven(self) -> bool:
        """Whether every mode is bit-equal or within a conclusive floor, and every law holds."""
        return self.verdict in ("bit-equal", "within floor")

    def row(self, mode: str) -> ModeRow:
        """The row of a mode, made on first use."""
        for row in self.rows:
            if row.mode == mode:
                return row
        self.rows.append(ModeRow(mode))
        return self.rows[-1]

    def to_json(self) -> str:
        """Everything, as JSON."""
        return json.dumps({"verdict": self.verdict, "proven": self.proven, **asdict(self)}, indent=2)

    def to_markdown(self) -> str:
        """A page to keep beside the checkpoint."""
        lines = [
            f"# Parity certificate: {self.subject}",
            "",
            f"**{self.verdict}** · {self.model_type} · {self.dtype} · `{self.signature}`",
            "",
            "| mode | verdict | equal draws | max \\|Δ\\| | floor | KL | flips |",
            "|---|---|--:|--:|--:|--:|--:|",
        ]
        lines += [
            f"| {r.mode} | {r.verdict}{f' ({r.note})' if r.note else ''} | {r.equal}/{r.draws} "
            f"| {r.max_difference:.3g} | {r.floor:.3g} | {r.kl:.3g} | {r.flips} |"
            for r in self.rows
        ]
        if self.laws:
            lines += ["", "| law | holds | difference | allowed |", "|---|---|--:|--:|"]
            lines += [
                f"| {law.law} | {'yes' if law.holds else '**no**'} | {law.difference:.3g} | {law.floor:.3g} |"
                for law in self.laws
            ]
        if self.divergence:
            lines += ["", f"First divergence: {self.divergence}"]
        if self.failing_config:
            lines += ["", f"Failing config: `{json.dumps(self.failing_config)}`"]
        if self.coverage:
            lines += ["", f"Reference lines run: {self.coverage}"]
        facts = {**self.versions, **self.hashes}
        lines += ["", " · ".join(f"{key} {value}" for key, value in facts.items())]
        if self.ignored_keys:
            lines += ["", f"Config keys ignored on request: {', '.join(self.ignored_keys)}"]
        if self.passed_over:
            lines += ["", f"Tensors passed over: {len(self.passed_over)}"]
            lines += [f"- `{name}`: {reason}" for name, reason in list(self.passed_over.items())[:20]]
        lines += [f"\n{note}" for note in self.notes]
        return "\n".join(lines) + "\n"
