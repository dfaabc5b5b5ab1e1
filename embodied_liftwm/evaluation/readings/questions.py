"""What is hidden when: the questions that the readings ask of a guided tour, and their true answers.

An object is hidden at a frame when it was in view before (8 px or more), and shows no trace of itself now (under 3 px); the
gap is the number of steps since its last trace. Questions are asked at the call, and at a few frames of the tour before it.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from embodied_liftwm.data.episode import Truth
from embodied_liftwm.evaluation.left_out import lacking
from embodied_liftwm.evaluation.metrics.persistence import IN_VIEW_PX, TRACE_PX, find_revisits
from embodied_liftwm.evaluation.navigation.guided import Guided
from embodied_liftwm.evaluation.views.episodes import true_poses, truth_of
from embodied_liftwm.world_model.summary import egocentric

SHARES = (0.5, 0.75, 1.0)
"""Shares of the tour after which questions are asked; 1 is the call."""
PROBE_NEEDS, RENDER_NEEDS = ("segmentation", "object_pose"), ("depth", "segmentation")
"""Truth without which nobody knows where hidden objects are, and what a picture of them would be."""
MOVED_M = 0.1
"""An object that has moved farther is no longer where an earlier view showed it."""


@dataclass(frozen=True)
class Question:
    """Where is this object now?"""

    frame: int
    object_id: int
    called: bool  # the object that the task calls, at the call
    gap: int  # steps since its last trace
    query: np.ndarray  # [9] float32: its colour and one-hot shape, as the task's goal gives them
    place: np.ndarray  # [2] float32: metres ahead and to the left of the camera, in its heading


@dataclass(frozen=True)
class Look:
    """A frame in which a hidden object is looked for."""

    object_id: int
    called: bool
    frame: int
    gap: int  # steps from the last trace to the frame, or to the call for an earlier view
    pixels: int
    kind: str  # "return": from the oracle's way, seen by no model; "earlier view": of the tour, as it was then


def tells(needed: Sequence[str], knows: Collection[str]) -> bool:
    """Whether a world tells all that is needed."""
    return not lacking(needed, knows)


def questions(guided: Guided) -> list[Question]:
    """All hidden objects at the frames of `SHARES`, by frame and object."""
    truth = truth_of(guided.episode, 0)
    frames = sorted({round(share * guided.call) for share in SHARES})
    return [q for frame in frames for q in _at(guided, truth, frame)]


def _at(guided: Guided, truth: Truth, frame: int) -> list[Question]:
    pose = torch.from_numpy(true_poses(guided.episode)[frame])[None]
    means = torch.from_numpy(truth.object_pose[frame, :, :3])[None]
    places = egocentric(means, pose)[0, :, :2].numpy()
    found = []
    for column, gap in _hidden(truth, frame).items():
        object_id = int(truth.object_id[column])
        called = object_id == guided.goal_object and frame == guided.call
        found.append(Question(frame, object_id, called, gap, query_of(truth, column), places[column].astype(np.float32)))
    return found


def _hidden(truth: Truth, frame: int) -> dict[int, int]:
    """Columns of the objects that are hidden at a frame, and their gaps."""
    gaps = {column: gap_at(truth.visible_pixels[:, column], frame) for column in range(len(truth.object_id))}
    return {column: gap for column, gap in gaps.items() if gap}


def gap_at(pixels: np.ndarray, frame: int) -> int:
    """Steps since the last trace of an object with these pixels [F]; 0 where it is not hidden."""
    before = pixels[:frame]
    if pixels[frame] >= TRACE_PX or not (before >= IN_VIEW_PX).any():
        return 0
    return int(frame - np.flatnonzero(before >= TRACE_PX)[-1])


def query_of(truth: Truth, column: int) -> np.ndarray:
    """How our tasks would call an object. An object of no shape of ours is told by its number. [9] float32"""
    from liftwm_envs.rooms.scene import SHAPES

    known = truth.object_shape[column] in SHAPES
    which = SHAPES.index(truth.object_shape[column]) if known else column % len(SHAPES)
    shape = np.eye(len(SHAPES), dtype=np.float32)[which]
    return np.concatenate([truth.object_colour[column], shape]).astype(np.float32)


def looks(guided: Guided) -> list[Look]:
    """From where each object hidden at the call can be looked for: when it comes back on the oracle's way, if it does.

    The called object that never does, as behind a screen, is looked for in the earlier view that showed most of it, unless it
    has moved since, or what hides it was seen, or it is under a cup: then there is no picture in which it must appear. Where
    the task calls none, all that do not come back are looked for so.
    """
    truth, call = truth_of(guided.episode, 0), guided.call
    hidden = {int(truth.object_id[column]): gap for column, gap in _hidden(truth, call).items()}
    found: dict[int, Look] = {}
    for r in find_revisits(truth.visible_pixels, truth.object_id):
        if r.object_id in hidden and r.entry > call and r.object_id not in found:
            called = r.object_id == guided.goal_object
            found[r.object_id] = Look(r.object_id, called, r.frame, r.gap, r.pixels, "return")
    for object_id in [guided.goal_object] if guided.goal_object else hidden:
        if object_id in hidden and object_id not in found:
            earlier = _earlier_view(guided, truth, object_id, hidden[object_id])
            found |= {} if earlier is None else {object_id: earlier}
    return sorted(found.values(), key=lambda shown: (shown.frame, shown.object_id))


def _earlier_view(guided: Guided, truth: Truth, object_id: int, gap: int) -> Look | None:
    column = int(np.flatnonzero(truth.object_id == object_id)[0])
    pixels = truth.visible_pixels[: guided.call, column]
    frame = int(pixels.argmax())
    ways = truth.object_pose[[frame, guided.call], column, :3] if truth.has("object_pose") else np.zeros((2, 3))
    if object_id in _under_cups(truth):
        return None
    if pixels[frame] < IN_VIEW_PX or np.linalg.norm(ways[1] - ways[0]) > MOVED_M:
        return None
    if _cover_was_seen(guided, truth, frame, object_id):
        return None
    return Look(object_id, object_id == guided.goal_object, frame, gap, int(pixels[frame]), "earlier view")


def _under_cups(truth: Truth) -> set[int]:
    """Ids of what a cup hides at the call (ShellGame): its place under the cup is right, and a picture of it is wrong."""
    return {int(object_id) for show in truth.scene.get("shows", ()) for object_id in show["objects"]}


COVERED_SHARE, COVER_M = 0.25, 0.1
"""A later frame has seen the cover when so much of the object's surface lies in its view, this far behind what it shows."""


def _cover_was_seen(guided: Guided, truth: Truth, frame: int, object_id: int) -> bool:
    """Whether a later frame, up to the call, shows something within a metre in front of the object where the object was."""
    from embodied_liftwm.geometry.cameras import back_project, project

    mask = torch.from_numpy(truth.segmentation[frame] == object_id)
    intrinsics = torch.from_numpy(guided.episode.intrinsics)[None]
    poses = torch.from_numpy(true_poses(guided.episode))
    viewmats = torch.linalg.inv(poses)
    depth = torch.from_numpy(truth.depth.astype(np.float32))
    points = back_project(depth[frame][None], intrinsics, poses[frame][None])[0][mask]
    for later in range(frame + 1, guided.call + 1):
        if truth.visible_pixels[later, int(np.flatnonzero(truth.object_id == object_id)[0])] >= TRACE_PX:
            continue
        pixels, z = (part[0] for part in project(points[None], intrinsics, viewmats[later][None]))
        height, width = depth.shape[1:]
        inside = (z > 0.05) & (pixels >= 0).all(-1) & (pixels[:, 0] < width) & (pixels[:, 1] < height)
        if not bool(inside.any()):
            continue
        at = pixels[inside].floor().long()
        there, behind = depth[later][at[:, 1], at[:, 0]], z[inside]
        covered = (there > 0) & (there < behind - COVER_M) & (there > behind - 1.0)
        if float(covered.sum()) >= COVERED_SHARE * len(points):
            return True
    return False
