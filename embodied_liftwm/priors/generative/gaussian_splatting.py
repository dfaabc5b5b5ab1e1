"""3D Gaussian Splatting (Kerbl et al. 2023, arXiv:2308.04079) as a teacher: fitted to each episode, or a scene from a PLY file.

Poses are metric, and so is what is fitted with them. The scene is rendered at the clip's cameras for depth, and between and
aside of them for views that the agent never had. Depth is trusted as far as it covers the pixel, shows its colour, and is what
the other frames speak for; a view as far as it covers the pixel and lies near to what was visited.

A PLY file is one scene, in metres and in the world frame of the clips: use it for a dataset of that scene alone. Where it shows
something else than the frames do, its depth gets no confidence.
"""

from __future__ import annotations

import hashlib
from pathlib import Path

import torch
from torch import Tensor

from embodied_liftwm.geometry.se3 import relative_twist, se3_exp
from embodied_liftwm.memory.gaussians.ply import PlyGaussians, read_ply
from embodied_liftwm.priors.contract import Clip, DepthMaps, NovelViews, PriorCard, PriorOptions, PseudoObservations
from embodied_liftwm.priors.generative import splat_scene
from embodied_liftwm.priors.generative.splat_fit import FitSettings, fit
from embodied_liftwm.priors.generative.splat_scene import SceneViews, show
from embodied_liftwm.priors.geometric.pairs import choose_pairs

VIEW_EVERY = 4
"""Frames: from each so many-th one a view is imagined."""
BETWEEN = (0.25, 0.75)
"""Such a view lies at this share of the way to the frame's partner, drawn evenly."""
ASIDE_M = 0.1
"""Standard deviation of its step aside from there, along each axis of the camera."""
COLOUR_ERROR = 0.1
"""Difference of rendered and seen colour, the mean over channels, at which the depth of a pixel has confidence 1/e."""
REACH_M = 0.5
"""Distance to the nearest frame that looks the same way, at which a view has confidence exp(-1/2)."""
SAME_WAY = 0.7
"""Cosine between optical axes from which two cameras look the same way."""
NEAREST_M = 0.15
"""What is nearer to a view than this is a piece of something that the camera is in: it has no confidence."""


class GaussianSplatting:
    """A scene a clip: its own fit, or the one that was given."""

    def __init__(self, options: PriorOptions, settings: FitSettings | None = None) -> None:
        """Read the PLY of `options.weights`, where there is one. Raises UserError as `read_ply` does."""
        self.options, self.settings = options, settings or FitSettings()
        self.file = Path(options.weights).expanduser()
        self.scene = _on(read_ply(self.file), options.device) if options.weights else None

    def fingerprint(self) -> str:
        """See `Prior`."""
        views = (VIEW_EVERY, BETWEEN, ASIDE_M, COLOUR_ERROR, REACH_M, SAME_WAY, NEAREST_M)
        settings = () if self.options.weights else (self.settings, splat_scene.SETTINGS)
        digest = hashlib.sha256(repr((self.options.seed, views, settings)).encode())
        if self.options.weights:
            digest.update(self.file.read_bytes())
        return digest.hexdigest()[:16]

    def observe(self, clip: Clip) -> PseudoObservations:
        """Depth of every frame, and views from where the agent was not; metric, on the CPU."""
        here = Clip(*(tensor.to(self.options.device) for tensor in clip))
        scene = self.scene if self.scene is not None else fit(here, self.settings, self.options.seed)
        return PseudoObservations(depth=self._depth(scene, here), views=self._views(scene, here))

    def _depth(self, scene: PlyGaussians, clip: Clip) -> DepthMaps:
        shown = self._show(scene, clip, clip.world_from_camera)
        frames = torch.arange(len(clip.rgb))
        batches = zip(frames.split(self.options.batch_size), shown.depth.split(self.options.batch_size))
        supported = torch.cat([splat_scene.support(clip, some, depth) for some, depth in batches])
        agreed = torch.exp(-(shown.rgb - clip.rgb).abs().mean(1) / COLOUR_ERROR)
        return DepthMaps(shown.depth.cpu(), (shown.alpha * agreed * supported).cpu(), frames, "metric")

    def _views(self, scene: PlyGaussians, clip: Clip) -> NovelViews:
        frames, poses = unvisited_poses(Clip(*(tensor.cpu() for tensor in clip)), self.options.seed)
        shown = self._show(scene, clip, poses.to(clip.rgb))
        familiar = familiarity(poses, clip.world_from_camera.cpu())
        confidence = (shown.alpha * (shown.depth > NEAREST_M)).cpu() * familiar[:, None, None]
        return NovelViews(shown.rgb.clamp(0, 1).cpu(), confidence, poses, frames)

    @torch.no_grad()
    def _show(self, scene: PlyGaussians, clip: Clip, poses: Tensor) -> SceneViews:
        height, width = clip.rgb.shape[-2:]
        parts = [show(scene, clip.intrinsics, some, height, width) for some in poses.split(self.options.batch_size)]
        return SceneViews(*(torch.cat(column) for column in zip(*parts))) if parts else _nothing(clip)


def _nothing(clip: Clip) -> SceneViews:
    return SceneViews(clip.rgb[:0], clip.rgb[:0, 0], clip.rgb[:0, 0])


def _on(scene: PlyGaussians, device: str) -> PlyGaussians:
    return PlyGaussians(*(tensor.to(device) for tensor in scene))


def unvisited_poses(clip: Clip, seed: int) -> tuple[Tensor, Tensor]:
    """Cameras between a frame and its partner with parallax, and aside of that way; the same for the same seed.

    Frames without a partner are left out: depth around them is not known.

    Returns:
        Frames [K] int64, and world_from_camera [K, 4, 4].
    """
    pairs = choose_pairs(clip)[::VIEW_EVERY]
    first, second = pairs[pairs[:, 0] != pairs[:, 1]].unbind(1)
    generator = torch.Generator().manual_seed(seed)
    share = BETWEEN[0] + (BETWEEN[1] - BETWEEN[0]) * torch.rand(len(first), 1, generator=generator)
    aside = ASIDE_M * torch.randn(len(first), 3, generator=generator)
    start, end = clip.world_from_camera[first], clip.world_from_camera[second]
    poses = start @ se3_exp(share * relative_twist(start, end))
    poses[:, :3, 3] += (poses[:, :3, :3] @ aside[..., None]).squeeze(-1)
    return first, poses


def familiarity(poses: Tensor, visited: Tensor) -> Tensor:
    """exp(-d^2 / (2 REACH_M^2)) for the distance d to the nearest of the visited cameras that looks the same way.

    Args:
        poses: [K, 4, 4]
        visited: [F, 4, 4]

    Returns:
        [K] in [0, 1], 0 where none looks the same way.
    """
    distance = torch.cdist(poses[:, :3, 3], visited[:, :3, 3])
    same_way = poses[:, :3, 2] @ visited[:, :3, 2].T > SAME_WAY
    nearest = torch.where(same_way, distance, torch.inf).amin(1)
    return torch.exp(-0.5 * (nearest / REACH_M).square())


def what_is_missing(options: PriorOptions) -> str:
    """One line where the PLY or the device is not there, "" where all is; a fit needs nothing but the package."""
    if options.weights and not Path(options.weights).expanduser().is_file():
        return f"weights={options.weights}: no such file; expected a scene as PLY, or weights= empty to fit one to each episode"
    if options.device.startswith("cuda") and not torch.cuda.is_available():
        return f"device={options.device}: torch sees no CUDA device here; set device=cpu"
    return ""


CARD = PriorCard(
    name="gaussian_splatting",
    gives=("depth", "views"),
    about="3D Gaussians fitted to the episode's own frames and poses, or read from a PLY (Kerbl et al. 2023, arXiv:2308.04079)",
    licence="Apache-2.0",
    non_commercial=False,
    missing=what_is_missing,
    open=GaussianSplatting,
)
