"""Sparse attention: against the patterns and the softmax written out by hand, and by the laws of the cache."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from nexus_universal import UniversalTransformer
from nexus_universal.architecture.parameter import ArchitectureParameter
from nexus_universal.architecture.position import Alibi, RelativeBias
from nexus_universal.architecture.sparsity import BlockSparse, Strided, TopK
from nexus_universal.layers.attention import UniversalAttention
from nexus_universal.layers.masks import Extent, attention_mask
from nexus_universal.layers.top_keys import top_keys
from tests.architecture.small import attention, layer, small
from tests.helpers import furthest, ids, widen

Pattern = BlockSparse | Strided | TopK

LENGTH = 40
PATTERNS: dict[str, Pattern] = {
    "blocks": BlockSparse(block=4, local_blocks=2, global_blocks=1),
    "own block": BlockSparse(block=3, local_blocks=1, global_blocks=0),
    "strided": Strided(stride=5, local=3),
    "top": TopK(keys=4),
}
patterns = pytest.mark.parametrize("name", PATTERNS)


def seen_by_hand(pattern: BlockSparse | Strided, query: int) -> set[int]:
    """The keys of a query, listed instead of compared."""
    if isinstance(pattern, BlockSparse):
        own = query // pattern.block
        blocks = {*range(own - pattern.local_blocks + 1, own + 1), *range(pattern.global_blocks)}
        listed = {block * pattern.block + inner for block in blocks for inner in range(pattern.block)}
    else:
        listed = {*range(query - pattern.local + 1, query + 1), *range(query, -1, -pattern.stride)}
    return {key for key in listed if 0 <= key <= query}


static_patterns = st.one_of(
    st.builds(BlockSparse, block=st.integers(1, 6), local_blocks=st.integers(1, 4), global_blocks=st.integers(0, 3)),
    st.builds(Strided, stride=st.integers(1, 7), local=st.integers(1, 9)),
)


@settings(max_examples=150)
@given(pattern=static_patterns, seen=st.integers(0, 12), new=st.integers(1, 12), data=st.data())
def test_a_mask_holds_the_pattern_among_the_tokens_of_a_row(
    pattern: BlockSparse | Strided, seen: int, new: int, data: st.DataObject
) -> None:
    total = seen + new
    cells = data.draw(st.lists(st.lists(st.booleans(), min_size=total, max_size=total), min_size=1, max_size=2))
    padded = data.draw(st.booleans())
    padding = torch.tensor(cells) if padded else None
    mask = attention_mask(
        Extent(queries=new, keys=total, query_offset=seen, key_offset=0),
        batch=len(cells),
        device=torch.device("cpu"),
        window=None,
        padding=padding,
        positions=None,
        sparsity=pattern,
    )
    assert mask is not None and mask.shape == (len(cells), 1, new, total)
    for row, real in enumerate(cells if padded else [[True] * total] * len(cells)):
        slots = [slot for slot in range(total) if real[slot]]
        for place, slot in enumerate(slots):
            if slot >= seen:
                expected = {slots[key] for key in seen_by_hand(pattern, place)}
                assert set(mask[row, 0, slot - seen].nonzero().flatten().tolist()) == expected


@given(pattern=static_patterns, place=st.integers(0, 60))
def test_whole_numbers_are_asked_like_tensors(pattern: BlockSparse | Strided, place: int) -> None:
    assert {key for key in range(place + 1) if pattern.sees(place, key)} == seen_by_hand(pattern, place)


def written_out(module: UniversalAttention, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """softmax over the kept keys of one layer without rotation, one query at a time."""
    part, (batch, seq) = module.part, x.shape[:2]
    roles = {name: (x @ getattr(module, name).weight.T).view(batch, seq, -1, 8) for name in ("query", "key", "value")}
    mixed, group = torch.zeros(batch, seq, part.heads, 8), part.heads // part.kv_heads
    for row in range(batch):
        for head in range(part.heads):
            keys, values = roles["key"][row, :, head // group], roles["value"][row, :, head // group]
            for t in range(seq):
                scores = {j: float(roles["query"][row, t, head] @ keys[j]) / math.sqrt(8) for j in range(t + 1)}
                if bias is not None:
                    scores = {j: score + float(bias[head]) * j for j, score in scores.items()}
                if isinstance(part.sparsity, TopK):
                    chosen = sorted(scores, key=scores.__getitem__)[-part.sparsity.keys :]
                else:
                    assert part.sparsity is not None
                    chosen = sorted(seen_by_hand(part.sparsity, t))
                weights = torch.softmax(torch.tensor([scores[j] for j in chosen]), dim=0)
                mixed[row, t, head] = weights @ values[chosen]
    return mixed.reshape(batch, seq, -1) @ module.output.weight.T


@patterns
@pytest.mark.parametrize(
    "fields",
    [{}, {"kv_heads": 1}, {"kernel": "eager"}, {"kernel": "sdpa_masked", "kv_heads": 1}, {"alibi": Alibi()}],
    ids=lambda fields: "-".join(map(str, fields)) or "plain",
)
@torch.no_grad()
def test_a_layer_is_the_softmax_over_what_is_kept(name: str, fields: dict[str, Any]) -> None:
    part = attention(rope=None, sparsity=PATTERNS[name], **fields)
    module = widen(UniversalAttention(part, d_model=24), seed=3)
    assert isinstance(module, UniversalAttention)
    x = torch.randn(2, 19, 24, generator=torch.Generator().manual_seed(5))
    slopes = torch.tensor([2.0 ** (-8 * (head + 1) / 4) for head in range(4)]) if part.alibi else None
    assert furthest(module(x), written_out(module, x, slopes)) < 1e-5
    plain = UniversalAttention(dataclasses.replace(part, sparsity=None), d_model=24)
    plain.load_state_dict(module.state_dict())
    assert furthest(module(x), plain(x)) > 1e-2


@given(keys=st.integers(1, 9), keep=st.integers(1, 9), group=st.integers(1, 2), seed=st.integers(0, 99))
def test_what_a_bias_adds_takes_part_in_the_choice(keys: int, keep: int, group: int, seed: int) -> None:
    torch.manual_seed(seed)
    query, key, bias = (
        torch.randn(1, 2 * group, 3, 4),
        torch.randn(1, 2, keys, 4),
        4 * torch.randn(1, 2 * group, 3, keys),
    )
    scores = 0.5 * query @ key.repeat_interleave(group, 1).transpose(2, 3) + bias
    mask = torch.rand(1, 1, 3, keys) < 0.7
    found = top_keys(query, key, mask, keep=keep, scale=0.5, bias=bias).expand_as(scores)
    added = torch.where(mask, 0.0, torch.finfo(torch.float32).min)
    assert torch.equal(top_keys(query, key, added, keep=keep, scale=0.5, bias=bias).expand_as(scores) == 0, found)
    for head, row in itertools.product(range(2 * group), range(3)):
        seen = [j for j in range(keys) if mask[0, 0, row, j]]
        best = sorted(seen, key=lambda j: float(scores[0, head, row, j]))[-keep:]
        assert found[0, head, row].nonzero().flatten().tolist() == sorted(best)


CASES: dict[str, dict[str, Any]] = {
    **{name: {"sparsity": pattern} for name, pattern in PATTERNS.items()},
    "blocks, eager": {"sparsity": PATTERNS["blocks"], "kernel": "eager", "sinks": True},
    "strided, alibi": {"sparsity": PATTERNS["strided"], "alibi": Alibi(), "rope": None},
    "blocks, distances": {"sparsity": PATTERNS["blocks"], "relative": RelativeBias(width=6, extent=5)},
    "top, alibi": {"sparsity": PATTERNS["top"], "alibi": Alibi(), "rope": None},
    "top, eager": {"sparsity": PATTERNS["top"], "kernel": "eager", "softcap": 5.0},
    "top, window": {"sparsity": PATTERNS["top"], "window": 9},
    "top, distances": {"sparsity": PATTERNS["top"], "relative": RelativeBias(width=6, extent=5)},
}
cases = pytest.mark.parametrize("case", CASES)


def n_of(case: str) -> ArchitectureParameter:
    return small(layer(attention(**CASES[case])), layer(attention(**CASES[case]))).validate()


@functools.cache
def model_of(case: str) -> UniversalTransformer:
    model = widen(UniversalTransformer(n_of(case)), seed=1)
    assert isinstance(model, UniversalTransformer)
    return model.requires_grad_(False).eval()


def positions_of(mask: Tensor) -> Tensor:
    return (mask.cumsum(-1) - 1).clamp(min=0)


CLOSE = 2e-5
"""Relative to the largest logit: float32's rounding in two layers, for which other lengths take other kernels."""


@cases
@settings(max_examples=6)
@given(sizes=st.lists(st.integers(1, LENGTH), max_size=5))
def test_any_cutting_gives_the_whole(case: str, sizes: list[int]) -> None:
    model, cache, tokens = model_of(case), model_of(case).new_cache(), ids(2, LENGTH)
    ends = sorted({min(end, LENGTH) for end in [*torch.tensor([0, *sizes]).cumsum(0).tolist(), LENGTH - 2]})
    cuts = [*ends[1:], *range(ends[-1] + 1, LENGTH + 1)]
    pieces, start = [], 0
    for end in cuts:
        pieces.append(model(tokens[:, start:end], cache=cache).logits)
        start = end
    assert furthest(torch.cat(pieces, dim=1), model(tokens).logits) < CLOSE


@cases
@pytest.mark.parametrize("left", [True, False])
def test_a_padded_batch_is_its_rows_and_continues_like_them(case: str, left: bool) -> None:
    """Places are counted among tokens: pads, wherever they stand, move no block and no stride."""
    model, lengths, steps = model_of(case), (11, 5, 14), 6
    prompt, rows = max(lengths), ids(3, 20, seed=7)
    slots, counts = torch.arange(prompt)[None], torch.tensor(lengths)[:, None]
    mask = ((slots >= prompt - counts) if left else (slots < counts)).long()
    cache = model.new_cache()
    out = model(rows[:, :prompt], attention_mask=mask, position_ids=positions_of(mask), cache=cache).logits
    for row in range(3):
        alone = model(rows[row : row + 1, :prompt][:, mask[row].bool()]).logits[0]
        assert furthest(out[row, mask[row].bool()], alone) < CLOSE
    if model.plan.windows[0] and not left:
        return  # a window counts slots: refused, as tests/cache/test_laws.py shows
    continued = []
    for step in range(steps):
        mask = torch.cat([mask, torch.ones(3, 1, dtype=torch.long)], dim=1)
        token = rows[:, prompt + step : prompt + step + 1]
        positions = positions_of(mask)[:, -1:]
        continued.append(model(token, attention_mask=mask, position_ids=positions, cache=cache).logits)
    for row, length in enumerate(lengths):
        held = rows[row, :prompt][mask[row, :prompt].bool()]
        alone = model(torch.cat([held, rows[row, prompt : prompt + steps]])[None]).logits[0, length:]
        assert furthest(torch.cat(continued, dim=1)[row], alone) < CLOSE


@pytest.mark.parametrize("case", [case for case in CASES if not {"alibi", "distances"} & set(case.split())])
def test_packed_sequences_do_not_see_each_other(case: str) -> None:
    """Biases by distance are those of slots, which packing changes."""
    model, left, right = model_of(case), ids(1, 13), ids(1, 17, seed=4)
    positions = torch.cat([torch.arange(13), torch.arange(17)])[None]
    packed = model(torch.cat([left, right], dim=1), position_ids=positions).logits
    assert furthest(packed[:, :13], model(left).logits) < CLOSE
    assert furthest(packed[:, 13:], model(right).logits) < CLOSE


@cases
def test_the_future_changes_nothing(case: str) -> None:
    model = model_of(case)
    later = torch.cat([ids(2, LENGTH)[:, :17], ids(2, LENGTH, seed=9)[:, 17:]], dim=1)
    assert torch.equal(model(later).logits[:, :17], model(ids(2, LENGTH)).logits[:, :17])


@patterns
def test_every_number_of_a_pattern_is_felt(name: str) -> None:
    pattern, model = PATTERNS[name], model_of(name)
    for field in dataclasses.fields(pattern):
        other = dataclasses.replace(pattern, **{field.name: getattr(pattern, field.name) + 1})
        changed = UniversalTransformer(model.n.replace("layers.*.attention.sparsity", other))
        changed.load_state_dict(model.state_dict())
        with torch.no_grad():
            assert furthest(changed(ids(2, LENGTH)).logits, model(ids(2, LENGTH)).logits) > 1e-2, field.name


@cases
@pytest.mark.parametrize("context", [4, 5, 23])
def test_choosing_costs_what_is_counted(case: str, context: int) -> None:
    model, cache = model_of(case), model_of(case).new_cache()
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH):
        model(ids(1, context - 1), cache=cache)
        with counter:
            model(ids(1, 1), cache=cache)
    assert counter.get_total_flops() == model.n.count(context=context).flops_per_token


def test_one_says_it_and_json_keeps_it() -> None:
    said = {
        "blocks": ("blocks 2+1×4", "⌊ t / 4 ⌋ - ⌊ j / 4 ⌋ < 2 or j < 4"),
        "own block": ("blocks 1+0×3", "⌊ t / 3 ⌋ - ⌊ j / 3 ⌋ < 1"),
        "strided": ("last 3 and every 5", "t - j < 3 or t - j a multiple of 5"),
        "top": ("top 4", "the 4 keys with the highest scores"),
    }
    for name, (short, long) in said.items():
        n = n_of(name)
        assert short in n.signature and any(line.endswith(long) for line in str(n.formula()).splitlines())
        assert ArchitectureParameter.from_json(n.to_json()) == n
        assert n.hash != small(layer(), layer()).hash
