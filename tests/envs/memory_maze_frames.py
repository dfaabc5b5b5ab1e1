"""Runs Memory Maze through its adapter and saves what it showed: python memory_maze_frames.py FILE.npz, beside mujoco 3."""

from __future__ import annotations

import sys

import numpy as np

from liftwm_envs.adapters import make
from liftwm_envs.contract import check_env
from tests.envs.worlds import walk

FORWARD, LEFT = 1, 2


def main(out: str) -> None:
    env = make("memory_maze:9x9", truth=True, targets=1)
    faults = check_env(env, steps=1)  # two resets with one seed
    frames = walk(env, 7, [FORWARD] * 4 + [LEFT, LEFT])
    drawn = env.world.physics.render(64, 64, camera_id="walker/egocentric")
    depth = env.world.physics.render(64, 64, camera_id="walker/egocentric", depth=True)
    saved = {name: np.stack([frame[0][name] for frame in frames]) for name in frames[0][0]}
    for name in ("depth", "segmentation"):
        saved[name] = np.stack([frame[1]["truth"][name] for frame in frames])
    saved["position"] = np.stack([frame[1]["position"] for frame in frames])

    called = frames[-1][1]["truth"]["objects"][env.task._current_target_ix]
    ways, rewards = [frames[0][1]["shortest_path_m"]], []
    for away in (1.2, 0.7):  # from the target's centre; the two touch at 0.775 m
        env.world.physics.data.qpos[:2] += np.array(called["position"][:2]) + (away, 0) - env._data.xpos[env._body, :2]
        env.world.physics.data.qvel[:] = 0
        env.world.physics.forward()
        observation, reward, terminated, _, info = env.step(0)
        ways.append(info["distance_to_goal"])
        rewards.append([reward, terminated, info["success"]])
        saved[f"at_{away}"] = observation["rgb"]
    np.savez(out, faults=np.array(faults, str), dm_rgb=drawn, dm_depth=depth, ways=ways, rewards=rewards, **saved,
             colour=called["colour"], place=called["position"])  # fmt: skip


if __name__ == "__main__":
    main(sys.argv[1])
