"""Train a model on text: one process, or several under torchrun, by FSDP2 or by tensor parallelism.

    python scripts/train.py --model CHECKPOINT --text a.txt b.txt --out runs/a
    python scripts/train.py --from-n n.json --tokenizer CHECKPOINT --text a.txt --out runs/b
    torchrun --nproc-per-node 2 scripts/train.py … [--tensor-parallel 2]

AdamW, a warm-up and a cosine, gradient clipping; no balancing of experts. Every `--save-every` steps a checkpoint
`OUT/step-…` is written beside and renamed: a directory that `from_pretrained` opens, with the optimiser's moments. The
same command goes on from the last one, on any number of processes: windows of text are drawn by seed and step.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import os
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from rich.console import Console
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from nexus_universal import ArchitectureParameter, UniversalTransformer
from nexus_universal.architecture.errors import InputError, NexusError
from nexus_universal.checkpoint.load import put, slots
from nexus_universal.generation.text import load_tokenizer
from nexus_universal.integrations.distributed import joined_ranks, shard_fully
from nexus_universal.integrations.tensor_parallel import TensorParallelTransformer, parallelise

MOMENTS = ("exp_avg", "exp_avg_sq")
STATE, PROGRESS = "optimiser.safetensors", "progress.json"
KEPT = 2
"""So many checkpoints stay."""


def adamw(model: nn.Module, *, rate: float) -> AdamW:
    """Weight decay on matrices alone."""
    matrices = [weight for weight in model.parameters() if weight.dim() >= 2]
    vectors = [weight for weight in model.parameters() if weight.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": vectors, "weight_decay": 0.0}]
    return AdamW(groups, lr=rate, betas=(0.9, 0.95))


def cosine(optimiser: AdamW, *, steps: int, done: int = 0) -> LambdaLR:
    """A warm-up of a tenth of the steps, at most 100, then a cosine down to a twentieth of the rate."""
    warmup = max(1, min(100, steps // 10))

    def share(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.05 + 0.95 * 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return LambdaLR(optimiser, share, last_epoch=done - 1)


class Trained:
    """A model on one process, or shared by several, and its optimiser: gradients clipped, states whole or in pieces."""

    def __init__(self, model: UniversalTransformer, mesh: DeviceMesh | None, options: argparse.Namespace) -> None:
        self.source, self.mesh, self.n = model, mesh, model.n
        self.by_rows = mesh is not None and options.tensor_parallel == 1
        device = torch.device(options.device)
        if mesh is None:
            self.model = model.to(device)
        elif self.by_rows:
            self.model = shard_fully(model.to(device), mesh)
        else:
            self.model = parallelise(model, mesh, device=device)
        self.model.train()
        self.optimiser = adamw(self.model, rate=options.rate)
        self.steps = options.steps
        self.schedule = cosine(self.optimiser, steps=self.steps)

    @property
    def first(self) -> bool:
        """Whether this process prints and writes."""
        return self.mesh is None or self.mesh.get_local_rank() == 0

    def rows(self, batch: Tensor) -> Tensor:
        """The rows that this process reads."""
        if not self.by_rows or self.mesh is None:
            return batch
        return batch.chunk(self.mesh.size())[self.mesh.get_local_rank()]

    def step(self, batch: Tensor, *, clip: float) -> tuple[float, float]:
        """One step on the windows of a batch: the mean loss over all of it, and the norm of the gradients."""
        rows = self.rows(batch).to(self.model.device)
        logits = self.model(rows[:, :-1]).logits
        wide = logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
        loss = nn.functional.cross_entropy(wide.flatten(0, 1), rows[:, 1:].flatten())
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        if isinstance(self.model, TensorParallelTransformer):
            norm = self.model.clip_gradients(clip)
        else:
            found = nn.utils.clip_grad_norm_(self.model.parameters(), clip)
            norm = float(found.full_tensor() if isinstance(found, DTensor) else found)
        self.optimiser.step()
        self.schedule.step()
        mean = loss.detach()
        if self.by_rows:
            dist.all_reduce(mean, group=self.mesh.get_group())  # type: ignore[union-attr]
            mean /= self.mesh.size()  # type: ignore[union-attr]
        return float(mean), norm

    def whole(self, name: str, tensor: Tensor) -> Tensor:
        """A parameter, or a moment of it, from the pieces of all processes, on the CPU."""
        if isinstance(self.model, TensorParallelTransformer):
            tensor = self.model.gathered(name, tensor)
        return (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach().cpu()

    def piece(self, name: str, whole: Tensor, like: Tensor) -> Tensor:
        """This process's piece of it."""
        if isinstance(self.model, TensorParallelTransformer):
            whole = self.model.piece(name, whole)
        elif isinstance(like, DTensor):
            return distribute_tensor(whole.to(like.device), like.device_mesh, like.placements)
        return whole.to(like.device)

    def gathered(self) -> tuple[UniversalTransformer, dict[str, Tensor]]:
        """The whole model on the CPU, and the optimiser's moments by name; every process must ask."""
        with torch.device("meta"):
            model = UniversalTransformer(self.n)
        for name, slot in slots(self.model).items():
            put(model, name, self.whole(name, slot))
        model.settings, model.carried = self.source.settings, self.source.carried
        moments = {
            f"{name}.{moment}": self.whole(name, self.optimiser.state[weight][moment]).contiguous()
            for name, weight in self.model.named_parameters()
            if weight in self.optimiser.state
            for moment in MOMENTS
        }
        return model, moments

    def resume(self, moments: dict[str, Tensor], step: int) -> None:
        """Set the optimiser and the schedule to where they were behind `step` steps."""
        for name, weight in self.model.named_parameters():
            if f"{name}.{MOMENTS[0]}" in moments:
                state = {moment: self.piece(name, moments[f"{name}.{moment}"], weight) for moment in MOMENTS}
                self.optimiser.state[weight] = {"step": torch.tensor(float(step)), **state}
        self.schedule = cosine(self.optimiser, steps=self.steps, done=step)


def checkpoints(out: Path) -> list[Path]:
    """The finished ones, oldest first."""
    return sorted(folder for folder in out.glob("step-*") if (folder / PROGRESS).is_file())


def save(trained: Trained, out: Path, *, step: int, tokenizer_from: Path | None) -> None:
    """Write `step-…` beside and rename it, so that what has that name is whole; the oldest make room."""
    model, moments = trained.gathered()
    if not trained.first:
        return
    folder, beside = out / f"step-{step:06d}", out / f".step-{step:06d}.part"
    shutil.rmtree(beside, ignore_errors=True)
    format = "huggingface" if trained.n.origin.family else "nexus"
    model.save_pretrained(beside, format=format, tokenizer_from=tokenizer_from)
    save_file(moments, beside / STATE)
    (beside / PROGRESS).write_text(json.dumps({"step": step}), encoding="utf-8")
    beside.rename(folder)
    for old in checkpoints(out)[:-KEPT]:
        shutil.rmtree(old)


def stream_of_ids(files: Sequence[Path], tokenizer: Any) -> Tensor:
    """The ids of all files, one behind the other, an end-of-text id behind each.

    Raises:
        InputError: a file that cannot be read as text, or no text at all.
    """
    ids: list[int] = []
    for file in files:
        try:
            text = file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{file}: cannot be read as text ({getattr(error, 'strerror', None) or error})") from None
        ids += tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        ids += [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]
    if not ids:
        raise InputError(f"{', '.join(map(str, files))}: no text in it")
    return torch.tensor(ids)


def windows(stream: Tensor, *, step: int, options: argparse.Namespace) -> Tensor:
    """The batch of one step, the same on any number of processes: [batch, context + 1]."""
    generator = torch.Generator().manual_seed(options.seed * 1_000_003 + step)
    starts = torch.randint(0, len(stream) - options.context, (options.batch,), generator=generator)
    return stream[starts[:, None] + torch.arange(options.context + 1)]


def start(options: argparse.Namespace, last: Path | None) -> UniversalTransformer:
    """The last checkpoint's model, or the one that the options name.

    Raises:
        NexusError: it cannot be read.
    """
    if last is not None or options.model is not None:
        return UniversalTransformer.from_pretrained(last or options.model, dtype=options.dtype)
    try:
        n = ArchitectureParameter.from_json(options.n.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{options.n}: {error.strerror}") from None
    torch.manual_seed(options.seed)
    model = UniversalTransformer(n)
    return model if options.dtype == "auto" else model.to(getattr(torch, options.dtype))


def train(options: argparse.Namespace, mesh: DeviceMesh | None, console: Console) -> None:
    """From the last checkpoint, if there is one, to the last step."""
    options.out.mkdir(parents=True, exist_ok=True)
    tokenizer_from = options.tokenizer or options.model
    stream = stream_of_ids(options.text, load_tokenizer(tokenizer_from))
    last = next(reversed(checkpoints(options.out)), None)
    model = start(options, last)
    if len(stream) <= options.context or int(stream.max()) >= model.n.d_vocab:
        raise InputError(
            f"{len(stream)} tokens, the largest {int(stream.max())}: too few for a context of {options.context}, or "
            f"beyond a vocabulary of {model.n.d_vocab}"
        )
    trained, done = Trained(model, mesh, options), 0
    if trained.first:
        for unfinished in options.out.glob(".*step-*.part*"):
            shutil.rmtree(unfinished, ignore_errors=True)
    if last is not None:
        done = json.loads((last / PROGRESS).read_text(encoding="utf-8"))["step"]
        trained.resume(load_file(last / STATE), done)
        console.print(f"going on from {last}")
    began = time.monotonic()
    for step in range(done + 1, options.steps + 1):
        rate = trained.schedule.get_last_lr()[0]
        loss, norm = trained.step(windows(stream, step=step, options=options), clip=options.clip)
        speed = (step - done) * options.batch * options.context / (time.monotonic() - began)
        if step % options.log_every == 0 or step == options.steps:
            console.print(
                f"step [bold]{step}[/bold]/{options.steps}  loss [bold]{loss:.6f}[/bold]  gradients {norm:.4f}  "
                f"rate {rate:.2e}  {speed:,.0f} tokens/s"
            )
        if step % options.save_every == 0 or step == options.steps:
            save(trained, options.out, step=step, tokenizer_from=Path(tokenizer_from))


def parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    origin = parser.add_mutually_exclusive_group(required=True)
    origin.add_argument("--model", type=Path, help="a checkpoint to go on from, published or of the nexus format")
    origin.add_argument("--from-n", type=Path, dest="n", help="an n as JSON: a new model, which needs --tokenizer")
    parser.add_argument("--tokenizer", type=Path, help="a directory with a tokenizer; the model's, if not given")
    parser.add_argument("--text", type=Path, nargs="+", required=True, help="text files")
    parser.add_argument("--out", type=Path, required=True, help="folder of checkpoints; goes on from its last")
    parser.add_argument("--steps", type=int, default=1000, help="steps in all")
    parser.add_argument("--batch", type=int, default=8, help="windows per step, over all processes")
    parser.add_argument("--context", type=int, default=256, help="tokens of a window")
    parser.add_argument("--rate", type=float, default=3e-4, help="highest learning rate")
    parser.add_argument("--clip", type=float, default=1.0, help="largest norm of the gradients")
    parser.add_argument("--seed", type=int, default=0, help="of new weights and of windows")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16", "float64"), default="auto")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--tensor-parallel", type=int, default=1, help="processes that share the model")
    parser.add_argument("--save-every", type=int, default=100, help="steps between checkpoints")
    parser.add_argument("--log-every", type=int, default=1, help="steps between lines")
    options = parser.parse_args(arguments)
    world = int(os.environ.get("WORLD_SIZE", "1"))
    positive = ("steps", "batch", "context", "tensor_parallel", "save_every", "log_every")
    if wrong := next((name for name in positive if getattr(options, name) < 1), None):
        parser.error(f"--{wrong.replace('_', '-')} must be at least 1")
    if options.n is not None and options.tokenizer is None:
        parser.error("--from-n needs --tokenizer")
    if options.tensor_parallel not in (1, world):
        parser.error(f"--tensor-parallel must be 1 or the {world} processes that torchrun started")
    if options.tensor_parallel == 1 and options.batch % world:
        parser.error(f"--batch {options.batch} must be a multiple of the {world} processes")
    return options


def main(arguments: Sequence[str] | None = None) -> int:
    """Train; 2 with one line on bad input, or where another process is lost."""
    options = parsed(arguments)
    alone = int(os.environ.get("WORLD_SIZE", "1")) == 1
    warnings.filterwarnings("ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning)  # e of x
    try:
        with contextlib.nullcontext() if alone else joined_ranks(options.device) as mesh:
            train(options, mesh, Console(quiet=mesh is not None and mesh.get_local_rank() > 0, highlight=False))
    except NexusError as error:
        print(f"train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
