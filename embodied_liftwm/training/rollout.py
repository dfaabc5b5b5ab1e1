"""A batch of windows through a model: observe the context in order, then render the targets and foresee the steps."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from embodied_liftwm.data.sampling import Batch
from embodied_liftwm.geometry.cameras import back_project, project, resize_intrinsics
from embodied_liftwm.geometry.distributions import DiagonalGaussian
from embodied_liftwm.geometry.se3 import inverse_pose, relative_pose, se3_log
from embodied_liftwm.geometry.view_selection import has_parallax
from embodied_liftwm.memory.frames.recent import STEPS
from embodied_liftwm.objectives.observations import ObservedViews, TeacherObservations
from embodied_liftwm.objectives.terms import Lifted, Moved, Rollout, Viewed
from embodied_liftwm.priors.contract import Kind
from embodied_liftwm.protocols import Camera, Observation
from embodied_liftwm.training.batches import Windows
from embodied_liftwm.training.teacher_windows import Observed
from embodied_liftwm.world_model.base import BaseWorldModel
from embodied_liftwm.world_model.encoder import Sources
from embodied_liftwm.world_model.motion import Recent

MONOCULAR_EVERY = 4
"""Every so many context frames, the first among them, are encoded without sources, as the first of an episode is."""
SAME_DEPTH = 0.2
"""Share of a depth by which two lifts of one surface may differ: with this one they say about as often as the truth does that a
surface was in view before."""
WARPED_SOURCES = 2
"""Sources that a model which does not lift is compared with."""


def roll_out(model: BaseWorldModel[Any], windows: Windows, only_geometry: bool = False) -> Rollout:
    """Run the model over a batch and collect what the terms read.

    Args:
        model: any of ours.
        windows: on their device (`batches.to_device`), of any dataset: what its body does and what its task gives is left out
            where they are not the model's.
        only_geometry: lift, but write and render nothing: cheap, and all that depth learns from.
    """
    with model.seeing((windows.batch.rgb.shape[-2], windows.batch.rgb.shape[-1])):
        return _roll_out(model, windows, only_geometry)


def _roll_out(model: BaseWorldModel[Any], windows: Windows, only_geometry: bool) -> Rollout:
    b = windows.batch
    cameras = _cameras(b.intrinsics, b.world_from_camera, model.image_size)
    context = b.rgb.shape[1]
    sources = _sources(b.world_from_camera, b.source_rgb[:, :context], b.source_world_from_camera[:, :context])
    remembered = torch.arange(sources.usable.shape[1], device=sources.usable.device) < model.config.stereo_sources
    matched = sources.usable & remembered
    matched.unflatten(0, b.rgb.shape[:2])[:, ::MONOCULAR_EVERY] = False
    sources = sources._replace(usable=matched, judges=sources.usable & ~remembered)  # what is matched cannot judge as well
    sources = sources._replace(recent=_recent(b, slice(0, context)))
    encoding, sweep, motion, velocities = model.encode_matched(b.rgb.flatten(0, 1), cameras, sources)
    step = model.ego_motion(b.action, se3_log(relative_pose(b.pose_prev, b.pose_before))) if windows.own_body else None
    lifted = None
    if sweep is not None:
        rgb = F.avg_pool2d(b.rgb.flatten(0, 1), model.config.stride)
        intrinsics = resize_intrinsics(cameras.intrinsics, 1.0 / model.config.stride)
        lifted = Lifted(encoding.log_belief, encoding.depth, sweep.cost, sweep.known, rgb, encoding.normal, intrinsics)
    viewed, rendered = (None, {}) if only_geometry else _view(model, windows, encoding)
    return Rollout(
        batch_size=len(b.rgb),
        lifted=lifted,
        viewed=viewed,
        moved=None if motion is None or velocities is None else Moved(motion.log_belief, velocities.cost, velocities.known),
        twist=se3_log(relative_pose(b.pose_before, b.pose_after)),
        twist_mean=None if step is None else step.mean,
        twist_scale=None if step is None else step.scale,
        teachers=_observations(model, windows.observed, rendered),
    )


def _view(model: BaseWorldModel[Any], windows: Windows, encoding: Any) -> tuple[Viewed, dict[str, ObservedViews]]:
    """Write the context frames in order, foreseeing the task at each; then render the targets, and what teachers imagined."""
    b = windows.batch
    batch_size, context = b.rgb.shape[:2]
    size = model.image_size
    state, predictions, kls = model.training_state(batch_size, context), [], []
    passed = b.context_index.diff(dim=1).to(b.intrinsics)
    own_task = b.goal.shape[-1] == model.shapes.goal_dim
    for k in range(context):
        state = model.pass_time(state, passed[:, k - 1]) if k else state
        camera = Camera(b.intrinsics, b.world_from_camera[:, k], *size)
        first = torch.full((batch_size,), k == 0, device=b.rgb.device)
        seen = Observation(b.rgb[:, k], camera, b.context_action[:, k], first, b.goal[:, k] if own_task else None)
        part = type(encoding)(*(x.unflatten(0, (batch_size, context))[:, k] for x in encoding))
        prior = model.latent_prior(state, camera)
        if prior is not None:
            posterior = DiagonalGaussian(part.latents.movedim(1, -1), part.latent_scale.movedim(1, -1))
            kls.append(posterior.kl(prior).sum((1, 2)) / (3 * size[0] * size[1]))  # a frame has so many numbers
            part = part._replace(latents=posterior.sample(_noise(b.noise_seed, k, posterior.mean)).movedim(-1, 1))
        state = model.write(state, part, seen)
        if own_task:
            predictions.append(model.predict(state))
    cameras = _cameras(b.intrinsics, b.target_world_from_camera, size)
    after = (b.target_index - b.context_index[:, -1:]).to(b.intrinsics)
    decoded = model.decode(state, cameras, after.flatten()).decoded
    depth, spread = _lift_targets(model, b, cameras)
    was_seen = None if depth is None else _was_seen(b, encoding.depth.detach(), depth, cameras)
    viewed = Viewed(
        target_rgb=b.target_rgb.flatten(0, 1),
        rgb=decoded.rgb,
        scale=decoded.scale,
        depth=decoded.depth,
        camera=cameras,
        source_rgb=b.source_rgb[:, context:, -WARPED_SOURCES:].flatten(0, 1),
        source_world_from_camera=b.source_world_from_camera[:, context:, -WARPED_SOURCES:].flatten(0, 1),
        lifted_depth=depth,
        lifted_spread=spread,
        seen=decoded.seen,
        was_seen=was_seen,
        kl=torch.stack(kls, dim=1) if kls else None,
        reward=b.context_reward,
        reward_mean=torch.stack([p.reward for p in predictions], dim=1) if own_task else None,
        continued=1.0 - b.context_terminated.float(),
        continuation=torch.stack([p.continuation for p in predictions], dim=1) if own_task else None,
    )
    return viewed, _render_views(model, state, windows)


def _render_views(model: BaseWorldModel[Any], state: Any, windows: Windows) -> dict[str, ObservedViews]:
    """What the model shows where teachers imagined views, beside them."""
    b, found = windows.batch, {}
    for name, views in windows.observed.get("views", {}).items():
        cameras = _cameras(b.intrinsics, views.world_from_camera, model.image_size)
        after = (views.frame - b.context_index[:, -1:]).to(b.intrinsics)
        decoded = model.decode(state, cameras, after.flatten()).decoded
        found[name] = ObservedViews(views.rgb.flatten(0, 1), views.confidence.flatten(0, 1), decoded.rgb, decoded.scale)
    return found


def _observations(
    model: BaseWorldModel[Any], observed: Observed, views: dict[str, ObservedViews]
) -> TeacherObservations | None:
    """What teachers observed in the windows, frames of all windows along one axis; None where there is no teacher."""
    if not observed:
        return None

    def of_frames(kind: Kind) -> dict[str, Any]:
        return {name: type(o)(*(x.flatten(0, 1) for x in o)) for name, o in observed.get(kind, {}).items()}

    return TeacherObservations(
        log_planes=torch.zeros(0) if model.log_planes is None else model.log_planes,
        stride=model.config.stride,
        depth=of_frames("depth"),
        normals=of_frames("normals"),
        points=of_frames("points"),
        matches=observed.get("matches", {}),
        views=views,
    )


@torch.no_grad()
def _lift_targets(model: BaseWorldModel[Any], b: Batch[Tensor], cameras: Camera) -> tuple[Tensor | None, Tensor | None]:
    """Depth and spread that the lift sees in the target frames, as data: at full size, None where the model does not lift."""
    context = b.rgb.shape[1]
    rgb, poses = b.source_rgb[:, context:], b.source_world_from_camera[:, context:]
    sources = _sources(b.target_world_from_camera, rgb, poses)
    encoding, sweep = model.encode_matched(b.target_rgb.flatten(0, 1), cameras, sources)[:2]
    if sweep is None:
        return None, None
    both = torch.stack([encoding.depth, encoding.spread], dim=1)
    depth, spread = F.interpolate(both, scale_factor=model.config.stride, mode="nearest").unbind(1)
    return depth, spread


def _noise(seeds: Tensor, frame: int, like: Tensor) -> Tensor:
    """Standard normal noise of one context frame: the same for the same window, in any process. Shape and device of `like`."""
    drawn = []
    for seed in seeds.tolist():
        generator = torch.Generator().manual_seed(seed + frame)
        drawn.append(torch.randn(like.shape[1:], generator=generator))
    return torch.stack(drawn).to(like)


@torch.no_grad()
def _was_seen(b: Batch[Tensor], context_depth: Tensor, depth: Tensor, cameras: Camera) -> Tensor:
    """Which target pixels some context frame has seen, if the lifted depths are right.

    Args:
        b: the batch.
        context_depth: lifted depth of the context frames' cells. [B * K, h, w]
        depth: lifted depth of the targets. [B * V, H, W]
        cameras: B * V cameras of the targets.

    Returns:
        [B * V, H, W] bool
    """
    batch, context = b.rgb.shape[:2]
    views, size = len(depth) // batch, depth.shape[1:]
    points = back_project(depth, cameras.intrinsics, cameras.world_from_camera).view(batch, -1, 3)
    height, width = context_depth.shape[1:]
    scale = width / size[1]
    seen = torch.zeros(points.shape[:2], dtype=torch.bool, device=depth.device)
    for k in range(context):
        pixels, z = project(points, b.intrinsics, inverse_pose(b.world_from_camera[:, k]))
        column, row = (pixels * scale).floor().long().unbind(-1)
        inside = (z > 1e-2) & (column >= 0) & (column < width) & (row >= 0) & (row < height)
        cell = torch.where(inside, row * width + column, 0)
        shown = context_depth.view(batch, context, -1)[:, k].gather(1, cell)
        seen |= inside & ((z - shown).abs() < SAME_DEPTH * shown)
    return seen.view(batch * views, *size)


def _recent(b: Batch[Tensor], frames: slice) -> Recent | None:
    """The frames shortly before and after those numbered `frames`; which the model will have, and which judge."""
    rgb, poses, steps = (x[:, frames].flatten(0, 1) for x in (b.recent_rgb, b.recent_world_from_camera, b.recent_steps))
    if not rgb.shape[1]:
        return None
    there, remembered = steps != 0, torch.arange(rgb.shape[1], device=rgb.device) < len(STEPS)
    return Recent(rgb, poses, steps, there & remembered, there & ~remembered)


def _sources(world_from_camera: Tensor, rgb: Tensor, poses: Tensor) -> Sources:
    """Sources [B, K, S, ...] of frames at [B, K, 4, 4], flattened to B * K; usable are those with parallax."""
    poses = poses.flatten(0, 1)
    return Sources(rgb.flatten(0, 1), poses, has_parallax(world_from_camera.flatten(0, 1), poses))


def _cameras(intrinsics: Tensor, poses: Tensor, size: tuple[int, int]) -> Camera:
    """Cameras of views [B, V, 4, 4] that share each row's intrinsics [B, 3, 3], flattened to B * V."""
    views = poses.shape[1]
    return Camera(intrinsics.repeat_interleave(views, dim=0), poses.flatten(0, 1), *size)
