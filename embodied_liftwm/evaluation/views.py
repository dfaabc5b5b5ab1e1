"""Novel views: a model watches the start of a held-out episode and must show frames from later in it.

Protocol. The model observes frames 0 to C - 1 in order, then renders target frames spaced evenly over the rest of the episode,
each from the pose the agent believes it had there. A target pixel counts as *seen* when its true 3D point lay in the view of
some context frame and nothing stood before it: only there can memory be asked for; elsewhere the model can but guess.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation import metrics
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.episodes import EpisodeBatch, Frame, batches, rollout
from embodied_liftwm.evaluation.progress import progress
from embodied_liftwm.geometry.cameras import back_project, project

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


def evaluate_views(
    models: Sequence[CheckedModel], episodes: Sequence[Episode], context: int, views_per_episode: int, device: str = "cpu"
) -> list[ViewRow]:
    """Score every model on the same target frames.

    Raises:
        UserError: no episode is longer than the context, an episode has no truth, or a model returns what it should not.
    """
    if not any(len(episode.rgb) > context for episode in episodes):
        longest = max(len(episode.rgb) for episode in episodes)
        raise UserError(f"context={context}: must be below the longest episode, {longest} frames, to leave frames to predict")
    rows: list[ViewRow] = []
    with progress("novel views", len(models) * len(episodes)) as advance:
        for batch in batches(episodes, device):
            targets = [(e, t) for e, n in enumerate(batch.frames) for t in target_frames(n, context, views_per_episode)]
            seen = [seen_mask(batch.truth(e), batch.episodes[e].intrinsics, t, context) for e, t in targets]
            for model in models:
                rows += _score(model, batch, targets, seen, context) if targets else []
                advance(len(batch))
    return sorted(rows, key=lambda row: ([m.name for m in models].index(row.model), row.episode, row.frame))


@torch.no_grad()
def _score(model: CheckedModel, batch: EpisodeBatch, targets: list[Frame], seen: list[Tensor], context: int) -> list[ViewRow]:
    """Observe the context once, then render all targets of the batch."""
    *_, (_, state) = rollout(model, batch, context)
    rows: list[ViewRow] = []
    for start in range(0, len(targets), RENDER_BATCH):
        chosen = targets[start : start + RENDER_BATCH]
        view = model.render(state.index([e for e, _ in chosen]), batch.camera(chosen))
        masks = torch.stack(seen[start : start + RENDER_BATCH]).to(batch.device)
        rows += _rows(model.name, batch, chosen, view.rgb, view.depth, masks)
    return rows


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

