"""Memory Maze through its adapter, on the real package: in a process of its own, since it needs mujoco 3."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from liftwm_envs.adapters import make
from liftwm_envs.errors import EnvError
from tests.envs.worlds import Frame, warp_errors

MUJOCO3 = Path(sys.prefix) / "mujoco3"
"""Where `scripts/setup.sh dev` puts Memory Maze, dm_control and mujoco 3."""


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory, root: Path) -> dict[str, np.ndarray]:
    if not MUJOCO3.is_dir():
        pytest.skip("Memory Maze is not installed")
    out = tmp_path_factory.mktemp("memory_maze") / "frames.npz"
    paths = os.pathsep.join([str(MUJOCO3), str(root), str(root / "envs"), os.environ.get("PYTHONPATH", "")])
    script = [sys.executable, str(root / "tests/envs/memory_maze_frames.py"), str(out)]
    done = subprocess.run(script, env=os.environ | {"PYTHONPATH": paths}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stderr == "", "what its packages warn of is no news to a user"
    with np.load(out) as arrays:
        return dict(arrays)


def frame(shown: dict[str, np.ndarray], number: int) -> Frame:
    observation = {name: shown[name][number] for name in ("rgb", "intrinsics", "world_from_camera", "goal")}
    return observation, {"truth": {"depth": shown["depth"][number]}}


@pytest.mark.worlds
def test_it_meets_the_contract_and_the_camera_is_where_it_is_known_to_be(shown: dict[str, np.ndarray]) -> None:
    assert list(shown["faults"]) == []
    assert shown["intrinsics"][0] == pytest.approx([38.136, 0, 32, 0, 38.136, 32, 0, 0, 1], abs=1e-3)  # 80 degrees
    poses = shown["world_from_camera"].reshape(-1, 4, 4)
    assert poses[:, 2, 3] == pytest.approx(0.90, abs=1e-3)
    assert np.degrees(np.arcsin(-poses[:, 2, 2])) == pytest.approx(5.71, abs=0.01)
    ahead = poses[:, :2, 3] - shown["position"]
    assert np.hypot(*ahead.T) == pytest.approx(0.15, abs=1e-3)


@pytest.mark.worlds
def test_frames_are_those_of_dm_control_without_a_border(shown: dict[str, np.ndarray]) -> None:
    assert np.array_equal(shown["rgb"][-1], shown["dm_rgb"])
    near = shown["depth"][-1] > 0
    assert 0.3 < near.mean() < 1
    assert shown["depth"][-1][near] == pytest.approx(shown["dm_depth"][near], rel=2e-3)  # its buffer is coarser
    assert (shown["dm_depth"][~near] > 100).all()  # the sky


@pytest.mark.worlds
def test_depth_and_pose_carry_one_frame_into_another(shown: dict[str, np.ndarray]) -> None:
    share, depth, colour = warp_errors(frame(shown, 0), frame(shown, 4))
    assert share > 0.1
    assert depth < 0.01
    assert colour < 8
    assert (shown["segmentation"] > 0).any()


@pytest.mark.worlds
def test_touching_the_called_target_is_success(shown: dict[str, np.ndarray]) -> None:
    assert np.allclose(shown["goal"], shown["colour"])
    assert shown["rewards"].tolist() == [[0, 0, 0], [1, 1, 1]]
    first, near, touched = shown["ways"]
    assert first > near > touched == 0
    assert near == pytest.approx(1.2 - 0.775, abs=0.15)


def test_without_the_package_one_line_says_which_extra_brings_it() -> None:
    if importlib.util.find_spec("memory_maze"):
        pytest.skip("it is installed")
    with pytest.raises(EnvError, match=r"memory_maze:9x9 needs the package memory_maze: pip install 'embodied-liftwm\[mem"):
        make("memory_maze:9x9")
