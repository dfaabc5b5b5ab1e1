"""The body that carries the camera: what a planner measures a world in, so that it knows no metres of any.

Heights are multiples of the camera's height above the floor, widths of the body's radius, moves of its step. A configuration
says them (`planner.body`), or the environment (its attribute `body`); else they are measured when an episode begins, on the
tour's poses and on what the state shows of it. Of a world twice as large the map is then the same map.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from embodied_liftwm.config import BodyConfig
from embodied_liftwm.errors import UserError
from liftwm_agents.observations import told_by

RADIUS = 4 / 15  # of the camera's height, where nothing says it: our bases (0.2 of 0.75 m) and MiniWorld's agent (0.4 of 1.5 m)
STEP = 4 / 15  # likewise, of a tour that never moved
MOVING, FULL = 0.01, 95.0  # of the camera's height: less is no move; the percentile of moves that is a full step: many are less
LOW, TOP = 10.0, 98.0  # percentiles of heights, of what is below the camera and of all: floor, and walls; beyond is noise
AT_ZERO = 0.2  # of the camera's height: most worlds have their floor at z = 0, and what lies so low is floor in any case
FEW = 32  # points below the camera that show a floor


@dataclass(frozen=True)
class Body:
    """Lengths of one agent in one episode, in the world's unit."""

    camera_height_m: float  # above the floor
    radius_m: float  # of what must not touch anything
    step_m: float  # a full action moves so far
    floor_m: float = 0.0  # z of the floor
    top_m: float = np.inf  # highest that anything stands above the floor

    @classmethod
    def of_height(cls, camera_height_m: float) -> Body:
        """A body of which nothing but the camera's height is known."""
        return cls(camera_height_m, RADIUS * camera_height_m, STEP * camera_height_m)

    @property
    def unit_m(self) -> float:
        """What prices are counted in: five radii, which are a metre for a body of 0.2 m."""
        return 5.0 * self.radius_m


def measure_body(positions: np.ndarray, points: np.ndarray, known: BodyConfig) -> Body:
    """Measure a body on where its camera has been and on what a state shows around.

    Args:
        positions: camera centres in the order of time, in the world. [P, 3]
        points: world positions of surface. [M, 3]
        known: what is not to be measured.
    """
    eye = float(np.median(positions[:, 2]))
    floor = eye - known.camera_height_m if known.camera_height_m else _floor_below(eye, points[:, 2])
    height = known.camera_height_m or eye - floor
    moves = np.linalg.norm(np.diff(positions, axis=0), axis=1)
    moves = moves[moves > MOVING * height]
    step = float(np.percentile(moves, FULL)) if len(moves) else STEP * height
    top = float(np.percentile(points[:, 2], TOP)) - floor if len(points) >= FEW else np.inf
    return Body(height, known.radius_m or RADIUS * height, known.step_m or step, floor, top)


def _floor_below(eye: float, z: np.ndarray) -> float:
    """Height of the floor below a camera; 0, or one unit below the camera, where too little shows it."""
    below = z[z < eye]
    if len(below) < FEW:
        return 0.0 if eye > 0 else eye - 1.0
    floor = float(np.percentile(below, LOW))
    return 0.0 if abs(floor) < AT_ZERO * (eye - floor) else floor


def known_of(environment: Any, known: BodyConfig) -> BodyConfig:
    """What a configuration says of a body, and what else the environment does: its attribute `body`, a mapping.

    Raises:
        UserError: `body` is no mapping of these names to lengths.
    """
    told = told_by(environment, "body")
    if told is None:
        return known
    names = tuple(asdict(known))
    if not isinstance(told, Mapping) or not set(told) <= set(names):
        raise UserError(f"the environment's body: expected a mapping of {', '.join(names)} to lengths, got {told!r:.80}")
    return replace(known, **{name: float(value) for name, value in told.items() if not getattr(known, name)})
