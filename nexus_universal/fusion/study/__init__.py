"""What weights hold and what compressing them costs: spectra, entropies, truncation, inflation, all measured."""

from __future__ import annotations

from nexus_universal.fusion.study.analyser import MatrixSemantics, SemanticWeightAnalyzer, WeightSemantics
from nexus_universal.fusion.study.dna import CapabilityDNA, CompressedDNA, DNAExtractor
from nexus_universal.fusion.study.fidelity import Fidelity, fidelity
from nexus_universal.fusion.study.inflation import InflationReport, inflate_pca
from nexus_universal.fusion.study.spectrum import Spectrum
from nexus_universal.fusion.study.truncation import Point, low_rank, rate_retention, truncate

__all__ = [
    "CapabilityDNA",
    "CompressedDNA",
    "DNAExtractor",
    "Fidelity",
    "InflationReport",
    "MatrixSemantics",
    "Point",
    "SemanticWeightAnalyzer",
    "Spectrum",
    "WeightSemantics",
    "fidelity",
    "inflate_pca",
    "low_rank",
    "rate_retention",
    "truncate",
]
