"""transformers' own OpenAI-compatible server, with the one class behind it."""

from __future__ import annotations

from typing import Any, cast

from nexus_universal.architecture.errors import InputError
from nexus_universal.integrations.transformers import NexusForCausalLM

MISSING = "serving needs more packages: pip install 'transformers[serving]'"


def serve(source: str, *, host: str, port: int, dtype: str, device: str) -> None:
    """Serve one checkpoint until interrupted; chat templates, streaming and sampling are transformers'.

    Raises:
        InputError: fastapi or uvicorn are missing.
    """
    from transformers.cli.serve import Serve
    from transformers.cli.serving.model_manager import ModelManager

    def load(manager: Any, model_id_and_revision: str, **unused: Any) -> NexusForCausalLM:
        """Load with the one class: the server itself would look for a class of transformers, by its name."""
        name, _, revision = model_id_and_revision.rpartition("@")
        asked = None if revision == "main" else revision
        return NexusForCausalLM.from_pretrained(name, dtype=dtype, device_map=device, revision=asked)

    cast("Any", ModelManager)._load_model = load
    try:
        Serve(force_model=source, host=host, port=port, device=device, dtype=dtype)
    except ImportError:
        raise InputError(MISSING) from None
