"""MiniWorld through its adapter, on the real package."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

from liftwm_envs.adapters import is_name, make
from liftwm_envs.contract import check_env
from liftwm_envs.errors import EnvError
from tests.envs.worlds import walk, warp_errors

pytestmark = pytest.mark.worlds
TASKS = ["FourRooms", "PutNext", "RoomObjects", "Sign"]
"""One of each kind: a box, two boxes, no goal, a goal beside the picture. Other tasks load more meshes, which takes seconds."""
LEFT, RIGHT, FORWARD = 0, 1, 2


@pytest.fixture
def build() -> Iterator[Callable[..., Any]]:
    pytest.importorskip("pyglet", reason="MiniWorld is not installed")
    made = []

    def build(task: str, **options: Any) -> Any:
        try:
            made.append(make(f"miniworld:{task}", **options))
        except EnvError as error:
            if "cannot start" in str(error):
                pytest.skip(str(error))
            raise
        return made[-1]

    yield build
    for env in made:
        env.close()


@pytest.mark.parametrize("task", TASKS)
def test_every_kind_of_task_meets_the_contract(build: Callable[..., Any], task: str) -> None:
    env = build(task, image_size="32x48", truth=True)
    assert check_env(env) == []
    (seen, info), *_ = walk(env, 1, [])
    assert env.observation_space.contains(seen)
    assert seen["rgb"].shape == info["truth"]["depth"].shape + (3,) == (32, 48, 3)


def test_depth_and_pose_carry_one_frame_into_another(build: Callable[..., Any]) -> None:
    env = build("FourRooms", image_size="48x64", truth=True)
    frames = walk(env, 2, [FORWARD] * 4 + [LEFT, FORWARD, FORWARD])
    share, depth, colour = warp_errors(frames[0], frames[-1])
    assert share > 0.5
    assert depth < 0.01
    assert colour < 3


def test_depth_is_along_the_axis_and_the_pose_is_metric(build: Callable[..., Any]) -> None:
    """The floor lies at height 0 in the world, at every pixel that shows it: ray lengths would bend it."""
    env = build("OneRoom", image_size=64, truth=True)
    (seen, info), *_ = walk(env, 2, [])
    pose = seen["world_from_camera"].reshape(4, 4).astype(float)
    depth = info["truth"]["depth"].astype(float)
    v, u = np.mgrid[0:64, 0:64] + 0.5
    k = seen["intrinsics"].reshape(3, 3)
    rays = np.stack([(u - k[0, 2]) / k[0, 0], (v - k[1, 2]) / k[1, 1], np.ones_like(u)], -1)
    heights = (rays * depth[..., None]) @ pose[2, :3] + pose[2, 3]
    assert pose[2, 3] == pytest.approx(1.5)
    floor = heights[60:]
    assert np.abs(floor).max() < 0.05


def test_the_pose_is_what_miniworld_moves_by(build: Callable[..., Any]) -> None:
    env = build("OneRoom")
    (first, at), (ahead, then), (turned, _) = walk(env, 0, [FORWARD, LEFT])
    start, moved, left = (seen["world_from_camera"].reshape(4, 4) for seen in (first, ahead, turned))
    assert np.allclose(moved[:3, 3] - start[:3, 3], 0.15 * start[:3, 2], atol=1e-5)
    assert np.allclose(then["position"] - at["position"], 0.15 * start[:2, 2], atol=1e-5)
    assert not then["bump"]
    yaw = [np.arctan2(pose[1, 2], pose[0, 2]) for pose in (start, left)]
    assert (yaw[1] - yaw[0]) % (2 * np.pi) == pytest.approx(np.radians(15), abs=1e-5)  # counter-clockwise, seen from above


def test_the_way_to_the_box_shortens_as_one_goes_there_and_ends_in_success(build: Callable[..., Any]) -> None:
    env = build("Hallway")
    seen, info = env.reset(seed=4)
    assert np.array_equal(seen["goal"], [1, 0, 0])
    way, done = info["shortest_path_m"], False
    box = np.array([env.world.box.pos[0], -env.world.box.pos[2]])
    walked, place = 0.0, info["position"]
    while not done:
        towards = box - info["position"]
        camera = seen["world_from_camera"].reshape(4, 4)
        turn = np.cross(camera[:2, 2], towards / np.hypot(*towards))
        action = FORWARD if abs(turn) < 0.14 else LEFT if turn > 0 else RIGHT
        seen, reward, done, truncated, info = env.step(action)
        walked, place = walked + float(np.hypot(*(info["position"] - place))), info["position"]
        assert not truncated
    assert info["success"]
    assert reward > 0.8
    assert info["distance_to_goal"] < 0.1
    assert walked == pytest.approx(way, abs=0.4)


def test_a_seed_decides_the_frames_beside_other_worlds_and_in_other_threads(build: Callable[..., Any]) -> None:
    env, other = build("FourRooms"), build("MazeS3")
    actions = [LEFT, FORWARD, FORWARD]
    first = walk(env, 7, actions)
    other.reset(seed=1)
    found: list[Any] = []

    def elsewhere() -> None:
        found.append(env.reset(seed=7)[0]["rgb"])
        for action in actions:
            other.step(FORWARD)
            found.append(env.step(action)[0]["rgb"])

    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert len(found) == 4
    assert all(np.array_equal(a[0]["rgb"], b) for a, b in zip(first, found, strict=True))


def test_names_that_are_none(build: Callable[..., Any]) -> None:
    build("OneRoom")
    assert is_name("miniworld:FourRooms") and not is_name("my_package:make_env")
    with pytest.raises(EnvError, match="unknown task of miniworld 'FourRoom': did you mean 'FourRooms'"):
        make("miniworld:FourRoom")
    with pytest.raises(EnvError, match="unknown world 'minworld': did you mean 'miniworld'"):
        make("minworld:FourRooms")
    with pytest.raises(EnvError, match="miniworld:OneRoom: .*colour"):
        make("miniworld:OneRoom", colour="red")
