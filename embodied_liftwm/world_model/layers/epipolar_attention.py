"""Cross-view attention along epipolar lines: a frame asks its sources what they see of what it sees.

Patches of a frame attend to patches of other frames whose cameras are known. A pair's logit is limited by how far the
source's patch lies from the epipolar line of the frame's patch, in units of a learned width (after He et al. 2020,
"Epipolar Transformers", arXiv:2005.04551, who sample features on the line itself). What is read is not only the source's
features: every pair that looks alike and lies on the line triangulates a depth, and the attended log-depth is read too.
Under pure rotation there are no epipolar lines; such sources are to be marked unusable.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.cameras import camera_rays, pixel_centres, resize_intrinsics
from embodied_liftwm.geometry.epipolar import epipolar_lines, fundamental_matrix
from embodied_liftwm.geometry.se3 import relative_pose
from embodied_liftwm.protocols import Camera

WIDEST = 8.0
"""A patch further than this many widths from the line is not attended to at all."""


class Pairs(NamedTuple):
    """Geometry of every pair of a frame's patch (rows) and a source's patch (columns)."""

    distance: Tensor  # [B, Q, K] from the source's patch to the line of the frame's patch, in patches
    log_depth: Tensor  # [B, Q, K] of the frame's patch, were the two to see one point: log metres, clamped
    ahead: Tensor  # [B, Q, K] bool: that point lies before both cameras


class EpipolarAttention(nn.Module):
    """Multi-head attention of a frame's patches over its sources' patches, limited to epipolar lines."""

    def __init__(self, width: int, out: int, patch: int, depth_range: tuple[float, float], heads: int = 4) -> None:
        """`patch`: pixels a side; `out`: channels of the result; `depth_range`: metres, of what pairs may triangulate."""
        super().__init__()
        self.patch, self.heads, self.depth_range = patch, heads, depth_range
        self.embed = nn.Sequential(
            nn.Conv2d(3, width, patch, stride=patch), nn.GELU(), nn.Conv2d(width, 2 * width, 3, padding=1), nn.GELU()
        )
        self.query, self.key, self.value = (nn.Conv2d(2 * width, width, 1) for _ in range(3))
        self.log_width = nn.Parameter(torch.zeros(heads))  # of the line, in patches: sharp and broad heads may form
        self.nothing = nn.Parameter(torch.zeros(heads))  # logit of "none of them", so that a head may abstain
        self.out = nn.Conv2d(width + 3 * heads, out, 1)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)  # type: ignore[arg-type]

    def forward(self, rgb: Tensor, camera: Camera, source_rgb: Tensor, source_poses: Tensor, usable: Tensor) -> Tensor:
        """Attend.

        Args:
            rgb: frames in [0, 1]. [B, 3, H, W]
            camera: their cameras; the sources share the intrinsics.
            source_rgb: [B, S, 3, H, W]
            source_poses: world_from_camera. [B, S, 4, 4]
            usable: sources with parallax; the others are not attended to. [B, S] bool

        Returns:
            What the sources say of each patch; where none is usable, what an empty answer says. [B, out, H / patch, W / patch]
        """
        batch, sources = source_rgb.shape[:2]
        mine, theirs = self.embed(rgb), self.embed(source_rgb.flatten(0, 1))
        height, width = mine.shape[-2:]
        query = self._heads(self.query(mine))
        key, value = (self._across_sources(layer(theirs), sources) for layer in (self.key, self.value))
        pairs = self._pairs(camera, source_poses, height, width)
        allowed = (pairs.ahead & usable.repeat_interleave(height * width, dim=1)[:, None])[:, None]
        logits = query @ key.mT / math.sqrt(query.shape[-1])
        offset = pairs.distance[:, None] * torch.exp(-self.log_width)[:, None, None]
        logits = (logits - 0.5 * offset.square()).masked_fill(~allowed | (offset > WIDEST), -torch.inf)
        abstain = self.nothing[None, :, None, None].expand(batch, -1, height * width, 1)
        weight = torch.softmax(torch.cat([logits, abstain], dim=-1), dim=-1)
        read = (weight[..., :-1] @ value).transpose(2, 3).flatten(1, 2)
        return self.out(torch.cat([read, self._depth(weight, pairs.log_depth)], dim=1).unflatten(2, (height, width)))

    def _depth(self, weight: Tensor, log_depth: Tensor) -> Tensor:
        """Attended log-depth (centred), its spread, and the weight that was not abstained, per head. [B, 3 heads, Q]"""
        attended = weight[..., :-1]
        mass = attended.sum(-1)
        centred = log_depth[:, None] - sum(math.log(end) for end in self.depth_range) / 2
        first = (attended * centred).sum(-1)
        mean = first / mass.clamp_min(1e-6)
        spread = ((attended * centred.square()).sum(-1) / mass.clamp_min(1e-6) - mean.square()).clamp_min(0.0)
        return torch.cat([mass * mean, mass * torch.sqrt(spread + 1e-4), mass], dim=1)

    def _heads(self, x: Tensor) -> Tensor:
        """[B, C, h, w] -> [B, heads, h * w, C / heads]"""
        return x.flatten(2).unflatten(1, (self.heads, -1)).transpose(2, 3)

    def _across_sources(self, x: Tensor, sources: int) -> Tensor:
        """[B * S, C, h, w] -> [B, heads, S * h * w, C / heads]"""
        x = self._heads(x).unflatten(0, (-1, sources))
        return x.transpose(1, 2).flatten(2, 3)

    @torch.no_grad()
    def _pairs(self, camera: Camera, source_poses: Tensor, height: int, width: int) -> Pairs:
        """Geometry of all pairs; cameras are data. Sources lie one after another along the last axis."""
        sources = source_poses.shape[1]
        intrinsics = resize_intrinsics(camera.intrinsics, 1.0 / self.patch)
        mine = Camera(intrinsics, camera.world_from_camera, height, width).map(lambda t: t.repeat_interleave(sources, dim=0))
        theirs = Camera(mine.intrinsics, source_poses.flatten(0, 1), height, width)
        pairs = pair_geometry(mine, theirs, self.depth_range)
        return Pairs(*(x.unflatten(0, (-1, sources)).transpose(1, 2).flatten(2) for x in pairs))


def pair_geometry(frame: Camera, source: Camera, depth_range: tuple[float, float]) -> Pairs:
    """Distances to epipolar lines, and triangulated depths, of all pairs of pixels of two cameras of one size.

    The depth is that of the point on the frame's ray whose image lies nearest to the source's pixel along the line: with
    u z' = K (R r z + t), it is the least-squares solution z of u_k (a_3 z + b_3) = a_k z + b_k, k = 1, 2, where a = K R r
    and b = K t.

    Args:
        frame, source: B cameras each.
        depth_range: least and greatest depth in metres; others are clamped.

    Returns:
        Q = K = H * W pixels in row-major order.
    """
    height, width = frame.height, frame.width
    pixels = pixel_centres(height, width).to(frame.intrinsics).flatten(0, 1).expand(len(frame.intrinsics), -1, -1)
    lines = epipolar_lines(pixels, fundamental_matrix(frame, source))
    homogeneous = F.pad(pixels, (0, 1), value=1.0)
    distance = (lines @ homogeneous.mT).abs()
    source_from_frame = relative_pose(source.world_from_camera, frame.world_from_camera)
    rays = camera_rays(frame.intrinsics, height, width).flatten(1, 2)
    a = (rays @ source_from_frame[:, :3, :3].mT @ source.intrinsics.mT)[:, :, None]
    b = (source.intrinsics @ source_from_frame[:, :3, 3:]).mT[:, :, None]
    slope = a[..., :2] - pixels[:, None] * a[..., 2:]
    shift = pixels[:, None] * b[..., 2:] - b[..., :2]
    depth = (slope * shift).sum(-1) / slope.square().sum(-1).clamp_min(1e-9)
    ahead = (depth > 0) & (a[..., 2] * depth + b[..., 2] > 0)
    return Pairs(distance, depth.clamp(*depth_range).log(), ahead)
