"""Scores of a generated video without ground truth, in the form of WorldScore, but not WorldScore's.

WorldScore (Duan et al. 2025, arXiv:2504.00983) turns an error into a score, 1 - clip(error / max, 0, 1). The form and the
maxima are taken from there; the estimators are not: its DROID-SLAM and SEA-RAFT need weights, ours are classical and need none.
A figure of this module must not be put beside a figure of that benchmark.

Both scores say how well a video agrees with itself, not whether it is true: no figure here compares a return with the first
visit, and little motion scores well; a blank video has a perfect flow. Put the score of true frames beside that of a model.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from embodied_liftwm.evaluation.metrics.flow import dense_flow, fetch, lands_inside, round_trip, texture
from embodied_liftwm.geometry.cameras import inverse_intrinsics, pixel_centres
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.protocols import Camera

REPROJECTION_MAX = 1.0719
"""Error that scores 0: WorldScore's for 3D consistency."""
FLOW_MAX_PX = 1.1920
"""Error that scores 0: WorldScore's for photometric consistency."""
BORDER_SHARE = 1 / 16
"""Of each side, left out at the border."""
LEAST_SHARE = 0.05
"""A pair of frames of which a smaller share of pixels stays in the picture has no error of its own."""
AGREES_PX = 1.5
"""A match counts when its way there and back ends no farther from where it began."""
TEXTURED = 1e-4
"""Smaller eigenvalue of the structure tensor from which a point can be matched: 0.01 of colour a pixel along both axes."""
PARTNERS = (-2, -1, 1, 2)
"""Frames around a frame in which its points are looked for."""
LEAST_POINTS = 32
"""A video with fewer points that can be followed scores 0."""
NEWTON_STEPS = 5


@dataclass(frozen=True)
class SelfConsistency:
    """A score, and the error behind it."""

    score: float  # in [0, 1]
    error_px: float  # NaN where nothing could be measured, which scores 0
    share: float  # of the pixels or points that could be measured


def score(error: float, largest: float) -> float:
    """1 - clip(error / largest, 0, 1); 0 for an error that is NaN."""
    return 0.0 if error != error else 1.0 - min(max(error / largest, 0.0), 1.0)


@torch.no_grad()
def flow_consistency(frames: Tensor) -> SelfConsistency:
    """Does every pixel that goes forward to the next frame come back? In the form of WorldScore's photometric consistency.

    The error is the mean over pairs of consecutive frames of the mean length of f(x) + b(x + f(x)), f and b the flow forward
    and backward, the border cropped. What differs: the flow is `flow.dense_flow`, not SEA-RAFT, so that plain surfaces and
    motion beyond its reach are judged by a weaker eye; pixels that leave the picture are left out, which a camera that turns
    needs; and pixels are those of the frames as they are, where WorldScore's videos are larger.

    Args:
        frames: a video of two frames or more. [T, 3, H, W] in [0, 1]
    """
    forward, backward = dense_flow(frames[:-1], frames[1:]), dense_flow(frames[1:], frames[:-1])
    counted = lands_inside(forward) & _inner(forward)
    share = counted.flatten(1).float().mean(1)
    error = (round_trip(forward, backward) * counted).flatten(1).sum(1) / counted.flatten(1).sum(1).clamp(min=1)
    measured = share >= LEAST_SHARE
    mean = float(error[measured].mean()) if bool(measured.any()) else float("nan")
    return SelfConsistency(score(mean, FLOW_MAX_PX), mean, float(share.mean()))


@torch.no_grad()
def reprojection_consistency(frames: Tensor, cameras: Camera) -> SelfConsistency:
    """Can what is matched across frames be points of one rigid world? In the form of WorldScore's 3D consistency.

    Textured points of each frame are followed into the two frames before and after it, where the flow there and back agrees.
    For each point followed into two frames or more, the depth is found that explains all its places best, and the error is the
    mean distance of the places from where that point should be. What differs: WorldScore lets DROID-SLAM find depth and
    cameras, and takes its residual; here the cameras are the ones that were *asked for*, so that a model that does not follow
    them is charged, and matches are classical. The error is in pixels of the frames as they are.

    Args:
        frames: a video of three frames or more. [T, 3, H, W] in [0, 1]
        cameras: T cameras, in any unit of length.

    Frames are on the CPU.
    """
    residuals, points, followed = [], 0, 0
    pixels = pixel_centres(frames.shape[-2], frames.shape[-1], dtype=torch.float64).flatten(0, 1)
    textured = (texture(frames) > TEXTURED) & _inner(frames)
    for t in range(len(frames)):
        partners = [t + k for k in PARTNERS if 0 <= t + k < len(frames)]
        places, matched = _follow(frames, t, partners)
        kept = textured[t].flatten() & (matched.sum(0) >= 2)
        points += int(textured[t].sum())
        followed += int(kept.sum())
        if bool(kept.any()):
            errors = _explain(cameras, t, partners, pixels[kept], places[:, kept].double(), matched[:, kept])
            residuals.append(errors[matched[:, kept]])
    error = float(torch.cat(residuals).mean()) if followed >= LEAST_POINTS else float("nan")
    return SelfConsistency(score(error, REPROJECTION_MAX), error, followed / max(points, 1))


def _inner(images: Tensor) -> Tensor:
    """Pixels that do not lie at the border. bool [B, H, W]"""
    batch, _, height, width = images.shape
    inside = torch.zeros(batch, height, width, dtype=torch.bool, device=images.device)
    rows, columns = max(1, round(height * BORDER_SHARE)), max(1, round(width * BORDER_SHARE))
    inside[:, rows:-rows, columns:-columns] = True
    return inside


def _follow(frames: Tensor, t: int, partners: list[int]) -> tuple[Tensor, Tensor]:
    """Where the pixels of frame t are in other frames: (u, v) [P, H * W, 2], and which can be believed. bool [P, H * W]"""
    mine, theirs = frames[t].expand(len(partners), -1, -1, -1), frames[partners]
    forward, backward = dense_flow(mine, theirs), dense_flow(theirs, mine)
    believed = (round_trip(forward, backward) <= AGREES_PX) & lands_inside(forward)
    alike = (mine - fetch(theirs, forward)).abs().mean(1) < 0.1
    height, width = frames.shape[-2:]
    places = pixel_centres(height, width, device=frames.device, dtype=frames.dtype) + forward.movedim(1, -1)
    return places.flatten(1, 2), (believed & alike).flatten(1)


def _explain(cameras: Camera, t: int, partners: list[int], own: Tensor, places: Tensor, matched: Tensor) -> Tensor:
    """Distance of each place from where the best depth of its point puts it.

    A point of frame t with inverse depth r lands at A + r b in another frame (homogeneous), A the pixel carried by the rotation
    alone and b the other camera's translation. The r of least squared distance is found by Gauss and Newton from the linear
    solution; where a camera only turns, b is zero and r does not matter. Arithmetic in float64.

    Args:
        cameras: of all frames.
        t: the frame.
        partners: P others.
        own: pixels of frame t. [N, 2]
        places: where they were found. [P, N, 2]
        matched: which of these count. bool [P, N]

    Returns:
        Pixels, at most the width of the picture. [P, N]
    """
    K, poses = cameras.intrinsics.double().cpu(), cameras.world_from_camera.double().cpu()
    rays = torch.cat([own, torch.ones_like(own[:, :1])], -1) @ inverse_intrinsics(K[t]).T
    theirs_from_mine = inverse_pose(poses[partners]) @ poses[t]
    turned = torch.einsum("pij,pjk,nk->pni", K[partners], theirs_from_mine[:, :3, :3], rays)
    moved = torch.einsum("pij,pj->pi", K[partners], theirs_from_mine[:, :3, 3])[:, None]
    counts = matched[..., None].double()
    constant = (turned[..., :2] - places * turned[..., 2:]) * counts
    slope = (moved[..., :2] - places * moved[..., 2:]) * counts
    inverse_depth = _solve(slope, -constant).clamp(min=0)
    for _ in range(NEWTON_STEPS):
        pixels, depth = _land(turned, moved, inverse_depth)
        gradient = (moved[..., :2] - pixels * moved[..., 2:]) / depth * counts
        inverse_depth = (inverse_depth + _solve(gradient, (places - pixels) * counts)).clamp(min=0)
    pixels, _ = _land(turned, moved, inverse_depth)
    return (places - pixels).norm(dim=-1).clamp(max=cameras.width)


def _solve(slope: Tensor, right: Tensor) -> Tensor:
    """Least squares of one unknown a point, over its places. [N]"""
    return (slope * right).sum((0, 2)) / (slope * slope).sum((0, 2)).clamp(min=1e-12)


def _land(turned: Tensor, moved: Tensor, inverse_depth: Tensor) -> tuple[Tensor, Tensor]:
    """Pixels [P, N, 2] of points, and by what was divided [P, N, 1]."""
    homogeneous = turned + inverse_depth[None, :, None] * moved
    depth = homogeneous[..., 2:].clamp(min=1e-6)
    return homogeneous[..., :2] / depth, depth
