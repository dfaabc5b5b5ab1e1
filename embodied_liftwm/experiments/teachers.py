"""`liftwm reproduce teachers`: how right teachers are, and whether their confidence knows it.

    liftwm collect split=eval seed=0 episodes=8 steps=96 out=data/prior-dev
    liftwm reproduce teachers teachers=mvs,disk,sweep

    RESULTS/prior_quality.csv     house_views_quality.csv with views=true (`views.py`)

`sweep` is no teacher: it is the single pass
over past frames, at stride 2, from which a world model begins. Neither are `constant` and `rows`, the floors that see nothing:
one depth, or one for each row of the image. A row of the file is a kind of pseudo-observation, over all that has confidence
above 0 and by tenths of confidence, the least sure first. Before they are compared with truth, depths and points are aligned
map by map in what their convention leaves open, and in nothing else. Rows of other priors stay in the file.
"""

from __future__ import annotations

import math
import time
from collections import defaultdict
from pathlib import Path

import torch
import torch.nn.functional as F

from embodied_liftwm.config import ReproduceTeachersConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.evaluation.metrics.prior_quality import Judged, QualityRow, compare, summarize
from embodied_liftwm.evaluation.rows import read_rows, write_rows
from embodied_liftwm.evaluation.views.episodes import truth_of
from embodied_liftwm.experiments.page import print_rows
from embodied_liftwm.experiments.views import view_quality
from embodied_liftwm.geometry.matching.plane_sweep import plane_sweep
from embodied_liftwm.geometry.matching.semi_global import semi_global
from embodied_liftwm.geometry.pixel_depth import pixel_depth
from embodied_liftwm.geometry.view_selection import KEPT_VIEWS, choose_views
from embodied_liftwm.priors.contract import Clip, DepthMaps, Prior, PriorOptions
from embodied_liftwm.priors.contract import PseudoObservations as Observed
from embodied_liftwm.priors.registry import open_prior
from embodied_liftwm.protocols import Camera
from embodied_liftwm.terminal import plain_console
from embodied_liftwm.world_model.depth_belief import Matches as Costs
from embodied_liftwm.world_model.depth_belief import believe
from embodied_liftwm.world_model.encoder import LOCAL_SHARPNESS, SMOOTH_SHARPNESS, TYPICAL_SPREAD_SEEN


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
        depth = torch.cat([torch.from_numpy(truth_of(e, i).depth).float() for i, e in enumerate(EvaluationReader(data))])
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


def run(config: ReproduceTeachersConfig) -> int:
    """Judge every teacher, and show the table; rows of others stay in the file."""
    options = PriorOptions(weights=config.weights, accept_license=config.accept_license)
    if config.views:
        return view_quality(config, options)
    out, episodes = Path(config.results) / "prior_quality.csv", EvaluationReader(config.data)
    rows = [row for row in read_rows(out, QualityRow) if row.prior not in config.teachers] if out.exists() else []
    for name in config.teachers:
        found = judge(name, _opened(name, options, config.data), episodes)
        rows += found
        write_rows(out, rows, QualityRow)
        print_rows(plain_console(), name, found, ("kind", "tenth", "coverage", "confidence", "error", "rmse", "within"))
    return 0


def judge(name: str, prior: Prior, episodes: EvaluationReader) -> list[QualityRow]:
    """Rows of one prior over a dataset."""
    found: dict[str, list[Judged]] = defaultdict(list)
    frames = pixels = 0
    seconds = 0.0
    for position, episode in enumerate(episodes):
        rgb = torch.from_numpy(episode.rgb).movedim(-1, 1).float() / 255.0
        clip = Clip(rgb, torch.from_numpy(episode.intrinsics), torch.from_numpy(episode.world_from_camera))
        start = time.process_time()
        observed = prior.observe(clip)
        seconds += time.process_time() - start
        frames, pixels = frames + len(rgb), pixels + rgb[:, 0].numel()
        for kind, errors in compare(observed, truth_of(episode, position), clip.intrinsics):
            found[kind].append(errors)
    rows = []
    for kind, parts in found.items():
        whole = Judged(*(torch.cat(part) for part in zip(*parts, strict=True)))
        rows += summarize(name, kind, whole, frames if kind == "matches" else pixels, seconds / frames)
    return rows
