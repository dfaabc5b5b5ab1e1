"""Velocity sweep: how badly each velocity explains a frame from frames of other times with known cameras.

The sibling of `plane_sweep`: there the depth of a cell is sought and the world stands still; here its depth is given, and what
it shows may move. A point X that is seen at time t and moves with velocity v is at X + v (t_s - t) at the time t_s of a source.
The source is sampled there, and colours are compared as in `plane_sweep`: costs are clamped, as something nearer may hide the
point.

A wrong depth imitates motion: what rests at X but is believed at X + d (X - C), with C the camera's centre, seems to have moved
by d (C - C_s) in a source whose camera is at C_s, up to a shift along the line of sight. A hypothesis may therefore also say by
how much the depth is wrong, so that parallax need not be called motion.
"""

from __future__ import annotations

import torch
from torch import Tensor

from embodied_liftwm.geometry.matching.plane_sweep import Hypotheses, Sweep, match, relative_views
from embodied_liftwm.protocols import Camera


@torch.no_grad()
def velocity_sweep(
    rgb: Tensor,
    camera: Camera,
    depth: Tensor,
    source_rgb: Tensor,
    source_poses: Tensor,
    steps: Tensor,
    groups: Tensor,
    velocities: Tensor,
    stride: int,
    depth_errors: Tensor | None = None,
) -> Sweep:
    """Match frames against their sources under velocities of what they show, cell by cell.

    With x = K (R K^-1 u z + t + R_s v n), dividing by z: the image of u is K R K^-1 u + (K t + K R_s v n) / z, up to scale,
    where R, t take points of the frame's camera to the source's, R_s turns world to source, and n steps lie in between.

    Args:
        rgb: the frames to explain, in [0, 1]. [B, 3, H, W]
        camera: their cameras; the sources share the intrinsics.
        depth: estimated z-depth of their cells, metres. [B, h, w]
        source_rgb: frames of other times. [B, S, 3, H, W]
        source_poses: their world_from_camera. [B, S, 4, 4]
        steps: control steps from the frame to the source, negative for the past. [B, S] float
        groups: which sources count, group by group. [B, G, S] bool
        velocities: to try, metres a control step, world frame. [V, 3]
        stride: pixels a side of a cell.
        depth_errors: logarithm of the true depth over the estimated one under each hypothesis; zeros if None. [V]

    Returns:
        Costs and what is known under each velocity, [B, G, V, h, w].
    """
    turns, shifts = relative_views(camera, source_poses)
    in_image = camera.intrinsics @ camera.world_from_camera[:, :3, :3].mT
    moved = torch.einsum("bsij,bjk,vk->bsvi", turns, in_image, velocities) * steps[..., None, None]
    shifts = shifts.unsqueeze(2) + moved
    if depth_errors is not None:
        shifts = shifts * torch.exp(-depth_errors)[:, None]
    return match(rgb, source_rgb, groups, Hypotheses(1.0 / depth.clamp_min(1e-3), turns, shifts), stride)
