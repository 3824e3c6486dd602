"""transformers' own OpenAI-compatible server, with the one class behind it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from nexus_universal.architecture.errors import InputError
from nexus_universal.integrations.paged import check_paged
from nexus_universal.integrations.transformers import NexusForCausalLM

MISSING = "serving needs more packages: pip install 'transformers[serving]'"


@dataclass(frozen=True, kw_only=True)
class Batching:
    """How much continuous batching may hold at once: pages of 256 positions, and tokens of a call; None: by memory."""

    pages: int | None = None
    tokens: int | None = None


def serve(source: str, *, host: str, port: int, dtype: str, device: str, batching: Batching | None = None) -> None:
    """Serve one checkpoint until interrupted; chat templates, streaming and sampling are transformers'.

    With `batching`, requests that come while others run join them; else each is answered by itself.

    Raises:
        InputError: fastapi or uvicorn are missing, or batching for an n that pages cannot serve.
    """
    from transformers.cli.serve import Serve
    from transformers.cli.serving.model_manager import ModelManager

    def load(manager: Any, model_id_and_revision: str, **unused: Any) -> NexusForCausalLM:
        """Load with the one class: the server itself would look for a class of transformers, by its name."""
        name, _, revision = model_id_and_revision.rpartition("@")
        asked = None if revision == "main" else revision
        model = NexusForCausalLM.from_pretrained(name, dtype=dtype, device_map=device, revision=asked)
        if batching is not None:
            check_paged(model.model)
        return model

    cast("Any", ModelManager)._load_model = load
    try:
        Serve(
            force_model=source,
            host=host,
            port=port,
            device=device,
            dtype=dtype,
            continuous_batching=batching is not None,
            cb_num_blocks=batching.pages if batching else None,
            cb_max_batch_tokens=batching.tokens if batching else None,
        )
    except ImportError:
        raise InputError(MISSING) from None
