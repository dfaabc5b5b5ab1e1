"""Plans of scenes from above, as inline SVG: walls, screens and objects as they are, paths, and what a state remembers."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from embodied_liftwm.evaluation.report.pictures import data_uri, point_picture
from embodied_liftwm.evaluation.views.strips import PointMap

MARGIN_M = 0.3


@dataclass(frozen=True)
class Path:
    """A way through the plan."""

    points: Sequence[Sequence[float]]  # world xy, metres
    colour: str  # CSS
    dashed: bool = False


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
    parts = []
    if cloud is not None and len(cloud.points):
        picture = data_uri(point_picture(cloud, (x0, y0, x1, y1)))
        parts.append(f'<image href="{picture}" x="{x0:.2f}" y="{-y1:.2f}" width="{x1 - x0:.2f}" height="{y1 - y0:.2f}"/>')
    parts += [_line(wall, "wall") for wall in scene.get("walls", [])]
    parts += [_screen(screen["rectangle"]) for screen in scene.get("screens", [])]
    parts += [_object(item, cloud is not None, item["id"] in (goal, marked)) for item in scene.get("objects", [])]
    parts += [_path(path) for path in paths]
    if guess is not None:
        parts.append(_cross(guess[0], guess[1]))
    box = f"{x0:.2f} {-y1:.2f} {x1 - x0:.2f} {y1 - y0:.2f}"
    return f'<svg class="plan" viewBox="{box}" role="img">{"".join(parts)}</svg>'


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


def _line(ends: Sequence[float], kind: str) -> str:
    return f'<line class="{kind}" x1="{ends[0]:.2f}" y1="{-ends[1]:.2f}" x2="{ends[2]:.2f}" y2="{-ends[3]:.2f}"/>'


def _screen(rectangle: Sequence[float]) -> str:
    x, y, half_length, half_width, yaw = rectangle
    size = f'width="{2 * half_length:.2f}" height="{2 * half_width:.2f}"'
    turn = f"translate({x:.2f} {-y:.2f}) rotate({-math.degrees(yaw):.1f})"
    return f'<rect class="screen" transform="{turn}" x="{-half_length:.2f}" y="{-half_width:.2f}" {size}/>'


def _object(item: dict[str, Any], outline: bool, ringed: bool) -> str:
    x, y = item["position"][:2]
    radius = float(item.get("radius", item.get("size", 0.2)))
    colour = "#" + "".join(f"{round(255 * min(max(float(c), 0.0), 1.0)):02x}" for c in item["colour"])
    look = 'class="object outline"' if outline else f'class="object" fill="{colour}"'
    ring = f'<circle class="ring" cx="{x:.2f}" cy="{-y:.2f}" r="{radius + 0.14:.2f}"/>' if ringed else ""
    return f'<circle {look} cx="{x:.2f}" cy="{-y:.2f}" r="{radius:.2f}"/>{ring}'


def _path(path: Path) -> str:
    if not len(path.points):
        return ""
    joined = " ".join(f"{point[0]:.2f},{-point[1]:.2f}" for point in path.points)
    dash = ' stroke-dasharray="0.12 0.1"' if path.dashed else ""
    x, y = path.points[-1][0], -path.points[-1][1]
    end = f'<circle cx="{x:.2f}" cy="{y:.2f}" r="0.1" fill="{path.colour}"/>'
    return f'<polyline class="path" points="{joined}" stroke="{path.colour}"{dash}/>{end}'


def _cross(at: Sequence[float], colour: str) -> str:
    x, y, r = at[0], -at[1], 0.16
    strokes = (f"M{x - r:.2f} {y - r:.2f}L{x + r:.2f} {y + r:.2f}", f"M{x - r:.2f} {y + r:.2f}L{x + r:.2f} {y - r:.2f}")
    return f'<path class="cross" stroke="{colour}" d="{"".join(strokes)}"/>'
