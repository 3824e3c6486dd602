"""lm-eval's HF backend over the one class: the same numbers as over the reference."""

from __future__ import annotations

from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from nexus_universal.integrations.transformers import NexusForCausalLM
from tests.helpers import ROOT

TRAINED = ROOT / "tests" / "data" / "qwen3_tiny"
PAIRS = [("Once upon", " a time"), ("The cat", " sat"), ("x", "y z w")]


@pytest.mark.slow
def test_the_harness_measures_the_same() -> None:
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    def ask(kind: str, *arguments: Any) -> Instance:
        return Instance(kind, {}, arguments, 0)

    found = []
    for model in (AutoModelForCausalLM.from_pretrained(TRAINED), NexusForCausalLM.from_pretrained(TRAINED)):
        harness = HFLM(pretrained=model, tokenizer=AutoTokenizer.from_pretrained(TRAINED), batch_size=2)
        until = {"until": ["."], "max_gen_toks": 8, "do_sample": False}
        found.append(
            (
                harness.loglikelihood([ask("loglikelihood", *pair) for pair in PAIRS]),
                harness.loglikelihood_rolling([ask("loglikelihood_rolling", "Once upon a time.")]),
                harness.generate_until([ask("generate_until", "Once upon a", until)]),
            )
        )
    assert found[0] == found[1]
    assert all(likelihood < 0 for likelihood, _ in found[0][0])
