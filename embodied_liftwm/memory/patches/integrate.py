"""Texels of a patch map meet a frame: which are what their pixel sees, which are gone, and which empty ones can be filled.

A texel that falls onto a pixel at the depth the pixel shows, as far as both can tell, *is* what the pixel sees; the two are
averaged, weighted by evidence (`look_weights`), unless something else is in front of it now (`hidden`). One that hangs in
front of the surface which the pixels around see through it is gone; so is one that is now seen from much closer, for finer
patches take its place. Empty texels are filled where the frame shows a surface in their column of space.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from embodied_liftwm.geometry.cameras import pixels_from_world
from embodied_liftwm.geometry.compiled import compilable
from embodied_liftwm.memory.patches.cpu import associate as associate_on_cpu
from embodied_liftwm.memory.patches.cpu import integrate as integrate_on_cpu
from embodied_liftwm.memory.patches.hidden import is_behind, of_another_colour
from embodied_liftwm.memory.patches.look_weights import KalmanWeights, LearnedWeights
from embodied_liftwm.memory.patches.map import Patches, PatchMap, along, side_of, texel_m, texel_points
from embodied_liftwm.memory.patches.rules import MEETING
from embodied_liftwm.memory.patches.types import Association, Frame, Look, cell_of


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
        return integrate_on_cpu.integrate(old, batch, guess, frame, fusion)
    return take_in(old, batch, associate(old, batch, guess, frame), frame, fusion)


def take_in(old: Patches, batch: Tensor, found: Association, frame: Frame, fusion: KalmanWeights) -> tuple[Patches, Tensor]:
    """`integrate` what `associate` has found, in torch."""
    update = _update(old, found, frame, fusion)
    return _blend(old, batch, found, update, frame), found.look.pixel[found.matched | found.filled]


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
    return Update(torch.where(changed, seen / total.clamp_min(MEETING.least_evidence), 0.0), evidence)


def _blend(old: Patches, batch: Tensor, found: Association, update: Update, frame: Frame) -> Patches:
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
        return associate_on_cpu.associate(old, batch, guess, frame)
    there = old.evidence > 0
    heights = _settle(old, torch.where(there, old.heights, guess[:, None]), there, batch, frame)
    points = texel_points(old.cells, old.faces, old.levels, heights)
    look = _look(points, batch, frame)
    return Association(heights, look, *_compare(old, there, points, look, frame))


def _settle(old: Patches, heights: Tensor, there: Tensor, batch: Tensor, frame: Frame) -> Tensor:
    """Heights at which empty texels meet the surface that the frame shows, by fixed-point iteration. [R, M]"""
    axis = along(old.faces)[:, :1, None].expand(-1, heights.shape[1], 1)
    for _ in range(MEETING.settle):
        look = _look(texel_points(old.cells, old.faces, old.levels, heights), batch, frame)
        shown = frame.points[look.pixel].gather(2, axis).squeeze(-1)
        heights = torch.where(~there & look.inside, shown, heights)
    return heights


def _look(points: Tensor, batch: Tensor, frame: Frame) -> Look:
    """Project texels [R, M, 3] into the frames of their rows [R]."""
    camera = frame.camera
    matrices = pixels_from_world(camera.intrinsics, camera.world_from_camera)[batch]
    projected = torch.baddbmm(matrices[:, None, :, 3], points, matrices[:, :, :3].mT)
    z = projected[..., 2]
    uv = projected[..., :2] / z.clamp_min(MEETING.near_m)[..., None]
    column, row = uv.floor().long().unbind(-1)
    inside = (z > MEETING.near_m) & (column >= 0) & (column < camera.width) & (row >= 0) & (row < camera.height)
    pixel = (batch[:, None] * camera.height + row) * camera.width + column
    return Look(torch.where(inside, pixel, 0), uv, z, inside)


def _compare(old: Patches, there: Tensor, points: Tensor, look: Look, frame: Frame) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Which texels [R, M] are what their pixel sees, which are hidden, which are gone, and which can be filled."""
    floor, gates = MEETING.least_evidence, (MEETING.gate_low, MEETING.gate_high)
    depth, certainty = frame.depth[look.pixel], frame.certainty[look.pixel]
    known = look.inside & (certainty > 0)
    variance = 1.0 / old.evidence.clamp_min(floor) + 1.0 / certainty.clamp_min(floor)
    gate = (MEETING.gate_sigmas * variance.sqrt() / depth).clamp(*gates)
    difference = (look.z - depth).abs() / depth
    size = texel_m(old.levels, depth)[:, None]
    same = there & known & (difference < gate)
    coarse = size > MEETING.coarse * frame.finest[look.pixel]
    doubt = (MEETING.gate_sigmas / (certainty.clamp_min(floor).sqrt() * depth)).clamp(*gates)
    gone = there & known & ~same & (look.z < (1.0 - doubt) * frame.nearest[look.pixel])
    fits = (difference < MEETING.fill_gate) & (frame.footprint[look.pixel] < MEETING.coarse * size)
    meets = ~there & known & fits & _belongs(old, points, look, frame)
    behind, other = is_behind(old.faces)[:, None], same & of_another_colour(old, look, frame)
    enough = (MEETING.least_share * same.sum(1, keepdim=True)).clamp_min(MEETING.least_hidden)
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
    near = (height > low - MEETING.fill_reach * edge) & (height < low + (1.0 + MEETING.fill_reach) * edge)
    towards = frame.normals[look.pixel].gather(2, axis[:, None].expand(-1, texels, 1)).squeeze(-1)
    return near & (towards * (1 - 2 * (old.faces % 2))[:, None] > MEETING.facing_cosine)


def _observed_heights(faces: Tensor, points: Tensor, look: Look, batch: Tensor, frame: Frame) -> Tensor:
    """Heights of the texels if they moved along their line of sight to the depth that is seen. [R, M] metres"""
    axis = along(faces)[:, :1]
    eye = frame.camera.world_from_camera[batch, :3, 3].gather(1, axis)
    ray = points.gather(2, axis[:, None].expand(-1, points.shape[1], 1)).squeeze(-1) - eye
    return eye + ray * frame.depth[look.pixel] / look.z.clamp_min(MEETING.near_m)


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
