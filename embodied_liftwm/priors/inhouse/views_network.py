"""The network of `inhouse_views`: what another camera would see, and how sure that is, from one frame and the relative pose.

It generates views as Zero-1-to-3 does (Liu et al. 2023, arXiv:2303.11328), conditioned on a frame and on where the camera
moves to, but through space: the network of `inhouse_depth` finds how far each pixel is; its colour, and what the network
carries of it, become a small Gaussian there; all are rendered from the new camera; and a second U-Net, which is also told the
ray of every pixel in Plücker coordinates, mends what came and paints what did not (after SynSin, Wiles et al. 2020,
arXiv:1912.08804). It says a Laplace distribution a pixel (Kendall and Gal 2017, arXiv:1703.04977).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.gaussians.rasterizer.rasterize import rasterize
from embodied_liftwm.priors.inhouse.depth import depth_confidence
from embodied_liftwm.priors.inhouse.depth_network import DepthConfig, DepthNetwork, Guess, UNet, load_described

LOG_SCALE = (-5.0, 0.0)
"""Bounds of the logarithm of the Laplace scale of colours, in units of full brightness."""
LOG_DEPTH = (-2.3, 2.7)
"""Bounds of what is lifted: 0.1 m to 15 m."""
POINT_SIGMA, BLUR = 0.35, 0.05
"""Standard deviation of a pixel's Gaussian, in pixels of its own camera, and square pixels that rendering adds: sharper leaves
holes between pixels that come nearer, softer mixes them. With true depth these lose least."""
LARGEST_OPACITY = 0.99
"""Below 1, whose logit has no slope."""
LEAST_ALPHA = 1e-3
"""Of a pixel: below it depth, which is divided by it, is rounding."""


@dataclass(frozen=True)
class ViewsConfig:
    """The architecture; stored beside the weights."""

    source: DepthConfig = field(default_factory=lambda: DepthConfig(convention="metric"))  # of the network that looks
    carried: int = 8  # channels beside its colour that a pixel takes along
    stem: int = 24  # channels of the network that completes, at full resolution
    widths: tuple[int, ...] = (32, 64, 96, 128)  # at half of it, a quarter and so on

    @property
    def image_size(self) -> int:
        """Height of the frames that it was trained on, pixels."""
        return self.source.image_size

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return max(self.source.multiple, 2 ** len(self.widths))


class Imagined(NamedTuple):
    """What V cameras a frame would see, a distribution a pixel, and by what geometry."""

    rgb: Tensor  # [B, V, 3, H, W] median; not clamped
    log_scale: Tensor  # [B, V, H, W] logarithm of the Laplace scale, of every channel
    covered: Tensor  # [B, V, H, W] in [0, 1): how much of the pixel what was seen fills
    guess: Guess  # of the frame; its depth in metres


class ViewsNetwork(nn.Module):
    """A frame and relative poses to `Imagined`."""

    def __init__(self, config: ViewsConfig) -> None:
        super().__init__()
        self.config = config
        self.source = DepthNetwork(config.source)
        self.carry = nn.Conv2d(config.source.stem, config.carried, 1)
        # Colour and what is carried, how much came, log-depth; the frame's mean colour; rays of both kinds.
        self.complete = UNet(3 + config.carried + 2 + 3 + 2 + 6, config.stem, config.widths)
        self.head = nn.Conv2d(config.stem, 4, 3, padding=1)
        self.head.bias = nn.Parameter(torch.tensor([0.0, 0.0, 0.0, -2.0]))
        with torch.no_grad():
            self.head.weight.mul_(0.1)

    def forward(self, rgb: Tensor, intrinsics: Tensor, frame_from_view: Tensor, log_factor: Tensor | None = None) -> Imagined:
        """Imagine views.

        Args:
            rgb: [B, 3, H, W] in [0, 1], H and W multiples of `config.multiple`.
            intrinsics: of frames and views, pixels. [B, 3, 3]
            frame_from_view: poses of the views in the cameras of their frames, metres. [B, V, 4, 4]
            log_factor: to be added to log-depth, where something else has told the scale. [B]
        """
        features = self.source.look(rgb, intrinsics)
        guess = self.source.judge(features)
        if log_factor is not None:
            guess = guess._replace(log_depth=guess.log_depth + log_factor[:, None, None])
        with torch.autocast(rgb.device.type, enabled=False):
            pixels = torch.cat([rgb, self.carry(features.float())], dim=1)
            came, alpha, log_depth = moved(pixels, guess, intrinsics, frame_from_view)
            rays = view_rays(intrinsics, frame_from_view, *rgb.shape[-2:])
        mean = rgb.mean((2, 3), keepdim=True)[:, None].expand_as(came[:, :, :3])
        known = [2.0 * came[:, :, :3] - alpha, came[:, :, 3:], alpha, log_depth, 2.0 * mean - 1.0]
        painted = self.complete.features(torch.cat([*known, rays], dim=2).flatten(0, 1))
        with torch.autocast(rgb.device.type, enabled=False):
            said = self.head(painted.float()).unflatten(0, frame_from_view.shape[:2])
        colour = came[:, :, :3] + (1.0 - alpha) * mean + said[:, :, :3]
        return Imagined(colour, said[:, :, 3].clamp(*LOG_SCALE), alpha.squeeze(2), guess)


def moved(pixels: Tensor, guess: Guess, intrinsics: Tensor, frame_from_view: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Render the pixels of frames from other cameras, each a Gaussian as opaque as its depth is sure.

    Args:
        pixels: any channels. [B, C, H, W]
        guess: how far they are.
        intrinsics: pixels. [B, 3, 3]
        frame_from_view: [B, V, 4, 4]

    Returns:
        Channels times how much came [B, V, C, H, W], how much came [B, V, 1, H, W], and log-depth, 0 where nothing did
        [B, V, 1, H, W].
    """
    batch, _, height, width = pixels.shape
    depth = guess.log_depth.clamp(*LOG_DEPTH).exp()
    means = (depth[..., None] * camera_rays(intrinsics, height, width)).flatten(1, 2)
    sigma = (POINT_SIGMA * depth / intrinsics[:, 0, 0, None, None]).reshape(batch, -1, 1).expand(-1, -1, 3)
    upright = means.new_tensor([1.0, 0.0, 0.0, 0.0]).expand(batch, height * width, 4)
    opacity = depth_confidence(guess.log_spread.detach()).clamp_max(LARGEST_OPACITY).flatten(1)
    views, channels = intrinsics[:, None].expand(-1, frame_from_view.shape[1], -1, -1), pixels.flatten(2).mT
    image = rasterize(
        means, upright, sigma, opacity, channels.contiguous(), inverse_pose(frame_from_view), views.contiguous(),
        width, height, eps2d=BLUR, validate=False,
    )  # fmt: skip
    came, alpha, far = (x.movedim(-1, 2) for x in (image.features, image.alphas, image.depths))
    there = alpha > LEAST_ALPHA
    far = torch.where(there, far / alpha.clamp_min(LEAST_ALPHA), torch.ones_like(far))
    return came, alpha, far.clamp_min(LEAST_ALPHA).log()


def view_rays(intrinsics: Tensor, frame_from_view: Tensor, height: int, width: int) -> Tensor:
    """Where pixels of views look: slopes in their own camera, and Plücker coordinates in the frame's (unit direction, moment).

    Args:
        intrinsics: pixels. [B, 3, 3]
        frame_from_view: [B, V, 4, 4]

    Returns:
        [B, V, 8, H, W]
    """
    own = camera_rays(intrinsics, height, width)[:, None].expand(-1, frame_from_view.shape[1], -1, -1, -1)
    turned = torch.einsum("bvij,bvhwj->bvhwi", frame_from_view[..., :3, :3], own)
    direction = F.normalize(turned, dim=-1)
    moment = torch.linalg.cross(frame_from_view[:, :, None, None, :3, 3].expand_as(direction), direction)
    return torch.cat([own[..., :2], direction, moment], dim=-1).movedim(-1, 2)


def load_views(folder: Path) -> ViewsNetwork:
    """A trained network from a folder of `model.safetensors` and `model.json`.

    Raises:
        UserError: a file is missing or damaged, or the weights are of another architecture.
    """

    def build(described: dict[str, Any]) -> ViewsNetwork:
        source = described["source"] | {"widths": tuple(described["source"]["widths"])}
        return ViewsNetwork(ViewsConfig(**described | {"source": DepthConfig(**source), "widths": tuple(described["widths"])}))

    return load_described(folder, "inhouse_views", build)
