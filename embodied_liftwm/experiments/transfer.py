"""`liftwm reproduce transfer`: depth of a trained model in worlds that it may never have seen, and in worlds scaled.

    OUT/transfer/data/NAME     episodes of each world, held-out scenes of ours
    RESULTS/transfer.csv       a row of the table in one episode

A row observes an episode frame by frame. Its depth is judged twice at each frame: what it lifts of the frame, and what its map
shows from there once the frame is written. A scaled world has the same pictures; poses and depths are multiplied. Beside the
model as it is stand the same weights with a unit of length of the episode's own, the honest rows, a constant (the median of the
frame's true depth, which is more than anyone may know) and `mvs`, which sees the whole episode before it speaks.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

import embodied_liftwm
from embodied_liftwm.config import CollectConfig, ReproduceTransferConfig
from embodied_liftwm.data import EvaluationReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.errors import UserError
from embodied_liftwm.evaluation.report.tables import NONE, Cell, Table, cell
from embodied_liftwm.evaluation.rows import write_rows
from embodied_liftwm.evaluation.statistics import bootstrap_mean
from embodied_liftwm.evaluation.views.bounds import matching, untrained
from embodied_liftwm.evaluation.views.episodes import EpisodeBatch, truth_of
from embodied_liftwm.experiments.engine import HONEST, MATCHING, UNTRAINED
from embodied_liftwm.experiments.page import print_table
from embodied_liftwm.priors.contract import Clip
from embodied_liftwm.priors.geometric.mvs import MultiViewStereo
from embodied_liftwm.terminal import plain_console
from liftwm_agents.collection.shown import collect_shown

SETTLED = 12
"""Frames after which parallax has told what it can: figures are of the frames from this one on."""
Z_50, Z_90 = 0.6745, 1.6449
"""Standard normal quantiles of intervals that hold half and nine tenths."""
MODEL, EPISODE, CONSTANT, MVS = "model", "episode", "constant", "mvs"
LABELS = HONEST | {
    MODEL: "as it is",
    EPISODE: "unit of the episode",
    CONSTANT: "a constant (true median)",
    MVS: "mvs (sees all frames)",
}
FIGURES = ("first", "settled", "map", "map_rmse", "inside_50", "inside_90")


@dataclass(frozen=True)
class TransferRow:
    """One row of the table in one episode; errors are mean |z - true| / true over pixels, NaN where nothing says."""

    world: str
    scale: float  # poses and true depths are so many times the world's own
    row: str
    episode: int
    first: float  # of frame 0, lifted
    settled: float  # of frames from SETTLED on, lifted
    map: float  # of those, as the map shows them
    map_rmse: float  # root mean square error of the map there, over that of the constant
    inside_50: float  # share of log-depths from SETTLED on within the stated interval of 50 %
    inside_90: float


@dataclass(frozen=True)
class Depths:
    """What a row says of the frames of an episode."""

    lifted: Tensor  # [F, H, W] units of the episode's poses
    spread: Tensor | None = None  # [F, H, W] standard deviation of its logarithm, where one is stated
    shown: Tensor | None = None  # [F, H, W] as the map shows it, where there is a map


def run(config: ReproduceTransferConfig) -> int:
    """Collect, judge every row, show the tables. Worlds whose package is missing are named and left out."""
    console, rows = plain_console(), []
    torch.set_num_threads(1)
    says = _rows(config)
    for world in config.worlds:
        try:
            episodes = _episodes(config, world)
        except UserError as error:
            console.print(f"{world}: left out: {error}", soft_wrap=True)
            continue
        for scale in config.scales if world == config.worlds[0] else (1.0,):
            rows += _judge(says, world, scale, episodes)
            print_table(console, f"{world}, scaled by {scale:g}", _table(rows, world, scale, config.bootstrap))
    if not rows:
        raise UserError(f"worlds={','.join(config.worlds)}: none of them can be built here")
    path = Path(config.results) / "transfer.csv"
    write_rows(path, rows)
    console.print(f"rows: {path}")
    return 0


def _episodes(config: ReproduceTransferConfig, world: str) -> list[Episode]:
    """Held-out episodes of a world, collected where they are not there yet."""
    folder = Path(config.out) / "transfer" / "data" / world.replace("/", "_").replace(":", "-")
    asked = CollectConfig(env=world, out=str(folder), episodes=config.episodes, steps=config.steps, split="eval")
    collect_shown(replace(asked, env_options=config.env_options))
    return list(EvaluationReader(folder))


def _judge(says: Mapping[str, Says], world: str, scale: float, episodes: Sequence[Episode]) -> list[TransferRow]:
    found = []
    for i, episode in enumerate(episodes):
        true = scale * torch.from_numpy(truth_of(episode, i).depth.astype(np.float32))
        poses = episode.world_from_camera.copy()
        poses[:, :3, 3] *= scale
        scaled = replace(episode, world_from_camera=poses)
        for row, say in says.items():
            found.append(_row(world, scale, row, i, say(scaled, true), true))
    return found


Says = Callable[[Episode, Tensor], Depths]
"""What a row says of an episode and, the constant alone, of its true depths."""


def _rows(config: ReproduceTransferConfig) -> dict[str, Says]:
    """Every row of the table."""
    model: Any = embodied_liftwm.load(config.model, config.device)
    own_unit: Any = embodied_liftwm.load(config.model, config.device)
    own_unit.config = replace(own_unit.config, scale_prior=config.scale_prior)
    watching = {MODEL: model, EPISODE: own_unit, UNTRAINED: untrained(model), MATCHING: matching(model)}
    return {row: lambda episode, _, it=it: observed(it, episode, config.device) for row, it in watching.items()} | {  # type: ignore[misc]
        CONSTANT: lambda _, true: Depths(_constant(true)),
        MVS: lambda episode, _: Depths(_stereo(episode)),
    }


@torch.no_grad()
def observed(model: Any, episode: Episode, device: str = "cpu") -> Depths:
    """What one of our models says of each frame of an episode, whatever its actions and goals are."""
    batch, state, parts = EpisodeBatch([episode], [0], device), model.initial_state(1), []
    nothing = torch.zeros(1, model.shapes.action_dim, device=device), torch.zeros(1, model.shapes.goal_dim, device=device)
    for t in range(len(episode.rgb)):
        now = replace(batch.observation([(0, t)]), action=nothing[0], goal=nothing[1])
        said = model.look(state, now)[1]
        state = model.observe(state, now)
        cells = F.interpolate(torch.stack([said.depth, said.spread], 1), now.rgb.shape[-2:], mode="nearest")[0]
        parts.append(torch.stack([*cells, model.render(state, now.camera).depth[0]]).cpu())
    lifted, spread, shown = torch.stack(parts, dim=1)
    return Depths(lifted, spread, shown)


def _constant(true: Tensor) -> Tensor:
    """The median of each frame's true depth, everywhere. [F, H, W]"""
    medians = [frame[frame > 0].median() if bool((frame > 0).any()) else frame.new_tensor(1.0) for frame in true]
    return torch.stack(medians)[:, None, None].expand_as(true)


def _stereo(episode: Episode) -> Tensor:
    """What multi-view stereo says of frames, with all of the episode before it. [F, H, W]"""
    rgb = torch.from_numpy(episode.rgb).permute(0, 3, 1, 2) / 255.0
    clip = Clip(rgb, torch.from_numpy(episode.intrinsics), torch.from_numpy(episode.world_from_camera))
    depth = MultiViewStereo().observe(clip).depth
    assert depth is not None
    found = torch.full_like(rgb[:, 0], torch.nan)
    found[depth.frames] = depth.values
    return found


def _row(world: str, scale: float, row: str, episode: int, says: Depths, true: Tensor) -> TransferRow:
    late = true[SETTLED:]
    known, constant = late > 0, _constant(late)

    def error(depth: Tensor | None, frames: slice) -> float:
        if depth is None:
            return float("nan")
        there = (true[frames] > 0) & depth[frames].isfinite()
        return float(((depth[frames] - true[frames]).abs() / true[frames])[there].mean())

    rmse = inside_50 = inside_90 = float("nan")
    if says.shown is not None:
        wrong = [(depth - late)[known].square().mean().sqrt() for depth in (says.shown[SETTLED:], constant)]
        rmse = float(wrong[0] / wrong[1])
    if says.spread is not None:
        off = ((says.lifted[SETTLED:].log() - late.log()).abs() / says.spread[SETTLED:])[known]
        inside_50, inside_90 = (float((off < z).float().mean()) for z in (Z_50, Z_90))
    settled = slice(SETTLED, None)
    return TransferRow(
        world, scale, row, episode, error(says.lifted, slice(0, 1)), error(says.lifted, settled), error(says.shown, settled),
        rmse, inside_50, inside_90,
    )  # fmt: skip


def _table(rows: Sequence[TransferRow], world: str, scale: float, resamples: int) -> Table:
    here = [row for row in rows if (row.world, row.scale) == (world, scale)]
    lines = []
    for name in dict.fromkeys(row.row for row in here):
        own = [row for row in here if row.row == name]
        cells: list[Cell] = []
        for figure in FIGURES:
            estimate = bootstrap_mean([getattr(row, figure) for row in own], [row.episode for row in own], resamples)
            cells.append(cell(estimate.as_dict(), 3) if estimate.count else Cell(NONE))
        lines.append((name, LABELS[name], cells))
    titles = ["frame 0", f"frames {SETTLED}+", "map", "map RMSE / constant's", "inside 50 %", "inside 90 %"]
    return Table(titles, lines)
