"""Depth Anything V2 through `transformers`: one frame at a time, depth of every pixel (Yang et al. 2024, arXiv:2406.09414).

The relative checkpoints give inverse depth up to scale and shift, the metric ones metres; the checkpoint's configuration says
which it is. The model does not say how sure it is. What is asked instead is whether it says the same of the mirrored frame:
a scene has no preferred hand, so what changes with the mirror is guessed, not seen.
"""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from embodied_liftwm.priors import hub
from embodied_liftwm.priors.contract import (
    Clip,
    DepthConvention,
    DepthMaps,
    PriorCard,
    PriorOptions,
    PseudoObservations,
    check_licence,
)

DEFAULT_WEIGHTS = "depth-anything/Depth-Anything-V2-Small-hf"
PACKAGES = ("transformers",)
FILES: hub.Files = (("config.json",), ("preprocessor_config.json",), hub.MODEL)
FORGIVEN = 0.1
"""Difference from the mirrored frame's answer at which confidence is 1/e: relative, or in spreads of the inverse depth."""


class DepthAnything:
    """An opened checkpoint: `Prior`."""

    def __init__(self, folder: Path, options: PriorOptions) -> None:
        from transformers import AutoImageProcessor, DepthAnythingForDepthEstimation

        self._folder, self._options = folder, options
        hub.quiet()
        self._processor: Any = AutoImageProcessor.from_pretrained(folder, backend="pil", local_files_only=True)
        model: Any = DepthAnythingForDepthEstimation.from_pretrained(folder, local_files_only=True, dtype=torch.float32)
        self._model = model.to(options.device).eval()
        metric = self._model.config.depth_estimation_type == "metric"
        self.convention: DepthConvention = "metric" if metric else "affine_inverse"

    def fingerprint(self) -> str:
        return hub.fingerprint("depth_anything", self._folder, FORGIVEN)

    def observe(self, clip: Clip) -> PseudoObservations:
        """Depth of every frame; 0 confidence where it is 0: metric depth is invalid there, inverse depth was cut off."""
        values, confidence = [], []
        for rgb in clip.rgb.split(self._options.batch_size):
            seen, mirrored = self._predict(rgb), self._predict(rgb.flip(-1)).flip(-1)
            values.append(seen)
            confidence.append(agreement(seen, mirrored, self.convention))
        frames = torch.arange(len(clip.rgb))
        return PseudoObservations(depth=DepthMaps(torch.cat(values), torch.cat(confidence), frames, self.convention))

    @torch.no_grad()
    def _predict(self, rgb: Tensor) -> Tensor:
        """The model's answer at the frames' size, at least 0. [B, 3, H, W] -> [B, H, W] on the CPU"""
        images = list((rgb * 255.0).round().byte().permute(0, 2, 3, 1).cpu().numpy())
        pixels = self._processor(images=images, return_tensors="pt")["pixel_values"]
        return to_frame_size(self._model(pixel_values=pixels.to(self._options.device)), self._processor, rgb.shape[-2:])


def to_frame_size(output: Any, processor: Any, size: tuple[int, ...]) -> Tensor:
    """Maps of the model resized to [B, H, W] as the library does it: bicubic between half-integer pixel centres, then clamped.

    Bicubic weights overshoot beside an edge; a depth below 0 means nothing.
    """
    answers = processor.post_process_depth_estimation(output, target_sizes=[tuple(size)] * len(output.predicted_depth))
    return torch.stack([answer["predicted_depth"].reshape(size) for answer in answers]).clamp_min(0.0).cpu()


def agreement(seen: Tensor, mirrored: Tensor, convention: DepthConvention) -> Tensor:
    """exp(-difference / FORGIVEN), what differs measured as the convention allows.

    Metric depth differs by a ratio. Inverse depth is first brought to median 0 and mean deviation 1 in either map, since the
    model does not promise the same scale and shift twice.

    Args:
        seen: what the model says of frames. [B, H, W]
        mirrored: what it says of the mirrored frames, mirrored back. [B, H, W]

    Returns:
        In [0, 1], and 0 where `seen` is 0. [B, H, W]
    """
    if convention == "metric":
        difference = (seen - mirrored).abs() / torch.maximum(seen, mirrored).clamp_min(1e-6)
    else:
        difference = (_standard(seen) - _standard(mirrored)).abs()
    return torch.exp(-difference / FORGIVEN) * (seen > 0)


def _standard(x: Tensor) -> Tensor:
    """Less the map's median, over its mean absolute deviation. [B, H, W]"""
    centred = x - x.flatten(1).median(dim=1).values[:, None, None]
    return centred / centred.abs().mean(dim=(1, 2), keepdim=True).clamp_min(1e-6)


def licence_of(weights: str) -> tuple[str, bool]:
    """Licence of a checkpoint, read from its name, and whether it is non-commercial.

    Of V2, Small is Apache-2.0, Base, Large and Giant are CC-BY-NC-4.0. A folder of another name gets the stricter one.
    """
    name = Path(weights).name.lower()
    size = re.search(r"v2.*(small|base|large|giant)", name)
    if size is None:
        return f"unknown and taken for CC-BY-NC-4.0, since the name {name} does not say which model of V2 it is", True
    return ("Apache-2.0", False) if size.group(1) == "small" else ("CC-BY-NC-4.0", True)


def _missing(options: PriorOptions) -> str:
    weights = options.weights or DEFAULT_WEIGHTS
    lacks, (licence, non_commercial) = hub.what_is_missing(PACKAGES, weights, FILES), licence_of(weights)
    return f"{lacks} (its licence is {licence}: it needs accept_license=true)" if lacks and non_commercial else lacks


def _open(options: PriorOptions) -> DepthAnything:
    weights = options.weights or DEFAULT_WEIGHTS
    licence, non_commercial = licence_of(weights)
    check_licence(replace(CARD, licence=licence, non_commercial=non_commercial), options)
    return DepthAnything(hub.find_folder(PACKAGES, weights, FILES), options)


CARD = PriorCard(
    name="depth_anything",
    gives=("depth",),
    about="Depth Anything V2 (arXiv:2406.09414): monocular depth, relative or metric as the checkpoint is",
    licence="Apache-2.0 (Small, the default); CC-BY-NC-4.0 (Base, Large)",
    non_commercial=False,
    missing=_missing,
    open=_open,
)
