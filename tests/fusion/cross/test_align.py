"""One text in two tokenizers' tokens: a position sees what is read whole where its own ends, and nothing later."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError
from nexus_universal.fusion.cross import Batch, CrossFusionOptimizer, aligned
from nexus_universal.fusion.cross.align import earliest_ends, latest_ends, read_counts
from nexus_universal.layers.memories import DonorInput
from tests.fusion.cross.pieces import DATA, IDS, KINDS, attached, loaded
from tests.helpers import raw

TEXTS = ["Return the name of the file: “naïve” 🤔 path.", "A short one"]


class Characters:
    """A tokenizer of single characters behind a token that begins a text."""

    def __call__(self, text: str, *, return_offsets_mapping: bool) -> dict[str, list[Any]]:
        assert return_offsets_mapping
        spans = [(0, 0), *((index, index + 1) for index in range(len(text)))]
        return {"input_ids": [1, *(3 + ord(character) % 90 for character in text)], "offset_mapping": spans}


class Silent:
    def __call__(self, text: str, *, return_offsets_mapping: bool) -> dict[str, list[Any]]:
        raise NotImplementedError


@pytest.mark.parametrize(
    ("text", "spans", "earliest", "latest"),
    [
        ("abc", [(0, 1), (1, 3)], [1, 3], [1, 3]),
        ("abc", [(0, 0), (0, 2), (2, 3), (0, 0)], [0, 2, 3, 3], [0, 2, 3, 3]),
        ("é!", [(0, 1), (0, 1), (1, 2)], [0, 2, 3], [2, 2, 3]),
        ("a🤔b", [(0, 1), (1, 2), (1, 2), (1, 2), (1, 2), (2, 3)], [1, 1, 1, 1, 5, 6], [1, 5, 5, 5, 5, 6]),
        ("a  b", [(0, 1), (2, 2), (3, 4)], [1, 2, 4], [1, 3, 4]),
        ("a ", [(0, 1), (1, 1)], [1, 1], [1, 2]),
    ],
)
def test_ends_in_bytes(text: str, spans: list[tuple[int, int]], earliest: list[int], latest: list[int]) -> None:
    assert earliest_ends(text, spans) == earliest and latest_ends(text, spans) == latest


def test_read_counts() -> None:
    assert read_counts([1, 3, 3, 9], [0, 1, 3, 4]) == [2, 3, 3, 4]
    assert read_counts([0, 1], [1, 2]) == [0, 1]


@pytest.fixture(scope="module")
def host() -> UniversalTransformer:
    return loaded("qwen3_tiny")


DONORS = {"gemma3_tiny": {}, "characters": {"model_type": "gpt2"}, "recurrent characters": {"model_type": "mamba2"}}


def donor_of(name: str) -> tuple[UniversalTransformer, Any]:
    if not DONORS[name]:
        return loaded(name), AutoTokenizer.from_pretrained(DATA / name)
    torch.manual_seed(0)
    n = ArchitectureParameter.from_huggingface(raw(**DONORS[name], vocab_size=100))
    return UniversalTransformer(n).eval(), Characters()


@pytest.mark.parametrize("kind", ["attention", "projection", "similarity"])
@pytest.mark.parametrize("name", DONORS)
def test_bridges_between_tokenizers(kind: str, name: str, host: UniversalTransformer) -> None:
    donor, theirs = donor_of(name)
    ours = AutoTokenizer.from_pretrained(DATA / "qwen3_tiny")
    shape = {**KINDS[kind], "align": "byte", "taps": ((donor.n.num_layers, 2),)}
    closed, batch = attached(host, donor, **shape), aligned(TEXTS, ours, donor=theirs)
    assert batch.donors is not None and batch.donors["donor"].input_ids.shape[1] != batch.input_ids.shape[1]
    with torch.no_grad():
        own = host(batch.input_ids, attention_mask=batch.attention_mask).logits
        assert torch.equal(closed.model(**batch.call).logits, own)
        manager = attached(host, donor, opened=True, **shape)
        whole = manager.model(**batch.call).logits
        assert (whole - own).abs().max() > 1e-3
        alone = manager.model(**aligned(TEXTS[1:], ours, donor=theirs).call).logits
        torch.testing.assert_close(whole[1:, : alone.shape[1]], alone, rtol=1e-4, atol=1e-4)
    labels = batch.input_ids.masked_fill(batch.attention_mask == 0, -100)
    optimizer = CrossFusionOptimizer(closed, lr=1e-2)
    losses = [optimizer.step(batch, labels, replay=batch) for _ in range(3)]
    assert losses[0].replay == pytest.approx(0, abs=1e-6) and closed.report().dead == []


@pytest.mark.parametrize("kind", ["attention", "projection"])
@torch.no_grad()
def test_what_comes_later_in_a_text_is_not_seen(kind: str, host: UniversalTransformer) -> None:
    donor, theirs = donor_of("characters")
    ours = AutoTokenizer.from_pretrained(DATA / "qwen3_tiny")
    shape = {**KINDS[kind], "align": "byte", "taps": ((donor.n.num_layers, 2),)}
    model = attached(host, donor, opened=True, **shape).model
    one, other = (aligned([f"Return the “naïve” {end}"], ours, donor=theirs) for end in ("file path.", "🤔🤔 zz"))
    same = int((one.input_ids[0, :8] == other.input_ids[0, :8]).cumprod(0).sum())
    assert 3 < same < one.input_ids.shape[1]
    assert torch.equal(model(**one.call).logits[:, :same], model(**other.call).logits[:, :same])


@pytest.mark.parametrize("kind", ["attention", "projection"])
@torch.no_grad()
def test_every_position_reads_up_to_its_own_byte(kind: str, host: UniversalTransformer) -> None:
    donor, _ = donor_of("characters")
    model = attached(host, donor, opened=True, kind=kind, align="byte", taps=((2, 2),)).model
    ids = torch.tensor([[1, *range(10, 33)]] * 2)
    read = torch.arange(24).expand(2, -1)
    whole = model(IDS, donors={"donor": DonorInput(ids, read)}).logits
    changed = ids.clone()
    changed[:, 7] = 50  # the eighth token: the first that is missed at position 7, and read at position 8
    after = model(IDS, donors={"donor": DonorInput(changed, read)}).logits
    assert torch.equal(after[:, :8], whole[:, :8]) and not torch.equal(after[:, 8], whole[:, 8])
    nothing = model(IDS, donors={"donor": DonorInput(ids, read * 0)}).logits
    assert torch.equal(nothing, host(IDS).logits)


def test_what_bridges_by_byte_cannot_do_is_refused(host: UniversalTransformer) -> None:
    donor, _ = donor_of("characters")
    model = attached(host, donor, kind="attention", align="byte", taps=((2, 2),)).model
    ids, read = torch.ones(2, 5, dtype=torch.long), torch.zeros(2, 24, dtype=torch.long)
    with pytest.raises(InputError, match=r"donor is aligned by byte: donors=\{'donor': DonorInput"):
        model(IDS)
    with pytest.raises(InputError, match="donor is aligned by byte and reads whole texts: call without a cache"):
        model(IDS, donors={"donor": DonorInput(ids, read)}, cache=model.new_cache())
    with pytest.raises(InputError, match=r"read has shape \(2, 5\), must be \(2, 24\)"):
        model(IDS, donors={"donor": DonorInput(ids, read[:, :5])})
    with pytest.raises(InputError, match="read counts up to 6 of 5 tokens"):
        model(IDS, donors={"donor": DonorInput(ids, read + 6)})
    with pytest.raises(InputError, match="Silent does not say where its tokens lie"):
        aligned(["a"], Silent())


def test_a_batch_is_a_call() -> None:
    assert Batch(IDS).call == {"input_ids": IDS, "attention_mask": None, "donors": None}
    assert isinstance(aligned(["ab"], Characters()).call["donors"], type(None))
