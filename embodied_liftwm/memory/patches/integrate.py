"""Texels of a patch map meet a frame: which are what their pixel sees, which are gone, and which empty ones can be filled.

A texel that falls onto a pixel at the depth the pixel shows, as far as both can tell, *is* what the pixel sees; the two are
averaged, weighted by evidence (`fusion`), unless something else is in front of it now (`patch_hidden`). One that hangs in
front of the surface which the pixels around see through it is gone; so is one that is now seen from much closer, for finer
patches take its place. Empty texels are filled where the frame shows a surface in their column of space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.memory.patches.association import Association, Look
from embodied_liftwm.memory.patches.backend import compilable
from embodied_liftwm.memory.patches.frame import Frame, cell_of
from embodied_liftwm.memory.patches.hidden import LEAST_HIDDEN, LEAST_SHARE, is_behind, of_another_colour
from embodied_liftwm.memory.patches.look_weights import LEAST_EVIDENCE, KalmanWeights, LearnedWeights
from embodied_liftwm.memory.patches.map import Patches, PatchMap, along, side_of, texel_m, texel_points

GATE_SIGMAS = 2.0
"""Two depths are one when they differ by less than this many of their joint standard deviations,"""
GATE_RANGE = (0.03, 0.1)
"""but in any case when they differ by less than the first share of the depth, and never by more than the second."""
COARSE = 2.5
"""A texel so much larger than those that its pixel would allocate gives way to them; a pixel fills none smaller by as much."""
FILL_GATE = 0.03
"""An empty texel's column meets the surface when their depths agree to this share."""
FILL_REACH = 0.5
"""How far outside its cube, in edges of the cube, a patch follows a surface."""
FACING_COSINE = 0.5
"""A patch takes no surface that is turned away further from its direction."""
SETTLE = 3
"""Iterations by which an empty texel finds the surface in its column."""
NEAR_M = 0.05


class Update(NamedTuple):
    """How R x M texels take in a frame."""

    share: Tensor  # [R, M] in [0, 1]: of what is seen, in what they become; 0 where they stay as they are
    evidence: Tensor  # [R, M] 1/m^2, afterwards


def integrate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame, fusion: KalmanWeights) -> tuple[Patches, Tensor]:
    """Update, empty and fill the texels of R patches.

    Args:
        old: the patches.
        batch: the row of the frame that each of them looks at. [R]
        guess: height at which empty texels begin to look for the surface. [R] metres
        frame: what is seen.
        fusion: what a look counts.

    Returns:
        The patches after the frame, and the pixels that they explain. [K] int64
    """
    if integrable(fusion, frame, *old):
        from embodied_liftwm.memory.patches.cpu import write as patch_write_compiled

        return patch_write_compiled.integrate(old, batch, guess, frame, fusion)
    return take_in(old, batch, associate(old, batch, guess, frame), frame, fusion)


def take_in(old: Patches, batch: Tensor, found: Association, frame: Frame, fusion: KalmanWeights) -> tuple[Patches, Tensor]:
    """`integrate` what `associate` has found, in torch."""
    update = _update(old, found, frame, fusion)
    return reference_blend(old, batch, found, update, frame), found.look.pixel[found.matched | found.filled]


def integrable(fusion: KalmanWeights, frame: Frame, *held: Tensor | PatchMap) -> bool:
    """Whether a kernel can integrate the frame into what is held."""
    seen = frame.camera, frame.depth, frame.certainty, frame.rgb, frame.latents
    return type(fusion) in (KalmanWeights, LearnedWeights) and compilable(*held, *seen, *fusion.parameters())


def _update(old: Patches, found: Association, frame: Frame, fusion: KalmanWeights) -> Update:
    """Shares and evidence, as the fusion weighs what is seen."""
    seen, kept = fusion(old, found, frame)
    changed = found.matched | found.filled
    total = seen + kept
    evidence = torch.where(changed, total, torch.where(found.gone, 0.0, old.evidence))
    return Update(torch.where(changed, seen / total.clamp_min(LEAST_EVIDENCE), 0.0), evidence)


def reference_blend(old: Patches, batch: Tensor, found: Association, update: Update, frame: Frame) -> Patches:
    """The patches after an update, in torch."""
    look, share = found.look, update.share
    points = texel_points(old.cells, old.faces, old.levels, found.heights)

    def blend(mine: Tensor, theirs: Tensor) -> Tensor:
        return mine + (share if mine.dim() == 2 else share[..., None]) * (theirs - mine)

    return old._replace(
        heights=blend(old.heights, _observed_heights(old.faces, points, look, batch, frame)),
        rgb=blend(old.rgb, _colours(look, batch, frame)),
        latents=blend(old.latents, frame.latents[cell_of(look.pixel, frame)]),
        evidence=update.evidence,
    )


@torch.no_grad()
def associate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> Association:
    """Settle the texels of R patches and compare them with the frame; arguments as of `integrate`."""
    if compilable(*old, frame.depth, frame.camera):
        from embodied_liftwm.memory.patches.cpu import write as patch_write_compiled

        return patch_write_compiled.associate(old, batch, guess, frame)
    return reference_associate(old, batch, guess, frame)


def reference_associate(old: Patches, batch: Tensor, guess: Tensor, frame: Frame) -> Association:
    """`associate` in torch."""
    there = old.evidence > 0
    heights = _settle(old, torch.where(there, old.heights, guess[:, None]), there, batch, frame)
    points = texel_points(old.cells, old.faces, old.levels, heights)
    look = _look(points, batch, frame)
    return Association(heights, look, *_compare(old, there, points, look, frame))


def _settle(old: Patches, heights: Tensor, there: Tensor, batch: Tensor, frame: Frame) -> Tensor:
    """Heights at which empty texels meet the surface that the frame shows, by fixed-point iteration. [R, M]"""
    axis = along(old.faces)[:, :1, None].expand(-1, heights.shape[1], 1)
    for _ in range(SETTLE):
        look = _look(texel_points(old.cells, old.faces, old.levels, heights), batch, frame)
        shown = frame.points[look.pixel].gather(2, axis).squeeze(-1)
        heights = torch.where(~there & look.inside, shown, heights)
    return heights


def _look(points: Tensor, batch: Tensor, frame: Frame) -> Look:
    """Project texels [R, M, 3] into the frames of their rows [R]."""
    camera = frame.camera
    matrices = (camera.intrinsics @ inverse_pose(camera.world_from_camera)[:, :3])[batch]
    projected = torch.baddbmm(matrices[:, None, :, 3], points, matrices[:, :, :3].mT)
    z = projected[..., 2]
    uv = projected[..., :2] / z.clamp_min(NEAR_M)[..., None]
    column, row = uv.floor().long().unbind(-1)
    inside = (z > NEAR_M) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    pixel = (batch[:, None] * camera.height + row) * camera.width + column
    return Look(torch.where(inside, pixel, 0), uv, z, inside)


def _compare(old: Patches, there: Tensor, points: Tensor, look: Look, frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which texels [R, M] are what their pixel sees, which are hidden, which are gone, and which can be filled."""
    depth, certainty = frame.depth[look.pixel], frame.certainty[look.pixel]
    known = look.inside & (certainty > 0)
    variance = 1.0 / old.evidence.clamp_min(LEAST_EVIDENCE) + 1.0 / certainty.clamp_min(LEAST_EVIDENCE)
    gate = (GATE_SIGMAS * variance.sqrt() / depth).clamp(*GATE_RANGE)
    difference = (look.z - depth).abs() / depth
    size = texel_m(old.levels, depth)[:, None]
    footprint = frame.footprint[look.pixel]
    same = there & known & (difference < gate)
    coarse = size > COARSE * frame.finest[look.pixel]
    doubt = (GATE_SIGMAS / (certainty.clamp_min(LEAST_EVIDENCE).sqrt() * depth)).clamp(*GATE_RANGE)
    gone = there & known & ~same & (look.z < (1.0 - doubt) * frame.nearest[look.pixel])
    meets = ~there & known & (difference < FILL_GATE) & (footprint < COARSE * size) & _belongs(old, points, look, frame)
    behind, other = is_behind(old.faces)[:, None], same & of_another_colour(old, look, frame)
    enough = (LEAST_SHARE * same.sum(1, keepdim=True)).clamp_min(LEAST_HIDDEN)
    hidden = other & ~behind & (other.sum(1, keepdim=True) >= enough)
    same = same & ~(other & behind)
    return same & ~coarse & ~hidden, hidden, gone | (same & coarse), (meets & ~behind) | (hidden & ~coarse)


def _belongs(old: Patches, points: Tensor, look: Look, frame: Frame) -> Tensor:
    """Whether the surface at each texel lies about in its patch's cube and faces its way. [R, M] bool"""
    axis = along(old.faces)[:, :1]
    texels = points.shape[1]
    height = points.gather(2, axis[:, None].expand(-1, texels, 1)).squeeze(-1)
    edge = side_of(height) * texel_m(old.levels, height)[:, None]
    low = old.cells.gather(1, axis).to(edge) * edge
    near = (height > low - FILL_REACH * edge) & (height < low + (1.0 + FILL_REACH) * edge)
    towards = frame.normals[look.pixel].gather(2, axis[:, None].expand(-1, texels, 1)).squeeze(-1)
    return near & (towards * (1 - 2 * (old.faces % 2))[:, None] > FACING_COSINE)


def _observed_heights(faces: Tensor, points: Tensor, look: Look, batch: Tensor, frame: Frame) -> Tensor:
    """Heights of the texels if they moved along their line of sight to the depth that is seen. [R, M] metres"""
    axis = along(faces)[:, :1]
    eye = frame.camera.world_from_camera[batch, :3, 3].gather(1, axis)
    ray = points.gather(2, axis[:, None].expand(-1, points.shape[1], 1)).squeeze(-1) - eye
    return eye + ray * frame.depth[look.pixel] / look.z.clamp_min(NEAR_M)


def _colours(look: Look, batch: Tensor, frame: Frame) -> Tensor:
    """Colours of the frame at the texels: bilinear, but of the pixel itself where that would mix two surfaces. [R, M, 3]"""
    width, height = frame.camera.width, frame.camera.height
    low = (look.uv - 0.5).floor()
    share = (look.uv - 0.5 - low).unsqueeze(-1)
    column, row = low.long().unbind(-1)
    columns = [(column + i).clamp(0, width - 1) for i in (0, 1)]
    rows = [((batch[:, None] * height) + (row + i).clamp(0, height - 1)) * width for i in (0, 1)]
    upper, lower = (torch.lerp(frame.rgb[r + columns[0]], frame.rgb[r + columns[1]], share[..., 0, :]) for r in rows)
    smooth = torch.lerp(upper, lower, share[..., 1, :])
    return torch.where(frame.edge[look.pixel][..., None], frame.rgb[look.pixel], smooth)
