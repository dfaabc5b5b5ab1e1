"""A world model that needs no training: a coloured point cloud, written with true depth.

It shows what the agents do when memory is perfect, so that a failure in these tests is the agent's. Depth reaches it through
`DepthTap`, a wrapper around the environment, keyed by the image that the agent sees.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.protocols import Camera, Observation, Prediction, State, View

STEP_M, TURN_RAD = 0.2, 0.3
BASE_MOVES = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [1.0, 1.0], [1.0, -1.0]])


@dataclass(frozen=True)
class CloudState(State):
    """Points in the world frame in a ring buffer, and the believed camera."""

    points: Tensor  # [B, M, 6] xyz in metres, rgb
    valid: Tensor  # [B, M] bool
    head: Tensor  # [B] int64, next place to write
    intrinsics: Tensor  # [B, 3, 3]
    world_from_camera: Tensor  # [B, 4, 4]


class DepthTap(gym.Wrapper):
    """Hands the true depth of every frame to the model, and nothing to the agent."""

    def __init__(self, env: gym.Env, model: OracleMemory) -> None:
        super().__init__(env)
        self._model = model

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        obs, info = self.env.reset(**kwargs)
        self._model.tell(obs["rgb"], info["truth"]["depth"])
        return obs, info

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        self._model.tell(obs["rgb"], info["truth"]["depth"])
        return obs, reward, terminated, truncated, info


class OracleMemory:
    """Satisfies `WorldModel` with true depth, a unicycle for `imagine` and z-buffered points for `render`."""

    def __init__(self, image_size: int = 64, capacity: int = 60_000, stride: int = 2) -> None:
        self._size, self._capacity, self._stride = image_size, capacity, stride
        self._depths: dict[int, np.ndarray] = {}

    def tell(self, rgb: np.ndarray, depth: np.ndarray) -> None:
        self._depths[hash(rgb.tobytes())] = np.asarray(depth, dtype=np.float32)

    def initial_state(self, batch_size: int) -> CloudState:
        eye = torch.eye(4).repeat(batch_size, 1, 1)
        return CloudState(
            points=torch.zeros(batch_size, self._capacity, 6),
            valid=torch.zeros(batch_size, self._capacity, dtype=torch.bool),
            head=torch.zeros(batch_size, dtype=torch.int64),
            intrinsics=eye[:, :3, :3].clone(),
            world_from_camera=eye,
        )

    def observe(self, state: CloudState, observation: Observation) -> CloudState:
        points, valid, head = state.points.clone(), state.valid.clone(), state.head.clone()
        for b in range(len(head)):
            if observation.is_first[b]:
                valid[b], head[b] = False, 0
            new = self._lift(observation, b)
            places = (head[b] + torch.arange(len(new))) % self._capacity
            points[b, places], valid[b, places] = new, True
            head[b] = (head[b] + len(new)) % self._capacity
        camera = observation.camera
        return CloudState(points, valid, head, camera.intrinsics, camera.world_from_camera)

    def _lift(self, observation: Observation, b: int) -> Tensor:
        rgb = observation.rgb[b].permute(1, 2, 0)
        key = hash((rgb * 255).round().to(torch.uint8).numpy().tobytes())
        depth = torch.from_numpy(self._depths[key])
        v, u = torch.meshgrid(torch.arange(depth.shape[0]), torch.arange(depth.shape[1]), indexing="ij")
        keep = (depth > 0) & (u % self._stride == 0) & (v % self._stride == 0)
        pixels = torch.stack([u[keep] + 0.5, v[keep] + 0.5, torch.ones(int(keep.sum()))], dim=-1)
        pose = observation.camera.world_from_camera[b]
        in_camera = pixels @ torch.linalg.inv(observation.camera.intrinsics[b]).T * depth[keep][:, None]
        return torch.cat([in_camera @ pose[:3, :3].T + pose[:3, 3], rgb[keep]], dim=-1)

    def imagine(self, state: CloudState, action: Tensor) -> CloudState:
        moves = action @ BASE_MOVES if action.shape[1] == len(BASE_MOVES) else action
        turn = TURN_RAD * moves[:, 1]
        pose = state.world_from_camera
        heading = torch.atan2(pose[:, 1, 2], pose[:, 0, 2]) + 0.5 * turn
        spin = torch.eye(3).repeat(len(turn), 1, 1)
        spin[:, 0, 0], spin[:, 0, 1] = turn.cos(), -turn.sin()
        spin[:, 1, 0], spin[:, 1, 1] = turn.sin(), turn.cos()
        moved = pose.clone()
        moved[:, :3, :3] = spin @ pose[:, :3, :3]
        moved[:, 0, 3] += STEP_M * moves[:, 0] * heading.cos()
        moved[:, 1, 3] += STEP_M * moves[:, 0] * heading.sin()
        return dataclasses.replace(state, world_from_camera=moved)

    def render(self, state: CloudState, camera: Camera) -> View:
        views = [self._splat(state, camera, b) for b in range(len(state.head))]
        rgb, depth, seen = (torch.stack(parts) for parts in zip(*views, strict=True))
        return View(rgb, depth, seen)

    def _splat(self, state: CloudState, camera: Camera, b: int) -> tuple[Tensor, Tensor, Tensor]:
        points = state.points[b, : int(state.valid[b].sum())]
        pose = camera.world_from_camera[b]
        local = (points[:, :3] - pose[:3, 3]) @ pose[:3, :3]
        front = local[:, 2] > 0.05
        local, colour = local[front], points[front, 3:]
        pixels = local @ camera.intrinsics[b].T
        xy = (pixels[:, :2] / pixels[:, 2:]).floor().long()
        pixel_count = camera.height * camera.width
        depth = torch.full((pixel_count,), math.inf)
        rgb = torch.zeros(pixel_count, 3)
        # Each point covers 3 x 3 pixels so that nearer surfaces hide farther ones; ties are won by the nearest.
        around = torch.stack(torch.meshgrid(torch.arange(-1, 2), torch.arange(-1, 2), indexing="ij"), dim=-1).view(1, 9, 2)
        cells = xy[:, None] + around
        inside = ((cells >= 0) & (cells < torch.tensor([camera.width, camera.height]))).all(dim=-1)
        index = cells[..., 1] * camera.width + cells[..., 0]
        z = local[:, 2:].expand(-1, 9)
        index, z = index[inside], z[inside]
        colours = colour[:, None].expand(-1, 9, -1)[inside]
        depth.scatter_reduce_(0, index, z, "amin")
        winner = z <= depth[index]
        rgb[index[winner]] = colours[winner]
        seen = torch.isfinite(depth).float()
        depth = torch.where(seen > 0, depth, 0.0)
        shape = (camera.height, camera.width)
        return rgb.T.reshape(3, *shape), depth.view(shape), seen.view(shape)

    def predict(self, state: CloudState) -> Prediction:
        return Prediction(torch.zeros(len(state.head)), torch.ones(len(state.head)))

    def surprise(self, state: CloudState, observation: Observation) -> Tensor:
        return (self.render(state, observation.camera).rgb - observation.rgb).abs().mean(dim=(1, 2, 3))

    def summarize(self, state: CloudState) -> Tensor:
        return torch.stack([state.valid.float().mean(dim=1), state.head / self._capacity], dim=-1)

    def ego_camera(self, state: CloudState) -> Camera:
        return Camera(state.intrinsics, state.world_from_camera, self._size, self._size)
