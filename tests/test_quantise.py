"""Rounded weights: what they cost is measured and said. Run where torchao is (`.ci/run` has an environment for it)."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from nexus_universal.architecture.errors import InputError
from tests.helpers import ids_without_pads as ids
from tests.helpers import reference, universal

WIDE = {"hidden_size": 64, "intermediate_size": 96, "head_dim": 16}
"""int4 rounds groups of 32."""


@pytest.mark.torchao
@pytest.mark.parametrize(("kind", "most"), [("int8", 0.02), ("fp8", 0.2), ("int4", 2.0)])
def test_rounding_is_measured_and_said(kind: Any, most: float, capsys: pytest.CaptureFixture[str]) -> None:
    exact, fast = (universal(reference("llama", **WIDE)).to(torch.bfloat16).eval() for _ in range(2))
    tokens = ids(2, 40)
    quality = fast.optimize(quantize=kind, sample=tokens).optimised.quality
    assert 0 < quality.kl < most and 0.5 < quality.rounded < 1
    assert f"quantised to {quality}\n" in capsys.readouterr().err and f"KL {quality.kl:.2e}" in str(quality)
    with torch.no_grad():
        before, after = exact(tokens).logits.float(), fast(tokens).logits.float()
    expected = (before.softmax(-1) * (before.log_softmax(-1) - after.log_softmax(-1))).sum(-1).mean()
    assert quality.kl == pytest.approx(float(expected), rel=0.3)


@pytest.mark.torchao
def test_an_unknown_rounding_is_refused() -> None:
    with pytest.raises(InputError, match=r"quantize = 'int3' \(known: int8, int4, fp8\)"):
        universal(reference("llama")).optimize(quantize="int3")


def test_without_torchao_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "torchao", None)
    with pytest.raises(InputError, match="quantize needs torchao: pip install torchao"):
        universal(reference("llama")).optimize(quantize="int8")
