"""What a loss can know of depth: Fisher information about log-depths, through this package's own geometry.

A camera sees P points at known pixels; their log-depths are unknown. A *measurement* says what a loss compares with data, in
units of its noise, as a function of the log-depths. With Gaussian noise of one unit its Fisher information is J^T J, J the
Jacobian; with Laplace noise of scale b the same, since both are 1 / b^2 for a location. What else the loss has to guess
(the scale of a teacher, the partner's own depth) is a *nuisance*, and information is what is left when it is free.

No formula for a Jacobian is written here: they come from automatic differentiation in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import camera_rays, transform
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.geometry.se3 import relative_pose
from embodied_liftwm.geometry.warp import backward_warp
from embodied_liftwm.protocols import Camera

NOTHING = 1e-9
"""Information below this is none: the log-depth would be known to a standard deviation of 30,000."""


@dataclass(frozen=True)
class Points:
    """What the camera at the origin sees: one point a pixel."""

    intrinsics: Tensor  # [1, 3, 3] pixels, float64
    depth: Tensor  # [H, W] true z-depth, metres, float64

    @property
    def log_depth(self) -> Tensor:
        """The unknowns, at their true values. [P]"""
        return self.depth.log().flatten()

    def depth_map(self, log_depth: Tensor) -> Tensor:
        """[P] -> [1, H, W] metres."""
        return log_depth.exp().view(1, *self.depth.shape)

    def camera(self, world_from_camera: Tensor) -> Camera:
        """This camera, elsewhere: poses [S, 4, 4]."""
        return Camera(self.intrinsics.expand(len(world_from_camera), 3, 3), world_from_camera, *self.depth.shape)

    def home(self, count: int = 1) -> Camera:
        """The camera at the origin, `count` times."""
        return self.camera(torch.eye(4, dtype=self.depth.dtype).expand(count, 4, 4))


class Measurement(NamedTuple):
    """What a loss compares with data, in units of its noise."""

    predict: Callable[[Tensor, Tensor], Tensor]  # log-depths [P], nuisance [K] -> [M]
    nuisance: Tensor  # [K] true values of what is guessed beside the depths; K may be 0


class Knowledge(NamedTuple):
    """What an information matrix [P, P] says."""

    rank: int  # directions of log-depth about which anything is known
    free: Tensor  # [P, P - rank] orthonormal directions about which nothing is known
    least: float  # information in the worst direction; 0 where any is free
    median: float  # of the points' own information, its diagonal


def information(measurements: Sequence[Measurement], log_depth: Tensor) -> Tensor:
    """Fisher information about log-depths [P] in independent measurements, their nuisances free. [P, P] in 1 / nat^2"""
    total = log_depth.new_zeros(len(log_depth), len(log_depth))
    for predict, nuisance in measurements:
        about_depth, about_nuisance = torch.autograd.functional.jacobian(predict, (log_depth, nuisance))
        if len(nuisance):  # what the nuisance can explain as well tells nothing
            basis = torch.linalg.qr(about_nuisance).Q
            about_depth = about_depth - basis @ (basis.T @ about_depth)
        total = total + about_depth.T @ about_depth
    return total


def knowledge(information: Tensor) -> Knowledge:
    """Rank and null space of an information matrix [P, P], and how large it is."""
    values, directions = torch.linalg.eigh(information)
    known = values > NOTHING
    least, median = float(values[0]), float(information.diagonal().median())
    return Knowledge(
        rank=int(known.sum()),
        free=directions[:, ~known],
        least=least if least > NOTHING else 0.0,
        median=median if median > NOTHING else 0.0,
    )


def frames(points: Points, poses: Tensor, noise_px: float) -> Measurement:
    """The 2D loss at its best: where each point appears in frames at `poses` [S, 4, 4], matched to within `noise_px`.

    A point that falls off a frame says nothing there. A photometric loss sees these pixels through the image alone (`colours`).
    """

    def predict(log_depth: Tensor, _: Tensor) -> Tensor:
        blank = log_depth.new_zeros(len(poses), 1, *points.depth.shape)
        depth = points.depth_map(log_depth).expand(len(poses), -1, -1)
        warp = backward_warp(blank, depth, points.home(len(poses)), points.camera(poses))
        return (warp.source_pixels * warp.valid[..., None] / noise_px).flatten()

    return Measurement(predict, points.depth.new_zeros(0))


def colours(points: Points, poses: Tensor, images: Tensor, noise: float) -> Measurement:
    """The 2D loss on colours: what frames `images` [S, C, H, W] at `poses` [S, 4, 4] predict of the first, by its depth."""

    def predict(log_depth: Tensor, _: Tensor) -> Tensor:
        depth = points.depth_map(log_depth).expand(len(poses), -1, -1)
        return backward_warp(images, depth, points.home(len(poses)), points.camera(poses)).image.flatten() / noise

    return Measurement(predict, points.depth.new_zeros(0))


def consistency(points: Points, pose: Tensor, noise_m: float) -> Measurement:
    """Multi-view consistency: a point lifted here and its match lifted from `pose` [4, 4] must be one point in the world.

    The partner's own depths are guessed too: nobody gives them.
    """
    there_from_here = relative_pose(pose[None], points.home().world_from_camera)
    rays = camera_rays(points.intrinsics, *points.depth.shape).flatten(1, 2)
    seen_there = transform(there_from_here, rays * points.log_depth.exp()[:, None])
    partner_rays, partner_depth = seen_there / seen_there[..., 2:], seen_there[0, :, 2]

    def predict(log_depth: Tensor, log_partner_depth: Tensor) -> Tensor:
        lifted_here = transform(there_from_here, rays * log_depth.exp()[:, None])
        return ((lifted_here - partner_rays * log_partner_depth.exp()[:, None]) / noise_m).flatten()

    return Measurement(predict, partner_depth.log())


def normals(points: Points, noise: float, observed: bool = True) -> Measurement:
    """Depth-normal coherence: normals of the depth map agree with a teacher's, or, not `observed`, with the model's own."""

    def from_depth(log_depth: Tensor) -> Tensor:
        return depth_to_normals(points.depth_map(log_depth), points.intrinsics).flatten() / noise

    if observed:
        return Measurement(lambda log_depth, _: from_depth(log_depth), points.depth.new_zeros(0))
    return Measurement(lambda log_depth, own: from_depth(log_depth) - own, from_depth(points.log_depth))


def pseudo_depth(points: Points, noise: float, up_to: str = "", only: Sequence[int] = ()) -> Measurement:
    """A teacher's depth of the same frame, to within `noise` of its logarithm.

    Args:
        points: what is seen.
        noise: standard deviation of the logarithm; of the inverse depth in units of its mean for "affine".
        up_to: what the teacher leaves open: nothing (metric), "scale", or "affine" for scale and shift of the inverse depth.
        only: the points it speaks of; all without.
    """
    chosen = list(only) or list(range(points.depth.numel()))
    unit = float((-points.log_depth).exp().mean())

    def predict(log_depth: Tensor, nuisance: Tensor) -> Tensor:
        if up_to == "affine":
            return (nuisance[0] * (-log_depth).exp() / unit + nuisance[1])[chosen] / noise
        return (log_depth + (nuisance[0] if up_to == "scale" else 0.0))[chosen] / noise

    open_ = {"": [], "scale": [0.0], "affine": [1.0, 0.0]}[up_to]
    return Measurement(predict, points.depth.new_tensor(open_))
