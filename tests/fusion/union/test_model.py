"""Several models behind one `generate`, each as it would answer alone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer

from nexus_universal import NexusUnifiedModel, UniversalTransformer
from nexus_universal.architecture.errors import CheckpointError, InputError
from nexus_universal.fusion.union.layer import UnifiedFusionLayer, aligned
from nexus_universal.fusion.union.registry import Capability
from nexus_universal.generation.text import generate_text
from tests.fusion.union.checkpoints import DATA, IDS

SOURCES = {"prose": "qwen3_tiny", "window": "gemma3_tiny"}
SETTINGS = {"max_new_tokens": 8, "do_sample": False}
PROMPT = "Return the"


@pytest.fixture(scope="module")
def answers() -> dict[str, str]:
    found = {}
    for name, source in SOURCES.items():
        model, tokenizer = (
            UniversalTransformer.from_pretrained(DATA / source),
            AutoTokenizer.from_pretrained(DATA / source),
        )
        found[name] = str(generate_text(model, tokenizer, PROMPT, **SETTINGS))
    return found


@pytest.fixture
def unified(tmp_path: Path) -> NexusUnifiedModel:
    """A union whose originals are gone."""
    sources = {name: shutil.copytree(DATA / source, tmp_path / name) for name, source in SOURCES.items()}
    model = NexusUnifiedModel.from_teacher_models(sources, capabilities={"window": [Capability.AGENT]})
    for source in sources.values():
        shutil.rmtree(source)
    return model


def test_each_answers_as_it_would_alone(unified: NexusUnifiedModel, answers: dict[str, str], tmp_path: Path) -> None:
    assert answers["prose"] != answers["window"]
    unified.save_pretrained(tmp_path / "kept" / "both.nxu")
    kept = NexusUnifiedModel.from_pretrained(tmp_path / "kept" / "both.nxu", budget_bytes=2_000_000)
    for model in (unified, kept):
        for capability, name in (("prose", "prose"), ("window", "window"), ("agent", "window")):
            found = model.generate(text=PROMPT, capability=capability, **SETTINGS)
            assert (found.output, found.modality) == (answers[name], "text")
            assert (found.route.name, found.route.reason) == (name, "explicit")
        assert found.capabilities == (Capability.AGENT,)
    assert 0 < found.memory_peak_bytes <= 2_000_000
    free = unified.generate(text=PROMPT, **SETTINGS)
    assert free.output == answers[free.route.name] and set(free.route.bits) == set(SOURCES)
    assert str(unified.verify()).startswith("union union.nxu: R0")
    with pytest.raises(CheckpointError, match="exists already"):
        unified.save_pretrained(tmp_path / "kept" / "both.nxu")


@torch.no_grad()
def test_the_whole_is_one_fused_model(unified: NexusUnifiedModel) -> None:
    whole = unified.joined()
    assert list(whole.n.branches) == list(SOURCES)
    for name, source in SOURCES.items():
        alone = UniversalTransformer.from_pretrained(DATA / source)(IDS).logits
        assert torch.equal(whole(IDS, capability=name).logits, alone)
    assert unified.joined("all")(IDS).logits.shape[-1] == 2 * 1024


@pytest.mark.parametrize(
    ("call", "message"),
    [
        ({}, "nothing to continue: give text"),
        ({"text": PROMPT, "image": object()}, r"image: no branch of union.nxu reads it \(read: text\)"),
        ({"audio": object()}, "audio: no branch"),
        ({"text": PROMPT, "output_modality": "video"}, r"'video': no branch of union.nxu writes it \(written: text\)"),
        ({"text": PROMPT, "capability": "tts"}, r"'tts' \(known: prose, window, reasoning, agent\)"),
    ],
)
def test_what_no_branch_can_do_is_refused(call: dict[str, object], message: str, unified: NexusUnifiedModel) -> None:
    with pytest.raises(InputError, match=message):
        unified.generate(**call)  # type: ignore[arg-type]


def test_audio_is_laid_onto_the_frames_in_which_it_sounds() -> None:
    track = torch.arange(8.0).view(1, 8, 1)
    assert aligned(track, 4).flatten().tolist() == pytest.approx([0.5, 2.5, 4.5, 6.5])
    assert torch.allclose(aligned(track, 8), track)
    assert aligned(track, 3).mean().item() == pytest.approx(3.5)
    assert aligned(track, 2, offset=0.5).flatten().tolist() == pytest.approx([0, 1.5])
    assert aligned(track, 16).flatten()[:4].tolist() == pytest.approx([0, 0, 1, 1])


def test_modalities_meet_in_one_width() -> None:
    layer = UnifiedFusionLayer(16, widths={"audio": 6, "video": 4})
    audio, video, text = torch.randn(2, 10, 6), torch.randn(2, 5, 4), torch.randn(2, 3, 16)
    heard = layer({"video": video, "audio": audio, "text": text})
    assert heard.shape == (2, 8, 16)
    wanted = layer.projections["video"](video) + aligned(layer.projections["audio"](audio), 5)
    assert torch.equal(heard[:, 3:], wanted) and torch.equal(heard[:, :3], layer.projections["text"](text))
    assert layer({"audio": audio}).shape == (2, 10, 16)
    for features in ({}, {"smell": text}):
        with pytest.raises(InputError, match="text, image, video, audio"):
            layer(features)
    with pytest.raises(InputError, match="smell"):
        UnifiedFusionLayer(16, widths={"smell": 3})
