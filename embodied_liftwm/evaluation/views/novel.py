"""Novel views: a model watches the start of a held-out episode and must show frames from later in it.

Protocol. The model observes frames 0 to C - 1 in order, then renders target frames spaced evenly over the rest of the episode,
each from the pose the agent believes it had there. A target pixel counts as *seen* when its true 3D point lay in the view of
some context frame and nothing stood before it: only there can memory be asked for; elsewhere the model can but guess.
Without true depth nobody knows which pixels those are: then pixels are compared all together, and nothing else is said.
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
from embodied_liftwm.data.gate import TRUTH_ARRAYS
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.judging import JudgeFactory
from embodied_liftwm.evaluation.metrics import images as metrics
from embodied_liftwm.evaluation.metrics.calibration import bin_sums, brier
from embodied_liftwm.evaluation.metrics.correspondence import Reference, epipolar_error, find_reference
from embodied_liftwm.evaluation.metrics.visibility import visible_in
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, Frame, known_truth, rollout
from embodied_liftwm.protocols import Camera, View
from embodied_liftwm.tensor_tree import TensorTree

RENDER_BATCH = 32
"""Targets rendered in one call."""

MIN_SEEN_SHARE = 0.01
"""Targets with fewer seen pixels than this get no figures on seen pixels: a handful of pixels is noise."""

HELD = 0.5
"""`View.seen` from which on a pixel counts as one that memory holds."""

NAN = float("nan")


@dataclass(frozen=True)
class ViewRow:
    """One rendered target frame."""

    model: str
    episode: int
    frame: int
    psnr: float  # dB
    psnr_seen: float = NAN
    ssim: float = NAN
    ssim_seen: float = NAN
    depth_rmse_m: float = NAN
    depth_rmse_seen_m: float = NAN
    depth_rmse_rel: float = NAN  # depth_rmse_m over the median true depth of the episode
    depth_rmse_seen_rel: float = NAN
    abs_rel: float = NAN
    abs_rel_seen: float = NAN
    delta_125: float = NAN
    delta_125_seen: float = NAN
    normal_deg: float = NAN  # mean angle between the normals of predicted and true depth, degrees
    normal_deg_seen: float = NAN
    epipolar_px: float = NAN  # see correspondence.py
    epipolar_floor_px: float = NAN  # what the true frame scores there
    seen_share: float = NAN  # of the target's pixels, how many some context frame saw
    depth_share: float = NAN  # of the target's pixels, at how many the model gives a depth at all
    seen_predicted: float = NAN  # mean `View.seen` over the pixels with a true depth, as the figures below
    seen_brier: float = NAN
    bin_pixels: tuple[float, ...] = ()  # pixels by their `View.seen`, in ten bins: see calibration.py
    bin_predicted: tuple[float, ...] = ()  # sum of `View.seen` in each bin
    bin_seen: tuple[float, ...] = ()  # of the pixels in each bin, how many some context frame saw
    empty_loss_db: float = NAN  # of the pixels that were seen: by how much the PSNR of those that the model takes
    # for unseen (`View.seen` below `HELD`), which it makes up, falls short of that of the others, dB


DEPTH_COLUMNS = frozenset({"depth_rmse_m", "depth_rmse_rel", "abs_rel", "delta_125", "normal_deg"})
"""Columns that take true depth."""
SEEN_COLUMNS = frozenset(
    name for name in ViewRow.__dataclass_fields__ if "seen" in name or name.startswith(("bin_", "epipolar_", "empty_"))
)
"""Columns that take true depth and true poses: which pixels some context frame has seen, and where they lie in it."""


def columns_without(known: frozenset[str]) -> frozenset[str]:
    """Columns that stay empty where only these arrays of truth are known."""
    if "depth" not in known:
        return DEPTH_COLUMNS | SEEN_COLUMNS
    return frozenset() if "world_from_camera" in known else SEEN_COLUMNS


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
    seen: Tensor  # [H, W] bool: pixels that some context frame has seen; none where nobody knows
    reference: Reference | None  # what its correspondences are held against


class NovelViews:
    """The judge of one batch of episodes; see the top of this module."""

    known = frozenset(TRUTH_ARRAYS)
    """Arrays of truth that every episode of the dataset has."""

    def __init__(self, batch: EpisodeBatch, context: int, views_per_episode: int, known: frozenset[str]) -> None:
        self.batch, self.context, self.known = batch, context, known
        frames = [(e, t) for e, n in enumerate(batch.frames) for t in target_frames(n, context, views_per_episode)]
        self.targets = [self.target(e, t) for e, t in frames]

    def target(self, episode: int, frame: int) -> Target:
        """A frame to render; everything of it that truth alone decides."""
        recorded = self.batch.episodes[episode]
        if not SEEN_COLUMNS.isdisjoint(columns_without(self.known)):
            return Target(episode, frame, torch.zeros(recorded.image_size, dtype=torch.bool), None)
        truth = self.batch.truth(episode)
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
            rows += _rows(model.name, self.batch, chosen, view, self.known)
        return rows


def novel_views(episodes: Sequence[Episode], context: int, views_per_episode: int) -> JudgeFactory:
    """This protocol, for `judging.judge_all`. Raises UserError where no episode is longer than the context."""
    longest = max((len(episode.rgb) for episode in episodes), default=0)
    if longest <= context:
        raise UserError(f"context={context}: must be below the longest episode, {longest} frames, to leave frames to predict")
    return partial(NovelViews, context=context, views_per_episode=views_per_episode, known=known_truth(episodes))


@dataclass(frozen=True)
class Shown:
    """Frames to come of one episode, true and as each model shows them after the context."""

    episode: int
    frames: list[int]
    true: np.ndarray  # [K, H, W, 3] in [0, 1]
    models: dict[str, np.ndarray]  # the same, of each


@torch.no_grad()
def show_views(
    models: Sequence[CheckedModel], episode: Episode, index: int, context: int, count: int, device: str = "cpu"
) -> Shown:
    """Let each model watch the start of an episode, and show frames from later in it: pictures that need no truth."""
    batch, frames = EpisodeBatch([episode], [index], device), target_frames(len(episode.rgb), context, count)
    shown = {}
    for model in models:
        *_, (_, state) = rollout(model, batch, context)
        rgb = model.render(state.index([0] * len(frames)), batch.camera([(0, t) for t in frames])).rgb
        shown[model.name] = rgb.clamp(0, 1).permute(0, 2, 3, 1).cpu().numpy()
    return Shown(index, frames, episode.rgb[frames] / 255.0, shown)


def _rows(name: str, batch: EpisodeBatch, targets: list[Target], view: View, known: frozenset[str]) -> list[ViewRow]:
    frames, without = [target[:2] for target in targets], columns_without(known)
    rgb = batch.observation(frames).rgb
    seen = torch.stack([target.seen for target in targets]).to(rgb.device)
    enough = seen.float().mean(dim=(1, 2)) >= MIN_SEEN_SHARE
    masks = {"": None} | ({} if without & SEEN_COLUMNS else {"_seen": seen & enough[:, None, None]})
    columns: dict[str, Tensor] = {"depth_share": (view.depth > 0).float().mean(dim=(1, 2))}
    for suffix, mask in masks.items():
        columns[f"psnr{suffix}"] = metrics.psnr(view.rgb, rgb, mask)
        columns[f"ssim{suffix}"] = metrics.ssim(view.rgb, rgb, mask)
        columns |= {} if without & DEPTH_COLUMNS else _depth_columns(batch, frames, view.depth, mask, suffix)
    values: dict[str, list[Any]] = {}
    if "_seen" in masks:
        columns["seen_share"] = seen.float().mean(dim=(1, 2))
        columns |= _seen_columns(view.seen, seen, batch.true_depth(frames) > 0)
        columns["empty_loss_db"] = _empty_loss(view.rgb, rgb, seen, view.seen >= HELD)
        values["epipolar_px"] = [_epipolar(batch, t, picture) for t, picture in zip(targets, view.rgb.cpu(), strict=True)]
        values["epipolar_floor_px"] = [t.reference.floor_px if t.reference else NAN for t in targets]
    values |= {key: value.double().cpu().tolist() for key, value in columns.items()}
    return [
        ViewRow(model=name, episode=batch.indices[e], frame=t, **{key: _fixed(value[i]) for key, value in values.items()})
        for i, (e, t) in enumerate(frames)
    ]


def _depth_columns(
    batch: EpisodeBatch, frames: list[Frame], depth: Tensor, mask: Tensor | None, suffix: str
) -> dict[str, Tensor]:
    true, intrinsics = batch.true_depth(frames), batch.camera(frames).intrinsics
    scene = torch.tensor([median_depth(batch.truth(e)) for e, _ in frames], device=depth.device)
    error_m = metrics.depth_rmse(depth, true, mask)
    return {
        f"depth_rmse{suffix}_m": error_m,
        f"depth_rmse{suffix}_rel": error_m / scene,
        f"abs_rel{suffix}": metrics.abs_rel(depth, true, mask),
        f"delta_125{suffix}": metrics.delta_125(depth, true, mask),
        f"normal_deg{suffix}": metrics.normal_angle(depth, true, intrinsics, mask),
    }


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
        return NAN
    other = slice(target.reference.frame, target.reference.frame + 1)
    return epipolar_error(rendered.float(), _pictures(batch.episodes[target.episode], other)[0], target.reference)


def _pictures(episode: Episode, frames: slice = slice(None)) -> Tensor:
    """True frames. [F, 3, H, W] in [0, 1]"""
    return torch.from_numpy(episode.rgb[frames]).permute(0, 3, 1, 2).float() / 255.0


def median_depth(truth: Truth) -> float:
    """Median of the valid true depth over all frames of an episode, metres."""
    depth = truth.depth.astype(np.float32)
    return float(np.median(depth[depth > 0])) if (depth > 0).any() else float("nan")
