"""One proof: a reference and ours on one sample, every mode and every law, entered in a certificate."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from nexus_universal.architecture import registry
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.checkpoint.copying import copy_weights
from nexus_universal.parity.certificate import Certificate, LawRow, Verdict
from nexus_universal.parity.draws import asked, pads_leak, scans_restart, steps_differ, switch_length
from nexus_universal.parity.floors import FACTOR, Floor, cutting_change, measure_floor, padding_change
from nexus_universal.parity.gradients import compare_gradients, every_token
from nexus_universal.parity.laws import check_laws
from nexus_universal.parity.localise import first_divergence
from nexus_universal.parity.modes import MODES, Comparison, Ours, Reference, Sample, compare, greedy, sample
from nexus_universal.parity.references import build_reference, load_reference
from nexus_universal.transformer import UniversalTransformer

Progress = Callable[[str], None]
UNPADDED = "without pads where the reference lets them into the tokens behind them"
SLOTS = "with pads counted as positions, as the reference counts them whatever it is told"
STEPPED = "in single steps after the first chunk where the reference would forget its state"
ALONE = "one row alone where the reference's single steps mix rows"
UNCUTTABLE = "Laws of cutting were not asked of draws whose Δ is bounded in the scan only: a step is another function."


def say(progress: Progress | None, text: str) -> None:
    """Tell whoever watches what is being done."""
    if progress is not None:
        progress(text)


class Pair:
    """A reference, the same weights in its other attention form where it has one, and ours."""

    def __init__(self, reference: Any, other_attention: Any, model: UniversalTransformer) -> None:
        self.reference, self.other_attention, self.model = Reference(reference), other_attention, model

    @classmethod
    def built(cls, config: Any, n: ArchitectureParameter, *, dtype: torch.dtype, seed: int) -> Pair:
        reference = build_reference(config, dtype=dtype, seed=seed)
        other = _other_form(reference)
        if other is not None:
            other = build_reference(config, dtype=dtype, seed=seed, attention=other)
        with torch.device("meta"):
            model = UniversalTransformer(n)
        copy_weights(reference, model)
        return cls(reference, other, model.eval())

    @classmethod
    def loaded(cls, directory: Path, model: UniversalTransformer) -> Pair:
        reference = load_reference(directory, dtype=model.dtype)
        other = _other_form(reference)
        return cls(
            reference,
            None if other is None else load_reference(directory, dtype=model.dtype, attention=other),
            model,
        )


def _other_form(reference: Any) -> str | None:
    if not getattr(reference, "_supports_sdpa", False) or getattr(reference.config, "alibi", False):
        return None  # the eager form of biased attention adds its biases twice (docs/REFERENCE_FAULTS.md)
    return "eager" if reference.config._attn_implementation == "sdpa" else "sdpa"


@torch.no_grad()
def prove(
    certificate: Certificate,
    pair: Pair,
    drawn: Sample,
    *,
    config: dict[str, Any] | None,
    double: bool = True,
    progress: Progress | None = None,
) -> None:
    """Run every mode and every law of one draw and enter them in the certificate."""
    ours = Ours(pair.model)
    say(progress, "measuring the floor")
    switch = switch_length(pair.model.n)
    floor = measure_floor(
        pair.reference,
        drawn,
        other_attention=pair.other_attention,
        double=double,
        steps=(switch is None or switch >= drawn.ids.shape[1]) and not steps_differ(pair.model.n),
    )
    for mode, run in MODES.items():
        say(progress, mode)
        row, subject = certificate.row(mode), asked(pair.model.n, mode, drawn)
        verdict = row.add(compare(run(pair.reference, subject), run(ours, subject)), floor)
        if subject.ids.shape != drawn.ids.shape:
            row.note = ALONE
        elif subject.chunks != drawn.chunks:
            row.note = STEPPED
        elif subject.lengths != drawn.lengths:
            row.note = UNPADDED
        elif subject.counted != drawn.counted:
            row.note = SLOTS
        if verdict == "wrong":
            _explain(certificate, pair, drawn, floor, config, mode)
    _enter_greedy(certificate, pair, drawn, floor, config)
    say(progress, "laws")
    _enter_laws(certificate, pair, drawn, floor)


def _enter_greedy(
    certificate: Certificate, pair: Pair, drawn: Sample, floor: Floor, config: dict[str, Any] | None
) -> None:
    """Greedy ids must be equal, unless the two best logits were closer than the floor where they first differ."""
    prompt = drawn.ids[:1, : drawn.prompt]
    theirs, margins = greedy(pair.reference, prompt, drawn.new_tokens)
    mine, _ = greedy(Ours(pair.model), prompt, drawn.new_tokens)
    row = certificate.row("greedy text")
    if theirs == mine:
        row.add(Comparison(equal=True, max_difference=0.0, max_logit=floor.max_logit, kl=0.0, flips=0), floor)
        return
    at = next(index for index, (a, b) in enumerate(zip(theirs, mine, strict=True)) if a != b)
    margin = margins[at]
    verdict = row.add(Comparison(equal=False, max_difference=margin, max_logit=floor.max_logit, kl=0.0, flips=1), floor)
    row.note = f"first different at token {at}, margin {margin:.3g}"
    if verdict == "wrong":
        _explain(certificate, pair, drawn, floor, config, "greedy text")


def _enter_laws(certificate: Certificate, pair: Pair, drawn: Sample, floor: Floor) -> None:
    """Laws on a sample below the switch of rotations that look at the whole call."""
    model = pair.model
    switch = switch_length(model.n)
    if switch is not None and switch < drawn.ids.shape[1]:
        drawn = sample(model.n.d_vocab, length=switch, batch=3, seed=1, pad=model.n.text.pad)
    # Where pads leak or count, what the reference makes of them is no measure.
    change = 0.0 if pads_leak(model.n) or pair.reference.quirks.counts_slots else padding_change(pair.reference, drawn)
    if not scans_restart(model.n):
        change = max(change, cutting_change(pair.reference, drawn))
    cuttable = not steps_differ(model.n)
    if not cuttable and UNCUTTABLE not in certificate.notes:
        certificate.notes.append(UNCUTTABLE)
    for law in check_laws(model, drawn, floor=max(floor.value, FACTOR * change), cuttable=cuttable):
        row = next((row for row in certificate.laws if row.law == law.name), None)
        if row is None:
            row = LawRow(law.name)
            certificate.laws.append(row)
        row.holds = row.holds and law.holds
        row.difference = max(row.difference, law.difference)
        row.floor = max(row.floor, law.floor)


def prove_gradients(certificate: Certificate, pair: Pair, drawn: Sample, *, config: dict[str, Any]) -> None:
    """Gradients of every parameter: the row's differences are relative to each parameter's largest gradient."""
    pair.reference.begin()
    drawn = every_token(drawn, pair.model.n.d_vocab)
    found = compare_gradients(pair.reference, pair.model, drawn, other_attention=pair.other_attention)
    equal = found.equal == found.parameters
    floor = Floor(changes={"gradients": found.floor / 4}, max_logit=1.0)
    row = certificate.row("gradients")
    verdict: Verdict = row.add(
        Comparison(equal=equal, max_difference=found.worst, max_logit=1.0, kl=0.0, flips=0), floor
    )
    if verdict == "wrong":
        row.note = f"{found.worst_name} differs most"
        certificate.failing_config = certificate.failing_config or dict(config)


def _explain(
    certificate: Certificate, pair: Pair, drawn: Sample, floor: Floor, config: dict[str, Any] | None, mode: str
) -> None:
    """Name the first diverging component of the first failing mode."""
    if certificate.divergence:
        return
    weights = registry.family(pair.model.n.origin.family or "").weights
    pair.reference.begin()
    found = first_divergence(
        pair.reference.model,
        pair.model,
        weights,
        call_reference=lambda: pair.reference(drawn.ids[:1]),
        call_model=lambda: pair.model(drawn.ids[:1]),
        floor=floor.value,
    )
    certificate.divergence = f"{mode}: {found}" if found else f"{mode}: not in a plain prefill; see the mode"
    certificate.failing_config = dict(config or {})
