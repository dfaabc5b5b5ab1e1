"""Closed-loop generation: from one first frame and a camera path, does the world hold together, and does it stay true?

Protocol. The model observes the first frame and nothing real after it. At every step it shows what the camera sees and
believes what it showed (`WorldModel` with `generate`, or render and observe). Three kinds of figures, one row a step:

- *closure*: a step that comes back is held against the step that was there first (the given frame itself, at the start).
  `elsewhere_psnr` beside it is the control with places shuffled: the same picture against all other places of the path;
- *truth*, where it is known: over all pixels; over those whose true point the first frame shows (`seen`: memory can be asked
  for them); over those that the first frame or an earlier step shows (`visited`: invented pixels must last, too); and over
  those of the first frame that went out of view since (`hidden`);
- *holes*: pixels that the model says it never saw (`View.seen` below `HELD`), before it believes its own picture of them.

Whatever is shown is the model's own input from then on, so that errors add up: `drift` groups rows by how far the camera went.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.evaluation.checked import CheckedModel
from embodied_liftwm.evaluation.generation.tours import Tour
from embodied_liftwm.evaluation.metrics import images as metrics
from embodied_liftwm.evaluation.metrics.visibility import visible_in
from embodied_liftwm.evaluation.statistics import Estimate, column_mean
from embodied_liftwm.evaluation.views.novel import HELD, MIN_SEEN_SHARE
from embodied_liftwm.protocols import Observation

STEP_BINS = (1, 5, 9, 17, 33, 65)
METRE_BINS = (0.0, 0.25, 0.5, 1.0, 2.0, 4.0)
"""Lower ends of the bins of `drift`; the last one is open."""


@dataclass(frozen=True)
class Generated:
    """A generated video. Frame 0 is the given one; its depth and `seen` are the model's, after observing it."""

    rgb: Tensor  # [T + 1, 3, H, W] in [0, 1]
    depth: Tensor  # [T + 1, H, W] metres
    seen: Tensor  # [T + 1, H, W] before the step was believed


@dataclass(frozen=True)
class ClosedLoopRow:
    """One generated step. NaN where a figure does not apply: no revisit, no truth, too few pixels."""

    model: str
    path: str
    episode: int
    start: int  # frame of the episode
    step: int  # from 1
    metres: float  # travelled so far
    degrees: float  # turned so far
    revisits: int  # the step that was here first; -1 where the camera has not been
    closure_psnr: float  # dB, against that step
    closure_ssim: float
    elsewhere_psnr: float  # dB, against all steps that were at other places before, on average
    psnr: float  # dB, against truth
    psnr_seen: float
    psnr_visited: float
    psnr_hidden: float
    depth_rmse_m: float
    depth_rmse_seen_m: float
    abs_rel: float
    abs_rel_seen: float
    seen_share: float  # of the pixels, how many the first frame shows
    hole_rate: float


FIGURES = tuple(field.name for field in fields(ClosedLoopRow))[8:]
"""Columns that are measured."""


@torch.no_grad()
def generate(
    model: CheckedModel, tour: Tour, loop: bool = True, device: str = "cpu", advance: Callable[[int], None] = lambda done: None
) -> Generated:
    """Generate the video of a tour.

    Args:
        model: any world model.
        tour: the first frame and the path.
        loop: believe what was shown; without it the model keeps to the first frame alone (the control).
        device: of the model.
        advance: told after each step.
    """
    first = torch.from_numpy(tour.first).to(device).permute(2, 0, 1)[None].float() / 255.0
    shapes = getattr(model.model, "shapes", None)
    started = Observation(
        rgb=first,
        camera=tour.camera(0, device),
        action=first.new_zeros(1, getattr(shapes, "action_dim", 0)),
        is_first=torch.ones(1, dtype=torch.bool, device=device),
    )
    state = model.observe(model.initial_state(1), started)
    view = model.render(state, tour.camera(0, device))
    shown = [(first, view.depth, view.seen)]
    for step in range(1, len(tour.path) + 1):
        camera = tour.camera(step, device)
        if loop:
            state, view = model.generate(state, camera)
        else:
            view = model.render(state, camera)
        shown.append((view.rgb.clamp(0, 1), view.depth, view.seen))
        advance(1)
    rgb, depth, seen = (torch.cat(parts).float().cpu() for parts in zip(*shown, strict=True))
    return Generated(rgb, depth, seen)


def closed_loop_rows(name: str, tour: Tour, generated: Generated) -> list[ClosedLoopRow]:
    """The figures of every step of a generated tour."""
    path, revisits = tour.path, dict(tour.path.pairs)
    metres, degrees = path.metres, path.degrees
    rows = []
    for step in range(1, len(path) + 1):
        figures = _closure(tour, generated, step, revisits.get(step)) | _against_truth(tour, generated, step)
        figures["hole_rate"] = float((generated.seen[step] < HELD).float().mean())
        about = {"model": name, "path": path.name, "episode": tour.episode, "start": tour.start, "step": step}
        way = {"metres": float(metres[step]), "degrees": float(degrees[step]), "revisits": revisits.get(step, -1)}
        rows.append(ClosedLoopRow(**about, **way, **figures))  # type: ignore[arg-type]
    return rows


def _closure(tour: Tour, generated: Generated, step: int, place: int | None) -> dict[str, float]:
    """A step that comes back against the one that was there first, and against those that were elsewhere."""
    if place is None:
        return dict.fromkeys(("closure_psnr", "closure_ssim", "elsewhere_psnr"), float("nan"))
    now, rgb, path = generated.rgb[step : step + 1], generated.rgb, tour.path
    near = (path.metres_apart[step, :step] <= path.near_m) & (path.radians_apart[step, :step] <= path.near_rad)
    elsewhere = rgb[:step][torch.from_numpy(~near)]
    return {
        "closure_psnr": float(metrics.psnr(now, rgb[place : place + 1])[0]),
        "closure_ssim": float(metrics.ssim(now, rgb[place : place + 1])[0]),
        "elsewhere_psnr": float(metrics.psnr(now.expand_as(elsewhere), elsewhere).mean()),
    }


def _against_truth(tour: Tour, generated: Generated, step: int) -> dict[str, float]:
    names = ("psnr", "psnr_seen", "psnr_visited", "psnr_hidden", "depth_rmse_m", "depth_rmse_seen_m", "abs_rel", "abs_rel_seen")
    found = dict.fromkeys((*names, "seen_share"), float("nan"))
    truth = tour.truth
    if truth is None:
        return found
    rgb = generated.rgb[step : step + 1]
    true_rgb = torch.from_numpy(truth.rgb[step : step + 1]).permute(0, 3, 1, 2).float() / 255.0
    found["psnr"] = float(metrics.psnr(rgb, true_rgb)[0])
    if truth.depth is None:
        return found
    depth, true_depth = generated.depth[step : step + 1], torch.from_numpy(truth.depth[step : step + 1].astype(np.float32))
    way = truth.depth, truth.world_from_camera, tour.intrinsics.astype(np.float32)
    visible = visible_in(*way, step, slice(0, step)).visible
    masks = _masks(visible, tour.first.shape[:2])
    for name, mask in masks.items():
        found[f"psnr_{name}"] = float(metrics.psnr(rgb, true_rgb, mask)[0])
    counted: dict[str, Tensor | None] = {"": None} | ({"_seen": masks["seen"]} if "seen" in masks else {})
    for suffix, chosen in counted.items():
        found[f"depth_rmse{suffix}_m"] = float(metrics.depth_rmse(depth, true_depth, chosen)[0])
        found[f"abs_rel{suffix}"] = float(metrics.abs_rel(depth, true_depth, chosen)[0])
    found["seen_share"] = float(visible[0].float().mean())
    return found


def _masks(visible: Tensor, size: tuple[int, ...]) -> dict[str, Tensor]:
    """Kinds of pixels of a step, those left out of which there are too few; `visible` [step, H * W] in each earlier step."""
    kinds = {"seen": visible[0], "visited": visible.any(0), "hidden": visible[0] & ~visible.all(0)}
    return {name: mask.view(1, *size) for name, mask in kinds.items() if float(mask.float().mean()) >= MIN_SEEN_SHARE}


def summarize_closed_loop(rows: Sequence[ClosedLoopRow], resamples: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Means over steps, with intervals over episodes; `return_psnr` and its like are closure at the start alone."""
    found = {name: column_mean(rows, name, resamples, seed) for name in FIGURES}
    home = [row for row in rows if row.revisits == 0]
    found |= {f"return_{name}": column_mean(home, f"{'closure_' if name != 'elsewhere_psnr' else ''}{name}", resamples, seed)
              for name in ("psnr", "ssim", "elsewhere_psnr")}  # fmt: skip
    return found


def revisit_share(rows: Sequence[ClosedLoopRow]) -> float:
    """Share of the steps that come back to a place: those that closure is measured at."""
    return float(np.mean([row.revisits >= 0 for row in rows])) if rows else float("nan")


def drift(
    rows: Sequence[ClosedLoopRow], by: str, figure: str, bins: Sequence[float] = (), resamples: int = 1000, seed: int = 0
) -> list[tuple[str, Estimate]]:
    """How a figure changes with the way from the first frame.

    Args:
        rows: of one model and path.
        by: "step" or "metres".
        figure: a column, such as psnr_seen or abs_rel_seen.
        bins: lower ends, the last bin open; by default those at the top of this module.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        For each bin with rows: its range, and the mean with its interval over episodes.
    """
    ends = list(bins or (STEP_BINS if by == "step" else METRE_BINS))
    found = []
    for low, high in zip(ends, [*ends[1:], float("inf")], strict=True):
        inside = [row for row in rows if low <= getattr(row, by) < high]
        if inside:
            label = f"{low:g}+" if high == float("inf") else f"{low:g}-{high - 1:g}" if by == "step" else f"{low:g}-{high:g} m"
            found.append((label, column_mean(inside, figure, resamples, seed)))
    return found
