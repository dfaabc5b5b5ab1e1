"""Draw the pictures of docs/tasks.md: an ego strip and a top-down plan for each task.

python docs/make_task_images.py [Task-Size | randomised ...]     all of them, unless some are named
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import gymnasium
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from PIL import Image

from liftwm_envs.rooms.scene import Scene
from liftwm_envs.rooms.shells import CUP_RADIUS_M
from liftwm_envs.settings import REACH_M
from liftwm_envs.tasks.policies import OraclePolicy

OUT = Path(__file__).parent / "images" / "tasks"
FRAMES, SCALE, COLOURS = 8, 2, 256
PICTURES = {
    "Revisit-S": 0,
    "Revisit-M": 8,
    "Revisit-L": 4,
    "Occlusion-S": 7,
    "Occlusion-M": 3,
    "MovingOcclusion-S": 9,
    "ShellGame-S": 2,
    "Search-M": 7,
}
"""Task and size, and the seed of the scene."""


@dataclass(frozen=True)
class Recorded:
    """One oracle episode."""

    frames: list[np.ndarray]  # [64, 64, 3] uint8
    positions: np.ndarray  # [T + 1, 2] metres
    called: int  # the frame of the call
    goals: list[int]  # ids of the objects called, in order
    watched: np.ndarray  # frames of the tour to show
    scene: Scene


def record(env_id: str, seed: int) -> Recorded:
    """An episode at 64 x 64."""
    env = gymnasium.make(env_id, disable_env_checker=True)
    obs, info = env.reset(seed=seed)
    policy, frames, positions, called, done = OraclePolicy(env), [obs["rgb"]], [info["position"]], -1, False
    goals: list[int] = []
    while not done:
        obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
        frames.append(obs["rgb"])
        positions.append(info["position"])
        if info["phase"] == "call" and called < 0:
            called = len(frames) - 1
        if info["goal_object"] and info["goal_object"] not in goals:
            goals.append(info["goal_object"])
        done = terminated or truncated
    scene, sim = env.unwrapped.scene, env.unwrapped.sim
    began = [sim.steps - sim.elapsed(k) for k in range(len(scene.shows))]
    span = (began[0] - 1, began[0] + scene.shows[0].duration_steps) if began else (0, called - 1)
    env.close()
    return Recorded(frames, np.array(positions), called, goals, np.linspace(*span, FRAMES - 3).astype(int), scene)


def draw_strip(episode: Recorded, path: Path) -> None:
    """The tour in five frames (of cups: until after their last swap), then from the call (red line) to the goal in three."""
    frames = episode.frames
    after = np.linspace(episode.called, len(frames) - 1, 3).astype(int)
    tiles = [np.pad(frames[k], ((2, 2), (2, 2), (0, 0)), constant_values=255) for k in (*episode.watched, *after)]
    strip = np.concatenate(tiles, axis=1)
    cut = tiles[0].shape[1] * len(episode.watched)
    strip[:, cut - 2 : cut + 2] = (220, 30, 30)
    _save(strip, path)


def draw_randomised(path: Path) -> None:
    """The first frames of randomised rooms."""
    env = gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True, randomise=True)
    frames = [np.pad(env.reset(seed=seed)[0]["rgb"], ((2, 2), (2, 2), (0, 0)), constant_values=255) for seed in range(FRAMES)]
    env.close()
    _save(np.concatenate(frames, axis=1), path)


def _save(strip: np.ndarray, path: Path) -> None:
    image = Image.fromarray(strip).resize((strip.shape[1] * SCALE, strip.shape[0] * SCALE), Image.Resampling.NEAREST)
    image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def draw_plan(episode: Recorded, path: Path) -> None:
    """Rooms, screens and, where they are at the call, objects from above; the tour in grey and the way from the call in red."""
    scene, positions, called = episode.scene, episode.positions, episode.called
    figure = Figure(figsize=(4.2, 4.2), dpi=90)
    axes = figure.add_axes((0, 0, 1, 1))
    for room in scene.rooms:
        x0, y0, x1, y1 = room.interior
        axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, color="#f2efe8"))
    for x, y, half_length, half_width, yaw in scene.wall_rectangles:
        axes.add_patch(_box(x, y, half_length, half_width, yaw, color="#444444"))
    for screen in scene.screens:
        axes.add_patch(_box(*screen.rectangle, facecolor="none", edgecolor="#777777", linewidth=2, hatch="///"))
    for track in scene.tracks:
        axes.plot(*np.transpose([track.start, track.end]), color="#777777", linewidth=1, linestyle="--", zorder=1.5)
    places = _places_at(scene, called)
    _draw_objects(axes, scene, places)
    for goal in episode.goals:
        item = scene.objects[goal - 1]
        meeting = [track.place(track.next_exit(called)) for track in scene.tracks if track.object_id == goal]
        radius = CUP_RADIUS_M if scene.shows else item.radius_m
        axes.add_patch(Circle(meeting[0] if meeting else places[goal], radius + REACH_M, fill=False, ec="red", ls=":"))
    axes.plot(*positions[: called + 1].T, color="#888888", linewidth=1.5, label="tour")
    axes.plot(*positions[called:].T, color="red", linewidth=2, label="from the call")
    axes.plot(*positions[0], "k^", markersize=6, label="start")
    axes.legend(loc="upper left" if scene.shows else "lower right", fontsize=7)
    x0, y0, x1, y1 = scene.bounds
    axes.set_xlim(x0 - 0.1, x1 + 0.1)
    axes.set_ylim(y0 - 0.1, y1 + 0.1)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def _places_at(scene: Scene, step: int) -> dict[int, np.ndarray]:
    """Where each object is at a step after the last show, by id."""
    places = {item.id: np.array(item.position) for item in scene.objects}
    places |= {track.object_id: track.place(step) for track in scene.tracks}
    for show in scene.shows:
        places |= {show.first_id + k: place for k, place in enumerate(show.places(show.duration_steps))}
    return places


def _draw_objects(axes: Axes, scene: Scene, places: dict[int, np.ndarray]) -> None:
    """Objects, and cups as rings around them."""
    hidden = {show.first_id + k for show in scene.shows for k in range(len(show.slots))}
    for item in scene.objects:
        place = places[item.id]
        axes.add_patch(Circle(place, item.radius_m, facecolor=item.colour, edgecolor="black", linewidth=0.5))
        axes.annotate(item.shape, place, ha="center", va="center", fontsize=6 if len(scene.objects) < 13 else 4.5)
        if item.id in hidden:
            axes.add_patch(Circle(place, CUP_RADIUS_M, fill=False, edgecolor="#777777", linewidth=2))


def _box(x: float, y: float, half_length: float, half_width: float, yaw: float, **style: object) -> Polygon:
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (half_length, half_width)
    cos, sin = np.cos(yaw), np.sin(yaw)
    return Polygon(corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y), closed=True, **style)


def main() -> None:
    """Write the pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    for name in sys.argv[1:] or (*PICTURES, "randomised"):
        if name == "randomised":
            draw_randomised(OUT / "randomised.png")
            continue
        episode = record(f"liftwm/{name}-v0", PICTURES[name])
        draw_strip(episode, OUT / f"{name.lower()}-ego.png")
        draw_plan(episode, OUT / f"{name.lower()}-plan.png")
    total = sum(file.stat().st_size for file in OUT.glob("*.png"))
    print(f"{OUT}: {total / 1000:.0f} kB")


if __name__ == "__main__":
    main()
