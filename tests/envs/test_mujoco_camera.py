"""Any MuJoCo model with a camera, through its adapter: an arm that carries one at its wrist, and a base on wheels."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
import pytest

from liftwm_envs.adapters import make
from liftwm_envs.contract import check_env
from liftwm_envs.errors import EnvError
from tests.envs.worlds import walk, warp_errors

ROOM = """<mujoco>
  <option timestep="0.005" integrator="implicitfast"/>
  <visual><headlight active="0" ambient="0.3 0.3 0.3"/></visual>
  <asset>
    <texture type="skybox" builtin="gradient" rgb1="0.3 0.5 0.7" rgb2="0 0 0" width="64" height="64"/>
    <texture name="tiles" type="2d" builtin="checker" rgb1="0.8 0.7 0.6" rgb2="0.3 0.3 0.4" width="64" height="64"/>
    <material name="tiles" texture="tiles" texrepeat="6 6" specular="0"/>
  </asset>
  <worldbody>
    <light pos="0 0 3" castshadow="true"/>
    <geom name="floor" type="plane" size="3 3 0.1" material="tiles"/>
    <body name="cube" pos="{cube}"><freejoint/><geom type="box" size="0.1 0.1 0.1" rgba="1 0 0 1" mass="0.2"/></body>
    {robot}
  </worldbody>
  <actuator>{actuators}</actuator>
</mujoco>"""
ARM = """<body name="shoulder" pos="0 0 0.5"><joint name="turn" axis="0 0 1" range="-2 2" limited="true" damping="1"/>
  <geom type="capsule" fromto="0 0 0 0.4 0 0.1" size="0.05"/>
  <body name="wrist" pos="0.4 0 0.1"><joint name="bend" axis="0 1 0" range="-1 1.5" limited="true" damping="1"/>
    <geom type="box" size="0.05 0.03 0.03" mass="0.1"/>
    <camera name="wrist" pos="0.1 0 0" xyaxes="0 -1 0 0.6 0 0.8" fovy="70"/></body></body>
  <camera name="above" pos="0 0 4"/>"""
BASE = """<body name="base" pos="-1 0 0.2">
  <joint name="x" type="slide" axis="1 0 0"/><joint name="y" type="slide" axis="0 1 0"/><joint name="yaw" axis="0 0 1"/>
  <geom type="cylinder" size="0.15 0.1" mass="2"/>
  <camera name="front" pos="0.2 0 0.3" xyaxes="0 -1 0 0 0 1" sensorsize="0.004 0.003" focal="0.003 0.003" resolution="640 480"/>
  </body>"""


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., Any]]:
    made = []

    def build(robot: str, actuators: str, cube: str = "0.9 0 0.1", **options: Any) -> Any:
        path = tmp_path / "scenes" / "scene.xml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(ROOM.format(robot=robot, actuators=actuators, cube=cube))
        made.append(make(f"mujoco_camera:{path}", truth=True, **options))
        return made[-1]

    yield build
    for env in made:
        env.close()


def arm(build: Callable[..., Any], **options: Any) -> Any:
    servo = 'kp="40" ctrllimited="true"'
    return build(ARM, f'<position joint="turn" {servo} ctrlrange="-2 2"/><position joint="bend" {servo} ctrlrange="-1 1.5"/>',
                 **options)  # fmt: skip


def base(build: Callable[..., Any], **options: Any) -> Any:
    return build(BASE, "".join(f'<velocity joint="{joint}" kv="30"/>' for joint in ("x", "y", "yaw")), **options)


def test_an_arm_and_a_base_meet_the_contract(build: Callable[..., Any]) -> None:
    assert check_env(arm(build)) == []
    assert check_env(base(build, image_size="48x64")) == []


def test_frames_are_those_of_mujoco_and_depth_is_z_depth(build: Callable[..., Any]) -> None:
    env = arm(build, image_size="48x64")
    (_, _), (seen, info) = walk(env, 3, [[0.2, 0.4]])
    with mujoco.Renderer(env.model, 48, 64) as renderer:
        renderer.update_scene(env.data, "wrist")
        assert np.abs(renderer.render().astype(int) - seen["rgb"]).mean() < 0.5
    pose = seen["world_from_camera"].reshape(4, 4).astype(float)
    k = seen["intrinsics"].reshape(3, 3)
    assert k[1, 1] == pytest.approx(24 / np.tan(np.radians(35)))
    truth = info["truth"]
    for row, column in ((5, 5), (20, 30), (30, 32), (44, 60)):
        ray = np.array([(column + 0.5 - k[0, 2]) / k[0, 0], (row + 0.5 - k[1, 2]) / k[1, 1], 1.0])
        length = mujoco.mj_ray(env.model, env.data, pose[:3, 3], pose[:3, :3] @ ray, None, 1, -1, np.zeros(1, np.int32))
        assert truth["depth"][row, column] == pytest.approx(max(length, 0.0), abs=0.01)  # in units of the ray, whose depth is 1


def test_depth_and_pose_carry_one_frame_into_another(build: Callable[..., Any]) -> None:
    for env, action in ((arm(build, control_s=0.1), [0.15, 0.3]), (base(build, control_s=0.1), [1.0, 0.2, 0.5])):
        first, *_, last = walk(env, 0, [action] * 4)
        moved = last[0]["world_from_camera"].reshape(4, 4) - first[0]["world_from_camera"].reshape(4, 4)
        assert np.abs(moved[:3, 3]).max() > 0.05
        share, depth, colour = warp_errors(first, last)
        assert share > 0.1
        assert depth < 0.02  # the nearest pixel's: floors are seen at grazing angles
        assert colour < 8


def test_ids_are_of_bodies_that_move(build: Callable[..., Any]) -> None:
    env = base(build, cube="0.3 0 0.1")
    (seen, info), *_ = walk(env, 0, [])
    cube = env.model.body("cube").id
    ids, (known,) = info["truth"]["segmentation"], (o for o in info["truth"]["objects"] if o["shape"] == "cube")
    assert known["id"] == cube
    assert set(np.unique(ids)) == {0, cube}
    rows, columns = np.nonzero(ids == cube)
    assert (seen["rgb"][rows, columns, 0] > 1.5 * seen["rgb"][rows, columns, 1]).mean() > 0.9
    pose, k = seen["world_from_camera"].reshape(4, 4), seen["intrinsics"].reshape(3, 3)
    x, _, z = (np.array(known["pose"][:3]) - pose[:3, 3]) @ pose[:3, :3]
    assert columns.mean() + 0.5 == pytest.approx(k[0, 0] * x / z + k[0, 2], abs=1.0)
    assert k[0, 0] == pytest.approx(0.75 * 64)  # of a sensor 4 mm wide, 3 mm behind the lens


def test_a_seed_decides_the_start_and_actions_the_rest(build: Callable[..., Any]) -> None:
    env = arm(build, max_steps=2)
    first, again, other = (walk(env, seed, [[0.5, 0.5]] * 2) for seed in (1, 1, 2))
    assert all(np.array_equal(a[0]["rgb"], b[0]["rgb"]) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0][0]["world_from_camera"], other[0][0]["world_from_camera"])
    env.reset(seed=1)
    assert [env.step([0.0, 0.0])[3] for _ in range(2)] == [False, True]


def test_what_is_no_such_model_is_said_in_one_line(build: Callable[..., Any], tmp_path: Path) -> None:
    with pytest.raises(EnvError, match=r"there is no file 'nowhere\.xml'"):
        make("mujoco_camera:nowhere.xml")
    (tmp_path / "bad.xml").write_text("<mujoco><worldbody><geom/></worldbody></mujoco>")
    with pytest.raises(EnvError, match="MuJoCo cannot load .*bad.xml: "):
        make(f"mujoco_camera:{tmp_path / 'bad.xml'}")
    with pytest.raises(EnvError, match="unknown camera of mujoco_camera 'writs': did you mean 'wrist'"):
        arm(build, camera="writs")
    with pytest.raises(EnvError, match="has no actuator"):
        build(ARM, "")
    with pytest.raises(EnvError, match=r"mujoco_camera:.*unexpected keyword argument 'colour'"):
        arm(build, colour=1)
