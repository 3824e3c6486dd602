"""Where the features of several modalities meet: one width, one clock."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor, nn

from nexus_universal.architecture.errors import InputError

MODALITIES = ("text", "image", "video", "audio")
"""The order in which fused features follow each other."""


class UnifiedFusionLayer(nn.Module):
    """A projection for each modality, and audio laid onto the frames of a video; the interface of towers to come.

    `widths` are those of the features by modality, `hidden_dim` where none is given. The layer starts untrained.

    Example:
        >>> layer = UnifiedFusionLayer(64, widths={"audio": 80, "video": 96})
        >>> layer({"audio": torch.randn(1, 100, 80), "video": torch.randn(1, 25, 96)}).shape
        torch.Size([1, 25, 64])
    """

    def __init__(self, hidden_dim: int, *, widths: Mapping[str, int] | None = None) -> None:
        super().__init__()
        if strange := sorted(set(widths or ()) - set(MODALITIES)):
            raise InputError(f"modality {strange[0]!r} (known: {', '.join(MODALITIES)})")
        self.hidden_dim = hidden_dim
        known = dict.fromkeys(MODALITIES, hidden_dim) | dict(widths or {})
        self.projections = nn.ModuleDict({name: nn.Linear(width, hidden_dim) for name, width in known.items()})

    def forward(
        self, features: Mapping[str, Float[Tensor, "batch _ _"]], *, audio_offset: float = 0.0
    ) -> Float[Tensor, "batch seq hidden_dim"]:
        """Projected features, modality after modality; audio beside a video is added to the frames it is heard in.

        Audio and video are taken to last equally long; `audio_offset` is the part of that by which audio begins late.

        Raises:
            InputError: no features, or those of an unknown modality.
        """
        if not features:
            raise InputError(f"there are no features: give those of {', '.join(MODALITIES)}, or some of them")
        if strange := sorted(set(features) - set(MODALITIES)):
            raise InputError(f"modality {strange[0]!r} (known: {', '.join(MODALITIES)})")
        projected = {name: self.projections[name](features[name]) for name in MODALITIES if name in features}
        if "audio" in projected and "video" in projected:
            audio = projected.pop("audio")
            projected["video"] = projected["video"] + aligned(audio, projected["video"].shape[1], offset=audio_offset)
        return torch.cat(list(projected.values()), dim=1)


def aligned(
    track: Float[Tensor, "batch seq width"], frames: int, *, offset: float = 0.0
) -> Float[Tensor, "batch frames width"]:
    """A track on the clock of another of equal duration: each frame takes the mean of what sounds while it is shown.

    Step i of s steps sounds from offset + i/s to offset + (i+1)/s of the duration, and is weighed by how long it
    overlaps with the frame; a frame in which nothing sounds is 0. The mean over all frames is that of the track.
    """
    steps = track.shape[1]
    starts = offset + torch.arange(steps, device=track.device, dtype=torch.float64) / steps
    shown = torch.arange(frames, device=track.device, dtype=torch.float64).unsqueeze(1) / frames
    overlap = torch.minimum(starts + 1 / steps, shown + 1 / frames) - torch.maximum(starts, shown)
    weights = overlap.clamp(min=0) * frames
    return weights.to(track.dtype) @ track
