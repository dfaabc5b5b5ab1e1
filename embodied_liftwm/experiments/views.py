"""How right the views of `inhouse_views` are, beside floors that know less, and whether its confidence knows it.

    liftwm reproduce teachers views=true

Every fourth frame of an episode is asked for what another frame of it shows, which looks the same way to 25 degrees, one for
each range of distances that there is. The floors say the mean colour
of the frame, the frame as it is, and the frame warped as if all were as far as rooms are in the median; `true_depth` is no
floor: the frame warped by the view's true depth, and its mean colour where it has not seen what is there.

A row is a method on some pixels: of views at a distance; on those whose surface the frame has seen, by true depth, and on the
others; of the teacher, by tenths of confidence above 0, the least sure first.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.config import ReproduceTeachersConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.evaluation.views.episodes import truth_of
from embodied_liftwm.experiments.page import print_rows
from embodied_liftwm.geometry.warp import backward_warp
from embodied_liftwm.priors.contract import Clip, PriorOptions
from embodied_liftwm.priors.generative.orbit import chosen_frames
from embodied_liftwm.priors.inhouse.views import NEAR_ENOUGH, VIEW_EVERY, InhouseViews, parallax_log_factor
from embodied_liftwm.protocols import Camera
from embodied_liftwm.terminal import plain_console

STEPS_M = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Bounds of the ranges of distances."""
LARGEST_TURN_DEG = 25.0
EVERY = 4
"""Frames: each so many-th is imagined from."""
TYPICAL_DEPTH_M = 1.9
"""Median of the depths of the teachers' scenes."""
SAME_SURFACE = 0.05
"""Relative difference of depths up to which the frame sees what the view sees."""


@dataclass(frozen=True)
class ViewsRow:
    """One method on some pixels."""

    method: str
    pixels: str  # which
    number: int  # of them
    psnr: float  # dB, of the mean squared error
    error: float  # mean absolute difference of colours
    within: float  # share whose colour is within 0.1, in the mean over channels
    confidence: float  # mean
    confident: float  # share that has confidence above 1/2


class Judged(NamedTuple):
    """Pixels of views."""

    squared: Tensor  # [n] mean over channels
    error: Tensor  # [n] mean over channels
    confidence: Tensor  # [n]
    step: Tensor  # [n] int64: which range of distances
    seen: Tensor  # [n] bool: by the frame


class Asked(NamedTuple):
    """Frames of an episode and views of it."""

    frames: np.ndarray  # [K] int64
    views: np.ndarray  # [K] int64
    step: np.ndarray  # [K] int64


def view_quality(config: ReproduceTeachersConfig, options: PriorOptions) -> int:
    """Judge the views on every episode, and show the table."""
    teacher = InhouseViews(options)
    found: dict[str, list[Judged]] = {}
    for index, episode in enumerate(EvaluationReader(config.data)):
        for method, judged in judge(teacher, episode, index):
            found.setdefault(method, []).append(judged)
    rows = [row for method, parts in found.items() for row in summarize(method, _joined(parts))]
    write_rows(Path(config.results) / "house_views_quality.csv", rows, ViewsRow)
    columns = ("method", "pixels", "number", "psnr", "error", "within", "confidence", "confident")
    print_rows(plain_console(), "views", rows, columns)
    return 0


def asked(truth: Truth) -> Asked:
    """For every `EVERY`-th frame one view in each range of distances, the same in every run."""
    rng, rows = np.random.default_rng(0), []
    poses = truth.world_from_camera.astype(np.float64)
    for frame in range(0, len(poses), EVERY):
        apart = np.linalg.norm(poses[:, :3, 3] - poses[frame, :3, 3], axis=1)
        same_way = poses[:, :3, 2] @ poses[frame, :3, 2] >= math.cos(math.radians(LARGEST_TURN_DEG))
        for step, (least, most) in enumerate(zip(STEPS_M, STEPS_M[1:])):
            options = np.flatnonzero(same_way & (apart >= least) & (apart < most))
            if len(options):
                rows.append((frame, rng.choice(options), step))
    return Asked(*np.array(rows, dtype=np.int64).reshape(-1, 3).T)


@torch.inference_mode()
def judge(teacher: InhouseViews, episode: Episode, index: int) -> Iterator[tuple[str, Judged]]:
    """Every method on an episode."""
    truth = truth_of(episode, index)
    rgb = torch.from_numpy(episode.rgb).movedim(-1, 1).float() / 255.0
    clip = Clip(rgb, torch.from_numpy(episode.intrinsics), torch.from_numpy(episode.world_from_camera))
    frames, views, step = (torch.from_numpy(x) for x in asked(truth))
    true = torch.from_numpy(truth.depth).float()
    k = clip.intrinsics.expand(len(frames), 3, 3)
    to, source = (Camera(k, clip.world_from_camera[x], *true.shape[-2:]) for x in (views, frames))
    warp = backward_warp(torch.cat([rgb[frames], true[frames].unsqueeze(1)], dim=1), true[views], to, source)
    seen = warp.valid & ((warp.image[:, 3] / warp.source_depth.clamp_min(1e-3) - 1.0).abs() < SAME_SURFACE)
    flat = backward_warp(rgb[frames], torch.full_like(true[views], TYPICAL_DEPTH_M), to, source)
    means, sure = rgb[frames].mean((2, 3), keepdim=True).expand_as(flat.image), torch.ones_like(true[views])
    answers = {
        "house_views": imagined(teacher, clip, frames, views),
        "mean": (means, sure),
        "copy": (rgb[frames], sure),
        "flat": (torch.where(flat.valid[:, None], flat.image, means), sure),
        "true_depth": (torch.where(seen[:, None], warp.image[:, :3], means), sure),
    }
    for method, (said, confidence) in answers.items():
        missed = said - rgb[views]
        of = step.view(-1, 1, 1).expand_as(confidence)
        maps = missed.square().mean(1), missed.abs().mean(1), confidence, of, seen
        yield method, Judged(*(x.flatten() for x in maps))


def imagined(teacher: InhouseViews, clip: Clip, frames: Tensor, views: Tensor) -> tuple[Tensor, Tensor]:
    """Colours and confidence of the teacher, with the scale that it takes from the clip."""
    keys = chosen_frames(len(clip.rgb), -(-len(clip.rgb) // VIEW_EVERY))
    log_factor = parallax_log_factor(clip, keys, *teacher.depth(clip.rgb[keys], clip.intrinsics))
    poses = torch.linalg.inv(clip.world_from_camera[frames].double()) @ clip.world_from_camera[views].double()
    return teacher.views(clip.rgb[frames], clip.intrinsics, poses.float(), log_factor)


def summarize(method: str, found: Judged) -> list[ViewsRow]:
    """All, by distance, by visibility, and by tenths of confidence where it is not the same everywhere."""
    everything = torch.ones_like(found.seen)
    parts = {"all": everything}
    parts |= {f"{a} to {b} m": found.step == k for k, (a, b) in enumerate(zip(STEPS_M, STEPS_M[1:]))}
    parts |= {"seen": found.seen, "unseen": ~found.seen}
    rows = [_row(method, name, found, where.nonzero().squeeze(1)) for name, where in parts.items() if where.any()]
    said = (found.confidence > 0).nonzero().squeeze(1)
    if len(said) and float(found.confidence.min()) < float(found.confidence.max()):
        rows += [_row(method, name, found, said[part[said]]) for name, part in (
            ("confidence above 0", everything), ("seen, above 0", found.seen), ("unseen, above 0", ~found.seen)
        )]  # fmt: skip
        order = said[found.confidence[said].argsort(stable=True)]
        rows += [_row(method, f"tenth {k + 1}", found, part) for k, part in enumerate(order.tensor_split(10))]
    return rows


def _row(method: str, pixels: str, found: Judged, where: Tensor) -> ViewsRow:
    squared, error, confidence = (x[where].double() for x in found[:3])
    psnr = -10.0 * math.log10(float(squared.mean()))
    means = ((error < NEAR_ENOUGH).double(), confidence, (confidence > 0.5).double())
    return ViewsRow(method, pixels, len(where), psnr, float(error.mean()), *(float(x.mean()) for x in means))


def _joined(parts: list[Judged]) -> Judged:
    return Judged(*(torch.cat(part) for part in zip(*parts, strict=True)))
