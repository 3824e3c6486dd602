"""Where mutants are tried: one config, its reference built once per precision, and the modes that may notice."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from nexus_universal.architecture import registry
from nexus_universal.architecture.errors import NexusError
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.copying import copy_weights
from nexus_universal.checkpoint.load import assemble, plan_load, put, slots
from nexus_universal.families.shared.family import Family
from nexus_universal.parity.draws import asked, longest_sample, steps_differ, switch_length
from nexus_universal.parity.equivalents import proof_of_equivalence
from nexus_universal.parity.floors import in_double, measure_floor
from nexus_universal.parity.gradients import compare_gradients, every_token
from nexus_universal.parity.modes import MODES, Ours, Sample, compare, sample
from nexus_universal.parity.mutations import Mutant
from nexus_universal.parity.prove import Pair
from nexus_universal.parity.quirks import quirks
from nexus_universal.parity.references import reference_and_n
from nexus_universal.transformer import UniversalTransformer

LENGTH, SINGLE_STEPS = 90, 10
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float64": torch.float64}
GRADIENTS = "gradients"

State = Literal["crashed", "killed", "survived", "equivalent", "refused"]


class FalseProof(AssertionError):
    """A mutant that is declared equivalent was noticed."""


class Unproven(NexusError):
    """The right n is wrong already: no mutant of it says anything."""


@dataclass(frozen=True)
class Outcome:
    """What became of one mutant.

    `where` is the precision and mode that noticed it first, `why` a refusal's message or the proof of equivalence.
    `beyond_floor`: it does not only change bits, but differs by more than the measured floor.
    """

    name: str
    kind: str
    field: str
    state: State
    where: str = ""
    why: str = ""
    beyond_floor: bool = False

    @property
    def title(self) -> str:
        """The name, and what part it speaks of."""
        return f"{self.name} ({self.field.partition('.')[0]})"


class Bench:
    """One config of a family. References are built when a mutant first needs them."""

    def __init__(self, family: Family, config: dict[str, Any], *, seed: int) -> None:
        self.family, self.seed = family, seed
        self.doubles = not quirks(family.model_type).not_in_double
        self.config, self.n = reference_and_n(family, config)
        self._sides: dict[str, Sides] = {}

    def sides(self, dtype: str) -> Sides:
        """The reference and the right n in one precision.

        Raises:
            Unproven: one of them cannot be built.
        """
        if dtype not in self._sides:
            try:
                self._sides[dtype] = Sides(self, dtype)
            except Exception as error:
                what = f"{self.family.model_type}: the right n is not built in {dtype}"
                raise Unproven(f"{what} ({type(error).__name__}: {error})") from error
        return self._sides[dtype]

    def tried(self, mutant: Mutant) -> Outcome:
        """The outcome of a mutant, in the first layer that holds the part and, where it survives there, in the last.

        A proof of equivalence speaks of the precisions that are promised, not of float64.

        Raises:
            FalseProof: it is declared equivalent, and was noticed.
            Unproven: the right n differs from the reference by more than the floor.
        """
        outcome = self._outcome(mutant, mutant.n)
        proof = proof_of_equivalence(mutant, self.n) if outcome.state in ("killed", "survived") else None
        if proof and outcome.state == "killed" and not outcome.where.endswith("float64"):
            raise FalseProof(f"{self.family.model_type}: {mutant.name} was noticed in {outcome.where}, but: {proof}")
        if outcome.state == "survived" and mutant.later is not None:
            later = self._outcome(mutant, mutant.later)
            outcome = later if later.state == "killed" else outcome
        if proof and outcome.state == "survived":
            return dataclasses.replace(outcome, state="equivalent", why=proof)
        return outcome

    def _outcome(self, mutant: Mutant, n: ArchitectureParameter) -> Outcome:
        outcome = Outcome(mutant.name, mutant.kind, mutant.field, "survived")
        try:
            n.validate()
            models: dict[str, UniversalTransformer] = {}
            for mode, dtype in self._order():
                models[dtype] = models.get(dtype) or self.sides(dtype).model(n)
                seen, beyond = self.sides(dtype).notices(mode, models[dtype])
                if seen:
                    where = f"{mode} in {dtype}"
                    outcome = dataclasses.replace(outcome, state="killed", where=where, beyond_floor=beyond)
                    return outcome if beyond else self._in_double(outcome, mode, n)
        except Unproven:
            raise
        except NexusError as error:
            return dataclasses.replace(outcome, state="refused", why=str(error))
        except Exception as error:
            return dataclasses.replace(outcome, state="crashed", why=f"{type(error).__name__}: {error}")
        return outcome

    def _in_double(self, outcome: Outcome, mode: str, n: ArchitectureParameter) -> Outcome:
        """Of a mutant that bits alone have told: whether float64, in the same mode, shows more than the floor."""
        if mode == GRADIENTS or not self.doubles:
            return outcome
        sides = self.sides("float64")
        return dataclasses.replace(outcome, beyond_floor=sides.notices(mode, sides.model(n))[1])

    def _order(self) -> Iterator[tuple[str, str]]:
        """Modes and their precisions, cheap ones first."""
        yield from itertools.product(MODES, [dtype for dtype in DTYPES if dtype != "float64" or self.doubles])
        yield GRADIENTS, "float32"


class Sides:
    """The reference and the right n on one sample in one precision: what they give in each mode, and the floor."""

    def __init__(self, bench: Bench, dtype: str) -> None:
        self.bench, self.dtype, n = bench, dtype, bench.n
        if dtype == "float64":
            self.pair = _in_double(bench.sides("float32").pair)
        else:
            self.pair = Pair.built(bench.config, n, dtype=DTYPES[dtype], seed=bench.seed)
        length = longest_sample(n, wanted=LENGTH)
        drawn = sample(n.d_vocab, length=length, batch=3, seed=bench.seed, pad=n.text.pad)
        self.sample: Sample = dataclasses.replace(drawn, prompt=length - SINGLE_STEPS)
        self.state = {name: tensor.detach() for name, tensor in self.pair.reference.model.state_dict().items()}
        self.shapes = {name: tuple(tensor.shape) for name, tensor in self.state.items()}
        self.right = slots(self.pair.model)
        self._expected: dict[str, Tensor] = {}
        self._equal: dict[str, bool | None] = {}

    @property
    def is_promised(self) -> bool:
        """Whether the right n must hold. Float64 is looked at beyond the promise, where it can be."""
        borrowed = self.bench.family.reference
        return self.dtype == "float32" or (self.dtype == "bfloat16" and (borrowed is None or borrowed.rounds_alike))

    @cached_property
    def floor(self) -> float:
        """How much the reference differs from itself."""
        switch = switch_length(self.bench.n)
        return measure_floor(
            self.pair.reference,
            self.sample,
            other_attention=self.pair.other_attention,
            double=self.dtype != "float64",
            steps=(switch is None or switch >= self.sample.ids.shape[1]) and not steps_differ(self.bench.n),
        ).value

    def model(self, n: ArchitectureParameter) -> UniversalTransformer:
        """A mutant with the reference's weights, shared with the right n's where they are named and shaped alike.

        Raises:
            CheckpointError: the weights do not fit.
        """
        with torch.device("meta"):
            model = UniversalTransformer(n)
        plan = plan_load(model, registry.family(self.bench.family.model_type).weights, self.shapes)
        wanted = slots(model)
        for name, (rule, names) in plan.sources.items():
            known = self.right.get(name)
            if known is None or known.shape != wanted[name].shape:
                known = assemble(
                    wanted[name],
                    rule,
                    names,
                    read=self.state.__getitem__,
                    read_into=lambda part, target: target.copy_(self.state[part]),
                    dtype=self.state[names[0]].dtype,
                )
            put(model, name, known.detach())
        return model.eval()

    def notices(self, mode: str, model: UniversalTransformer) -> tuple[bool, bool]:
        """Whether a mode makes the verdict false, and whether by more than the floor."""
        if mode == GRADIENTS:
            return self._gradients(model)
        right_is_equal = self._right_is_equal(mode)
        if right_is_equal is None:
            return False, False
        with torch.no_grad():
            found = compare(self._expected[mode], MODES[mode](Ours(model), asked(self.bench.n, mode, self.sample)))
        beyond = not found.equal and found.max_difference > self.floor
        return beyond or (right_is_equal and not found.equal), beyond

    def _right_is_equal(self, mode: str) -> bool | None:
        """Whether the right n has the reference's bits in this mode; None where it is beyond a floor not promised.

        Raises:
            Unproven: it is beyond the floor.
        """
        if mode not in self._equal:
            subject = asked(self.bench.n, mode, self.sample)
            with torch.no_grad():
                self._expected[mode] = MODES[mode](self.pair.reference, subject)
                found = compare(self._expected[mode], MODES[mode](Ours(self.pair.model), subject))
            right = found.equal or found.max_difference <= self.floor
            if not right and self.is_promised:
                raise self._unproven(mode, found.max_difference, self.floor)
            self._equal[mode] = found.equal if right else None
        return self._equal[mode]

    def _gradients(self, model: UniversalTransformer) -> tuple[bool, bool]:
        drawn, other = every_token(self.sample, self.bench.n.d_vocab), self.pair.other_attention
        if GRADIENTS not in self._equal:
            right = compare_gradients(self.pair.reference, self.pair.model, drawn, other_attention=other)
            self._equal[GRADIENTS] = right.equal == right.parameters
            if right.worst > right.floor and not self._equal[GRADIENTS]:
                raise self._unproven(GRADIENTS, right.worst, right.floor)
        found = compare_gradients(self.pair.reference, model, drawn, other_attention=other)
        beyond = found.worst > found.floor
        return beyond or (self._equal[GRADIENTS] is True and found.equal < found.parameters), beyond

    def _unproven(self, mode: str, difference: float, floor: float) -> Unproven:
        what = f"{self.bench.family.model_type}: {mode} in {self.dtype}"
        return Unproven(f"{what}: the right n differs by {difference:.3g}, the floor is {floor:.3g}")


def _in_double(pair: Pair) -> Pair:
    """Both sides with the float32 reference's weights and buffers, widened: built in float64, buffers would differ."""
    reference, other = (model and in_double(model) for model in (pair.reference.model, pair.other_attention))
    with torch.device("meta"):
        model = UniversalTransformer(pair.model.n)
    copy_weights(reference, model)
    return Pair(reference, other, model.eval())
