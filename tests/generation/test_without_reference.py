"""Load, generate, draw and stream with transformers blocked: nothing of it can be behind the ids."""

from __future__ import annotations

import json
import subprocess
import sys

import torch
from transformers import AutoModelForCausalLM

from tests.generation.support import CHECKPOINTS, DATA
from tests.helpers import ids

SCRIPT = """
import json, sys
sys.modules["transformers"] = None
import torch
from nexus_universal import UniversalTransformer
from nexus_universal.generation import TextStreamer, generate, stream
from tokenizers import Tokenizer

class Plain:
    def __init__(self, path):
        self.tokenizer = Tokenizer.from_file(path)

    def decode(self, ids, **settings):
        return self.tokenizer.decode(ids, **settings)

found = {}
for folder in sys.argv[2:]:
    model = UniversalTransformer.from_pretrained(folder)
    prompt = torch.tensor(json.loads(sys.argv[1]))
    pieces = []
    streamer = TextStreamer(Plain(folder + "/tokenizer.json"), write=pieces.append)
    drawn = model.generate(prompt[:1], do_sample=True, seed=3, max_new_tokens=12, streamer=streamer)
    mask = torch.ones_like(prompt)
    mask[0, :2] = 0
    found[folder] = [
        generate(model, prompt, mask, do_sample=False, max_new_tokens=12).tolist(),
        drawn.tolist(),
        [step.ids.tolist() for step in stream(model, prompt, do_sample=False, max_new_tokens=5)],
        "".join(pieces),
    ]
assert not [name for name in sys.modules if name.startswith("transformers.")]
print(json.dumps(found))
"""


def test_ids_are_the_references_with_the_reference_out_of_reach() -> None:
    prompt, folders = ids(2, 6), [str(DATA / name) for name in CHECKPOINTS]
    command = [sys.executable, "-c", SCRIPT, json.dumps(prompt.tolist()), *folders]
    ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    mask = torch.ones_like(prompt)
    mask[0, :2] = 0
    for folder, (greedy, drawn, streamed, text) in json.loads(ran.stdout).items():
        theirs = AutoModelForCausalLM.from_pretrained(folder).eval()
        assert greedy == theirs.generate(prompt, attention_mask=mask, do_sample=False, max_new_tokens=12).tolist()
        torch.manual_seed(3)
        assert drawn == theirs.generate(prompt[:1], do_sample=True, max_new_tokens=12).tolist()
        whole = theirs.generate(prompt, do_sample=False, max_new_tokens=5)[:, 6:]
        assert streamed == whole.t().tolist()
        assert text
