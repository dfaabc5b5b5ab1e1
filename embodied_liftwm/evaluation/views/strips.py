"""Pictures of one turn away: what a model shows of an object while it looks, after it has left, and when it comes back.

The episode and its revisit are chosen by truth alone (a long gap and a large object), never by what a model scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.metrics.persistence import Revisit, find_revisits
from embodied_liftwm.evaluation.summary import LONG_GAP
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, rollout
from embodied_liftwm.geometry.cameras import back_project
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.tensor_tree import TensorTree

LARGEST_SHARE = 0.12
"""Share of the picture above which an object hides the rest."""
FILM_BEFORE, FILM_AFTER, FILM_LONGEST = 12, 6, 120
"""Frames of a film before the object was last seen; at most after it is back; and of all before every second is left out."""


@dataclass(frozen=True)
class RenderedFrames:
    """What one model showed, frame by frame of a strip, before it saw the frame."""

    rgb: np.ndarray  # [K, H, W, 3] in [0, 1]
    depth: np.ndarray  # [K, H, W] metres
    normal: np.ndarray  # [K, H, W, 3] of that depth, camera frame; 0 where there is none


@dataclass(frozen=True)
class Strip:
    """Frames of one episode around a revisit, true and as each model shows them."""

    episode: int
    revisit: Revisit
    frames: list[int]
    true_rgb: np.ndarray  # [K, H, W, 3] in [0, 1]
    true_depth: np.ndarray  # [K, H, W] metres
    true_normal: np.ndarray  # [K, H, W, 3]
    mask: np.ndarray  # [K, H, W] bool: the object
    shown: dict[str, RenderedFrames]
    maps: dict[str, PointMap]  # what each state held when the model went blind


@dataclass(frozen=True)
class PointMap:
    """Coloured points of a state, world frame."""

    points: np.ndarray  # [N, 3] metres
    rgb: np.ndarray  # [N, 3] in [0, 1]


def choose_revisits(episodes: Sequence[Episode], count: int) -> list[tuple[int, Revisit]]:
    """The best revisit to show of each of `count` episodes: long gaps before short ones, then the object's size.

    An object is as large as the smaller of how it was seen at best before it left, and how it is seen at the return; one that
    fills the picture comes last, since nothing else is to be seen.
    """
    best: list[tuple[tuple[bool, bool, int], int, Revisit]] = []
    for index, episode in enumerate(episodes):
        if episode.truth is None:
            continue
        pixels = {int(k): episode.truth.visible_pixels[:, i] for i, k in enumerate(episode.truth.object_id)}
        for revisit in find_revisits(episode.truth.visible_pixels, episode.truth.object_id):
            before = int(pixels[revisit.object_id][: revisit.last_seen + 1].max())
            whole = revisit.pixels <= LARGEST_SHARE * episode.rgb[0, ..., 0].size
            best.append(((revisit.gap >= LONG_GAP, whole, min(before, revisit.pixels)), index, revisit))
    ranked = sorted(best, key=lambda item: (item[0], -item[1]), reverse=True)
    firsts = {index: revisit for _, index, revisit in reversed(ranked)}
    order = list(dict.fromkeys(index for _, index, _ in ranked))
    return [(index, firsts[index]) for index in order[:count]]


def frames_of(revisit: Revisit, visible: np.ndarray, hidden: int = 2) -> list[int]:
    """Frames to show: the object in view as large as at the return, on its way out, out of view, at entry, and back.

    Args:
        revisit: the object's absence.
        visible: its true pixels in each frame. [F]
        hidden: frames while it is away, evenly spaced.
    """
    alike = np.abs(visible[: revisit.last_seen + 1].astype(int) - revisit.pixels)
    before = [int(np.argmin(alike)), revisit.last_seen]
    away = np.linspace(revisit.last_seen, revisit.entry, hidden + 2)[1:-1].round().astype(int).tolist()
    return sorted({*before, *away, revisit.entry, revisit.frame})


def film_frames(revisit: Revisit, visible: np.ndarray) -> list[int]:
    """Frames of a film: from shortly before the absence on, while what came back is seen half as large as at the return.

    Args:
        revisit: the object's absence.
        visible: its true pixels in each frame. [F]
    """
    after = visible[revisit.frame + 1 : revisit.frame + 1 + FILM_AFTER] >= revisit.pixels / 2
    first, last = max(revisit.last_seen - FILM_BEFORE, 0), revisit.frame + int(np.cumprod(after).sum())
    return list(range(first, last + 1, 1 + (last - first) // FILM_LONGEST))


@torch.no_grad()
def make_strip(
    models: Sequence[CheckedModel], episode: Episode, index: int, revisit: Revisit, device: str = "cpu", film: bool = False
) -> Strip:
    """Let each model watch the episode up to the revisit and show frames of it, each before it sees it.

    Args:
        models: who watches.
        episode: with truth.
        index: the episode's number, for captions.
        revisit: the object's absence.
        device: where the models are.
        film: show all frames from shortly before the absence until shortly after it, not those of `frames_of` alone.
    """
    batch = EpisodeBatch([episode], [index], device)
    column = int(np.flatnonzero(batch.truth(0).object_id == revisit.object_id)[0])
    visible = batch.truth(0).visible_pixels[:, column]
    frames = film_frames(revisit, visible) if film else frames_of(revisit, visible)
    true = batch.true([(0, t) for t in frames])
    intrinsics = batch.camera([(0, t) for t in frames]).intrinsics
    shown, maps = {}, {}
    for model in models:
        views = {}
        for t, state in rollout(model, batch, revisit.entry):
            asked = [f for f in frames if f == t or (t == revisit.entry and f > t)]
            for frame in asked:
                views[frame] = model.render(state, batch.camera([(0, frame)]))
        depth = torch.cat([views[f].depth for f in frames])
        shown[model.name] = RenderedFrames(
            rgb=np.stack([views[f].rgb[0].clamp(0, 1).permute(1, 2, 0).cpu().numpy() for f in frames]),
            depth=depth.cpu().numpy(),
            normal=_normals(depth, intrinsics),
        )
        maps[model.name] = remembered_points(model, state, batch, revisit.entry)
    return Strip(
        episode=index, revisit=revisit, frames=frames, true_rgb=true.rgb.permute(0, 2, 3, 1).cpu().numpy(),
        true_depth=true.depth.cpu().numpy(),
        true_normal=_normals(true.depth, intrinsics), mask=(true.segmentation == revisit.object_id).cpu().numpy(),
        shown=shown, maps=maps,
    )  # fmt: skip


def _normals(depth: Tensor, intrinsics: Tensor) -> np.ndarray:
    return depth_to_normals(depth, intrinsics).permute(0, 2, 3, 1).cpu().numpy()


def remembered_points(model: CheckedModel, state: TensorTree, batch: EpisodeBatch, until: int, places: int = 16) -> PointMap:
    """Coloured points of a state: its own primitives where the model offers `primitives(state)`, else what it renders.

    Without primitives the state is rendered from `places` of the poses observed so far, and pixels with depth back-projected.
    """
    primitives = getattr(model.model, "primitives", None)
    if callable(primitives):
        means, rgb, opacities = (tensor.detach().float().cpu().numpy() for tensor in primitives(state))
        kept = opacities.reshape(-1) > 0.1
        return PointMap(means.reshape(-1, 3)[kept], np.clip(rgb.reshape(-1, 3)[kept], 0, 1))
    camera = batch.camera([(0, int(t)) for t in np.unique(np.linspace(0, max(until - 1, 0), places).astype(int))])
    view = model.render(state.expand(len(camera.intrinsics)), camera)
    points = back_project(view.depth, camera.intrinsics, camera.world_from_camera)
    kept = (view.depth > 0).cpu().numpy()
    return PointMap(points.cpu().numpy()[kept], view.rgb.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()[kept])
