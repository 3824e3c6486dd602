"""Every tensor signature is checked at run time (jaxtyping, beartype): the annotations say what really passes."""

from __future__ import annotations

import json
import subprocess
import sys

from tests.helpers import MODEL_TYPES, ROOT

CHECKED = """
import json, sys
from jaxtyping import TypeCheckError, install_import_hook
with install_import_hook(
    ["nexus_universal.layers", "nexus_universal.cache", "nexus_universal.transformer"], "beartype.beartype"
):
    import nexus_universal.transformer
import torch
from nexus_universal.architecture.position import Norm
from nexus_universal.layers.norms import UniversalNorm
from tests.helpers import MODEL_TYPES, ids, pair

def calls(model):
    mask = torch.ones(2, 20, dtype=torch.long)
    mask[0, :3] = 0
    for padding in (None, mask):
        cache = model.new_cache()
        model(ids(2, 20), attention_mask=padding, cache=cache)
        for new in (1, 3):
            cache.fork().select(torch.tensor([1, 0, 0]))
            more = None if padding is None else torch.cat([padding, padding.new_ones(2, new)], dim=1)
            model(ids(2, new), attention_mask=more, cache=cache)
            padding = more
    model(ids(2, 20), attention_mask=mask.flip(1), cache=model.new_cache())
    model(ids(2, 20), logits_to_keep=torch.tensor([0, 5]), position_ids=torch.arange(20)[None] + 3)
    if not any(name.endswith("router.table") for name, _ in model.named_buffers()):  # chooses experts by ids
        model(inputs_embeds=model.embedding.look_up(ids(2, 7)))

found = {}
for model_type in MODEL_TYPES:
    try:
        with torch.no_grad():
            calls(pair(model_type)[1])
        found[model_type] = "fits"
    except TypeCheckError as error:
        found[model_type] = str(error)[:600]
try:
    pair("llama")[1].plan.ropes[0](torch.zeros(1, 2, 3, dtype=torch.long), torch.float32)
    found["a wrong shape"] = "passed"
except TypeCheckError:
    found["a wrong shape"] = "caught"
print(json.dumps(found))
"""


def test_every_family_passes_with_all_signatures_checked() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CHECKED],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found.pop("a wrong shape") == "caught"
    assert found == dict.fromkeys(MODEL_TYPES, "fits")
