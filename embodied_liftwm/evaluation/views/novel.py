"""Novel views: a model watches the start of a held-out episode and must show frames from later in it.

Protocol. The model observes frames 0 to C - 1 in order, then renders target frames spaced evenly over the rest of the episode,
each from the pose the agent believes it had there. A target pixel counts as *seen* when its true 3D point lay in the view of
some context frame and nothing stood before it: only there can memory be asked for; elsewhere the model can but guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.judging import JudgeFactory
from embodied_liftwm.evaluation.metrics import images as metrics
from embodied_liftwm.evaluation.metrics.calibration import bin_sums, brier
from embodied_liftwm.evaluation.metrics.correspondence import Reference, epipolar_error, find_reference
from embodied_liftwm.evaluation.metrics.visibility import visible_in
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch
from embodied_liftwm.protocols import Camera, View
from embodied_liftwm.tensor_tree import TensorTree

RENDER_BATCH = 32
"""Targets rendered in one call."""

MIN_SEEN_SHARE = 0.01
"""Targets with fewer seen pixels than this get no figures on seen pixels: a handful of pixels is noise."""

HELD = 0.5
"""`View.seen` from which on a pixel counts as one that memory holds."""


@dataclass(frozen=True)
class ViewRow:
    """One rendered target frame."""

    model: str
    episode: int
    frame: int
    psnr: float  # dB
    psnr_seen: float
    ssim: float
    ssim_seen: float
    depth_rmse_m: float
    depth_rmse_seen_m: float
    depth_rmse_rel: float  # depth_rmse_m over the median true depth of the episode
    depth_rmse_seen_rel: float
    abs_rel: float
    abs_rel_seen: float
    delta_125: float
    delta_125_seen: float
    normal_deg: float  # mean angle between the normals of predicted and true depth, degrees
    normal_deg_seen: float
    epipolar_px: float  # see correspondence.py
    epipolar_floor_px: float  # what the true frame scores there
    seen_share: float  # of the target's pixels, how many some context frame saw
    depth_share: float  # of the target's pixels, at how many the model gives a depth at all
    seen_predicted: float  # mean `View.seen` over the pixels with a true depth, as the figures below
    seen_brier: float
    bin_pixels: tuple[float, ...]  # pixels by their `View.seen`, in ten bins: see calibration.py
    bin_predicted: tuple[float, ...]  # sum of `View.seen` in each bin
    bin_seen: tuple[float, ...]  # of the pixels in each bin, how many some context frame saw
    empty_loss_db: float = float("nan")  # of the pixels that were seen: by how much the PSNR of those that the model takes
    # for unseen (`View.seen` below `HELD`), which it makes up, falls short of that of the others, dB


def target_frames(frames: int, context: int, count: int) -> list[int]:
    """Frames after the context, evenly spaced, the last frame of the episode included; fewer where the episode is short."""
    count = min(count, frames - context)
    if count <= 0:
        return []
    return [context - 1 + round((frames - context) * (i + 1) / count) for i in range(count)]


class Target(NamedTuple):
    """One frame to render, and what of it can be asked for."""

    episode: int  # position in the batch
    frame: int
    seen: Tensor  # [H, W] bool: pixels that some context frame has seen
    reference: Reference | None  # what its correspondences are held against


class NovelViews:
    """The judge of one batch of episodes; see the top of this module."""

    def __init__(self, batch: EpisodeBatch, context: int, views_per_episode: int) -> None:
        self.batch, self.context = batch, context
        frames = [(e, t) for e, n in enumerate(batch.frames) for t in target_frames(n, context, views_per_episode)]
        self.targets = [self.target(e, t) for e, t in frames]

    def target(self, episode: int, frame: int) -> Target:
        """A frame to render; everything of it that truth alone decides."""
        recorded, truth = self.batch.episodes[episode], self.batch.truth(episode)
        sight = visible_in(truth.depth, truth.world_from_camera, recorded.intrinsics, frame, slice(None))
        height, width = truth.depth.shape[1:]
        seen = sight.visible[: self.context].any(0).view(height, width)
        poses = torch.from_numpy(truth.world_from_camera).float()
        cameras = Camera(torch.from_numpy(recorded.intrinsics).float().expand(len(poses), 3, 3), poses, height, width)
        return Target(episode, frame, seen, find_reference(_pictures(recorded), cameras, frame, sight, seen))

    def frames(self) -> set[int]:
        """The state is asked for once, when the context has been observed."""
        return {self.context} if self.targets else set()

    @torch.no_grad()
    def judge(self, model: CheckedModel, t: int, state: TensorTree) -> list[ViewRow]:
        """Render all targets of the batch."""
        rows: list[ViewRow] = []
        for start in range(0, len(self.targets), RENDER_BATCH):
            chosen = self.targets[start : start + RENDER_BATCH]
            view = model.render(state.index([c.episode for c in chosen]), self.batch.camera([c[:2] for c in chosen]))
            rows += _rows(model.name, self.batch, chosen, view)
        return rows


def novel_views(episodes: Sequence[Episode], context: int, views_per_episode: int) -> JudgeFactory:
    """This protocol, for `judging.judge_all`. Raises UserError where no episode is longer than the context."""
    longest = max((len(episode.rgb) for episode in episodes), default=0)
    if longest <= context:
        raise UserError(f"context={context}: must be below the longest episode, {longest} frames, to leave frames to predict")
    return partial(NovelViews, context=context, views_per_episode=views_per_episode)


def _rows(name: str, batch: EpisodeBatch, targets: list[Target], view: View) -> list[ViewRow]:
    rgb, depth = view.rgb, view.depth
    frames = [target[:2] for target in targets]
    true, intrinsics = batch.true(frames), batch.camera(frames).intrinsics
    seen = torch.stack([target.seen for target in targets]).to(rgb.device)
    enough = seen.float().mean(dim=(1, 2)) >= MIN_SEEN_SHARE
    scene = torch.tensor([median_depth(batch.truth(e)) for e, _ in frames], device=rgb.device)
    columns: dict[str, Tensor] = {}
    for suffix, mask in (("", None), ("_seen", seen & enough[:, None, None])):
        columns[f"psnr{suffix}"] = metrics.psnr(rgb, true.rgb, mask)
        columns[f"ssim{suffix}"] = metrics.ssim(rgb, true.rgb, mask)
        columns[f"depth_rmse{suffix}_m"] = metrics.depth_rmse(depth, true.depth, mask)
        columns[f"depth_rmse{suffix}_rel"] = columns[f"depth_rmse{suffix}_m"] / scene
        columns[f"abs_rel{suffix}"] = metrics.abs_rel(depth, true.depth, mask)
        columns[f"delta_125{suffix}"] = metrics.delta_125(depth, true.depth, mask)
        columns[f"normal_deg{suffix}"] = metrics.normal_angle(depth, true.depth, intrinsics, mask)
    columns["seen_share"] = seen.float().mean(dim=(1, 2))
    columns["depth_share"] = (depth > 0).float().mean(dim=(1, 2))
    columns |= _seen_columns(view.seen, seen, true.depth > 0)
    columns["empty_loss_db"] = _empty_loss(rgb, true.rgb, seen, view.seen >= HELD)
    values: dict[str, list[Any]] = {key: value.double().cpu().tolist() for key, value in columns.items()}
    values["epipolar_px"] = [_epipolar(batch, target, picture) for target, picture in zip(targets, rgb.cpu(), strict=True)]
    values["epipolar_floor_px"] = [t.reference.floor_px if t.reference else float("nan") for t in targets]
    return [
        ViewRow(model=name, episode=batch.indices[e], frame=t, **{key: _fixed(value[i]) for key, value in values.items()})
        for i, (e, t) in enumerate(frames)
    ]


def _empty_loss(rgb: Tensor, true: Tensor, seen: Tensor, held: Tensor) -> Tensor:
    """`ViewRow.empty_loss_db`; NaN where either kind of pixels is too few. [B]"""
    kinds = seen & held, seen & ~held
    enough = torch.stack([kind.float().mean(dim=(1, 2)) >= MIN_SEEN_SHARE for kind in kinds]).all(0)
    full, empty = (metrics.psnr(rgb, true, kind & enough[:, None, None]) for kind in kinds)
    return full - empty


def _seen_columns(predicted: Tensor, seen: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """How far `View.seen` is a probability; without a true depth nobody knows whether a pixel was seen."""
    sums = bin_sums(predicted, seen, valid)
    return {
        "seen_predicted": metrics.masked_mean(predicted, valid),
        "seen_brier": brier(predicted, seen, valid),
        "bin_pixels": sums.pixels,
        "bin_predicted": sums.predicted,
        "bin_seen": sums.happened,
    }


def _fixed(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _epipolar(batch: EpisodeBatch, target: Target, rendered: Tensor) -> float:
    """NaN where no other frame shares enough points with the target."""
    if target.reference is None:
        return float("nan")
    other = slice(target.reference.frame, target.reference.frame + 1)
    return epipolar_error(rendered.float(), _pictures(batch.episodes[target.episode], other)[0], target.reference)


def _pictures(episode: Episode, frames: slice = slice(None)) -> Tensor:
    """True frames. [F, 3, H, W] in [0, 1]"""
    return torch.from_numpy(episode.rgb[frames]).permute(0, 3, 1, 2).float() / 255.0


def median_depth(truth: Truth) -> float:
    """Median of the valid true depth over all frames of an episode, metres."""
    depth = truth.depth.astype(np.float32)
    return float(np.median(depth[depth > 0])) if (depth > 0).any() else float("nan")
