"""No fake can pass: load, forward, cached decode and generation with transformers blocked give its ids and bits."""

from __future__ import annotations

import functools
import subprocess
import sys
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nexus_universal.parity.draws import pads_leak
from nexus_universal.parity.modes import Reference, positions_of
from nexus_universal.parity.quirks import quirks
from tests.checkpoint.on_disk import published
from tests.helpers import MODEL_TYPES, ROOT, UNTOLD, furthest, ids, pair, pieces, rows, same

ALONE = """
import sys
sys.modules["transformers"] = None
sys.modules["tokenizers"] = None
import torch
from safetensors.torch import load_file, save_file
from nexus_universal import ArchitectureParameter, UniversalTransformer

torch.set_num_threads(1)
places = [line.split() for line in sys.stdin]
for source, given, target in places:
    x = load_file(given)
    model = UniversalTransformer.from_pretrained(source)
    assert model.n == ArchitectureParameter.from_huggingface(source)
    with torch.no_grad():
        found = {"whole": model(x["ids"]).logits}
        cache = model.new_cache()
        for index, piece in enumerate(x["ids"].split(x["pieces"].tolist(), dim=1)):
            found[f"piece {index}"] = model(piece, cache=cache).logits
        mask = x["mask"]
        found["padded"] = model(x["ids"], attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0)).logits
    found["generated"] = model.generate(x["ids"][:, :9], max_new_tokens=8, do_sample=False, pad_token_id=0)
    found["generated padded"] = model.generate(
        x["ids"], attention_mask=mask, max_new_tokens=4, do_sample=False, pad_token_id=0
    )
    model.save_pretrained(target + ".saved")
    again = UniversalTransformer.from_pretrained(target + ".saved")
    with torch.no_grad():
        assert torch.allclose(again(x["ids"]).logits, found["whole"], atol=1e-4)
    save_file({name: tensor.contiguous() for name, tensor in found.items()}, target)
try:
    import transformers
except ImportError:
    print("blocked")
"""


@functools.cache
def loaded(model_type: str) -> Any:
    """The reference, from the same file: mapped weights, whose alignment may show in the bits, are aligned alike."""
    return type(pair(model_type)[0]).from_pretrained(published(model_type)).eval()


def padding(model_type: str) -> torch.Tensor:
    """One row padded on the left; none where the reference lets pads into the tokens after them."""
    mask = torch.ones(rows(model_type, 2), 20, dtype=torch.long)
    mask[0, : 0 if pads_leak(pair(model_type)[1].n) or quirks(model_type).widens_mask else 6] = 0
    return mask


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, torch.Tensor]]:
    """What the package alone computes for every family, in one process that cannot import transformers."""
    scratch = tmp_path_factory.mktemp("alone")
    targets = {model_type: scratch / model_type for model_type in MODEL_TYPES}
    for model_type, target in targets.items():
        given = {
            "ids": ids(rows(model_type, 2), 20),
            "mask": padding(model_type),
            "pieces": torch.tensor(pieces(model_type)),
        }
        save_file(given, f"{target}.given")
    lines = [f"{published(model_type)} {target}.given {target}" for model_type, target in targets.items()]
    done = subprocess.run(
        [sys.executable, "-c", ALONE],
        input="\n".join(lines),
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "blocked"
    return {model_type: load_file(target) for model_type, target in targets.items()}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
@torch.no_grad()
def test_logits_are_the_references(model_type: str, found: dict[str, dict[str, torch.Tensor]]) -> None:
    theirs, x = loaded(model_type), ids(rows(model_type, 2), 20)
    assert same(found[model_type]["whole"], theirs(x, use_cache=False).logits)
    side = Reference(theirs)
    cache = side.new_cache()
    for index, piece in enumerate(x.split(pieces(model_type), dim=1)):
        given, expected = found[model_type][f"piece {index}"], side(piece, cache=cache)
        assert furthest(given, expected) < 1e-5 if side.quirks.reads_anew else same(given, expected)
    mask = padding(model_type)
    if model_type in UNTOLD:
        alone = [theirs(row[real][None], use_cache=False).logits[0] for row, real in zip(x, mask.bool(), strict=True)]
        assert furthest(found[model_type]["padded"][mask.bool()], torch.cat(alone)) < 1e-5
        return
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    expected = side(x, mask=mask, positions=positions)
    assert same(found[model_type]["padded"][mask.bool()], expected[mask.bool()])


def placed(theirs: Any, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """The rows of its table where the reference takes positions for such: its generation begins at the first row."""
    first = Reference(theirs).first_row
    return {"position_ids": positions_of(mask) + first} if first else {}


@pytest.mark.parametrize("model_type", MODEL_TYPES)
def test_generated_ids_are_the_references(model_type: str, found: dict[str, dict[str, torch.Tensor]]) -> None:
    theirs, x = loaded(model_type), ids(rows(model_type, 2), 20)
    plain = {"do_sample": False, "pad_token_id": 0}
    whole = torch.ones(len(x), 9).long()
    expected = theirs.generate(x[:, :9], attention_mask=whole, max_new_tokens=8, **placed(theirs, whole), **plain)
    assert torch.equal(found[model_type]["generated"], expected)
    if model_type in UNTOLD:
        alone = theirs.generate(x[:1, 6:], max_new_tokens=4, **plain)
        assert torch.equal(found[model_type]["generated padded"][:1, 6:], alone)
        return
    mask = padding(model_type)
    expected = theirs.generate(x, attention_mask=mask, max_new_tokens=4, **placed(theirs, mask), **plain)
    assert torch.equal(found[model_type]["generated padded"], expected)
