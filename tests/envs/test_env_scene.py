"""Scenes and the plan: drawn from a seed, connected, describable; grids find the shortest way."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from liftwm_envs.rooms import textures
from liftwm_envs.rooms.layout import make_scene
from liftwm_envs.rooms.navigation import Grid, bounded_angle, distance_to_rectangles, path_length
from liftwm_envs.rooms.scene import PALETTE, SHAPES, SceneOptions
from liftwm_envs.tasks.policies import room_order


@pytest.mark.parametrize("rooms", [1, 2, 3, 4, 5, 9])
def test_every_room_and_object_can_be_reached(rooms: int) -> None:
    for seed in range(3):
        scene = make_scene(seed, SceneOptions(rooms=(rooms,), objects=(6, 12)))
        assert len(scene.rooms) == rooms
        reach = scene.grid.field_to(scene.start[:2])
        for room in scene.rooms:
            assert math.isfinite(reach[scene.grid.cell(room.centre)])
        for item in scene.objects:
            near = np.hypot(*np.moveaxis(scene.grid.centres - item.position, -1, 0)) < item.radius_m + 0.5
            assert np.isfinite(reach[near & scene.grid.free]).any()
        assert sorted(room_order(scene, np.array(scene.start[:2]))) == list(range(rooms))


def test_objects_have_distinct_colours_and_do_not_overlap() -> None:
    for seed in range(10):
        objects = make_scene(seed, SceneOptions(rooms=(4,), objects=(8, 12))).objects
        assert len({o.colour_name for o in objects}) == len(objects)
        for a in objects:
            for b in objects:
                if a.id < b.id:
                    assert np.hypot(*np.subtract(a.position, b.position)) > a.radius_m + b.radius_m


def test_screens_enclose_their_objects() -> None:
    for seed in range(5):
        scene = make_scene(seed, SceneOptions(objects=(3, 5), screens=True))
        assert len(scene.screens) == len(scene.objects)
        for screen, item in zip(scene.screens, scene.objects, strict=True):
            assert screen.object_id == item.id
            assert screen.height_m > item.height_m
            ring = np.array(item.position) + item.radius_m * np.array([[1, 0], [-1, 0], [0, 1], [0, -1]])
            assert distance_to_rectangles(ring, np.array([screen.rectangle])).max() == 0


def test_same_seed_same_scene_and_json_description() -> None:
    a, b, c = (make_scene(seed, SceneOptions()) for seed in (5, 5, 6))
    assert a == b
    assert a.describe() != c.describe()
    plan = json.loads(json.dumps(a.describe()))
    assert {"bounds", "walls", "rooms", "screens", "objects"} <= plan.keys()
    assert {"id", "shape", "colour", "size"} <= plan["objects"][0].keys()


def test_every_shape_and_colour_is_used() -> None:
    objects = [o for seed in range(20) for o in make_scene(seed, SceneOptions()).objects]
    assert {o.shape for o in objects} == set(SHAPES)
    assert {o.colour_name for o in objects} == set(PALETTE)


def test_palette_colours_are_clearly_different_and_far_from_structure() -> None:
    colours = np.array(list(PALETTE.values()))
    apart = np.sqrt(((colours[:, None] - colours[None]) ** 2).mean(-1)) + np.eye(len(colours))
    assert len(colours) >= 10
    assert apart.min() > 0.17
    rng = np.random.default_rng(0)
    for pattern in textures.WALL_PATTERNS:
        image = textures.structure_image(rng, pattern).reshape(-1, 3) / 255
        assert np.sqrt(((image[:, None] - colours) ** 2).mean(-1)).min() > 0.12


def test_textures_tile_without_a_seam() -> None:
    rng = np.random.default_rng(1)
    field = textures.noise(rng)
    wrap, inner = np.abs(field[0] - field[-1]).mean(), np.abs(np.diff(field, axis=0)).mean()
    assert wrap < 2 * inner


def test_grid_finds_the_way_around_a_wall() -> None:
    wall = np.array([[2.0, 1.5, 0.05, 1.5, 0.0]])  # from y = 0 to y = 3 at x = 2, in a room of 4 x 4
    grid = Grid((0, 0, 4, 4), wall, np.zeros((0, 3)), 0.2)
    field = grid.field_to((3.0, 1.0))
    path = grid.path(field, (1.0, 1.0))
    around = 2 * math.hypot(0.8, 2.2) + 0.45  # over the wall's end, with clearance
    assert not grid.is_clear(np.array([1.0, 1.0]), np.array([3.0, 1.0]))
    assert path_length(path) == pytest.approx(around, rel=0.05)
    assert path_length(path) <= field[grid.cell((1.0, 1.0))] + 0.2
    assert all(distance_to_rectangles(path, wall)[:, 0] > 0.19)


def test_bounded_angle() -> None:
    assert bounded_angle(3 * math.pi / 2) == pytest.approx(-math.pi / 2)
    assert bounded_angle(-7.0) == pytest.approx(2 * math.pi - 7.0)
