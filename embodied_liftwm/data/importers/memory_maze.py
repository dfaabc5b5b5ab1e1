"""Memory Maze's offline trajectories (Pasukonis et al. 2022, arXiv:2210.13383): SOURCE/*.npz, an episode each.

    image [F, 64, 64, 3] uint8, action [F, 6] one-hot and reward [F]: those of the step that led to the frame
    agent_pos, agent_dir [F, 2]: in cells of the maze, and a unit vector; maze_layout [F, n, n]; target_color [F, 3] in [0, 1]

`pose_of` gives the camera, which the files do not hold. The border of each picture shows the colour of the target: it becomes
the goal, as a colour [F, 3], and is black in the frames.
"""

from __future__ import annotations

import math
from functools import partial
from pathlib import Path

import numpy as np

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers.arrays import build_episode
from embodied_liftwm.data.importers.frames import Size, pinhole
from embodied_liftwm.data.importers.npz import npz_files, read_npz
from embodied_liftwm.data.importers.source import Settings, Source
from embodied_liftwm.errors import UserError

NEEDED = ("image", "action", "reward", "agent_pos", "agent_dir", "maze_layout", "target_color")
CELL_M = 2.0
"""`xy_scale` of memory_maze/tasks.py."""
AHEAD_M, HEIGHT_M, SLOPE = 0.15, 0.9, 0.1
"""Of the camera: ahead of agent_pos, above the floor, and how far it looks down a metre ahead (5.71 degrees). Measured in
the simulator of memory-maze 1.0.3: exact but for the height, which is 0.8999 m on average and within 5 mm (the ball rolls)."""
FOVY = math.radians(80)
"""Of dm_control's camera `walker/egocentric`."""


def pose_of(agent_pos: np.ndarray, agent_dir: np.ndarray, cells: int) -> np.ndarray:
    """Where the camera is.

    Args:
        agent_pos: in cells, from the corner of the maze without its outer walls. [..., 2]
        agent_dir: unit vector of where the agent looks. [..., 2]
        cells: a side of the maze without its outer walls.

    Returns:
        world_from_camera: OpenCV pose, metres, origin in the middle of the maze, z up. [..., 4, 4] float64
    """
    ahead = np.asarray(agent_dir, np.float64)
    ahead = ahead / np.linalg.norm(ahead, axis=-1, keepdims=True)
    level = np.concatenate([ahead, np.zeros_like(ahead[..., :1])], -1)
    forward = (level - [0, 0, SLOPE]) / math.hypot(1, SLOPE)
    right = np.stack([level[..., 1], -level[..., 0], level[..., 2]], -1)
    ground = (np.asarray(agent_pos, np.float64) - cells / 2) * CELL_M + AHEAD_M * ahead
    pose = np.zeros((*ahead.shape[:-1], 4, 4))
    pose[..., :3, 0], pose[..., :3, 1], pose[..., :3, 2] = right, np.cross(forward, right), forward
    pose[..., :2, 3], pose[..., 2, 3], pose[..., 3, 3] = ground, HEIGHT_M, 1
    return pose


def border_px(side: int) -> int:
    """Width of the border that shows the target's colour, of a picture with this side: as memory_maze/wrappers.py draws it."""
    return int(2 * math.sqrt(side // 64))


def recognises(source: Path) -> bool:
    """Whether the first NPZ file holds a trajectory."""
    files = npz_files(source)
    if not files:
        return False
    try:
        with np.load(files[0], allow_pickle=False) as file:
            return {"image", "agent_pos", "agent_dir"} <= set(file.files)
    except Exception:  # whatever it is, `npz` says what is wrong with it
        return False


def open_source(source: Path, settings: Settings) -> Source:
    """All trajectories of a folder.

    Raises:
        UserError: there is none.
    """
    files = npz_files(source)
    if not files:
        raise UserError(f"{source}: no NPZ file in it")
    clips = [(path.stem, partial(_clip, path, settings.size)) for path in files]
    return Source({"env": "MemoryMaze", "source_format": "memory_maze"}, clips)


def _clip(path: Path, size: Size | None) -> Episode:
    found = read_npz(path, NEEDED)
    if missing := [name for name in NEEDED if name not in found]:
        raise UserError(f"{path}: no {missing[0]}: expected a trajectory of Memory Maze, with {', '.join(NEEDED)}")
    rgb = found["image"]
    for name in ("agent_pos", "agent_dir"):
        if found[name].shape != (len(rgb), 2):
            raise UserError(f"{path}: {name}: expected [{len(rgb)}, 2], got {list(found[name].shape)}")
    if rgb.ndim == 4:
        edge = border_px(rgb.shape[1])
        inside = np.zeros(rgb.shape[1:3], bool)
        inside[edge : rgb.shape[1] - edge, edge : rgb.shape[2] - edge] = True
        rgb = rgb * inside[..., None]
    height, width = rgb.shape[1:3] if rgb.ndim == 4 else (64, 64)
    focal = height / 2 / math.tan(FOVY / 2)
    arrays = {
        "rgb": rgb,
        "action": found["action"][1:],
        "reward": found["reward"][1:],
        "goal": found["target_color"],
        "intrinsics": pinhole(focal, focal, width / 2, height / 2),
        "world_from_camera": pose_of(found["agent_pos"], found["agent_dir"], found["maze_layout"].shape[-1]),
    }
    return build_episode(arrays, size, str(path), {"clip": path.stem, "env": "MemoryMaze"})
