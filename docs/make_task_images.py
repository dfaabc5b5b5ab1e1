"""Draw the pictures of docs/tasks.md: an ego strip and a top-down plan for each task.

python docs/make_task_images.py
"""

from __future__ import annotations

from pathlib import Path

import gymnasium
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Circle, Polygon, Rectangle
from PIL import Image

from liftwm_envs.policies import OraclePolicy
from liftwm_envs.scene import Scene

OUT = Path(__file__).parent / "images" / "tasks"
FRAMES, SCALE, COLOURS = 8, 2, 256
PICTURES = (("Revisit", "S", 0), ("Revisit", "M", 8), ("Occlusion", "S", 7), ("Occlusion", "M", 3), ("MovingOcclusion", "S", 9))


def record(env_id: str, seed: int) -> tuple[list[np.ndarray], np.ndarray, int, Scene, int]:
    """One oracle episode at 64 x 64: frames, positions [T+1, 2], step of the call, scene, goal id."""
    env = gymnasium.make(env_id, disable_env_checker=True)
    obs, info = env.reset(seed=seed)
    policy, frames, positions, called, done = OraclePolicy(env), [obs["rgb"]], [info["position"]], -1, False
    while not done:
        obs, _, terminated, truncated, info = env.step(policy.act(obs, info))
        frames.append(obs["rgb"])
        positions.append(info["position"])
        if info["phase"] == "call" and called < 0:
            called = len(frames) - 1
        done = terminated or truncated
    scene, task = env.unwrapped.scene, env.unwrapped.task
    env.close()
    return frames, np.array(positions), called, scene, task.goal.id


def draw_strip(frames: list[np.ndarray], called: int, path: Path) -> None:
    """The tour in five frames, then from the call (red line) to the goal in three."""
    before = np.linspace(0, called - 1, FRAMES - 3).astype(int)
    after = np.linspace(called, len(frames) - 1, 3).astype(int)
    tiles = [np.pad(frames[k], ((2, 2), (2, 2), (0, 0)), constant_values=255) for k in (*before, *after)]
    strip = np.concatenate(tiles, axis=1)
    cut = tiles[0].shape[1] * len(before)
    strip[:, cut - 2 : cut + 2] = (220, 30, 30)
    image = Image.fromarray(strip).resize((strip.shape[1] * SCALE, strip.shape[0] * SCALE), Image.Resampling.NEAREST)
    image.quantize(COLOURS, method=Image.Quantize.MAXCOVERAGE).save(path, optimize=True)


def draw_plan(scene: Scene, positions: np.ndarray, called: int, goal: int, path: Path) -> None:
    """Rooms, screens and, where they are at the call, objects from above; the tour in grey and the way from the call in red."""
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
    places = {track.object_id: track.place(called) for track in scene.tracks}
    for item in scene.objects:
        place = places.get(item.id, np.array(item.position))
        axes.add_patch(Circle(place, item.radius_m, facecolor=item.colour, edgecolor="black", linewidth=0.5))
        axes.annotate(item.shape, place, ha="center", va="center", fontsize=6)
    item = scene.objects[goal - 1]
    meeting = [track.place(track.next_exit(called)) for track in scene.tracks if track.object_id == goal]
    axes.add_patch(Circle(meeting[0] if meeting else item.position, item.radius_m + 0.6, fill=False, ec="red", ls=":"))
    axes.plot(*positions[: called + 1].T, color="#888888", linewidth=1.5, label="tour")
    axes.plot(*positions[called:].T, color="red", linewidth=2, label="from the call")
    axes.plot(*positions[0], "k^", markersize=6, label="start")
    axes.legend(loc="lower right", fontsize=7)
    x0, y0, x1, y1 = scene.bounds
    axes.set_xlim(x0 - 0.1, x1 + 0.1)
    axes.set_ylim(y0 - 0.1, y1 + 0.1)
    axes.set_aspect("equal")
    axes.axis("off")
    figure.savefig(path)
    Image.open(path).convert("RGB").quantize(64).save(path, optimize=True)


def _box(x: float, y: float, half_length: float, half_width: float, yaw: float, **style: object) -> Polygon:
    corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * (half_length, half_width)
    cos, sin = np.cos(yaw), np.sin(yaw)
    return Polygon(corners @ np.array([[cos, sin], [-sin, cos]]) + (x, y), closed=True, **style)


def main() -> None:
    """Write all pictures."""
    OUT.mkdir(parents=True, exist_ok=True)
    for task, size, seed in PICTURES:
        frames, positions, called, scene, goal = record(f"liftwm/{task}-{size}-v0", seed)
        name = f"{task.lower()}-{size.lower()}"
        draw_strip(frames, called, OUT / f"{name}-ego.png")
        draw_plan(scene, positions, called, goal, OUT / f"{name}-plan.png")
    total = sum(file.stat().st_size for file in OUT.glob("*.png"))
    print(f"{OUT}: {total / 1000:.0f} kB")


if __name__ == "__main__":
    main()
