"""From what a Gymnasium environment returns to the tensors that a world model observes.

Environments give flat float32 vectors and uint8 images, one agent at a time; models take batches. This is the one place
where the two meet.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from embodied_liftwm.errors import UserError
from embodied_liftwm.goals import instruction_of
from embodied_liftwm.protocols import Camera, Observation

KEYS = ("rgb", "intrinsics", "world_from_camera", "goal")
"""What an environment must put into its observation dict."""


def to_observation(
    batch: Mapping[str, np.ndarray], action: np.ndarray, is_first: np.ndarray | bool, device: str | torch.device = "cpu"
) -> Observation:
    """Turn a batch of environment observations into the model's `Observation`.

    Args:
        batch: rgb [B, H, W, 3] uint8, intrinsics [B, 9] pixels, world_from_camera [B, 16], goal [B, G], or pictures
            [B, h, w, 3 or 4] uint8, of which models are told nothing.
        action: the action that led here, discrete ones one-hot. [B, A] float32
        is_first: the first frame of an episode. [B] bool, or one bool for all
        device: where the tensors go.

    Raises:
        UserError: the dict lacks a key, or rgb is no uint8 image.
    """
    missing = [key for key in KEYS if key not in batch]
    if missing:
        raise UserError(f"observation lacks {', '.join(missing)}: a camera-carrying environment gives {', '.join(KEYS)}")
    rgb = np.asarray(batch["rgb"])
    if rgb.dtype != np.uint8 or rgb.ndim != 4 or rgb.shape[-1] != 3:
        raise UserError(f"observation rgb: expected [B, H, W, 3] uint8, got {list(rgb.shape)} {rgb.dtype}")
    size, height, width = rgb.shape[:3]

    def floats(values: np.ndarray, *shape: int) -> Tensor:
        return torch.as_tensor(np.array(values, dtype=np.float32).reshape(size, *shape), device=device)

    first = np.broadcast_to(np.asarray(is_first, dtype=bool), (size,)).copy()
    return Observation(
        rgb=torch.as_tensor(np.ascontiguousarray(rgb), device=device).permute(0, 3, 1, 2).float() / 255.0,
        camera=Camera(floats(batch["intrinsics"], 3, 3), floats(batch["world_from_camera"], 4, 4), height, width),
        action=floats(action, -1),
        is_first=torch.as_tensor(first, device=device),
        goal=None if np.ndim(batch["goal"]) > 2 else floats(batch["goal"], -1),
    )


def instructed(obs: Mapping[str, np.ndarray], numbers: int) -> dict[str, np.ndarray]:
    """An observation, or stacked ones, with goals as models and policies know them: of a picture its colour, then zeros.

    Args:
        obs: `goal` is [G], which is left as it is, a picture [h, w, 3 or 4] uint8, or several [K, h, w, 3 or 4].
        numbers: of an instruction.
    """
    goal = np.asarray(obs["goal"])
    return {**obs, "goal": instruction_of(goal, numbers)} if goal.ndim > 2 else dict(obs)


def told_by(environment: Any, name: str) -> Any:
    """An attribute of an environment, or of the outermost wrapper around it that has one; None where none does."""
    while environment is not None and not hasattr(environment, name):
        environment = getattr(environment, "env", None)
    return getattr(environment, name, None)


def single(obs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Add the batch axis to one environment's observation."""
    return {key: np.asarray(value)[None] for key, value in obs.items() if key in KEYS}


def tour_observations(tour: Mapping[str, np.ndarray], device: str | torch.device = "cpu") -> Iterator[Observation]:
    """Yield the frames of a guided tour in order, batch of one; the first one opens the episode.

    Args:
        tour: stacked arrays of K frames as in `info["tour"]`: rgb [K, H, W, 3], intrinsics [K, 9],
            world_from_camera [K, 16], goal [K, G], action [K, A].
        device: where the tensors go.
    """
    for k in range(len(tour["rgb"])):
        frame = {key: tour[key][k : k + 1] for key in KEYS}
        yield to_observation(frame, tour["action"][k : k + 1], k == 0, device)


def is_last_frame(tour: Mapping[str, np.ndarray] | None, obs: Mapping[str, np.ndarray]) -> bool:
    """Whether a tour already ends with this observation, which must then not be observed a second time."""
    return tour is not None and all(np.array_equal(tour[key][-1], obs[key]) for key in KEYS)
