"""Train three small checkpoints with the reference classes, so that tests meet weights which were really learned.

The text is the docstrings of Python's standard library, read from the running interpreter; the tokenizer is a
byte-level BPE learned on the same text. A quarter of the docstrings are also shown as a chat turn ("What does
zipfile.ZipFile.close do?").

    python scripts/train_tiny.py                      all three, into tests/data/
    python scripts/train_tiny.py --only qwen3_tiny --steps 200 --out /tmp/tiny

The run is seeded, but the last bits of the weights depend on the machine, its number of threads and the versions of
torch, transformers and Python: run it to make other checkpoints, not to reproduce the committed ones byte for byte.
"""

from __future__ import annotations

import argparse
import ast
import math
import os
import random
import shutil
import sysconfig
import tempfile
import time
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import nn
from train import adamw, cosine
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast
from transformers.models.gemma3 import Gemma3ForCausalLM, Gemma3TextConfig
from transformers.models.glm4_moe_lite import Glm4MoeLiteConfig, Glm4MoeLiteForCausalLM
from transformers.models.qwen3 import Qwen3Config, Qwen3ForCausalLM
from transformers.utils import logging

SEED = 20240607
VOCAB = 1024
CONTEXT = 512
END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SKIPPED = frozenset(
    ("test", "tests", "idlelib", "idle_test", "turtledemo", "lib2to3", "ensurepip", "site-packages", "dist-packages")
)
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
PROMPTS = ("Return the", "Create a new", "This class")
QUESTION = "What does {name} do?"
COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "initializer_range": 0.08,
    "max_position_embeddings": CONTEXT,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """One checkpoint: the reference class, its config, and how it is written."""

    model: type[Any]
    config: type[Any]
    settings: dict[str, Any]
    dtype: torch.dtype = torch.float32
    shard: str = "50GB"
    adds_bos: bool = False
    sampling: dict[str, Any] = field(default_factory=dict)


RECIPES = {
    "qwen3_tiny": Recipe(
        model=Qwen3ForCausalLM,
        config=Qwen3Config,
        settings={
            "intermediate_size": 192,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 32,
            "tie_word_embeddings": True,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        sampling={"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.95},
    ),
    "gemma3_tiny": Recipe(
        model=Gemma3ForCausalLM,
        config=Gemma3TextConfig,
        settings={
            "intermediate_size": 112,
            "num_hidden_layers": 6,
            "num_attention_heads": 4,
            "num_key_value_heads": 1,
            "head_dim": 32,
            "query_pre_attn_scalar": 24,
            "sliding_window": 32,
            "sliding_window_pattern": 3,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
            },
        },
        shard="800KB",
        adds_bos=True,
    ),
    "glm4_moe_lite_tiny": Recipe(
        model=Glm4MoeLiteForCausalLM,
        config=Glm4MoeLiteConfig,
        settings={
            "intermediate_size": 256,
            "moe_intermediate_size": 64,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 4,
            "q_lora_rank": 48,
            "kv_lora_rank": 32,
            "qk_nope_head_dim": 24,
            "qk_rope_head_dim": 8,
            "v_head_dim": 24,
            "n_routed_experts": 8,
            "num_experts_per_tok": 2,
            "n_shared_experts": 1,
            "routed_scaling_factor": 1.8,
            "rope_parameters": {"rope_type": "default", "rope_theta": 1000000.0},
        },
        dtype=torch.bfloat16,
    ),
}


def docstrings(root: Path) -> Iterator[tuple[str, str]]:
    """Yield (dotted name, docstring) for every module, class and function under `root`, in the order of the files."""
    for path in sorted(root.rglob("*.py"), key=lambda found: found.relative_to(root).as_posix()):
        relative = path.relative_to(root)
        if SKIPPED & set(relative.parts):
            continue
        try:
            tree = ast.parse(path.read_bytes())
        except (SyntaxError, ValueError):
            continue
        parts = [part for part in relative.with_suffix("").parts if part != "__init__"]
        yield from _walk(tree, ".".join(parts))


def _walk(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        text = ast.get_docstring(node)
        if text:
            yield name, text.strip()
    for child in ast.iter_child_nodes(node):
        inner = getattr(child, "name", None) if isinstance(child, ast.stmt) else None
        yield from _walk(child, f"{name}.{inner}" if inner else name)


def documents(root: Path) -> list[str]:
    """Every distinct docstring as a document, every fourth of them again as a question and its answer."""
    seen: dict[str, str] = {}
    for name, text in docstrings(root):
        seen.setdefault(text, name)
    plain = list(seen)
    chats = [
        f"{TURN_START}user\n{QUESTION.format(name=name)}{TURN_END}\n{TURN_START}assistant\n{text}{TURN_END}\n"
        for text, name in list(seen.items())[::4]
    ]
    return plain + chats


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """Learn a byte-level BPE whose first ids are the three special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # pyright: ignore[reportAttributeAccessIssue]
    tokenizer.decoder = decoders.ByteLevel()  # pyright: ignore[reportAttributeAccessIssue]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB,
        special_tokens=[END_OF_TEXT, TURN_START, TURN_END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def wrap_tokenizer(tokenizer: Tokenizer, *, adds_bos: bool) -> PreTrainedTokenizerFast:
    """Dress the BPE as a transformers tokenizer with the chat template, with or without a token put in front."""
    inner = Tokenizer.from_str(tokenizer.to_str())
    if adds_bos:
        template = processors.TemplateProcessing(single=f"{END_OF_TEXT} $A", special_tokens=[(END_OF_TEXT, 0)])
        inner.post_processor = template  # pyright: ignore[reportAttributeAccessIssue]
    return PreTrainedTokenizerFast(
        tokenizer_object=inner,
        bos_token=END_OF_TEXT,
        eos_token=END_OF_TEXT,
        pad_token=END_OF_TEXT,
        extra_special_tokens=[TURN_START, TURN_END],
        padding_side="left",
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
        chat_template=CHAT_TEMPLATE,
    )


def batches(stream: torch.Tensor, steps: int, tokens: int) -> Iterator[torch.Tensor]:
    """Cut random windows from the stream: of half the context at first, of the whole context in the last quarter."""
    generator = torch.Generator().manual_seed(SEED)
    for step in range(steps):
        length = CONTEXT if step >= 0.75 * steps else CONTEXT // 2
        starts = torch.randint(0, len(stream) - length, (max(1, tokens // length),), generator=generator)
        yield stream[starts[:, None] + torch.arange(length)]


class ExpertBalance:
    """Balance experts without an auxiliary loss: a router's selection bias follows the sign of each load error."""

    def __init__(self, model: nn.Module, speed: float = 2e-3) -> None:
        self.routers = [module for module in model.modules() if hasattr(module, "e_score_correction_bias")]
        self.speed = speed
        self.chosen: dict[nn.Module, torch.Tensor] = {}
        for router in self.routers:
            router.register_forward_hook(self._remember)

    def _remember(self, router: nn.Module, _inputs: Any, output: tuple[torch.Tensor, ...]) -> None:
        self.chosen[router] = output[2]

    @torch.no_grad()
    def update(self) -> None:
        """Raise the bias of the experts that got fewer tokens than the mean, lower that of the others."""
        for router, chosen in self.chosen.items():
            bias: Any = router.e_score_correction_bias
            load = torch.bincount(chosen.flatten(), minlength=len(bias)).float()
            bias += self.speed * torch.sign(load.mean() - load)


def train(model: Any, stream: torch.Tensor, *, steps: int, tokens: int, peak: float, name: str) -> float:
    """AdamW with warm-up and a cosine; returns the mean loss of the last twenty steps."""
    optimizer = adamw(model, rate=peak)
    schedule = cosine(optimizer, steps=steps)
    balance = ExpertBalance(model)
    losses: list[float] = []
    started = time.monotonic()
    model.train()
    for step, batch in enumerate(batches(stream, steps, tokens), 1):
        logits = model(input_ids=batch, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        balance.update()
        losses.append(loss.item())
        if step % 100 == 0 or step == steps:
            recent = sum(losses[-20:]) / len(losses[-20:])
            spent = time.monotonic() - started
            left = spent / step * (steps - step)
            print(f"{name}  step {step}/{steps}  loss {recent:.3f}  {spent:.0f} s, {left:.0f} s left", flush=True)
    return sum(losses[-20:]) / len(losses[-20:])


@torch.no_grad()
def evaluate(model: Any, stream: torch.Tensor) -> float:
    """Mean cross-entropy over the held-out stream, in nats per token."""
    model.eval()
    windows = stream[: len(stream) // CONTEXT * CONTEXT].view(-1, CONTEXT)
    total = 0.0
    for window in windows:
        logits = model(input_ids=window[None], use_cache=False).logits[0].float()
        total += nn.functional.cross_entropy(logits[:-1], window[1:]).item()
    return total / len(windows)


def unigram_entropy(stream: torch.Tensor) -> float:
    """Entropy of the token frequencies: what a model that knows no context would reach."""
    counts = Counter(stream.tolist())
    total = sum(counts.values())
    return -sum(count / total * math.log(count / total) for count in counts.values())


def save(model: Any, tokenizer: PreTrainedTokenizerFast, recipe: Recipe, directory: Path) -> None:
    """Write the checkpoint as the reference does, in the recipe's dtype, with tokenizer and generation config."""
    model.generation_config = GenerationConfig(
        bos_token_id=0, eos_token_id=[2, 0], pad_token_id=0, max_new_tokens=128, **recipe.sampling
    )
    if directory.exists():
        shutil.rmtree(directory)
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=recipe.dtype)
    loaded.save_pretrained(directory, max_shard_size=recipe.shard)
    tokenizer.save_pretrained(directory)


def show(directory: Path, stream: torch.Tensor, tokenizer: PreTrainedTokenizerFast) -> None:
    """Load the directory back, hold it to strict coverage, and print its held-out loss and some greedy completions."""
    loading: Any = AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    model, info = loading
    faults = {key: info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys") if info.get(key)}
    if faults:
        raise SystemExit(f"{directory}: the reference does not load it cleanly: {faults}")
    loaded = AutoTokenizer.from_pretrained(directory)
    sample = "Return the first item of f(x, 12).\n\n    >>> naïve <|im_end|>"
    if loaded.encode(sample) != tokenizer.encode(sample) or loaded.decode(loaded.encode(sample)) == "":
        raise SystemExit(f"{directory}: the tokenizer does not read back as it was written")
    files = sorted(directory.iterdir())
    weights = sum(file.stat().st_size for file in files if file.suffix == ".safetensors")
    everything = sum(file.stat().st_size for file in files)
    print(f"{directory.name}: weights {weights / 1e6:.3f} MB, directory {everything / 1e6:.3f} MB, {model.dtype}")
    print(f"{directory.name}: held-out loss {evaluate(model, stream):.3f}")
    question = [{"role": "user", "content": QUESTION.format(name="shutil.copyfile")}]
    chat = loaded.apply_chat_template(question, tokenize=False, add_generation_prompt=True)
    for prompt in (*PROMPTS, str(chat)):
        inputs = loaded(prompt, return_tensors="pt")
        output = model.generate(**inputs, max_new_tokens=40, do_sample=False)
        print(f"    {loaded.decode(output[0])!r}")


def main() -> None:
    """Read the command line and train what it names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    default = Path(__file__).resolve().parent.parent / "tests" / "data"
    parser.add_argument("--out", type=Path, default=default, help="folder that receives one directory per checkpoint")
    parser.add_argument("--steps", type=int, default=1600, help="optimizer steps per checkpoint")
    parser.add_argument("--tokens", type=int, default=4096, help="tokens per step")
    parser.add_argument("--rate", type=float, default=6e-3, help="peak learning rate")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch; 1 where other work runs beside it")
    parser.add_argument("--only", choices=sorted(RECIPES), action="append", help="train this one (may be repeated)")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    warnings.filterwarnings("ignore", category=UserWarning)
    logging.disable_progress_bar()

    texts = documents(Path(sysconfig.get_path("stdlib")))
    random.Random(SEED).shuffle(texts)
    bpe = train_tokenizer(texts)
    joined = [[0, *encoding.ids] for encoding in bpe.encode_batch(texts)]
    held = len(joined) // 50
    held_out = torch.tensor([token for ids in joined[:held] for token in ids])
    stream = torch.tensor([token for ids in joined[held:] for token in ids])
    print(f"{len(texts)} documents, {len(stream)} tokens, unigram entropy {unigram_entropy(stream):.3f} nats")

    for name in arguments.only or RECIPES:
        recipe = RECIPES[name]
        torch.manual_seed(SEED)
        model = recipe.model(recipe.config(**COMMON, **recipe.settings))
        print(f"{name}: {sum(weight.numel() for weight in model.parameters())} parameters", flush=True)
        train(model, stream, steps=arguments.steps, tokens=arguments.tokens, peak=arguments.rate, name=name)
        tokenizer = wrap_tokenizer(bpe, adds_bos=recipe.adds_bos)
        save(model, tokenizer, recipe, arguments.out / name)
        show(arguments.out / name, held_out, tokenizer)


if __name__ == "__main__":
    main()
