"""What each form of attention costs on one dense model: weights, cache, FLOPs, scores kept, largest tensor, prefill.

A Qwen3-like n, shrunk, its keys and values not yet shared, is given every form of `nexus_universal.forms`; each model
is optimised. FLOPs are those of one more token. "Kept" is the share of a causal mask's scores that take part in the
softmax; the cache and the largest tensor are those of a prefill of 1024 tokens. Prefill is the time of one call over
that of the fused full form, interleaved, medians: ratios hold on a busy machine, seconds do not. Forms that hold all
scores at once are not tried where that takes gigabytes.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Iterable
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from nexus_universal import ArchitectureParameter, UniversalTransformer, forms
from nexus_universal.architecture.mixers import Attention

CONFIG = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "head_dim": 64,
    "max_position_embeddings": 8192,
    "rope_theta": 1000000.0,
    "tie_word_embeddings": True,
}
LENGTHS = (1024, 4096, 8192)
WATCHED = 1024
LONGEST_WITH_ALL_SCORES = 4096
FULL = "full, fused (as published)"


def forms_of(n: ArchitectureParameter) -> dict[str, ArchitectureParameter]:
    """n in every form; the reach of windows and patterns is about 512 keys."""
    return {
        FULL: forms.flash(n),
        "full, written out": n.replace("layers.*.mixer.kernel", "eager"),
        "grouped query, 2 heads": forms.grouped_query(n, 2),
        "multi query": forms.multi_query(n),
        "sliding window 512": forms.sliding_window(n, 512),
        "blocks of 64, 7 near + 1": forms.sparse(n, forms.BlockSparse(block=64, local_blocks=7, global_blocks=1)),
        "strided 64, last 384": forms.sparse(n, forms.Strided(stride=64, local=384)),
        "top 512": forms.sparse(n, forms.TopK(keys=512)),
    }


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation gives."""

    nbytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.nbytes = max([self.nbytes, *(leaf.nbytes for leaf in tree_leaves(out) if isinstance(leaf, Tensor))])
        return out


def kept(n: ArchitectureParameter, length: int) -> float:
    """The share of a causal mask's scores that take part in the first layer's softmax."""
    part = next(branch.part for branch in n.layers[0].branches() if isinstance(branch.part, Attention))
    query, key = torch.arange(length)[:, None], torch.arange(length)[None]
    seen = key <= query
    if part.window is not None:
        seen &= key > query - part.window
    if isinstance(part.sparsity, forms.TopK):
        scores = int(seen.sum(-1).clamp(max=part.sparsity.keys).sum())
    else:
        scores = int((seen if part.sparsity is None else seen & part.sparsity.sees(query, key)).sum())
    return scores / (length * (length + 1) / 2)


def holds_all_scores(n: ArchitectureParameter) -> bool:
    """Whether some layer writes attention out, or compares all scores."""
    parts = [branch.part for layer in n.layers for branch in layer.branches() if isinstance(branch.part, Attention)]
    return any(part.kernel != "sdpa" or isinstance(part.sparsity, forms.TopK) for part in parts)


def prefill_seconds(models: dict[str, UniversalTransformer], length: int, repeats: int) -> dict[str, float]:
    """Median time of a call, the models in turn."""
    ids = torch.randint(0, CONFIG["vocab_size"], (1, length))
    times: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(repeats + 1):
        for name, model in models.items():
            if length > LONGEST_WITH_ALL_SCORES and holds_all_scores(model.n):
                continue
            started = time.perf_counter()
            model(ids, logits_to_keep=1)
            times[name].append(time.perf_counter() - started)
    return {name: statistics.median(taken[1:]) for name, taken in times.items() if taken}


def rows(lengths: Iterable[int], repeats: int) -> Iterable[list[str]]:
    """One line per form."""
    lengths = tuple(lengths)
    context = max(lengths)
    torch.manual_seed(0)
    all_forms = forms_of(ArchitectureParameter.from_huggingface(CONFIG))
    models = {name: UniversalTransformer(n).optimize(cache="exact") for name, n in all_forms.items()}
    seconds = {length: prefill_seconds(models, length, repeats) for length in lengths}
    for name, n in all_forms.items():
        count = n.count(context=context, dtype="float32")
        cache = models[name].new_cache()
        with LargestTensor() as largest:
            models[name](torch.zeros(1, WATCHED, dtype=torch.long), cache=cache, logits_to_keep=1)
        yield [
            name,
            f"{count.parameters:,}",
            f"{count.cache_bytes_per_token:,}",
            f"{cache.nbytes / 2**20:.2f}",
            f"{count.flops_per_token / 1e6:.2f}",
            f"{kept(n, min(context, 4096)):.1%}",
            f"{largest.nbytes / 2**20:.1f}",
            *(f"{taken[name] / taken[FULL]:.2f}" if name in taken else "-" for taken in seconds.values()),
        ]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=LENGTHS, help="tokens of the prompts")
    parser.add_argument("--repeats", type=int, default=3, help="calls of each model, after a first one")
    options = parser.parse_args()
    context = max(options.lengths)
    heads = ["form", "parameters", "cache B/token", f"cache MiB at {WATCHED}", f"MFLOP/token at {context}", "kept"]
    heads += [f"largest MiB at {WATCHED}", *(f"prefill {length}" for length in options.lengths)]
    table = Table(*(heads), title=f"attention forms, {torch.get_num_threads()} thread(s)")
    for column in table.columns[1:]:
        column.justify = "right"
    with torch.no_grad():
        for row in rows(options.lengths, options.repeats):
            table.add_row(*row)
    Console(width=160).print(table)


if __name__ == "__main__":
    main()
