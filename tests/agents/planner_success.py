"""How often the planner succeeds when memory is perfect, noisy, or gone: the table of docs/agents.md.

    python -m tests.agents.planner_success results/planner_oracle.csv

One row an episode. Scenes are seeds 2000 and up, which nothing was tuned on.
"""

from __future__ import annotations

import csv
import dataclasses
import sys
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d

import liftwm_envs  # noqa: F401  registers the ids
from embodied_liftwm.config import PlannerConfig
from embodied_liftwm.protocols import Camera, View
from liftwm_agents.planning.planner import PlannerPolicy
from liftwm_envs.embodiments import Drone
from liftwm_envs.wrappers import GuidedTour
from tests.agents.oracle_model import STEP_M, CloudState, DepthTap, OracleMemory

FIRST_SEED = 2000


class NoisyMemory(OracleMemory):
    """Depth 6 % off a frame and 8 % a pixel; greyer, blurred, noisy colours; imagines 20 to 30 % too short."""

    def tell(self, rgb: np.ndarray, depth: np.ndarray) -> None:
        rng = np.random.default_rng(len(self._depths))
        wrong = (1 + rng.normal(0, 0.06)) * (1 + rng.normal(0, 0.08, depth.shape))
        super().tell(rgb, np.asarray(depth, dtype=np.float32) * wrong.astype(np.float32))

    def imagine(self, state: CloudState, action: Tensor) -> CloudState:
        return super().imagine(state, action * torch.tensor([0.7, 0.8]))

    def render(self, state: CloudState, camera: Camera) -> View:
        view = super().render(state, camera)
        greyer = 0.8 * view.rgb + 0.2 * view.rgb.mean(dim=1, keepdim=True)
        return dataclasses.replace(view, rgb=avg_pool2d(greyer, 3, 1, 1) + 0.05 * torch.randn_like(greyer))


class DroneMemory(OracleMemory):
    """Imagines a drone that stays level."""

    def imagine(self, state: CloudState, action: Tensor) -> CloudState:
        twist = action @ torch.from_numpy(Drone.discrete_actions) if action.shape[1] == len(Drone.discrete_actions) else action
        ahead = state.world_from_camera[:, :2, 2]
        moved = super().imagine(state, twist[:, [0, 5]])
        pose = moved.world_from_camera.clone()
        pose[:, 0, 3] -= STEP_M * twist[:, 1] * ahead[:, 1]
        pose[:, 1, 3] += STEP_M * twist[:, 1] * ahead[:, 0]
        pose[:, 2, 3] += 0.5 * STEP_M * twist[:, 2]
        return dataclasses.replace(moved, world_from_camera=pose)


CASES: dict[str, tuple[type[OracleMemory], int, str, dict[str, Any], int]] = {
    "true depth": (OracleMemory, 200_000, "Revisit-S", {}, 40),
    "true depth, discrete": (OracleMemory, 200_000, "Revisit-S", {"action": "discrete"}, 20),
    "true depth, 10 % odometry noise": (OracleMemory, 200_000, "Revisit-S", {"odometry_noise": 0.1}, 20),
    "noisy depth, colours and imagination": (NoisyMemory, 200_000, "Revisit-S", {}, 40),
    "true depth, drone": (DroneMemory, 200_000, "Revisit-S", {"embodiment": "drone"}, 10),
    "true depth, M": (OracleMemory, 600_000, "Revisit-M", {}, 10),
    "true depth, Occlusion": (OracleMemory, 200_000, "Occlusion-S", {}, 10),
    "present frame alone": (OracleMemory, 1024, "Revisit-S", {}, 20),
}


def play(env: gym.Env, policy: PlannerPolicy | None, seed: int) -> dict[str, Any]:
    """One episode of the planner, or of random actions."""
    obs, info = env.reset(seed=seed)
    env.action_space.seed(seed)
    if policy is not None:
        policy.begin(info["tour"])
    steps, done = 0, False
    while not done:
        action = env.action_space.sample() if policy is None else policy.act(obs, info)
        obs, _, terminated, truncated, info = env.step(action)
        steps, done = steps + 1, terminated or truncated
    rate = float("nan") if policy is None else round(policy.diagnostics()["plans_per_second"], 1)
    return {"seed": seed, "success": int(info["success"]), "steps": steps, "plans_per_second": rate}


def main(path: str) -> None:
    """Run every case and write the rows."""
    torch.set_num_threads(1)
    columns = ["case", "env", "agent", "seed", "success", "steps", "plans_per_second"]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, columns)
        writer.writeheader()
        for case, (kind, capacity, name, options, episodes) in CASES.items():
            model = kind(capacity=capacity)
            made = gym.make(f"liftwm/{name}-v0", truth=True, disable_env_checker=True, **options)
            env = GuidedTour(DepthTap(made, model))
            for agent, policy in (
                ("planner", PlannerPolicy(model, PlannerConfig(), env.action_space, environment=env)),
                ("random", None),
            ):
                rows = []
                for seed in range(FIRST_SEED, FIRST_SEED + episodes):
                    rows.append({"case": case, "env": name, "agent": agent, **play(env, policy, seed)})
                    model._depths.clear()
                writer.writerows(rows)
                file.flush()
                print(f"{case}: {agent} {sum(row['success'] for row in rows)} / {episodes}", flush=True)
            env.close()


if __name__ == "__main__":
    main(sys.argv[1])
