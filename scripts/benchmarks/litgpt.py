"""litgpt on the dense shape, where it is installed; its weights are random, which changes no time."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.speed import Side


class Litgpt:
    """Its GPT with the face that `Side` calls: texts of one row, greedily."""

    def __init__(self, name: str, *, device: str) -> None:
        from litgpt.config import Config  # type: ignore[import-not-found]
        from litgpt.model import GPT  # type: ignore[import-not-found]

        with torch.device(device):
            self.gpt = GPT(Config.from_name(name)).to(torch.bfloat16).eval()

    @torch.inference_mode()
    def generate(self, ids: Tensor, *, max_new_tokens: int, do_sample: bool, streamer: Any) -> None:
        """By litgpt's own loop; sampling at temperature 0 is greedy."""
        from litgpt.generate.base import generate_fn  # type: ignore[import-not-found]

        assert not do_sample
        streamer.put(ids.cpu())
        length = ids.shape[1] + max_new_tokens
        self.gpt.clear_kv_cache()
        self.gpt.max_seq_length = length
        with ids.device:
            self.gpt.max_seq_length = length
            self.gpt.set_kv_cache(batch_size=1)
        kept = {"temperature": 0.0, "include_prompt": False, "include_eos": False}
        for token in generate_fn(self.gpt, ids[0], length, **kept):
            streamer.put(token.cpu())
        streamer.end()


def litgpt_side(name: str, *, device: str) -> Side:
    """It as a side of the comparison."""
    return Side(Litgpt(name, device=device), {}, {}, batches=False)
