"""Plans of scenes from above, as inline SVG: walls, screens and objects as they are, paths, and what a state remembers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Rectangle

from embodied_liftwm.evaluation.report.charts import STYLE, VARIABLES, inline
from embodied_liftwm.evaluation.report.pictures import point_picture
from embodied_liftwm.evaluation.views.strips import PointMap

MARGIN_M = 0.3
INCHES_PER_M = 0.5
"""Scale of a plan: a stroke of one metre is 36 points wide."""
TEXT, SOFT = VARIABLES["var(--text)"], VARIABLES["var(--soft)"]


@dataclass(frozen=True)
class Path:
    """A way through the plan."""

    points: Sequence[Sequence[float]]  # world xy, metres
    colour: str  # of charts.VARIABLES, or any that CSS and matplotlib know


def plan(
    scene: dict[str, Any],
    paths: Sequence[Path] = (),
    cloud: PointMap | None = None,
    goal: int = 0,
    guess: tuple[Sequence[float], str] | None = None,
    marked: int = 0,
) -> str:
    """Draw one plan, x to the right and y up, at the scale of the scene's bounds.

    Args:
        scene: what `scene.describe()` gave: bounds, walls, screens, objects. Missing parts are not drawn.
        paths: ways, the first drawn first.
        cloud: what a state remembers; with it the truth is drawn in outline only.
        goal: id of the object that was called.
        guess: where an agent believed the goal to be (xy), and in which colour to draw it.
        marked: id of an object to ring.
    """
    x0, y0, x1, y1 = bounds_of(scene, paths, cloud)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(INCHES_PER_M * (x1 - x0), INCHES_PER_M * (y1 - y0)))
        axes = figure.add_axes((0, 0, 1, 1), xlim=(x0, x1), ylim=(y0, y1))
        axes.set_axis_off()
        if cloud is not None and len(cloud.points):
            picture = point_picture(cloud, (x0, y0, x1, y1))
            axes.imshow(picture, extent=(x0, x1, y0, y1), interpolation="none", aspect="auto")
        for ax, ay, bx, by in scene.get("walls", []):
            axes.plot([ax, bx], [ay, by], color=TEXT, linewidth=_points(0.1), solid_capstyle="projecting")
        for screen in scene.get("screens", []):
            _screen(axes, screen["rectangle"])
        for item in (item for item in scene.get("objects", []) if "position" in item):
            _object(axes, item, cloud is not None, item["id"] in (goal, marked))
        for path in (path for path in paths if len(path.points)):
            xs, ys = np.asarray(path.points, np.float64)[:, :2].T
            colour = VARIABLES.get(path.colour, path.colour)
            axes.plot(xs, ys, color=colour, alpha=0.85, linewidth=_points(0.06))
            axes.add_patch(Circle((xs[-1], ys[-1]), 0.1, color=colour, linewidth=0))
        if guess is not None:
            cross: dict[str, Any] = {"marker": "x", "markersize": _points(0.32), "markeredgewidth": _points(0.08)}
            axes.plot(*guess[0][:2], color=VARIABLES.get(guess[1], guess[1]), **cross)
        return inline(figure, "plan")


def bounds_of(
    scene: dict[str, Any], paths: Sequence[Path] = (), cloud: PointMap | None = None
) -> tuple[float, float, float, float]:
    """The scene's bounds with a margin; those of the paths or points where the scene says nothing."""
    if "bounds" in scene:
        x0, y0, x1, y1 = scene["bounds"]
    else:
        points = [np.asarray(path.points, np.float64)[:, :2] for path in paths if len(path.points)]
        points += [cloud.points[:, :2]] if cloud is not None and len(cloud.points) else []
        everything = np.concatenate(points) if points else np.zeros((1, 2))
        (x0, y0), (x1, y1) = np.percentile(everything, 1, axis=0), np.percentile(everything, 99, axis=0)
    return x0 - MARGIN_M, y0 - MARGIN_M, x1 + MARGIN_M, y1 + MARGIN_M


def _points(metres: float) -> float:
    return 72 * INCHES_PER_M * metres


def _screen(axes: Axes, rectangle: Sequence[float]) -> None:
    x, y, half_length, half_width, yaw = rectangle
    corner, size, angle = (x - half_length, y - half_width), (2 * half_length, 2 * half_width), math.degrees(yaw)
    turned = Rectangle(corner, *size, angle=angle, rotation_point="center", fill=False, edgecolor=SOFT, linewidth=_points(0.05))
    axes.add_patch(turned)


def _object(axes: Axes, item: dict[str, Any], outline: bool, ringed: bool) -> None:
    place, radius = item["position"][:2], float(item.get("radius", item.get("size", 0.2)))
    if outline:
        axes.add_patch(Circle(place, radius, fill=False, edgecolor=TEXT, linewidth=_points(0.035), linestyle=(0, (3, 2))))
    else:
        axes.add_patch(Circle(place, radius, color=tuple(np.clip(item["colour"], 0.0, 1.0)), linewidth=0))
    if ringed:
        axes.add_patch(Circle(place, radius + 0.14, fill=False, edgecolor=TEXT, linewidth=_points(0.05)))
