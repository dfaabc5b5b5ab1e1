"""The network of `inhouse_depth`: depth and normals, each with how sure it is, from one frame.

A U-Net (Ronneberger et al. 2015, arXiv:1505.04597) that sees colours and, of each pixel, the direction it looks in; no pose.
It says a distribution a pixel: Laplace over log-depth (aleatoric uncertainty as of Kendall and Gal 2017, arXiv:1703.04977),
and von Mises-Fisher over the normal.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from embodied_liftwm.errors import UserError
from embodied_liftwm.files import check_sum, read_json
from embodied_liftwm.geometry.cameras import camera_rays
from embodied_liftwm.priors.contract import DepthConvention
from embodied_liftwm.weights import load_weights

LOG_SPREAD = (-5.0, 2.0)
"""Bounds of the logarithm of the Laplace scale: 0.7 % of the depth to a factor of e^7."""
LOG_CONCENTRATION = (-2.0, 7.0)
"""Bounds of the logarithm of kappa: from nearly uniform to about 2 degrees."""
USUAL_LOG_DEPTH = 0.7
"""Where an untrained network begins: 2 m."""
FORMAT = 1
Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class DepthConfig:
    """The architecture, and what its depth means; stored beside the weights."""

    image_size: int = 64  # height of the frames it was trained on, pixels
    stem: int = 16  # channels at full resolution
    widths: tuple[int, ...] = (32, 64, 128, 192)  # channels at half of it, a quarter and so on
    convention: DepthConvention = "scale_free"  # what the loss left open, and so what the depth says

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** len(self.widths)


class Guess(NamedTuple):
    """What the network says of frames, a distribution a pixel."""

    log_depth: Tensor  # [B, H, W] median; of affine_inverse minus the logarithm of inverse depth, up to scale and shift
    log_spread: Tensor  # [B, H, W] logarithm of the Laplace scale of what the loss compares
    normals: Tensor  # [B, 3, H, W] unit, camera frame, towards the camera
    log_concentration: Tensor  # [B, H, W] logarithm of kappa


class UNet(nn.Module):
    """Images to features of each pixel, that have seen the whole image."""

    def __init__(self, inputs: int, stem: int, widths: tuple[int, ...]) -> None:
        """Take channels of the images, of the features, and at half of the resolution, a quarter and so on."""
        super().__init__()
        widths = (stem, *widths)
        self.stem = nn.Conv2d(inputs, stem, 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in zip(widths, widths[1:]))
        self.blocks_down = nn.ModuleList(_Block(width) for width in widths[1:])
        self.up = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(widths, widths[1:]))
        self.blocks_up = nn.ModuleList(_Block(width) for width in widths[:-1])

    def features(self, images: Tensor) -> Tensor:
        """[B, inputs, H, W] -> [B, stem, H, W]; H and W are multiples of 2 to the number of widths."""
        x = self.stem(images)
        skips = []
        for down, block in zip(self.down, self.blocks_down):
            skips.append(x)
            x = block(down(x))
        for skip, up, block in reversed(list(zip(skips, self.up, self.blocks_up))):
            x = block(skip + F.interpolate(up(x), scale_factor=2.0, mode="nearest"))
        return x


class DepthNetwork(UNet):
    """Frames and rays to a `Guess`."""

    def __init__(self, config: DepthConfig) -> None:
        super().__init__(5, config.stem, config.widths)
        self.config = config
        self.head = nn.Conv2d(config.stem, 6, 3, padding=1)
        self.head.bias = nn.Parameter(torch.tensor([USUAL_LOG_DEPTH, -1.0, 0.0, 0.0, -1.0, 0.0]))
        with torch.no_grad():
            self.head.weight.mul_(0.1)

    def forward(self, rgb: Tensor, intrinsics: Tensor) -> Guess:
        """Say what frames show.

        Args:
            rgb: [B, 3, H, W] in [0, 1], H and W multiples of `config.multiple`.
            intrinsics: pixels. [B, 3, 3]
        """
        return self.judge(self.look(rgb, intrinsics))

    def look(self, rgb: Tensor, intrinsics: Tensor) -> Tensor:
        """The features that `judge` makes its guess of. [B, stem, H, W]"""
        rays = camera_rays(intrinsics, *rgb.shape[-2:])[..., :2].movedim(-1, 1)
        return self.features(torch.cat([2.0 * rgb - 1.0, rays], dim=1))

    def judge(self, features: Tensor) -> Guess:
        """The second half of `forward`."""
        with torch.autocast(features.device.type, enabled=False):  # eight bits are too few for depth
            depth, spread, *normals, concentration = self.head(features.float()).unbind(1)
        return Guess(
            log_depth=depth,
            log_spread=spread.clamp(*LOG_SPREAD),
            normals=F.normalize(torch.stack(normals, dim=1), dim=1),
            log_concentration=concentration.clamp(*LOG_CONCENTRATION),
        )


class _Block(nn.Module):
    """Two 3x3 convolutions around a normalisation, added to the input. [B, C, H, W] -> the same"""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.GroupNorm(8, channels)
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.zeros_(self.second.weight)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(self.norm(x)))))


def describe(config: Any) -> str:
    """The text of `model.json` for the architecture of any teacher of ours."""
    return json.dumps({"format": FORMAT, "model": asdict(config)}, indent=2) + "\n"


def load_network(folder: Path) -> DepthNetwork:
    """A trained network from a folder of `model.safetensors` and `model.json`.

    Raises:
        UserError: a file is missing or damaged, or the weights are of another architecture.
    """

    def build(described: dict[str, Any]) -> DepthNetwork:
        return DepthNetwork(DepthConfig(**described | {"widths": tuple(described["widths"])}))

    return load_described(folder, "inhouse_depth", build)


def load_described(folder: Path, teacher: str, build: Callable[[dict[str, Any]], Network]) -> Network:
    """`load_network` of any teacher of ours: what `build` makes of `model` in model.json, with the weights beside it."""
    try:
        network = build(read_json(folder / "model.json")["model"])
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, OverflowError) as error:
        raise UserError(f"{folder / 'model.json'} does not describe a {teacher} network of this version: {error}") from None
    load_weights(network, folder / "model.safetensors")
    check_sum(folder / "model.json")
    return network.eval().requires_grad_(False)
