"""The mutation score: how many wrong n's the proof notices, of all that reflection can make of a right one."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from nexus_universal.architecture import registry
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.part import Part
from nexus_universal.architecture.validate import problems
from nexus_universal.parity.bench import Bench, Outcome, State
from nexus_universal.parity.draws import draw_configs
from nexus_universal.parity.equivalents import proof_of_equivalence
from nexus_universal.parity.mutations import Mutant, mutants
from nexus_universal.parity.prove import Progress, say
from nexus_universal.parity.references import quiet

FEWEST = 16
ENOUGH = 0.97
"""The share of a family's mutants that must be noticed."""

LESS: dict[str, float] = {
    # An indexer chooses keys: what changes its rounding and no choice is not seen.
    **{"deepseek_v32": 0.96, "deepseek_v4": 0.94, "dots3_note": 0.96, "dots3_note_text": 0.95},
    # A residual in float32, and a reference that runs in no float64: which write widens it is not seen.
    "inkling2_text": 0.93,
    # Tables of n-grams are read with numbers that the reference keeps in its state: their seeds are not computed anew.
    **dict.fromkeys(("qwen4_exp", "qwen4_exp_text"), 0.96),
    # Three or four survivors of fewer than a hundred or so: forms of a kernel, a position that masks move.
    **dict.fromkeys(("gpt_neox_japanese", "mvp", "phimoe", "trocr", "xglm", "zamba2"), 0.96),
}
"""Families of which less must be noticed, and why; docs/MUTATION_SCORE.md lists their survivors."""

SURVIVALS = 4
"""In so many configs a mutant of one and the same part must go unnoticed to survive."""

STATES: tuple[State, ...] = ("crashed", "killed", "survived", "equivalent", "refused")
"""What counts first where a mutant fares differently on several configs."""


@dataclass
class Score:
    """The outcomes of all mutants of a family."""

    family: str
    borrowed: str | None = None
    """The type whose class stands in for a reference that transformers lacks, where it does not round alike."""

    configs: int = 0
    tried: dict[tuple[str, str], list[Part]] = field(default_factory=dict)
    """The parts, as they were, that each mutant was tried in."""

    outcomes: dict[tuple[str, str], Outcome] = field(default_factory=dict)
    """By field and name: the same path leads to other parts in other n's."""

    def of(self, state: State) -> list[Outcome]:
        """The mutants with this outcome."""
        return [outcome for outcome in self.outcomes.values() if outcome.state == state]

    @property
    def alive(self) -> int:
        """Mutants that compute, and something else: killed or survived."""
        return len(self.of("killed")) + len(self.of("survived"))

    @property
    def noticed(self) -> float:
        """The share of them that makes the committed verdict false."""
        return len(self.of("killed")) / max(self.alive, 1)

    @property
    def beyond_floor(self) -> float:
        """The share of them that differs by more than the floor."""
        return sum(outcome.beyond_floor for outcome in self.outcomes.values()) / max(self.alive, 1)

    @property
    def enough(self) -> bool:
        return self.noticed >= self.least and not self.of("crashed")

    @property
    def least(self) -> float:
        """The share that must be noticed of this family."""
        return LESS.get(self.family, ENOUGH)

    def table(self, by: Literal["kind", "field"]) -> dict[str, dict[str, int]]:
        """Outcomes counted by how, or which field, was changed."""
        rows: dict[str, Counter[str]] = {}
        for outcome in self.outcomes.values():
            rows.setdefault(getattr(outcome, by), Counter())[outcome.state] += 1
        return {name: dict(rows[name]) for name in sorted(rows)}

    def to_data(self) -> dict[str, Any]:
        """What is published of it."""
        return {
            "configs": self.configs,
            "borrowed": self.borrowed,
            **{state: len(self.of(state)) for state in STATES},
            "beyond floor": sum(outcome.beyond_floor for outcome in self.outcomes.values()),
            "survivors": [outcome.title for outcome in self.of("survived")],
            "crashes": {outcome.title: outcome.why for outcome in self.of("crashed")},
            "equivalents": {outcome.title: outcome.why for outcome in self.of("equivalent")},
            "noticed in": dict(Counter(outcome.where for outcome in self.of("killed")).most_common()),
            "kinds": self.table("kind"),
            "fields": self.table("field"),
        }


@quiet()
def mutation_score(
    model_type: str, *, draws: int | None = None, seed: int = 0, progress: Progress | None = None
) -> Score:
    """Try every mutant of every drawn n of a family, each until it is noticed.

    `draws` None takes twice as many configs as the longest list of values that the family draws from, or 16.

    Raises:
        UnknownModelType: no such family, or none of that name in transformers.
        Unproven: the right n differs from the reference by more than the floor.
        FalseProof: a mutant that is declared equivalent was noticed.
    """
    family = registry.family(model_type)
    reference = family.reference
    score = Score(model_type, borrowed=reference.model_type if reference and not reference.rounds_alike else None)
    count = draws or max(FEWEST, 2 * max((len(values) for values in family.draws.values()), default=1) + 2)
    seen: set[ArchitectureParameter] = set()
    for index, config in enumerate(draw_configs(family, count, seed=seed)):
        bench = Bench(family, config, seed=seed + index)
        if bench.n in seen:
            continue
        seen.add(bench.n)
        score.configs += 1
        for mutant in mutants(bench.n):
            key = mutant.field, mutant.name
            known, tried = score.outcomes.get(key), score.tried.setdefault(key, [])
            if known and _is_settled(known, mutant, bench.n, tried):
                continue
            tried.append(mutant.place.holder)
            say(progress, f"{model_type}: config {index + 1} of {count}, {mutant.name}")
            found = bench.tried(mutant)
            if known is None or STATES.index(found.state) < STATES.index(known.state):
                score.outcomes[key] = found
    return score


def _is_settled(known: Outcome, mutant: Mutant, n: ArchitectureParameter, tried: list[Part]) -> bool:
    """Whether another config can add nothing: an equivalent one is tried again where its proof does not hold.

    What a part refuses it refuses again; what survived in it is tried in so many configs, and in every other part.
    """
    if known.state in ("crashed", "killed"):
        return True
    if known.state == "equivalent":
        return any(problems(mutant.n)) or proof_of_equivalence(mutant, n) is not None
    return tried.count(mutant.place.holder) >= (1 if known.state == "refused" else SURVIVALS)
