"""Every causal language model of transformers is a family, or refused with a reason."""

from __future__ import annotations

import pytest
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from nexus_universal import ArchitectureParameter, families
from nexus_universal.architecture.errors import UnknownModelType


def test_each_type_is_a_family_or_refused() -> None:
    known, refused = set(families.model_types()), set(families.REFUSED)
    assert not known & refused
    assert set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) - known == refused


@pytest.mark.parametrize("model_type", families.REFUSED)
def test_a_refusal_gives_its_reason(model_type: str) -> None:
    with pytest.raises(UnknownModelType, match="is refused: it ") as error:
        ArchitectureParameter.from_huggingface({"model_type": model_type})
    assert families.REFUSED[model_type] in str(error.value)
