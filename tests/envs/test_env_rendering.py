"""Frames: colour, depth, segmentation and cameras agree with the scene's geometry."""

from __future__ import annotations

import math

import gymnasium
import numpy as np
import pytest

from liftwm_envs import ENV_IDS, rendering
from liftwm_envs.cameras import back_project, intrinsics_from_fovy, world_from_opencv, yaw_of
from liftwm_envs.rooms.layout import make_scene
from liftwm_envs.rooms.scene import SceneOptions
from liftwm_envs.simulation import Simulation


@pytest.fixture
def sim():
    simulation = Simulation(make_scene(3, SceneOptions()), "wheels", (64, 64))
    yield simulation
    simulation.close()


def _turn(simulation: Simulation, steps: int, forward: float = 0.0) -> None:
    simulation.action[:] = (forward, 1.0)
    for _ in range(steps):
        simulation.step()


def test_camera_conversion_flips_y_and_z() -> None:
    pose = world_from_opencv([1.0, 2.0, 3.0], np.eye(3).ravel())
    # MuJoCo's identity camera looks along world -z with y up: OpenCV's z is world -z, its y (down) is world -y.
    assert np.array_equal(pose[:3, :3], np.diag([1.0, -1.0, -1.0]))
    assert np.array_equal(pose[:3, 3], [1.0, 2.0, 3.0])


def test_agent_looks_along_its_heading_with_y_down(sim: Simulation) -> None:
    pose = sim.camera_pose()
    assert math.isclose(yaw_of(pose), sim.scene.start[2], abs_tol=1e-9)
    assert np.allclose(pose[:3, 1], [0, 0, -1], atol=1e-9)
    assert np.allclose(pose[:2, 3], sim.scene.start[:2])
    assert math.isclose(np.linalg.det(pose[:3, :3]), 1.0)


def test_intrinsics_have_the_field_of_view_and_a_half_integer_centre() -> None:
    k = intrinsics_from_fovy(64, 64, 80.0)
    assert math.isclose(math.degrees(2 * math.atan(32 / k[1, 1])), 80.0, rel_tol=1e-6)
    assert k[0, 2] == k[1, 2] == 32.0


def test_a_wider_frame_shows_more_at_its_sides_and_the_same_between_them() -> None:
    """Pixels are square and the vertical field of view stays: so do focal length, rays and ids of the middle."""
    frames = []
    for size in ((48, 48), (48, 80)):
        simulation = Simulation(make_scene(3, SceneOptions()), "wheels", size)
        frames.append((*simulation.render(), simulation.intrinsics))
        simulation.close()
    (rgb, depth, ids, k), (wide_rgb, wide_depth, wide_ids, wide_k) = frames
    assert wide_rgb.shape == (48, 80, 3) and wide_depth.shape == wide_ids.shape == (48, 80)
    assert wide_k[0, 0] == wide_k[1, 1] == k[0, 0] and (wide_k[0, 2], wide_k[1, 2]) == (40.0, 24.0)
    middle = slice(16, 64)
    assert np.abs(wide_rgb[:, middle].astype(int) - rgb).mean() < 1.0
    assert np.median(np.abs(wide_depth[:, middle] / depth - 1)) < 1e-3 and (wide_ids[:, middle] == ids).mean() > 0.99


def test_sizes_are_told_alike_by_a_number_a_pair_and_text() -> None:
    for told, expected in ((32, (32, 32)), ((32, 48), (32, 48)), ("32x48", (32, 48)), ("16", (16, 16))):
        env = gymnasium.make("liftwm/Revisit-S-v0", image_size=told).unwrapped
        assert env.observation_space["rgb"].shape == (*expected, 3) == env.reset(seed=1)[0]["rgb"].shape
        assert env.task._seen_px == max(1, round(12 * expected[0] * expected[1] / 4096))
        env.close()


def test_back_projected_points_lie_on_known_surfaces(sim: Simulation) -> None:
    for _ in range(7):
        _turn(sim, 3)
        _, depth = sim.render_rgb_depth()
        points = back_project(depth, sim.intrinsics, sim.camera_pose())
        assert (depth > 0).all()
        assert points[..., 2].min() > -0.01  # floor
        assert points[..., 2].max() < 2.51  # ceiling
        x0, y0, x1, y1 = sim.scene.bounds
        inside = (points[..., 0] > x0) & (points[..., 0] < x1) & (points[..., 1] > y0) & (points[..., 1] < y1)
        assert inside.all()
        # The bottom row shows the floor wherever no object stands in the way.
        segmentation = sim.render_segmentation()
        low = points[-1][(segmentation[-1] == 0)]
        assert np.median(np.abs(low[:, 2])) < 0.005


def test_points_of_one_frame_reproject_into_another(sim: Simulation) -> None:
    rgb0, depth0 = sim.render_rgb_depth()
    points = back_project(depth0, sim.intrinsics, sim.camera_pose()).reshape(-1, 3)
    _turn(sim, 1, forward=0.5)
    _, depth1 = sim.render_rgb_depth()
    pose = sim.camera_pose()
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    pixels = local @ sim.intrinsics.T.astype(float)
    u, v = pixels[:, 0] / pixels[:, 2], pixels[:, 1] / pixels[:, 2]
    seen = (local[:, 2] > 0.1) & (u > 1) & (u < 63) & (v > 1) & (v < 63)
    assert seen.mean() > 0.4
    error = np.abs(depth1[v[seen].astype(int), u[seen].astype(int)] - local[seen, 2]) / local[seen, 2]
    assert np.median(error) < 0.02
    assert rgb0.std() > 20


def test_segmentation_marks_objects_where_they_are_and_in_their_colour() -> None:
    errors, found = [], 0
    for seed in range(6):
        simulation = Simulation(make_scene(seed, SceneOptions()), "wheels", (64, 64))
        for _ in range(7):
            _turn(simulation, 3)
            rgb, depth = simulation.render_rgb_depth()
            segmentation = simulation.render_segmentation()
            points = back_project(depth, simulation.intrinsics, simulation.camera_pose())
            for item in simulation.scene.objects:
                mask = segmentation == item.id
                if mask.sum() < 12:
                    continue
                found += 1
                offset = points[mask][:, :2] - item.position
                assert np.hypot(*offset.T).max() < item.radius_m + 0.02
                assert points[mask][:, 2].max() < item.height_m + 0.02
                colour = rgb[mask].mean(0) / 255
                errors.append(float(np.sqrt(np.mean((colour - item.colour) ** 2))))
        simulation.close()
    assert found > 20
    assert np.quantile(errors, 0.95) < 0.12


@pytest.mark.parametrize(("screens", "embodiment"), [(False, "wheels"), (True, "wheels"), (False, "drone")])
def test_objects_drawn_alone_are_hidden_by_what_stands_before_them(screens: bool, embodiment: str) -> None:
    """The same ids, pixel for pixel, as from a segmentation pass with everything in it."""
    hidden = 0
    for seed in range(6):
        simulation = Simulation(make_scene(seed, SceneOptions(screens=screens)), embodiment, (64, 64))
        draw, draw_all_ids = simulation.passes()
        for turn in range(8):
            for screen in simulation.scene.screens[: turn % 3]:
                simulation.lift_screen(screen.id)
            simulation.action[-1] = 1.0
            simulation.step()
            segmentation = simulation.render()[2]
            alone = simulation._renderer._lookup[simulation._renderer._ids[::-1, :, 0]] > 0
            draw()
            draw_all_ids()
            assert np.array_equal(_all_ids(simulation), segmentation)
            hidden += int((alone & (segmentation == 0)).sum())
        simulation.close()
    assert hidden > 500


def _all_ids(simulation: Simulation) -> np.ndarray:
    """Object ids of the last pass with everything in it, by the names of bodies. [H, W]"""
    renderer, model = simulation._renderer, simulation.model
    table = np.zeros(256, np.uint16)
    for k in range(renderer._scene.ngeom):
        geom = renderer._scene.geoms[k]
        name = model.body(model.geom_bodyid[geom.objid]).name
        table[geom.segid + 1] = int(name.removeprefix("object")) if name.startswith("object") else 0
    return table[renderer._ids[::-1, :, 0]]


def test_structure_is_desaturated_and_textured() -> None:
    for seed in range(4):
        simulation = Simulation(make_scene(seed, SceneOptions()), "wheels", (64, 64))
        rgb, _ = simulation.render_rgb_depth()
        structure = rgb[simulation.render_segmentation() == 0].astype(float)
        saturation = 1 - structure.min(1) / np.maximum(structure.max(1), 1)
        assert np.quantile(saturation, 0.98) < 0.4
        assert structure.mean(1).std() > 15
        simulation.close()


def test_recreated_environments_are_never_black() -> None:
    env = gymnasium.make("liftwm/Revisit-S-v0", disable_env_checker=True)
    reference = env.reset(seed=7)[0]["rgb"]
    for index in range(50):
        other = gymnasium.make(ENV_IDS[index % 4], disable_env_checker=True, image_size=32 if index % 3 else 64)
        assert other.reset(seed=index)[0]["rgb"].std() > 5
        if index % 2:
            other.close()  # the rest is left to the garbage collector
        del other
    assert np.array_equal(env.reset(seed=7)[0]["rgb"], reference)
    env.close()


def test_gl_objects_taken_over_from_another_scene_draw_the_same() -> None:
    def frame(seed: int) -> np.ndarray:
        simulation = Simulation(make_scene(seed, SceneOptions()), "wheels", (64, 64))
        for _ in range(3):
            _turn(simulation, 4)
        rgb, depth, segmentation = simulation.render()
        simulation.close()
        return np.concatenate([rgb, depth[..., None], segmentation[..., None]], 2)

    taken_over = [frame(seed) for seed in range(10)]  # differ in textures, cones and walls
    for seed, before in enumerate(taken_over):
        rendering._shared["spare"].clear()
        assert np.array_equal(frame(seed), before)


def test_renderer_is_named() -> None:
    assert rendering.describe_renderer().split(",")[0] in ("egl", "osmesa", "glfw")


def test_flat_texture_removes_patterns_but_not_objects() -> None:
    rich = Simulation(make_scene(3, SceneOptions()), "wheels", (64, 64))
    flat = Simulation(make_scene(3, SceneOptions(texture="flat")), "wheels", (64, 64))
    (rgb_rich, depth_rich), (rgb_flat, depth_flat) = rich.render_rgb_depth(), flat.render_rgb_depth()
    assert np.array_equal(depth_rich, depth_flat)
    detail = [np.abs(np.diff(rgb.astype(float), axis=1)).mean() for rgb in (rgb_rich, rgb_flat)]
    assert detail[1] < 0.5 * detail[0]
    rich.close()
    flat.close()
