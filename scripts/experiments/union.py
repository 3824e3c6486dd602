"""What a union takes and keeps: sizes by kind of company, speed beside a plain load, and routing beside Bayes' choice.

    python scripts/experiments/union.py

Weights are Gaussian by seed, the three trained checkpoints of the tests beside them; the routed models are trained here
on two Markov sources of letters, one with learned positions and one with rotated ones. Writes
docs/experiments/union.json and union.png.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.fusion.union.archive import Archive
from nexus_universal.fusion.union.branch import load_branch
from nexus_universal.fusion.union.pack import pack
from nexus_universal.fusion.union.registry import Capability, ModelRegistry, ModelSpec
from nexus_universal.fusion.union.router import CapabilityRouter, bits_of
from nexus_universal.fusion.union.verify import verify_union

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "docs" / "experiments"
SEEDS = (0, 1, 2)
STEPS = (0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4)
SHAPE: dict[str, Any] = {
    "model_type": "qwen3",
    "vocab_size": 8192,
    "hidden_size": 256,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "tie_word_embeddings": True,
}
LETTERS, START, LENGTH, TRAINING_STEPS, PROMPTS = 12, 12, 32, 250, 600


def seeded(directory: Path, seed: int, dtype: torch.dtype, **changes: int) -> Path:
    """A checkpoint of Gaussian weights."""
    torch.manual_seed(seed)
    UniversalTransformer(ArchitectureParameter.from_huggingface(SHAPE | changes)).to(dtype).save_pretrained(directory)
    return directory


def moved(source: Path, directory: Path, step: float, seed: int) -> Path:
    """A fine-tune's likeness: every number moved by `step` of its tensor's standard deviation."""
    model = UniversalTransformer.from_pretrained(source)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, tensor in model.named_slots():
            wide = tensor.float()
            tensor.copy_(wide + step * wide.std() * torch.randn(wide.shape, generator=generator))
    model.save_pretrained(directory)
    return directory


def share(sources: list[Path]) -> float:
    """Bytes of the union by the bytes of the checkpoints' weights."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "union.nxu"
        pack(sources, out)
        verify_union(out)
        return out.stat().st_size / sum(file.stat().st_size for each in sources for file in each.glob("*.safetensors"))


def sizes(seed: int, folder: Path) -> dict[str, float]:
    """Share of the sum, by kind of company."""
    found: dict[str, float] = {}
    for name, dtype in (("bfloat16", torch.bfloat16), ("float16", torch.float16), ("float32", torch.float32)):
        pair = [seeded(folder / f"{name}-{index}", 10 * seed + index, dtype) for index in range(2)]
        found[f"two independent, {name}"] = share(pair)
    base = folder / "bfloat16-0"
    for step in STEPS:
        found[f"base and fine-tune, r = {step:g}"] = share([base, moved(base, folder / f"moved-{step}", step, seed)])
    found["one model"] = share([base])
    found["a model twice"] = share([base, Path(shutil.copytree(base, folder / "copy"))])
    return found


def speed(folder: Path) -> dict[str, float]:
    """Times to load 134 MB from a union, by those of other ways; medians of interleaved runs, the page cache warm."""
    source = seeded(folder / "large", 0, torch.bfloat16, hidden_size=1024, intermediate_size=3072, vocab_size=16384)
    pack([source], folder / "large.nxu")
    archive = Archive(folder / "large.nxu")
    plain = (source / "model.safetensors").read_bytes()

    def touched(model: UniversalTransformer) -> float:
        return sum(float(tensor.detach().sum()) for tensor in model.parameters())

    ways: dict[str, Callable[[], object]] = {
        "union": lambda: touched(load_branch(archive, "large")),
        "plain load, all weights touched": lambda: touched(UniversalTransformer.from_pretrained(source)),
        "sha256 of the same bytes": lambda: hashlib.sha256(plain).digest(),
    }
    runs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(7):
        for name, run in ways.items():
            begun = time.perf_counter()
            run()
            runs[name].append(time.perf_counter() - begun)
    loading, *others = (statistics.median(each) for each in runs.values())
    return {name: loading / other for name, other in zip(list(ways)[1:], others, strict=True)}


class Letters:
    """A tokenizer of single letters."""

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - 97 for letter in text]}


def chain(seed: int) -> Tensor:
    """Transition probabilities of a Markov source of letters."""
    drawn = torch.distributions.Dirichlet(torch.full((LETTERS,), 0.7))
    with torch.random.fork_rng():
        torch.manual_seed(1000 + seed)
        return drawn.sample((LETTERS,))


def sampled(source: Tensor, length: int, count: int, generator: torch.Generator) -> Tensor:
    """Texts of a source; the first letter is uniform."""
    rows = torch.randint(0, LETTERS, (count, 1), generator=generator)
    for _ in range(length - 1):
        rows = torch.cat([rows, torch.multinomial(source[rows[:, -1]], 1, generator=generator)], dim=1)
    return rows


def trained(model_type: str, source: Tensor, seed: int) -> UniversalTransformer:
    """A tiny model of one source, from its samples alone."""
    kinds = {
        "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 2, "n_positions": LENGTH},
        "llama": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2},
    }
    said = {"vocab_size": LETTERS + 1, "bos_token_id": START, "eos_token_id": START, **kinds[model_type]}
    torch.manual_seed(seed)
    model = UniversalTransformer(ArchitectureParameter.from_huggingface({"model_type": model_type, **said}))
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, TRAINING_STEPS)
    generator = torch.Generator().manual_seed(seed)
    for _ in range(TRAINING_STEPS):
        rows = sampled(source, LENGTH - 1, 64, generator)
        ids = torch.cat([torch.full((len(rows), 1), START), rows], dim=1)
        logits = model(ids).logits[:, :-1]
        optimiser.zero_grad()
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).backward()
        optimiser.step()
        schedule.step()
    return model.eval()


def routing(seed: int) -> dict[str, dict[str, float]]:
    """Share of prompts that go to the model of their source: by the router, and by who knows both sources."""
    chains = {"a": chain(2 * seed), "b": chain(2 * seed + 1)}
    models = {"a": trained("gpt2", chains["a"], seed), "b": trained("llama", chains["b"], seed)}
    reasoning = frozenset({Capability.REASONING})
    registry = ModelRegistry(ModelSpec(model_id=name, capabilities=reasoning, nbytes=1) for name in models)
    scorers = {name: lambda text, model=model: bits_of(model, Letters(), text) for name, model in models.items()}
    router = CapabilityRouter(registry, scorers, margin_bits=0)
    found: dict[str, dict[str, float]] = {}
    for length in (4, 8, 16):
        right, best = 0, 0
        for name, source in chains.items():
            for row in sampled(source, length, PROMPTS, torch.Generator().manual_seed(100 + seed)).tolist():
                right += router.choose("".join(chr(97 + letter) for letter in row)).name == name
                told = {key: sum(math.log(each[x, y]) for x, y in pairwise(row)) for key, each in chains.items()}
                best += max(told, key=told.__getitem__) == name
        found[f"{length} bytes"] = {"router": right / (2 * PROMPTS), "bayes": best / (2 * PROMPTS)}
    return found


def plot(result: dict[str, Any], path: Path) -> None:
    """Sizes as bars, routing as points."""
    import matplotlib.pyplot as plt

    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.2), width_ratios=(2, 1))
    names = list(result["sizes"])
    means = [statistics.mean(result["sizes"][name]) for name in names]
    left.barh(names, means, color="tab:blue")
    left.invert_yaxis()
    left.set_xlabel("file, as a share of the sum of the checkpoints")
    for place, mean in enumerate(means):
        left.text(mean, place, f" {mean:.3f}", va="center", fontsize=8)
    left.set_xlim(0, 1)
    for offset, (who, mark) in enumerate((("bayes", "o"), ("router", "x"))):
        for place, by_seed in enumerate(zip(*(each.values() for each in result["routing"]), strict=True)):
            values = [each[who] for each in by_seed]
            label = who if place == 0 else None
            right.plot([place + 0.12 * offset] * len(values), values, mark, color=f"C{offset}", label=label)
    right.set_xticks(range(3), ["4", "8", "16"])
    right.set_xlabel("bytes of the prompt")
    right.set_ylabel("prompts that go to their source's model")
    right.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)


def main() -> None:
    """Run everything, print it and write it."""
    torch.set_num_threads(1)
    begun = time.time()
    by_seed = []
    for seed in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            by_seed.append(sizes(seed, Path(folder)))
    with tempfile.TemporaryDirectory() as folder:
        loading = speed(Path(folder))
    trained_ones = [ROOT / "tests" / "data" / name for name in ("qwen3_tiny", "gemma3_tiny", "glm4_moe_lite_tiny")]
    result: dict[str, Any] = {
        "seeds": len(SEEDS),
        "sizes": {name: [each[name] for each in by_seed] for name in by_seed[0]},
        "loading from a union, by": loading,
        "routing": [routing(seed) for seed in SEEDS],
    }
    result["sizes"]["three trained checkpoints (float32, float32, bfloat16)"] = [share(trained_ones)]
    for name, values in result["sizes"].items():
        print(f"{name:56s} {statistics.mean(values):.3f}")
    print(json.dumps({"loading": loading, "routing": result["routing"]}, indent=1))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "union.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    plot(result, OUT / "union.png")
    print(f"{time.time() - begun:.0f} s")


if __name__ == "__main__":
    main()
