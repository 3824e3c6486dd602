"""`CapabilityDNA`: a capability as weights and what they read, and what is really left of it when it is compressed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.retention import RetentionCertificate, certified
from nexus_universal.fusion.study.analyser import SemanticWeightAnalyzer, WeightSemantics
from nexus_universal.fusion.study.fidelity import Fidelity, Ids, accuracy, fidelity, logits_of
from nexus_universal.fusion.study.truncation import TIER, Metric, input_metrics, truncate
from nexus_universal.transformer import UniversalTransformer

MEGABYTE = 1e6


@dataclass(frozen=True, kw_only=True)
class CompressedDNA:
    """A smaller model, how small it really is, and what it really keeps."""

    model: UniversalTransformer
    asked_ratio: float
    ratio: float
    """Parameters before, over numbers that are stored after."""
    estimated_size_mb: float
    fidelity: Fidelity
    certificate: RetentionCertificate

    def __str__(self) -> str:
        told = f"asked {self.asked_ratio:.3g} ×, reached {self.ratio:.3g} × ({self.estimated_size_mb:.3g} MB)"
        return f"{told}: {self.fidelity}"


@dataclass(frozen=True, kw_only=True)
class CapabilityDNA:
    """What was extracted of a capability. The weights themselves are the model's: there is no shorter description.

    `capability_patterns` are E xxᵀ of what each projection reads on the capability's text; `confidence_score` is the
    share of that text's next tokens which the model guesses right.
    """

    capability_name: str
    weight_semantics: WeightSemantics
    capability_patterns: Mapping[str, Metric] = field(repr=False)
    modality: str
    estimated_size_mb: float
    confidence_score: float
    model: UniversalTransformer = field(repr=False)
    text: Ids = field(repr=False)

    def compress(self, ratio: float, *, report: Callable[[str], None] = print) -> CompressedDNA:
        """Truncate the layers' matrices, whitened by the patterns, until they are `ratio` times smaller; R3.

        What is kept is measured on text that the patterns were not made of, and reported. Tables, head and norms stay
        as they are, so that the whole shrinks by less than `ratio`.

        Raises:
            InputError: a ratio below 1.
        """
        if ratio < 1:
            raise InputError(f"ratio = {ratio} must be at least 1")
        before = logits_of(self.model, self.text)
        smaller, _, whole = truncate(self.model, 1 / ratio, metrics=self.capability_patterns)
        found, evidence = fidelity(before, logits_of(smaller, self.text), self.text)
        compressed = CompressedDNA(
            model=smaller,
            asked_ratio=ratio,
            ratio=1 / whole,
            estimated_size_mb=self.estimated_size_mb * whole,
            fidelity=found,
            certificate=certified(f"compress {self.capability_name}", TIER, evidence),
        )
        report(str(compressed))
        return compressed


class DNAExtractor:
    """From a model and text that shows a capability to its `CapabilityDNA`.

    Example:
        >>> dna = DNAExtractor().extract(model, "docstrings", ids=ids)
        >>> dna.compress(4)
        asked 4 ×, reached 2.3 × (…): KL …
    """

    def extract(
        self, model: UniversalTransformer, capability: str, *, ids: Ids, modality: str = "text"
    ) -> CapabilityDNA:
        """Even rows of `ids` tell what the weights read, odd ones are kept to measure by.

        Raises:
            InputError: fewer than two rows, or a capability without a name.
        """
        if not capability:
            raise InputError("a capability needs a name")
        if ids.dim() != 2 or len(ids) < 2:
            raise InputError(f"ids of shape {tuple(ids.shape)}: two rows at least, to learn from and to measure by")
        text = ids[1::2]
        size = sum(parameter.numel() * parameter.element_size() for parameter in model.parameters())
        return CapabilityDNA(
            capability_name=capability,
            weight_semantics=SemanticWeightAnalyzer().analyze(model),
            capability_patterns=input_metrics(model, ids[::2]),
            modality=modality,
            estimated_size_mb=size / MEGABYTE,
            confidence_score=accuracy(logits_of(model, text), text),
            model=model,
            text=text,
        )
