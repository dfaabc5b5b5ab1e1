"""Motion encoder: which cells of a frame show something that moves, and how fast, from the frames just before.

A belief over velocities, cell by cell, from witnesses whose log-likelihoods add: a prior that most of the world stands still,
what each recent frame says (velocity sweep at the estimated depth), and what a small network makes of both around the cell.
What rests may lie at another depth than is believed, as far as the depth's spread allows, and then appears to move while the
camera does: the hypotheses hold rest several times, at depths that are wrong by various shares.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from embodied_liftwm.geometry.matching.plane_sweep import Sweep, grey_range
from embodied_liftwm.geometry.matching.velocity_sweep import velocity_sweep
from embodied_liftwm.protocols import Camera

FASTEST_M = 0.06
"""The largest speed that is tried, metres a control step."""
GRID_M = 0.015
"""Velocities lie on a grid of so many metres a step in the horizontal plane: 0.1 m, or 2 pixels at 2 m, over six steps."""
DEPTH_ERRORS = (0.06, -0.06, 0.15, -0.15)
"""Logarithms of true over estimated depth under which rest is tried, beside 0."""
TYPICAL_SPEED_M = 0.03
"""What moves is believed, untrained, to do so with so many metres a step along an axis: standard deviation."""
REST_LOG_ODDS = 4.0
"""Initial log-odds that a cell rests: one in fifty moves. Learned."""
SHARPNESS = 6.0
"""Initial weight of a recent frame's cost against the prior; learned, and each cell trusts the costs more or less."""
LEAST_SPREAD = 0.02
"""Standard deviation of the log-depth below which depth is not trusted."""
WIDTH = 16
_LOCAL_FEATURES = 9


class Recent(NamedTuple):
    """Frames of other times, beside a frame."""

    rgb: Tensor  # [B, R, 3, H, W] in [0, 1]
    poses: Tensor  # [B, R, 4, 4] world_from_camera
    steps: Tensor  # [B, R] float control steps from the frame to them, negative for the past
    usable: Tensor  # [B, R] bool: to find motion with
    judges: Tensor | None = None  # [B, R] bool: in training, those that must be explained


class Motion(NamedTuple):
    """What is believed of the motion of a frame's cells."""

    log_belief: Tensor  # [B, V, h, w] log-probability of each of the encoder's `velocities`
    velocity: Tensor  # [B, 3, h, w] metres a step, world frame: the expected one, given that the cell moves
    moving: Tensor  # [B, h, w] probability that the cell does not rest


class MotionEncoder(nn.Module):
    """Frames and depth in, motion out. Depth is data here: it learns nothing from motion."""

    def __init__(self) -> None:
        super().__init__()
        velocities, depth_errors = _hypotheses()
        self.rest = len(velocities) - 1 - len(DEPTH_ERRORS)
        """Number of the hypothesis of rest where depth says; motions come before it, rest elsewhere after it."""
        log_speeds = torch.log_softmax(-0.5 * (velocities[: self.rest] / TYPICAL_SPEED_M).square().sum(1), dim=0)
        self.velocities: Tensor  # [V, 3] metres a step, world frame
        self.depth_errors: Tensor  # [V] logarithm of true over estimated depth, 0 for motions
        self.log_speeds: Tensor  # [self.rest] prior of motions, given that there is any
        self.register_buffer("velocities", velocities, persistent=False)
        self.register_buffer("depth_errors", depth_errors, persistent=False)
        self.register_buffer("log_speeds", log_speeds, persistent=False)
        self.rest_log_odds = nn.Parameter(torch.tensor(REST_LOG_ODDS))
        self.log_sharpness = nn.Parameter(torch.tensor(SHARPNESS).log())
        number = len(velocities)
        self.head = nn.Sequential(
            nn.Conv2d(number + _LOCAL_FEATURES, WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv2d(WIDTH, WIDTH, 3, padding=1), nn.SiLU(),
            nn.Conv2d(WIDTH, number + 1, 1),
        )  # fmt: skip
        nn.init.zeros_(self.head[-1].weight)  # type: ignore[arg-type]
        nn.init.zeros_(self.head[-1].bias)  # type: ignore[arg-type]

    def forward(self, rgb: Tensor, camera: Camera, depth: Tensor, spread: Tensor, recent: Recent) -> Motion:
        """Believe.

        Args:
            rgb: the frames, in [0, 1]. [B, 3, H, W]
            camera: the cameras that saw them.
            depth: of their cells, metres. [B, h, w]
            spread: standard deviation of its logarithm. [B, h, w]
            recent: frames of other times; where none is usable the prior remains.
        """
        sweep = self._sweep(rgb, camera, depth, recent, recent.usable)
        return self._believe(rgb, camera, spread.detach(), recent, sweep)

    def match_and_judge(
        self, rgb: Tensor, camera: Camera, depth: Tensor, spread: Tensor, recent: Recent
    ) -> tuple[Motion, Sweep]:
        """The same, and how well each velocity explains the judges: [B, S, V, h, w], S of the frames judge in some row."""
        judges = recent.usable if recent.judges is None else recent.judges
        sweep = self._sweep(rgb, camera, depth, recent, recent.usable | judges)
        motion = self._believe(rgb, camera, spread.detach(), recent, sweep)
        some = judges.any(0)
        known = sweep.known[:, some] & judges[:, some, None, None, None]
        return motion, Sweep(sweep.cost[:, some].contiguous(), known.contiguous())  # laid out as the belief is

    def _sweep(self, rgb: Tensor, camera: Camera, depth: Tensor, recent: Recent, asked: Tensor) -> Sweep:
        """Costs under every hypothesis, of each frame that is asked alone. [B, R, V, h, w]"""
        stride, number = rgb.shape[-1] // depth.shape[-1], recent.steps.shape[1]
        if not number:
            nothing = depth.new_zeros(len(depth), 0, len(self.velocities), *depth.shape[1:])
            return Sweep(nothing, nothing > 0)
        groups = torch.eye(number, dtype=torch.bool, device=asked.device) & asked.unsqueeze(1)
        around = recent.rgb, recent.poses, recent.steps
        return velocity_sweep(rgb, camera, depth, *around, groups, self.velocities, stride, self.depth_errors)

    def _believe(self, rgb: Tensor, camera: Camera, spread: Tensor, recent: Recent, sweep: Sweep) -> Motion:
        evidence, rest, count = self._evidence(sweep, recent.usable)
        local = _local_features(rgb, camera, spread, recent, rest, count)
        logits, trust = self.head(torch.cat([evidence, local], dim=1)).split([len(self.velocities), 1], dim=1)
        weight = trust.clamp(-0.7, 0.7).exp() * self.log_sharpness.exp()
        log_belief = torch.log_softmax(self._log_prior(spread) + (count > 0) * (weight * evidence + logits), dim=1)
        belief = log_belief[:, : self.rest].exp()
        moving = belief.sum(1)
        velocity = torch.einsum("bvhw,vi->bihw", belief, self.velocities[: self.rest])
        return Motion(log_belief, velocity / moving.unsqueeze(1).clamp_min(1e-30), moving)

    def _evidence(self, sweep: Sweep, usable: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What the usable frames say: log-likelihoods less that of rest, but for their sharpness; and how they like rest.

        A frame speaks of cells alone that it would show if they rest, and a velocity that leads out of it is at best as good as
        rest: what is not seen is no evidence for motion.

        Returns:
            Evidence [B, V, h, w], mean and least cost of rest [B, 2, h, w], number of frames that speak [B, 1, h, w].
        """
        if not usable.all():  # of the judges nothing need be computed
            some = usable.any(0)
            sweep, usable = Sweep(sweep.cost[:, some], sweep.known[:, some]), usable[:, some]
        speaks, rest = sweep.known[:, :, self.rest] & usable[..., None, None], sweep.cost[:, :, self.rest]
        cost = torch.where(sweep.known, sweep.cost, torch.maximum(sweep.cost, rest.unsqueeze(2)))
        evidence = ((rest.unsqueeze(2) - cost) * speaks.unsqueeze(2)).sum(1).contiguous()
        count = speaks.sum(1, keepdim=True).to(evidence)
        mean = (rest * speaks).sum(1, keepdim=True) / count.clamp_min(1.0)
        least = torch.cat([torch.where(speaks, rest, 2.0), torch.full_like(mean, 2.0)], dim=1).amin(1, keepdim=True)
        return evidence, torch.cat([mean, least], dim=1), count

    def _log_prior(self, spread: Tensor) -> Tensor:
        """Rest at depths as far off as they are doubtful, or any velocity. [B, V, h, w]"""
        errors = self.depth_errors[self.rest :, None, None] / spread.unsqueeze(1).clamp_min(LEAST_SPREAD)
        rests = F.logsigmoid(self.rest_log_odds) + torch.log_softmax(-0.5 * errors.square(), dim=1)
        moves = (F.logsigmoid(-self.rest_log_odds) + self.log_speeds)[:, None, None]
        return torch.cat([moves.expand(len(rests), -1, *rests.shape[2:]), rests], dim=1)


def _hypotheses() -> tuple[Tensor, Tensor]:
    """Velocities [V, 3] and errors of depth [V]: motions, rest, and rest at each of `DEPTH_ERRORS`."""
    reach = round(FASTEST_M / GRID_M)
    axis = torch.arange(-reach, reach + 1)
    x, y = torch.meshgrid(axis, axis, indexing="ij")
    tried = (x * x + y * y > 0) & (x * x + y * y <= (reach + 0.25) ** 2)
    moving = GRID_M * torch.stack([x[tried], y[tried], torch.zeros_like(x[tried])], dim=-1)
    velocities = torch.cat([moving, torch.zeros(1 + len(DEPTH_ERRORS), 3)])
    return velocities, torch.cat([torch.zeros(len(moving) + 1), torch.tensor(DEPTH_ERRORS)])


def _local_features(rgb: Tensor, camera: Camera, spread: Tensor, recent: Recent, rest: Tensor, count: Tensor) -> Tensor:
    """What else the network sees of a cell: colour, texture, doubt of depth, how fast that lets rest appear to move, what
    recent frames make of rest, and how many do. [B, 9, h, w]"""
    stride = rgb.shape[-1] // spread.shape[-1]
    colours = F.avg_pool2d(torch.cat([2.0 * rgb - 1.0, 10.0 * grey_range(rgb).unsqueeze(1)], dim=1), stride)
    offset = (recent.poses[..., :3, 3] - camera.world_from_camera[:, None, :3, 3]).norm(dim=-1)
    speeds = torch.where(recent.usable, offset / recent.steps.abs().clamp_min(1.0), 0.0)
    speed = speeds.sum(1) / recent.usable.sum(1).clamp_min(1)
    apparent = spread * speed[:, None, None] / FASTEST_M
    return torch.cat(
        [colours, spread.clamp_min(LEAST_SPREAD).log().unsqueeze(1), apparent.unsqueeze(1), rest, count / 3], dim=1
    )
