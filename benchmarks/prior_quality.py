"""How right teachers are, and whether their confidence knows it.

    liftwm collect split=eval seed=0 episodes=8 steps=96 out=data/prior-dev
    python benchmarks/prior_quality.py results/prior_quality.csv data/prior-dev mvs disk sweep

Words with `=` set options of the priors (`weights=...`, `accept_license=true`). `sweep` is no teacher: it is the single pass
over past frames, at stride 2, from which a world model begins. Neither are `constant` and `rows`, the floors that see nothing:
one depth, or one for each row of the image. A row of the file is a kind of pseudo-observation, over all that has confidence
above 0 and by tenths of confidence, the least sure first. Before they are compared with truth, depths and points are aligned
map by map in what their convention leaves open, and in nothing else. Rows of other priors stay in the file.
"""

from __future__ import annotations

import math
import sys
import time
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
import torch.nn.functional as F
from omegaconf import OmegaConf
from torch import Tensor

from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.geometry.cameras import back_project, project, transform
from embodied_liftwm.geometry.normals import depth_to_normals
from embodied_liftwm.geometry.pixel_depth import pixel_depth
from embodied_liftwm.geometry.plane_sweep import plane_sweep
from embodied_liftwm.geometry.se3 import inverse_pose
from embodied_liftwm.geometry.semi_global import semi_global
from embodied_liftwm.geometry.view_selection import KEPT_VIEWS, choose_views
from embodied_liftwm.priors.contract import Clip, DepthMaps, Matches, NormalMaps, PointMaps, Prior, PriorOptions
from embodied_liftwm.priors.contract import PseudoObservations as Observed
from embodied_liftwm.priors.registry import open_prior
from embodied_liftwm.protocols import Camera
from embodied_liftwm.world_model.depth_belief import Matches as Costs
from embodied_liftwm.world_model.depth_belief import believe
from embodied_liftwm.world_model.encoder import LOCAL_SHARPNESS, SMOOTH_SHARPNESS, TYPICAL_SPREAD_SEEN

WITHIN = {"depth": 0.1, "points": 0.1, "matches": 1.0, "normals": 11.25}
"""What counts as right: relative, relative, pixels, degrees."""


@dataclass(frozen=True)
class QualityRow:
    """One kind of pseudo-observation of one prior, whole or a tenth of it."""

    prior: str
    kind: str
    tenth: int  # of confidence, 1 the least sure; 0 for all of it
    number: int  # pixels or matches
    coverage: float  # share of all pixels of all frames that have confidence above 0; of matches, their number a frame
    confidence: float  # mean
    error: float  # mean: relative of depth (AbsRel) and points, pixels of matches, degrees of normals
    rmse: float  # metres of depth and points, pixels of matches, degrees of normals
    within: float  # share with a relative error below 0.1, below 1 pixel, below 11.25 degrees
    cpu_s: float  # a frame


class Judged(NamedTuple):
    """Errors of what has confidence, and that confidence."""

    error: Tensor  # [n] as in `QualityRow.error`
    absolute: Tensor  # [n] as in `QualityRow.rmse`
    confidence: Tensor  # [n]


class PastSweep:
    """The stereo of a world model: one pass over six frames before, on cells of two pixels, with nothing learned yet."""

    def fingerprint(self) -> str:
        """None: it is never cached."""
        return ""

    def observe(self, clip: Clip) -> Observed:
        """Depth of the frames that have a frame with parallax before them."""
        log_planes = torch.linspace(math.log(0.15), math.log(10.0), 40)
        depth, sure = [], []
        for t in range(len(clip.rgb)):
            rgb = clip.rgb[t : t + 1]
            camera = Camera(clip.intrinsics[None], clip.world_from_camera[t : t + 1], *rgb.shape[-2:])
            frames = torch.arange(len(clip.rgb))
            allowed = ((frames < t) & (frames >= t - KEPT_VIEWS)).float()[None]
            chosen, good = choose_views(camera, clip.world_from_camera[None], allowed, 6)
            sources, poses = clip.rgb[chosen[0]][None], clip.world_from_camera[chosen[0]][None]
            sweep = plane_sweep(rgb, camera, sources, poses, good[:, None], log_planes.exp(), 2)
            costs = Costs(sweep.cost[:, 0], semi_global(sweep.cost[:, 0], F.avg_pool2d(rgb, 2)))
            nothing, sharpness = torch.zeros_like(costs.local), torch.tensor([LOCAL_SHARPNESS, SMOOTH_SHARPNESS])
            belief = believe(nothing, nothing[:, :1], costs, sharpness.log(), log_planes)
            depth.append(pixel_depth(belief.log_depth.exp(), rgb))
            sure.append(good.any() / (1.0 + pixel_depth(belief.spread, rgb) / TYPICAL_SPREAD_SEEN))
        return Observed(depth=DepthMaps(torch.cat(depth), torch.cat(sure), torch.arange(len(clip.rgb)), "metric"))


class Floor:
    """Says the same of every frame: the median true depth, or that of each row of the image, of the frames it is judged on."""

    def __init__(self, data: str, rows: bool) -> None:
        depth = torch.cat([torch.from_numpy(episode.truth.depth).float() for episode in EvaluationReader(data)])
        row_by_row = depth.movedim(1, 0).flatten(1)
        values = row_by_row.median(1).values[:, None] if rows else depth.median()
        self._depth = values.expand_as(depth[0])

    def fingerprint(self) -> str:
        """None: it is never cached."""
        return ""

    def observe(self, clip: Clip) -> Observed:
        """Depth up to a factor, equally sure everywhere."""
        depth = self._depth.expand(len(clip.rgb), -1, -1)
        return Observed(depth=DepthMaps(depth, torch.ones_like(depth), torch.arange(len(depth)), "scale_free"))


def _opened(name: str, options: PriorOptions, data: str) -> Prior:
    """A teacher, or what stands beside teachers to compare."""
    if name == "sweep":
        return PastSweep()
    return Floor(data, name == "rows") if name in ("constant", "rows") else open_prior(name, options)


def main(words: list[str]) -> None:
    """`OUT.csv DATA NAME [NAME ...] [OPTION=VALUE ...]`"""
    settings, plain = [w for w in words if "=" in w], [w for w in words if "=" not in w]
    if len(plain) < 3:
        raise SystemExit("usage: python benchmarks/prior_quality.py OUT.csv DATA NAME [NAME ...] [OPTION=VALUE ...]")
    out, data, names = Path(plain[0]), plain[1], plain[2:]
    merged = OmegaConf.merge(OmegaConf.structured(PriorOptions), OmegaConf.from_dotlist(settings))
    options: PriorOptions = OmegaConf.to_object(merged)  # type: ignore[assignment]
    rows = [row for row in read_rows(out, QualityRow) if row.prior not in names] if out.exists() else []
    for name in names:
        found = judge(name, _opened(name, options, data), EvaluationReader(data))
        rows += found
        write_rows(out, rows, QualityRow)
        print_table(found)


def judge(name: str, prior: Prior, episodes: EvaluationReader) -> list[QualityRow]:
    """Rows of one prior over a dataset."""
    found: dict[str, list[Judged]] = defaultdict(list)
    frames = pixels = 0
    seconds = 0.0
    for episode in episodes:
        rgb = torch.from_numpy(episode.rgb).movedim(-1, 1).float() / 255.0
        clip = Clip(rgb, torch.from_numpy(episode.intrinsics), torch.from_numpy(episode.world_from_camera))
        start = time.process_time()
        observed = prior.observe(clip)
        seconds += time.process_time() - start
        frames, pixels = frames + len(rgb), pixels + rgb[:, 0].numel()
        for kind, errors in compare(observed, episode):
            found[kind].append(errors)
    rows = []
    for kind, parts in found.items():
        whole = Judged(*(torch.cat(part) for part in zip(*parts, strict=True)))
        rows += summarize(name, kind, whole, frames if kind == "matches" else pixels, seconds / frames)
    return rows


def compare(observed: Observed, episode: Episode) -> Iterator[tuple[str, Judged]]:
    """Each kind of pseudo-observation that can be judged, beside the truth."""
    depth, poses = torch.from_numpy(episode.truth.depth).float(), torch.from_numpy(episode.truth.world_from_camera)
    intrinsics = torch.from_numpy(episode.intrinsics)
    if observed.depth is not None:
        yield "depth", depth_errors(observed.depth, depth)
    if observed.normals is not None:
        yield "normals", normal_errors(observed.normals, depth, intrinsics)
    if observed.points is not None:
        yield "points", point_errors(observed.points, depth, poses, intrinsics)
    if observed.matches is not None:
        yield "matches", match_errors(observed.matches, depth, poses, intrinsics)


def depth_errors(maps: DepthMaps, truth: Tensor) -> Judged:
    """Of metric depth as it is, of the others once their maps are aligned."""
    parts = []
    for values, confidence, true in zip(maps.values, maps.confidence, truth[maps.frames], strict=True):
        said = (confidence > 0) & (true > 0)
        if said.any():
            depth = aligned(values[said], confidence[said], true[said], maps.convention)
            away = (depth - true[said]).abs()
            parts.append(Judged(away / true[said], away, confidence[said]))
    return _joined(parts)


def aligned(values: Tensor, weight: Tensor, true: Tensor, convention: str) -> Tensor:
    """Depth in metres of what a convention says of n pixels: median ratio, or least squares in inverse depth."""
    if convention == "metric":
        return values
    if convention == "scale_free":
        return values * (true / values).median()
    root = weight.sqrt()
    system = torch.stack([values, torch.ones_like(values)], dim=1) * root[:, None]
    scale, shift = torch.linalg.lstsq(system.double(), (root / true).double()[:, None], driver="gelsd").solution[:, 0].float()
    return 1.0 / (scale * values + shift).clamp_min(0.05)


def normal_errors(maps: NormalMaps, depth: Tensor, intrinsics: Tensor) -> Judged:
    """Angles to the normals of the true depth."""
    true = depth_to_normals(depth[maps.frames], intrinsics.expand(len(maps.frames), 3, 3))
    said = (maps.confidence > 0) & (true.abs().sum(1) > 0)
    angle = torch.rad2deg((maps.values * true).sum(1).clamp(-1.0, 1.0).acos())[said]
    return Judged(angle, angle, maps.confidence[said])


def point_errors(maps: PointMaps, depth: Tensor, poses: Tensor, intrinsics: Tensor) -> Judged:
    """Distances to the true points in the reference camera's frame, absolute and relative to how far they are."""
    parts = []
    for points, confidence, frame, reference in zip(maps.points, maps.confidence, maps.frames, maps.references, strict=True):
        world = back_project(depth[frame][None], intrinsics[None], poses[frame][None])
        true = transform(inverse_pose(poses[reference])[None], world)[0]
        said = (confidence > 0) & (depth[frame] > 0)
        if said.any():
            found, true = points[said], true[said]
            far = true.norm(dim=-1)
            found = found if maps.convention == "metric" else found * (far / found.norm(dim=-1).clamp_min(1e-6)).median()
            away = (found - true).norm(dim=-1)
            parts.append(Judged(away / far, away, confidence[said]))
    return _joined(parts)


def match_errors(matches: Matches, depth: Tensor, poses: Tensor, intrinsics: Tensor) -> Judged:
    """Pixels in the second frame between a match and where the true depth of its pixel in the first puts it."""
    said = matches.confidence > 0
    if not said.any():
        return _joined([])
    pixels, (first, second) = matches.pixels[said], matches.frames[said].unbind(1)
    column, row = pixels[:, 0].long().unbind(1)
    true, views = depth[first, row, column], intrinsics.expand(len(first), 3, 3)
    here = torch.cat([pixels[:, 0], torch.ones_like(pixels[:, 0, :1])], dim=1) @ intrinsics.inverse().mT * true[:, None]
    seen, ahead = project(transform(poses[first], here[:, None]), views, inverse_pose(poses[second]))
    away = torch.where(ahead[:, 0] > 0, (seen[:, 0] - pixels[:, 1]).norm(dim=-1), float(depth.shape[-1]))
    return Judged(away[true > 0], away[true > 0], matches.confidence[said][true > 0])


def _joined(parts: list[Judged]) -> Judged:
    return Judged(*(torch.cat(part) for part in zip(*parts, strict=True))) if parts else Judged(*torch.zeros(3, 0))


def summarize(name: str, kind: str, found: Judged, whole: int, cpu_s: float) -> list[QualityRow]:
    """All of it, and its tenths by confidence where that is not the same everywhere."""
    order = found.confidence.argsort(stable=True)
    number, tenths = len(order), [(0, order)]
    if number >= 10 and found.confidence[order[0]] < found.confidence[order[-1]]:
        tenths += [(k + 1, order[number * k // 10 : number * (k + 1) // 10]) for k in range(10)]
    rows = []
    for tenth, where in tenths:
        error, absolute, confidence = (part[where].double() for part in found)
        within, rmse = (error < WITHIN[kind]).double().mean(), absolute.square().mean().sqrt()
        means = (float(x) for x in (confidence.mean(), error.mean(), rmse, within))
        rows.append(QualityRow(name, kind, tenth, len(where), len(where) / whole, *means, cpu_s))
    return rows


def print_table(rows: list[QualityRow]) -> None:
    """One line a row."""
    print("| prior | kind | tenth | coverage | confidence | error | RMSE | within |\n|---|---|---|---|---|---|---|---|")
    for r in rows:
        numbers = f"{r.coverage:.3f} | {r.confidence:.3f} | {r.error:.4f} | {r.rmse:.3f} | {r.within:.4f}"
        print(f"| {r.prior} | {r.kind} | {r.tenth or 'all'} | {numbers} |", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
