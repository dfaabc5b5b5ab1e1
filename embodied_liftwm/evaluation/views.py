"""Novel views: a model watches the start of a held-out episode and must show frames from later in it.

Protocol. The model observes frames 0 to C - 1 in order, then renders target frames spaced evenly over the rest of the episode,
each from the pose the agent believes it had there. A target pixel counts as *seen* when its true 3D point lay in the view of
some context frame and nothing stood before it: only there can memory be asked for; elsewhere the model can but guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation import metrics
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.episodes import EpisodeBatch, Frame
from embodied_liftwm.evaluation.judging import JudgeFactory, judge_all
from embodied_liftwm.geometry.cameras import back_project, project
from embodied_liftwm.tensor_tree import TensorTree

SEEN_RELATIVE, SEEN_ABSOLUTE_M = 0.05, 0.05
"""A point was seen if its depth in a context frame agrees with that frame's depth within 5 % plus 5 cm."""

RENDER_BATCH = 32
"""Targets rendered in one call."""

MIN_SEEN_SHARE = 0.01
"""Targets with fewer seen pixels than this get no figures on seen pixels: a handful of pixels is noise."""


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
    seen_share: float  # of the target's pixels, how many some context frame saw
    depth_share: float  # of the target's pixels, at how many the model gives a depth at all


def target_frames(frames: int, context: int, count: int) -> list[int]:
    """Frames after the context, evenly spaced, the last frame of the episode included; fewer where the episode is short."""
    count = min(count, frames - context)
    if count <= 0:
        return []
    return [context - 1 + round((frames - context) * (i + 1) / count) for i in range(count)]


def seen_mask(truth: Truth, intrinsics: np.ndarray, target: int, context: int) -> Tensor:
    """Which pixels of a target frame some context frame has seen, by true depth and true poses.

    Args:
        truth: of the episode.
        intrinsics: pixels. [3, 3]
        target: the frame asked about.
        context: frames 0 to context - 1 were observed.

    Returns:
        bool [H, W]; false where the true depth is invalid.
    """
    K = torch.from_numpy(intrinsics)[None].float()
    poses = torch.from_numpy(truth.world_from_camera).float()
    depth = torch.from_numpy(truth.depth[target].astype(np.float32))
    points = back_project(depth[None], K, poses[target : target + 1]).reshape(1, -1, 3)
    context_depth = torch.from_numpy(truth.depth[:context].astype(np.float32))
    viewmats = torch.linalg.inv(poses[:context])
    uv, z = project(points.expand(context, -1, -1), K.expand(context, -1, -1), viewmats)
    height, width = depth.shape
    u, v = uv[..., 0].floor().long(), uv[..., 1].floor().long()
    inside = (z > 1e-3) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
    there = context_depth.flatten(1).gather(1, v.clamp(0, height - 1) * width + u.clamp(0, width - 1))
    visible = inside & (there > 0) & ((z - there).abs() <= SEEN_RELATIVE * there + SEEN_ABSOLUTE_M)
    return visible.any(0).view(height, width) & (depth > 0)


class NovelViews:
    """The judge of one batch of episodes; see the top of this module."""

    def __init__(self, batch: EpisodeBatch, context: int, views_per_episode: int) -> None:
        self.batch, self.context = batch, context
        self.targets = [(e, t) for e, n in enumerate(batch.frames) for t in target_frames(n, context, views_per_episode)]
        self.seen = [seen_mask(batch.truth(e), batch.episodes[e].intrinsics, t, context) for e, t in self.targets]

    def frames(self) -> set[int]:
        """The state is asked for once, when the context has been observed."""
        return {self.context} if self.targets else set()

    @torch.no_grad()
    def judge(self, model: CheckedModel, t: int, state: TensorTree) -> list[ViewRow]:
        """Render all targets of the batch."""
        rows: list[ViewRow] = []
        for start in range(0, len(self.targets), RENDER_BATCH):
            chosen = self.targets[start : start + RENDER_BATCH]
            view = model.render(state.index([e for e, _ in chosen]), self.batch.camera(chosen))
            masks = torch.stack(self.seen[start : start + RENDER_BATCH]).to(self.batch.device)
            rows += _rows(model.name, self.batch, chosen, view.rgb, view.depth, masks)
        return rows


def evaluate_views(
    models: Sequence[CheckedModel], episodes: Sequence[Episode], context: int, views_per_episode: int, device: str = "cpu"
) -> list[ViewRow]:
    """Score every model on the same target frames.

    Raises:
        UserError: no episode is longer than the context, an episode has no truth, or a model returns what it should not.
    """
    return judge_all(models, episodes, [novel_views(episodes, context, views_per_episode)], device)[0]


def novel_views(episodes: Sequence[Episode], context: int, views_per_episode: int) -> JudgeFactory:
    """This protocol, for `judging.judge_all`. Raises UserError where no episode is longer than the context."""
    longest = max((len(episode.rgb) for episode in episodes), default=0)
    if longest <= context:
        raise UserError(f"context={context}: must be below the longest episode, {longest} frames, to leave frames to predict")
    return partial(NovelViews, context=context, views_per_episode=views_per_episode)


def _rows(name: str, batch: EpisodeBatch, targets: list[Frame], rgb: Tensor, depth: Tensor, seen: Tensor) -> list[ViewRow]:
    true = batch.true(targets)
    enough = seen.float().mean(dim=(1, 2)) >= MIN_SEEN_SHARE
    scene = torch.tensor([median_depth(batch.truth(e)) for e, _ in targets], device=rgb.device)
    columns: dict[str, Tensor] = {}
    for suffix, mask in (("", None), ("_seen", seen & enough[:, None, None])):
        columns[f"psnr{suffix}"] = metrics.psnr(rgb, true.rgb, mask)
        columns[f"ssim{suffix}"] = metrics.ssim(rgb, true.rgb, mask)
        columns[f"depth_rmse{suffix}_m"] = metrics.depth_rmse(depth, true.depth, mask)
        columns[f"depth_rmse{suffix}_rel"] = columns[f"depth_rmse{suffix}_m"] / scene
        columns[f"abs_rel{suffix}"] = metrics.abs_rel(depth, true.depth, mask)
        columns[f"delta_125{suffix}"] = metrics.delta_125(depth, true.depth, mask)
    columns["seen_share"] = seen.float().mean(dim=(1, 2))
    columns["depth_share"] = (depth > 0).float().mean(dim=(1, 2))
    values = {key: value.double().cpu().tolist() for key, value in columns.items()}
    return [
        ViewRow(model=name, episode=batch.indices[e], frame=t, **{key: value[i] for key, value in values.items()})
        for i, (e, t) in enumerate(targets)
    ]


def median_depth(truth: Truth) -> float:
    """Median of the valid true depth over all frames of an episode, metres."""
    depth = truth.depth.astype(np.float32)
    return float(np.median(depth[depth > 0])) if (depth > 0).any() else float("nan")

