"""Ranks that share the work give what one process gives: logits, gradients, text, norms and checkpoints."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.device_mesh import init_device_mesh

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.ends import Embedding
from nexus_universal.architecture.errors import InputError, UnsupportedConfig
from nexus_universal.architecture.tensor_parallel import Whole
from nexus_universal.checkpoint.load import slots
from nexus_universal.integrations.tensor_parallel import parallelise
from tests.architecture.small import small as small_n
from tests.helpers import MODEL_TYPES, floor_of, reference, universal
from tests.helpers import ids_without_pads as ids
from tests.integrations.processes import run_ranks

LENGTH = 12
CLIP = 0.1
CLOSE = 1e-5
"""In float64, too, norms, softmaxes and routers round to float32, by 6e-8. Where sums of another order tip such a
rounding, four layers carry on some 1e-7 of it; a wrong piece, or one left out of a sum, is as large as the whole."""

CHOSEN = {"dense": "qwen3", "experts": "qwen3_moe", "latent": "deepseek_v3", "biased experts and sinks": "gpt_oss"}


@dataclass(frozen=True)
class Seen:
    """How far a rank's model is from the whole one: logits in float32, all else in float64, relative to the largest."""

    logits: float
    logits_double: float
    gradients: float
    norm: float
    text_equal: bool
    split: int
    reasons: tuple[str, ...]


def small(model_type: str) -> Any:
    """A reference whose vocabulary can be split, where its config says one."""
    try:
        theirs = reference(model_type, vocab_size=96)
        universal(theirs)
    except UnsupportedConfig:
        theirs = reference(model_type)
    return theirs


def loss_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.double().log_softmax(-1)[..., 2].mean()


def seen(rank: int, model_types: list[str], world: int) -> dict[str, Seen]:
    mesh = init_device_mesh("cpu", (world,))
    found = {}
    for model_type in model_types:
        theirs = small(model_type)
        tokens = torch.where(ids(2, LENGTH) == 96, 2, ids(2, LENGTH))
        whole, share = universal(theirs), parallelise(universal(theirs), mesh)
        single = float((whole(tokens).logits - share(tokens).logits).detach().abs().max())
        written = {"max_new_tokens": 6, "do_sample": False}
        texts = [model.generate(tokens[:1], **written) for model in (whole, share)]
        whole = whole.double().train()
        share = parallelise(whole, mesh)
        logits, expected = share(tokens).logits, whole(tokens).logits
        loss_of(logits).backward()
        loss_of(expected).backward()
        gradients = {name: each.grad for name, each in whole.named_parameters() if each.grad is not None}
        largest = max(float(gradient.abs().max()) for gradient in gradients.values())
        gaps = []
        for name, parameter in share.named_parameters():
            if name in gradients:
                assert parameter.grad is not None, name
                gap = (share.gathered(name, parameter.grad) - gradients[name]).abs().max()
                gaps.append(float(gap / (gradients[name].abs().max() + 1e-3 * largest)))
        norm, right = share.clip_gradients(CLIP), torch.nn.utils.clip_grad_norm_(whole.parameters(), CLIP)
        gaps += [
            float((share.gathered(name, each.grad) - whole.get_parameter(name).grad).abs().max())  # type: ignore[operator,arg-type]
            for name, each in share.named_parameters()
            if name in gradients
        ]
        entries = share.parallel.entries.values()
        found[model_type] = Seen(
            logits=single,
            logits_double=float((logits - expected).detach().abs().max() / expected.detach().abs().max()),
            gradients=max(gaps),
            norm=abs(norm - float(right)) / float(right),
            text_equal=torch.equal(*texts),
            split=len(share.parallel.cuts),
            reasons=tuple(sorted({entry.reason for entry in entries if isinstance(entry, Whole)})),
        )
    return found


@pytest.fixture(scope="module")
def two_ranks() -> list[dict[str, Seen]]:
    return run_ranks(seen, list(CHOSEN.values()), 2)


@pytest.mark.parametrize("model_type", CHOSEN.values(), ids=list(CHOSEN))
def test_two_ranks_compute_what_one_process_does(model_type: str, two_ranks: list[dict[str, Seen]]) -> None:
    theirs = small(model_type)
    floor = floor_of(theirs, universal(theirs).n, length=LENGTH)
    for found in (rank[model_type] for rank in two_ranks):
        assert found.logits <= floor
        assert found.logits_double < CLOSE and found.gradients < CLOSE and found.norm < CLOSE
        assert found.text_equal
        assert found.split and not found.reasons


def four(rank: int) -> dict[str, Seen]:
    return seen(rank, ["qwen3", "gpt_bigcode", "phi3", "gpt_oss"], 4)


@pytest.mark.slow
def test_ranks_share_key_and_value_heads_where_there_are_fewer() -> None:
    for found in run_ranks(four, world=4):
        for model_type, one in found.items():
            assert one.logits_double < CLOSE and one.gradients < CLOSE and one.norm < CLOSE, model_type
            assert not one.reasons, model_type


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))
def test_every_type_is_split_or_says_why_not(part: int) -> None:
    for found in run_ranks(seen, list(MODEL_TYPES[part::4]), 2):
        for model_type, one in found.items():
            assert one.logits_double < CLOSE and one.gradients < CLOSE, model_type
            assert one.text_equal, model_type
            assert one.split or one.reasons, model_type


def saved(rank: int, folder: str) -> None:
    mesh = init_device_mesh("cpu", (2,))
    share = parallelise(universal(small("qwen3_moe")), mesh)
    share.save_pretrained(folder)
    with pytest.raises(InputError, match=r"input_ids hold 3 … 96: must lie in \[0, 96\)"):
        share(torch.tensor([[3, 96]]))
    padded = UniversalTransformer(small_n(embedding=Embedding(vocab=96, width=24, padding_row=50)))
    for model in (padded, share_of_padded := parallelise(padded, mesh)):
        model(torch.tensor([[50, 49, 2, 50]])).logits.square().sum().backward()
    gradient = share_of_padded.embedding.tokens.weight.grad
    assert gradient is not None
    whole = share_of_padded.gathered("embedding.tokens.weight", gradient)
    torch.testing.assert_close(whole, padded.embedding.tokens.weight.grad)
    assert bool(whole[49].any()) and not bool(whole[50].any()), "no gradient reaches the row of pads"
    fast = share.optimize()
    assert fast(ids(1, 4) % 96).logits.shape == (1, 4, 96)
    with pytest.raises(InputError, match=r"this model was optimised: parallelise before optimize\(\)"):
        parallelise(fast, mesh)


def test_a_checkpoint_of_two_ranks_is_that_of_one(tmp_path: Path) -> None:
    run_ranks(saved, str(tmp_path / "saved"))
    whole, again = universal(small("qwen3_moe")), UniversalTransformer.from_pretrained(tmp_path / "saved")
    assert again.n == whole.n
    for name, tensor in slots(whole).items():
        assert torch.equal(slots(again)[name], tensor), name
