"""The files of results that scripts keep family by family: shards may write to one at the same time."""

from __future__ import annotations

import fcntl
import json
from datetime import date
from pathlib import Path
from typing import Any

from nexus_universal import families
from nexus_universal.parity.certificate import versions


def enter(path: Path, found: dict[str, Any], *, section: str = "families") -> None:
    """Add or replace entries of a section; those of families that are no more are left out. The lock is the file's."""
    with path.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        file.seek(0)
        kept: dict[str, Any] = json.loads(file.read() or '{"families": {}}')
        entries = {**kept.get(section, {}), **found}
        if section == "families":
            entries = {name: entry for name, entry in sorted(entries.items()) if name in families.model_types()}
        kept[section] = entries
        kept["versions"] = {key: value for key, value in versions().items() if key != "machine"}
        kept["date"] = date.today().isoformat()
        file.truncate(0)
        file.write(json.dumps(kept, indent=1, ensure_ascii=False) + "\n")
