"""nerfstudio's layout, an episode a folder: `transforms.json`, images/frame_00000.png, and depth/ with truth.

Frames are PNG and numbers keep all their digits: frames, poses and intrinsics come back bit for bit. The format has no place
for actions, rewards and goals. Depth is in millimetres, 16 bits: to a millimetre, and nothing beyond 65.5 m.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from PIL import Image

from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.exporters import Export
from embodied_liftwm.data.importers.nerfstudio import FILE, OPENGL, OURS
from embodied_liftwm.data.storage import group_name

MOST_MM = 65_535


def write(out: Path, export: Export) -> None:
    """Write all episodes, a folder each."""
    for index, episode in enumerate(export.episodes):
        _write_episode(out / group_name(index), episode, export)


def _write_episode(folder: Path, episode: Episode, export: Export) -> None:
    (folder / "images").mkdir(parents=True)
    poses = episode.world_from_camera.astype(np.float64) * OPENGL
    frames = [{"file_path": f"images/frame_{t:05d}.png", "transform_matrix": pose.tolist()} for t, pose in enumerate(poses)]
    for frame, rgb in zip(frames, episode.rgb, strict=True):
        Image.fromarray(rgb).save(folder / str(frame["file_path"]), compress_level=1)
    if episode.truth is not None and episode.truth.has("depth"):
        (folder / "depth").mkdir()
        for t, depth in enumerate(episode.truth.depth.astype(np.float64) * 1000):
            frames[t]["depth_file_path"] = f"depth/frame_{t:05d}.png"
            near = np.where(depth.round() <= MOST_MM, depth.round(), 0).astype(np.uint16)
            Image.fromarray(near).save(folder / f"depth/frame_{t:05d}.png", compress_level=1)
    (fx, _, cx), (_, fy, cy), _ = episode.intrinsics.tolist()
    height, width = episode.image_size
    told = {"camera_model": "OPENCV", "fl_x": fx, "fl_y": fy, "cx": cx, "cy": cy, "w": width, "h": height, "frames": frames}
    told[OURS] = {"dataset": export.info, "meta": episode.meta}
    (folder / FILE).write_text(json.dumps(told, indent=1))
