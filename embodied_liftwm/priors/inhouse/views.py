"""`inhouse_views`: what cameras beside the path would see, by a small network of our own that was trained in other rooms.

Its weights come with the package; `priors/weights/inhouse_views/README.md` is its card. `liftwm priors train` trains others,
and `weights=` takes them: a run, a checkpoint, or what `training.inhouse.trainer.export` wrote.

Depth of one frame has no sure scale: the network knows it for cameras as high above the floor as those it was trained with. So
it is held against the parallax of the clip's other frames, and all its depths are multiplied by the factor that they agree on.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from embodied_liftwm.priors.alignment import weighted_median
from embodied_liftwm.priors.beside import cameras_beside
from embodied_liftwm.priors.contract import Clip, NovelViews, PriorCard, PriorOptions, PseudoObservations
from embodied_liftwm.priors.generative.orbit import chosen_frames
from embodied_liftwm.priors.generative.splat_scene import CELL_PX, sweep_depth
from embodied_liftwm.priors.inhouse.depth import (
    at_trained_size,
    depth_confidence,
    missing_weights,
    resized,
    weights_fingerprint,
    weights_folder,
)
from embodied_liftwm.priors.inhouse.views_network import load_views

SHIPPED = Path(__file__).resolve().parents[1] / "weights" / "inhouse_views"
VIEW_EVERY, VIEWS = 4, 2
"""Of so many frames one is looked at, and so many views are imagined from it."""
NEAR_ENOUGH = 0.1
"""Confidence is the probability that a colour is so near to the truth, in the mean over its channels."""
LEAST_COVERED = 0.5
"""Share of a pixel that must come from the frame: the rest is painted, and painted pixels have no confidence."""
LARGEST_LOG_FACTOR = 0.7
"""Of the scale: farther off, the sweep or the network is wrong about more than that."""
SURE, LEAST_CELLS = 0.3, 64
"""Cells count for the scale where the best plane costs so much less than the mean of all planes; with fewer the factor is 1."""
BATCH = 8
"""Frames that are swept at once."""
VERSION = 1
"""Of what the adapter makes of the network's output; a part of the fingerprint."""


class InhouseViews:
    """The opened teacher. Each frame is imagined from by itself, at the size that the network was trained on."""

    def __init__(self, options: PriorOptions) -> None:
        """Load the weights.

        Raises:
            UserError: they are missing, damaged or of another architecture.
        """
        folder = weights_folder(options, SHIPPED)
        self._network = load_views(folder).to(options.device)
        self._options = options
        self._fingerprint = weights_fingerprint(
            folder, f"house_views {VERSION} {options.seed}"
        )  # its former name: caches stay valid

    def fingerprint(self) -> str:
        """Of the weights, the architecture, the seed of the cameras and this adapter. 16 hex digits"""
        return self._fingerprint

    @torch.inference_mode()
    def observe(self, clip: Clip) -> PseudoObservations:
        """Views from beside some frames, frames in order."""
        frames = chosen_frames(len(clip.rgb), -(-len(clip.rgb) // VIEW_EVERY))
        depth, sureness = self.depth(clip.rgb[frames], clip.intrinsics)
        log_factor = parallax_log_factor(clip, frames, depth, sureness)
        number, frame_from_view = cameras_beside(clip, frames, depth * log_factor.exp(), VIEWS, self._options.seed)
        of = frames[number]
        rgb, confidence = self.views(clip.rgb[of], clip.intrinsics, frame_from_view, log_factor)
        return PseudoObservations(views=NovelViews(rgb, confidence, clip.world_from_camera[of] @ frame_from_view, of))

    def depth(self, rgb: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
        """How far the pixels of frames [K, 3, H, W] are, metres, and the confidence in it. [K, H, W] twice"""
        size, found = list(rgb.shape[-2:]), []
        for part in rgb.split(self._options.batch_size):
            inner, k = self._at_trained_size(part, intrinsics)
            guess = self._network.source(inner, k)
            found.append(resized(torch.stack([guess.log_depth, guess.log_spread], dim=1).cpu(), size))
        log_depth, log_spread = torch.cat(found).unbind(1)
        return log_depth.exp(), depth_confidence(log_spread)

    def views(self, rgb: Tensor, intrinsics: Tensor, frame_from_view: Tensor, log_factor: Tensor) -> tuple[Tensor, Tensor]:
        """One view a frame.

        Args:
            rgb: of any size. [K, 3, H, W]
            intrinsics: of all, pixels. [3, 3]
            frame_from_view: metres. [K, 4, 4]
            log_factor: logarithm of the factor of all depths. []

        Returns:
            Colours in [0, 1] [K, 3, H, W], and the confidence in them [K, H, W].
        """
        size, parts = self._options.batch_size, []
        for frames, poses in zip(rgb.split(size), frame_from_view.split(size)):
            inner, k = self._at_trained_size(frames, intrinsics)
            factor = log_factor.expand(len(frames)).to(inner)
            imagined = self._network(inner, k, poses.unsqueeze(1).to(inner), factor)
            maps = torch.cat([imagined.rgb[:, 0].clamp(0.0, 1.0), imagined.log_scale, imagined.covered], dim=1).cpu()
            parts.append(resized(maps, list(rgb.shape[-2:])))
        maps = torch.cat(parts) if parts else rgb.new_zeros(0, 5, *rgb.shape[-2:])
        return maps[:, :3], colour_confidence(maps[:, 3], maps[:, 4], rgb)

    def _at_trained_size(self, rgb: Tensor, intrinsics: Tensor) -> tuple[Tensor, Tensor]:
        inner, k = at_trained_size(rgb, intrinsics, self._network.config.image_size, self._network.config.multiple)
        return inner.to(self._options.device), k.to(self._options.device)


def colour_confidence(log_scale: Tensor, covered: Tensor, rgb: Tensor) -> Tensor:
    """Probability that a colour is within `NEAR_ENOUGH`; 0 where it is invented, or no better than one colour for all.

    It is invented where what the frame saw covers less than half of the pixel. The mean colour of the frame is expected to miss
    by what the frame's own pixels differ from it, a Laplace distribution by its scale.

    Args:
        log_scale: logarithm of the Laplace scale. [K, H, W]
        covered: by what the frame saw, in [0, 1]. [K, H, W]
        rgb: the frames that were imagined from. [K, 3, H, W]
    """
    scale = log_scale.exp()
    of_mean = (rgb - rgb.mean((2, 3), keepdim=True)).abs().mean((1, 2, 3))[:, None, None]
    known = (covered >= LEAST_COVERED) & (scale < of_mean)
    return torch.where(known, -torch.expm1(-NEAR_ENOUGH / scale), torch.zeros_like(scale))


def parallax_log_factor(clip: Clip, frames: Tensor, depth: Tensor, confidence: Tensor) -> Tensor:
    """Logarithm of the factor by which depths of frames must be multiplied to agree with what the other frames triangulate.

    Args:
        clip: on the CPU.
        frames: [K] int64
        depth: metres, but for that factor. [K, H, W]
        confidence: in them. [K, H, W]

    Returns:
        The weighted median over the cells of all frames that the sweep is sure of, 0 where there are few. []
    """
    log_ratios, weights = [], []
    for some, near, sure in zip(frames.split(BATCH), depth.split(BATCH), confidence.split(BATCH)):
        swept, sureness = sweep_depth(clip, some)
        cells = F.avg_pool2d(torch.stack([near.log(), sure], dim=1), CELL_PX)
        log_ratios.append((swept.log() - cells[:, 0]).flatten())
        weights.append((cells[:, 1] * (sureness > SURE)).flatten())
    weight = torch.cat(weights)
    if (weight > 0).sum() < LEAST_CELLS:
        return depth.new_zeros(())
    found = weighted_median(torch.cat(log_ratios)[None], weight[None])[0]
    return found.clamp(-LARGEST_LOG_FACTOR, LARGEST_LOG_FACTOR)


CARD = PriorCard(
    name="inhouse_views",
    gives=("views",),
    about="views from beside the path by a small network of ours, trained in other procedural rooms; its weights come with it",
    licence="Apache-2.0",
    non_commercial=False,
    missing=lambda options: missing_weights(weights_folder(options, SHIPPED), "inhouse_views"),
    open=InhouseViews,
)
