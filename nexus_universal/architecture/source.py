"""A raw config as a dict, from whatever names it: a dict, a config object, a file, a directory or a repo id."""

from __future__ import annotations

import json
from os import PathLike
from pathlib import Path
from typing import Any

from nexus_universal.architecture.errors import CheckpointError

CONFIG_NAME = "config.json"
NEXUS_TYPE = "nexus_universal"
"""The model type of a config.json that holds n itself."""


def read_config(source: Any, **hub: Any) -> dict[str, Any]:
    """The raw JSON of `source`, untouched.

    Raises:
        CheckpointError: nothing is there, or it is not a JSON object.
    """
    if isinstance(source, dict):
        return source
    if hasattr(source, "to_dict"):
        return json.loads(json.dumps(source.to_dict(), default=_plain))
    if not isinstance(source, str | PathLike):
        raise CheckpointError(f"cannot read a config from {type(source).__name__} (a path, repo id, dict or config)")
    return load_json(find_file(source, CONFIG_NAME, **hub))


def _plain(value: Any) -> Any:
    """JSON for what config objects hold besides JSON: a torch dtype prints as `torch.bfloat16`."""
    return str(value).removeprefix("torch.")


def load_json(path: Path) -> dict[str, Any]:
    """Parse a JSON object from a file.

    Raises:
        CheckpointError: unreadable, not JSON, or not an object.
    """
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise CheckpointError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(data, dict):
        raise CheckpointError(f"{path}: must hold a JSON object, holds {type(data).__name__}")
    return data


def find_file(source: str | PathLike[str], name: str, **hub: Any) -> Path:
    """`name` inside a directory or repo, or `source` itself where it is a file.

    Raises:
        CheckpointError: neither a local path nor a repo that can be reached.
    """
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        if not (path / name).is_file():
            raise CheckpointError(f"{path}: holds no {name}")
        return path / name
    text = str(source)
    if path.is_absolute() or text.startswith((".", "~")) or text.count("/") != 1:
        raise CheckpointError(f"{text}: no such file or directory (and not a repo id of the form owner/name)")
    from huggingface_hub import hf_hub_download

    try:
        return Path(hf_hub_download(text, name, **hub))
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(f"{text}: no such directory, and the hub gave no {name} ({reason})") from None
