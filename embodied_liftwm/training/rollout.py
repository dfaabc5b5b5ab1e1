"""A batch of windows through a model: observe the context in order, then render the targets and foresee the steps."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.data.sampling import Batch
from embodied_liftwm.geometry.se3 import relative_pose, se3_log
from embodied_liftwm.objectives.terms import DepthPair, Rollout
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.world_model.base import BaseWorldModel


def to_tensors(batch: Batch, device: str) -> dict[str, Tensor]:
    """Arrays of a batch as tensors; images [..., H, W, 3] uint8 become [..., 3, H, W] float32 in [0, 1]."""
    tensors = {field.name: torch.from_numpy(getattr(batch, field.name)).to(device) for field in fields(batch)}
    for name in ("rgb", "target_rgb", "source_rgb"):
        tensors[name] = tensors[name].movedim(-1, -3).float() / 255.0
    return tensors


def roll_out(model: BaseWorldModel[Any], t: dict[str, Tensor]) -> Rollout:
    """Run the model over a batch (see `data.sampling.Batch` for the tensors' shapes) and collect what the terms read."""
    batch_size, context = t["rgb"].shape[:2]
    targets = t["target_rgb"].shape[1]
    size = model.image_size
    flat = _cameras(t["intrinsics"], t["world_from_camera"], size)
    encoding = model.encode(t["rgb"].flatten(0, 1), flat)
    state, predictions = model.initial_state(batch_size), []
    for k in range(context):
        camera = Camera(t["intrinsics"], t["world_from_camera"][:, k], size, size)
        first = torch.full((batch_size,), k == 0, device=t["rgb"].device)
        seen = Observation(t["rgb"][:, k], camera, t["context_action"][:, k], first, t["goal"][:, k])
        part = type(encoding)(*(x.unflatten(0, (batch_size, context))[:, k] for x in encoding))
        state = model.write(state, part, seen)
        predictions.append(model.predict(state))
    target_cameras = _cameras(t["intrinsics"], t["target_world_from_camera"], size)
    decoded = model.decode(state, target_cameras).decoded
    motion = model.ego_motion(t["action"], se3_log(relative_pose(t["pose_prev"], t["pose_before"])))
    sources = (t["source_rgb"], t["source_world_from_camera"])
    return Rollout(
        batch_size=batch_size,
        target_rgb=t["target_rgb"].flatten(0, 1),
        rendered_rgb=decoded.rgb,
        rendered_scale=decoded.scale,
        rendered=DepthPair(
            decoded.depth, t["target_rgb"].flatten(0, 1), target_cameras, *(s[:, context:].flatten(0, 1) for s in sources)
        ),
        lifted=_lifted(encoding, t, flat, context),
        twist=se3_log(relative_pose(t["pose_before"], t["pose_after"])),
        twist_mean=motion.mean,
        twist_scale=motion.scale,
        reward=t["context_reward"],
        reward_mean=torch.stack([p.reward for p in predictions], dim=1),
        continued=1.0 - t["context_terminated"].float(),
        continuation=torch.stack([p.continuation for p in predictions], dim=1),
    )


def _cameras(intrinsics: Tensor, poses: Tensor, size: int) -> Camera:
    """Cameras of views [B, V, 4, 4] that share each row's intrinsics [B, 3, 3], flattened to B * V."""
    views = poses.shape[1]
    return Camera(intrinsics.repeat_interleave(views, dim=0), poses.flatten(0, 1), size, size)


def _lifted(encoding: Any, t: dict[str, Tensor], camera: Camera, context: int) -> DepthPair | None:
    """Depth of the context frames at full resolution, where the model's encoding has any."""
    if not hasattr(encoding, "depth"):
        return None
    size = (camera.height, camera.width)
    depth = F.interpolate(encoding.depth.unsqueeze(1), size=size, mode="bilinear", align_corners=False).squeeze(1)
    sources = (t["source_rgb"][:, :context].flatten(0, 1), t["source_world_from_camera"][:, :context].flatten(0, 1))
    return DepthPair(depth, t["rgb"].flatten(0, 1), camera, *sources)
