"""Frames that are kept with their depth come back as they were, shifted by parallax, and nothing else is shown."""

import pytest
import torch
from torch import Tensor

from embodied_liftwm.config import ModelConfig
from embodied_liftwm.memory.contract import Lifted
from embodied_liftwm.memory.frames.memory import DeepFrames, FrameMemory
from embodied_liftwm.protocols import Camera

SIZE, FOCAL, WALL_M = 16, 16.0, 2.0
MEMORY = FrameMemory(ModelConfig(latent_dim=4), (SIZE, SIZE))


def camera(*right_m: float) -> Camera:
    """Cameras that look at a wall, so far to the right of the origin."""
    pose = torch.eye(4).repeat(len(right_m), 1, 1)
    pose[:, 0, 3] = torch.tensor(right_m)
    k = torch.tensor([[FOCAL, 0, SIZE / 2], [0, FOCAL, SIZE / 2], [0, 0, 1]])
    return Camera(k.expand(len(right_m), 3, 3).clone(), pose, SIZE, SIZE)


def written(world: DeepFrames, rgb: Tensor, at: Camera, depth_m: float = WALL_M) -> DeepFrames:
    cells = torch.full((len(rgb), SIZE // 2, SIZE // 2), depth_m)
    pixels = torch.full((len(rgb), SIZE, SIZE), depth_m)
    latents = torch.zeros(len(rgb), 4, SIZE // 2, SIZE // 2)
    return MEMORY.write(world, Lifted(rgb, cells, cells, latents, cells, pixel_depth=pixels), at)


@pytest.fixture
def frames() -> Tensor:
    """One frame for each of two rows, in steps of a byte. [2, 3, SIZE, SIZE]"""
    torch.manual_seed(0)
    return torch.randint(0, 256, (2, 3, SIZE, SIZE)) / 255.0


def test_a_frame_comes_back_and_shifts_by_parallax(frames: Tensor):
    world = written(MEMORY.empty(2), frames, camera(0.0, 0.0))
    asked = camera(0.0, 0.25, 0.0, 0.25)  # two views a row; a quarter of a metre is two pixels at the wall
    read = MEMORY.read(world, asked)
    own, moved = read.features[0::2, :3], read.features[1::2, :3]
    assert torch.allclose(own, frames, atol=1e-3)
    assert torch.allclose(moved[..., :-3], frames[..., 2:-1], atol=1e-3)
    assert read.visible[0::2].all() and read.visible[1::2, :, :-3].all() and not read.visible[1::2, :, -1].any()
    assert torch.allclose(read.depth[0::2], torch.tensor(WALL_M), atol=1e-2)
    assert read.features.shape == (4, 7, SIZE, SIZE) and not read.features[:, 3:].any()


def test_holes_between_far_apart_pixels_are_closed(frames: Tensor):
    world = written(MEMORY.empty(2), frames, camera(0.0, 0.0))
    near = camera(0.0, 0.0)
    near.world_from_camera[:, 2, 3] = 0.85 * WALL_M  # a pixel of the frame is nearly seven of this view
    read = MEMORY.read(world, near)
    assert read.visible.all() and torch.allclose(read.depth, torch.tensor(0.15 * WALL_M), rtol=0.02)


def test_what_is_nearer_hides_and_nothing_is_seen_at_first(frames: Tensor):
    read = MEMORY.read(MEMORY.empty(2), camera(0.0, 0.0))
    assert not read.visible.any() and not read.features.any() and bool(read.depth.isfinite().all())
    far = written(MEMORY.empty(2), frames, camera(0.0, 0.0))
    near = written(far, 1.0 - frames, camera(0.1, 0.1), 1.0)
    seen = MEMORY.read(near, camera(0.1, 0.1))
    assert torch.allclose(seen.features[:, :3], 1.0 - frames, atol=1e-3)
    assert torch.allclose(MEMORY.read(far, camera(0.0, 0.0)).features[:, :3], frames, atol=1e-3)  # it holds what it held


def test_every_byte_is_counted_and_every_pixel_a_point(frames: Tensor):
    world = written(written(MEMORY.empty(2), frames, camera(0.0, 0.0)), frames, camera(0.5, 0.5))
    assert MEMORY.nbytes(world).charged == 2 * (2 * (5 * SIZE**2 + 4 * (9 + 16)) + 2 * 8)
    points = MEMORY.points(world)
    assert points.rgb is not None and int(points.weights.sum()) == 2 * 2 * SIZE**2
    assert torch.allclose(points.places[0, 1, 0], torch.tensor([0.5 - 7.5 / 8, -7.5 / 8, WALL_M]), atol=1e-3)
    assert torch.equal(points.rgb[:, 0, 0], frames[:, :, 0, 0])
