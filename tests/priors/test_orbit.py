"""Cameras that circle what a frame looks at, and the windows shown to view generators."""

from __future__ import annotations

import math

import numpy as np
import torch

from embodied_liftwm.geometry.cameras import project
from embodied_liftwm.geometry.se3 import inverse_pose, look_at
from embodied_liftwm.priors.contract import Clip
from embodied_liftwm.priors.generative import orbit
from tests import toy_room

POINT = torch.tensor([[0.3, -0.2, 0.7]])


def test_frames_are_spread_evenly() -> None:
    assert orbit.chosen_frames(49, 4).tolist() == [6, 18, 30, 42]
    assert orbit.chosen_frames(3, 4).tolist() == [0, 1, 2]
    assert orbit.chosen_frames(1, 4).tolist() == [0]


def test_the_point_looked_at_is_swept_from_other_frames() -> None:
    """A camera that walks sideways past a textured wall: the point is where the ray-traced depth has it."""
    poses = [toy_room.pose(0.2, -0.6 + 0.1 * k, 0.1) for k in range(13)]
    frames, depths = zip(*(toy_room.render(pose, 64, scene=3) for pose in poses))
    rgb = torch.from_numpy(np.stack(frames)).permute(0, 3, 1, 2).float() / 255
    clip = Clip(rgb, torch.from_numpy(toy_room.intrinsics(64)), torch.from_numpy(np.stack(poses)))
    chosen = torch.tensor([2, 6, 10])
    found = orbit.look_at_points(clip, chosen)
    assert found.told.all()
    for point, k in zip(found.points, chosen.tolist()):
        true = depths[k][31:33, 31:33].mean()
        assert abs((point - clip.world_from_camera[k, :3, 3]).norm().item() - true) < 0.05 * true
    standing = Clip(clip.rgb[:1], clip.intrinsics, clip.world_from_camera[:1])
    guessed = orbit.look_at_points(standing, torch.tensor([0]))
    assert not guessed.told.any()
    assert math.isclose((guessed.points[0] - standing.world_from_camera[0, :3, 3]).norm().item(), 2.0, rel_tol=1e-5)


def test_turning_changes_the_angles_asked_for_and_nothing_else() -> None:
    eye = torch.tensor([[2.0, 1.0, 1.6]])
    roll = torch.tensor([[0.3, -0.1, 1.0]])
    pose = look_at(eye, POINT, up=roll)
    new = orbit.turned(pose, POINT, torch.tensor([math.radians(10)]), torch.tensor([math.radians(25)]))
    before, after = np.array(eye - POINT)[0], np.array(new[0, :3, 3] - POINT[0])

    def angles(x: np.ndarray) -> np.ndarray:
        return np.degrees([np.arccos(x[2] / np.linalg.norm(x)), np.arctan2(x[1], x[0])])

    np.testing.assert_allclose(angles(after) - angles(before), [10, 25], atol=1e-3)
    np.testing.assert_allclose(np.linalg.norm(after), np.linalg.norm(before), rtol=1e-6)
    torch.testing.assert_close(new[:, :3, :3] @ new[:, :3, :3].mT, torch.eye(3)[None], rtol=0, atol=1e-5)
    intrinsics = torch.tensor([[[40.0, 0, 32], [0, 40, 24], [0, 0, 1]]])
    for camera in (pose, new):
        pixel, depth = project(POINT[:, None], intrinsics, inverse_pose(camera))
        torch.testing.assert_close(pixel, torch.tensor([[[32.0, 24.0]]]), rtol=0, atol=1e-4)
        torch.testing.assert_close(depth[0, 0].item(), float(np.linalg.norm(before)), rtol=1e-5, atol=0)
    upright = look_at(eye, POINT)
    around = orbit.turned(upright, POINT, torch.tensor([-0.2]), torch.tensor([0.5]))
    torch.testing.assert_close(around, look_at(around[:, :3, 3], POINT), rtol=0, atol=1e-5)  # no roll before, none after


def test_turning_works_straight_above_the_point() -> None:
    pose = look_at(POINT + torch.tensor([[0.0, 0, 2]]), POINT, up=torch.tensor([[0.0, 1, 0]]))
    new = orbit.turned(pose, POINT, torch.tensor([0.4]), torch.tensor([0.0]))
    polar, _, radius = orbit.spherical(new[:, :3, 3], POINT)
    torch.testing.assert_close(torch.stack([polar, radius]), torch.tensor([[0.4], [2.0]]), rtol=0, atol=1e-3)


def test_windows_have_the_field_of_view_asked_for_where_the_image_holds_it() -> None:
    wide = torch.tensor([[30.0, 0, 40], [0, 30, 24], [0, 0, 1]])
    window = orbit.middle_window(wide, 48, 80, math.radians(60))
    assert window == (24 - 17, 40 - 17, 34, 34)  # 30 tan 30 degrees = 17.3
    narrow = torch.tensor([[90.0, 0, 40], [0, 90, 24], [0, 0, 1]])
    assert orbit.middle_window(narrow, 48, 80, math.radians(60)) == (0, 16, 48, 48)


def test_what_is_cut_and_pasted_stays_in_place() -> None:
    window = orbit.Window(7, 23, 34, 34)
    ramp = torch.stack(torch.meshgrid(torch.arange(48) + 0.5, torch.arange(80) + 0.5, indexing="ij")) / 80
    rgb = torch.cat([ramp, ramp[:1]])[None]
    shown = orbit.cut(rgb, window, 128)
    centres = (torch.arange(128) + 0.5) * 34 / 128
    torch.testing.assert_close(shown[0, 0, 2:-2, 5] * 80, 7 + centres[2:-2])  # the border repeats the last pixel
    torch.testing.assert_close(shown[0, 1, 5, 2:-2] * 80, 23 + centres[2:-2])
    back, inside = orbit.paste(shown, window, 48, 80)
    assert back.shape == rgb.shape and inside.sum() == 34 * 34 and inside[0, 7, 23] == 1 and inside[0, 6, 23] == 0
    torch.testing.assert_close(back[..., 9:39, 25:55], rgb[..., 9:39, 25:55], rtol=0, atol=1e-3)
    assert (back * (1 - inside) == 0).all()
