"""Who answers: the one that is named, else the one that a rule names, else the one that foretells the prompt best."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch

from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.union.registry import Capability, ModelRegistry, ModelSpec

MARGIN_BITS = 1.0
"""Below odds of two to one nothing is decided."""

RULES: tuple[tuple[str, Capability], ...] = (
    (r"\b(draw|paint|sketch|generate|create|make)\b.*\b(image|picture|photo|drawing|logo)\b", Capability.IMG_GEN),
    (r"\b(edit|retouch|crop|recolou?r|remove the background)\b.*\b(image|picture|photo)\b", Capability.IMAGE_EDIT),
    (r"\b(generate|create|make|animate)\b.*\b(video|clip|animation)\b", Capability.VIDEO_GEN),
    (r"\b(describe|look at|see|read)\b.*\b(image|picture|photo|screenshot|video)\b", Capability.VISION),
    (r"\b(transcribe|transcript|subtitle)", Capability.ASR),
    (r"\b(say|read|speak)\b.*\baloud\b|\b(say|speak)\b.*\bvoice\b|\btext to speech\b", Capability.TTS),
    (r"\b(use|call|invoke)\b.*\b(tools?|functions?|api)\b", Capability.AGENT),
)
"""What a request says of itself."""

BitsOf = Callable[[str], float]
"""−log₂ of the probability that a model gives a text."""


@dataclass(frozen=True)
class Route:
    """Who answers and why. `bits` are −log₂ p(prompt) − log₂ π per byte, by name; `margin` the runner-up's, in bits."""

    name: str
    reason: Literal["explicit", "rules", "only", "bits_per_byte", "abstained"]
    bits: Mapping[str, float]
    margin: float = math.inf


class CapabilityRouter:
    """Chooses among the models of a registry.

    `scorers` say how well each foretells a text. Any two models can be compared by that, whatever their vocabularies:
    argmin_i (−log₂ p_i(prompt) − log₂ π_i) / bytes is Bayes' choice if every model knows its own domain. `priors` are
    the π_i, equal where none are given. Where the second is within `margin_bits` of the first, in bits of the whole
    prompt, the router abstains: it names the first of the registry and says so.

    Example:
        >>> CapabilityRouter(registry, scorers).choose("def f(x):").reason
        'bits_per_byte'
    """

    def __init__(
        self,
        registry: ModelRegistry,
        scorers: Mapping[str, BitsOf] | None = None,
        *,
        priors: Mapping[str, float] | None = None,
        margin_bits: float = MARGIN_BITS,
    ) -> None:
        self.registry, self.scorers, self.margin_bits = registry, scorers or {}, margin_bits
        self.priors = priors or {spec.model_id: 1 / max(1, len(registry)) for spec in registry}
        if wrong := [name for name, prior in self.priors.items() if name not in registry or not 0 < prior <= 1]:
            raise InputError(f"the prior of {wrong[0]} must be that of a registered model, in (0, 1]")

    def detect_intent(self, query: str) -> list[Capability]:
        """What a request asks for by its words, in the order in which it does; nothing where no rule fits."""
        found = ((re.search(pattern, query, re.IGNORECASE | re.DOTALL), capability) for pattern, capability in RULES)
        return [capability for _, capability in sorted((match.start(), name) for match, name in found if match)]

    def route(self, query: str, *, budget_bytes: int | None = None) -> list[tuple[Capability, ModelSpec]]:
        """The models that carry a request out, in order; text that no rule fits is for the reasoning ones.

        Raises:
            InputError: no model can do a part of it, or none within the budget.
        """
        asked = self.detect_intent(query) or [Capability.REASONING]
        return [(each, self.registry.get_optimal_model(each, budget_bytes=budget_bytes)) for each in asked]

    def choose(self, prompt: str, *, capability: str | None = None) -> Route:
        """One model for a prompt. `capability` is the name of a model, which is exact, or of what it can do.

        Raises:
            InputError: nobody has the capability that is named, or that the prompt asks for.
        """
        if capability is not None and capability in self.registry:
            return Route(capability, "explicit", {})
        if capability is not None:
            return self._among(self._able(capability), prompt, "explicit")
        asked = self.detect_intent(prompt)
        if asked:
            return self._among(self._able(asked[0]), prompt, "rules")
        return self._among([spec.model_id for spec in self.registry], prompt, "only")

    def _able(self, capability: str) -> list[str]:
        able = [spec.model_id for spec in self.registry if capability in spec.capabilities]
        if not able:
            offered = dict.fromkeys(str(each) for spec in self.registry for each in sorted(spec.capabilities))
            known = ", ".join((*(spec.model_id for spec in self.registry), *offered))
            raise InputError(f"capability {str(capability)!r} (known: {known})")
        return able

    def _among(self, names: list[str], prompt: str, reason: Literal["explicit", "rules", "only"]) -> Route:
        if len(names) == 1:
            return Route(names[0], reason, {})
        scored = [name for name in names if name in self.scorers]
        if len(scored) < 2 or not prompt:
            return Route(names[0], "abstained", {}, 0.0)
        nbytes = len(prompt.encode())
        bits = {name: self.scorers[name](prompt) - math.log2(self.priors.get(name, 1.0)) for name in scored}
        ranked = sorted(bits, key=bits.__getitem__)
        margin = bits[ranked[1]] - bits[ranked[0]]
        per_byte = {name: value / nbytes for name, value in bits.items()}
        if margin < self.margin_bits:
            return Route(names[0], "abstained", per_byte, margin)
        return Route(ranked[0], "bits_per_byte", per_byte, margin)


def bits_of(model: Any, tokenizer: Any, text: str) -> float:
    """−log₂ p(text), by the tokens that the tokenizer cuts it into.

    The first is foretold from the model's begin-of-text id, else from its end-of-text id; a model with neither is
    charged log₂ of its vocabulary for it.
    """
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    text_of = model.n.text
    start = text_of.bos if text_of.bos is not None else next(iter(text_of.eos), None)
    given = ids if start is None else [start, *ids]
    with torch.no_grad():
        logits = model(torch.tensor([given], device=model.device)).logits[0, :-1].float()
    targets = torch.tensor(given[1:], device=logits.device)
    nats = torch.nn.functional.cross_entropy(logits, targets, reduction="sum") if len(given) > 1 else torch.zeros(())
    return float(nats) / math.log(2) + (math.log2(model.n.d_vocab) if start is None and ids else 0.0)
