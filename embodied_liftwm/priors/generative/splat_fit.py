"""Fitting 3D Gaussians to the frames of one episode (Kerbl et al. 2023, arXiv:2308.04079), within a fixed budget.

The loss and what is optimised are that paper's. Unlike there the number of Gaussians stays: they begin where a plane sweep of
the episode's own frames found surfaces, so nothing has to be grown.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from kornia.metrics import ssim
from torch import Tensor

from embodied_liftwm.memory.gaussians.ply import PlyGaussians
from embodied_liftwm.priors.contract import Clip
from embodied_liftwm.priors.generative.splat_scene import first_scene, show


@dataclass(frozen=True)
class FitSettings:
    """How a scene is fitted. Learning rates are Adam's, a step; they fall exponentially to `last_rate` of themselves."""

    gaussians: int = 8192  # at most
    keyframe_every: int = 4  # frames: from each so many-th come the first Gaussians
    steps: int = 1000
    frames_per_step: int = 2
    structure: float = 0.2  # share of D-SSIM in the loss, the rest is L1 (arXiv:2308.04079, eq. 7)
    rate_means: float = 4e-3  # metres
    rate_quats: float = 5e-3
    rate_scales: float = 1e-2  # of the logarithm
    rate_opacities: float = 3e-2  # of the logit
    rate_rgb: float = 1e-2
    last_rate: float = 0.1


def fit(clip: Clip, settings: FitSettings, seed: int) -> PlyGaussians:
    """Fit a scene to all frames of a clip, on the device of its tensors; the same for the same seed on a CPU."""
    generator = torch.Generator().manual_seed(seed)
    scene = first_scene(clip, settings.keyframe_every, settings.gaussians, generator)
    return improve(scene, clip, settings, generator)


@torch.enable_grad()
def improve(scene: PlyGaussians, clip: Clip, settings: FitSettings, generator: torch.Generator) -> PlyGaussians:
    """Optimise every Gaussian of a scene on the frames of a clip, a few frames a step, each frame as often as any other."""
    leaves = [leaf.detach().clone().requires_grad_() for leaf in unconstrained(scene)]
    rates = (settings.rate_means, settings.rate_quats, settings.rate_scales, settings.rate_opacities, settings.rate_rgb)
    optimizer = torch.optim.Adam([{"params": [leaf], "lr": rate} for leaf, rate in zip(leaves, rates)], eps=1e-15)
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, settings.last_rate ** (1.0 / max(1, settings.steps)))
    height, width = clip.rgb.shape[-2:]
    for frames in _order(len(clip.rgb), settings, generator):
        target = clip.rgb[frames]
        shown = show(constrained(*leaves), clip.intrinsics, clip.world_from_camera[frames], height, width)
        loss = image_loss(shown.rgb, target, settings.structure)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        schedule.step()
    return constrained(*(leaf.detach() for leaf in leaves))


def _order(frames: int, settings: FitSettings, generator: torch.Generator) -> list[Tensor]:
    """Which frames each step sees: shuffled passes over all of them, one after the other."""
    wanted = settings.steps * settings.frames_per_step
    passes = [torch.randperm(frames, generator=generator) for _ in range(-(-wanted // frames))]
    return list(torch.cat(passes)[:wanted].split(settings.frames_per_step)) if passes else []


def image_loss(shown: Tensor, target: Tensor, structure: float) -> Tensor:
    """(1 - structure) L1 + structure (1 - SSIM) / 2 of images [V, 3, H, W], SSIM with an 11 x 11 window."""
    dissimilar = (1.0 - ssim(shown, target, 11).mean()) / 2.0
    return (1.0 - structure) * (shown - target).abs().mean() + structure * dissimilar


def unconstrained(scene: PlyGaussians) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """What is optimised: means, quaternions of any length, log scales, opacity logits, colours."""
    return scene.means, scene.quats, scene.scales.log(), torch.logit(scene.opacities, eps=1e-6), scene.rgb


def constrained(means: Tensor, quats: Tensor, log_scales: Tensor, logits: Tensor, rgb: Tensor) -> PlyGaussians:
    """The inverse of `unconstrained`."""
    return PlyGaussians(means, F.normalize(quats, dim=-1), log_scales.exp(), logits.sigmoid(), rgb)
