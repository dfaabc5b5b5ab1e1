"""Plain NPZ files, and Memory Maze's trajectories: the latter held against the simulator that made them."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from embodied_liftwm.commands.data import run
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.importers import find_format
from embodied_liftwm.data.importers.memory_maze import HEIGHT_M
from embodied_liftwm.data.reader import EvaluationReader
from embodied_liftwm.errors import UserError

MUJOCO3 = Path(sys.prefix) / "mujoco3"


def test_arrays_by_our_names_come_back_as_they_were(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    wanted = make_episode(6, truth=False)
    np.savez(tmp_path / "a.npz", **wanted.arrays())
    assert run(["import", str(tmp_path), f"out={tmp_path / 'out'}"]) == 0
    (found,) = EvaluationReader(tmp_path / "out")
    for name, array in wanted.arrays().items():
        assert found.arrays()[name].dtype == array.dtype and np.array_equal(found.arrays()[name], array), name


def test_other_forms_and_names(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    wanted = make_episode(6, truth=False)
    k = wanted.intrinsics
    flat = np.concatenate([wanted.world_from_camera[:, :3, 3], np.tile([0, 0, 0, -1.0], (7, 1))], 1)
    np.savez(tmp_path / "a.npz", image=wanted.rgb, pose=flat, action=np.arange(6), other=np.zeros(3))
    words = ["import", str(tmp_path), f"out={tmp_path / 'out'}", "rgb=image", "pose=pose"]
    assert run([*words, f"intrinsics={k[0, 0]},{k[1, 1]},{k[0, 2]},{k[1, 2]}"]) == 0
    (found,) = EvaluationReader(tmp_path / "out")
    assert np.array_equal(found.rgb, wanted.rgb) and np.array_equal(found.intrinsics, k)
    assert np.array_equal(found.world_from_camera[:, :3, :3], np.tile(np.eye(3, dtype=np.float32), (7, 1, 1)))
    assert found.action[:, 0].tolist() == [0, 1, 2, 3, 4, 5] and found.goal.shape == (7, 0)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"rgb": None}, "a.npz: rgb: there is none, expected"),
        ({"intrinsics": None}, r"intrinsics: there is none, expected \[3, 3\]"),
        (
            {"rgb": np.zeros((7, 16, 16), np.uint8)},
            r"rgb: expected \[F, H, W, 3\] uint8 of at least 2 frames, got \[7, 16, 16\]",
        ),
        ({"world_from_camera": np.zeros((7, 5))}, r"world_from_camera: expected .* got \[7, 5\]"),
        ({"intrinsics": np.zeros(5)}, r"intrinsics: expected .* got \[5\]"),
        ({"action": np.zeros((7, 2))}, r"action: expected \[6, A\] float32 for 6 actions and 7 frames, got \[7, 2\] float32"),
        ({"reward": np.full(6, np.nan)}, "reward: step 0 holds nan"),
        ({"terminated": np.ones(6, bool)}, "terminated: step 0 of 6 ends the episode"),
        ({"goal": np.array(["a"], object)}, "cannot be read as NPZ"),
        ({"reward": np.array(["a"] * 6)}, r": a: not as format=npz says \(ValueError: could not convert string"),
        ({"terminated": np.array(True)}, r": a: not as format=npz says \(TypeError"),
    ],
)
def test_faults_name_the_file_and_the_array(
    tmp_path: Path, make_episode: Callable[..., Episode], change: dict[str, np.ndarray | None], line: str
) -> None:
    arrays = make_episode(6, truth=False).arrays() | change
    np.savez(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if array is not None})
    with pytest.raises(UserError, match=line) as caught:
        run(["import", str(tmp_path), f"out={tmp_path / 'out'}"])
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_an_import_is_begun_anew_where_nothing_came_of_it(tmp_path: Path, make_episode: Callable[..., Episode]) -> None:
    arrays = make_episode(6, truth=False).arrays()
    np.savez(tmp_path / "a.npz", **{name: array for name, array in arrays.items() if name != "intrinsics"})
    words = ["import", str(tmp_path), f"out={tmp_path / 'out'}"]
    with pytest.raises(UserError, match="intrinsics: there is none"):
        run(words)
    assert run([*words, "intrinsics=16,16,8,8"]) == run([*words, "intrinsics=16,16,8,8"]) == 0
    with pytest.raises(UserError, match="imported with other options"):
        run([*words, "intrinsics=16,16,8,9"])


def test_episodes_of_a_dataset_are_alike(
    tmp_path: Path, make_episode: Callable[..., Episode], capsys: pytest.CaptureFixture[str]
) -> None:
    for name, size in (("a", 16), ("b", 24), ("c", 16)):
        np.savez(tmp_path / f"{name}.npz", **make_episode(3, size=size, truth=False).arrays())
    for _ in range(2):  # what is there already counts, too
        assert run(["import", str(tmp_path), f"out={tmp_path / 'out'}"]) == 2
        shown = " ".join(capsys.readouterr().out.split())
        assert ": b: rgb: [24, 24, 3] a row, expected [16, 16, 3] as in the others; size= makes them alike" in shown
    assert [episode.meta["clip"] for episode in EvaluationReader(tmp_path / "out")] == ["a", "c"]
    assert run(["import", str(tmp_path), f"out={tmp_path / 'alike'}", "size=16"]) == 0


def test_a_trajectory_of_memory_maze(tmp_path: Path) -> None:
    rng, frames = np.random.default_rng(0), 5
    colour = rng.random((frames, 3))
    image = rng.integers(1, 256, (frames, 64, 64, 3), dtype=np.uint8)
    action = np.eye(6, dtype=np.uint8)[rng.integers(6, size=frames)]
    reward = np.arange(frames, dtype=np.float64)
    np.savez(
        tmp_path / "a.npz", image=image, action=action, reward=reward, target_color=colour, maze_layout=np.ones((frames, 9, 9)),
        agent_pos=np.tile([5.5, 4.5], (frames, 1)), agent_dir=np.tile([0.0, 1.0], (frames, 1)),
    )  # fmt: skip
    assert find_format(tmp_path) == "memory_maze"
    assert run(["import", str(tmp_path), f"out={tmp_path / 'out'}"]) == 0
    (found,) = EvaluationReader(tmp_path / "out")
    assert np.array_equal(found.rgb[:, 2:-2, 2:-2], image[:, 2:-2, 2:-2]) and not found.rgb[:, :2].any()
    assert not found.rgb[:, -2:].any() and not found.rgb[:, :, :2].any() and not found.rgb[:, :, -2:].any()
    assert np.array_equal(found.action, action[1:]) and found.reward.tolist() == [1, 2, 3, 4]
    assert np.array_equal(found.goal, colour.astype(np.float32))
    pose = found.world_from_camera[0]
    assert pose[:3, 3] == pytest.approx([2, 0.15, HEIGHT_M])
    assert np.allclose(pose[:3, 0], [1, 0, 0]), "who looks along y has x on the right"
    assert pose[2, 2] == pytest.approx(-math.sin(math.radians(5.71)), abs=2e-5)
    assert found.intrinsics[1, 1] == pytest.approx(32 / math.tan(math.radians(40)))


SIMULATE = """
import sys
import numpy as np
from memory_maze import tasks
env, rng, rows = tasks.memory_maze_9x9(global_observables=True, seed=1), np.random.RandomState(0), []
step, action = env.reset(), 0
camera = next(i for i in range(env.physics.model.ncam) if "egocentric" in env.physics.model.id2name(i, "camera"))
for _ in range(60):
    place = {"at": env.physics.data.cam_xpos[camera].copy(), "turn": env.physics.data.cam_xmat[camera].reshape(3, 3).copy()}
    rows.append(step.observation | place | {"action": np.eye(6, dtype=np.uint8)[action], "reward": step.reward or 0.0})
    action = rng.choice([1, 1, 1, 2, 3, 4, 5])
    step = env.step(action)
found = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
np.savez(sys.argv[1], fovy=env.physics.model.cam_fovy[camera], **found)
"""


@pytest.mark.worlds
def test_the_derived_camera_is_the_simulators(tmp_path: Path) -> None:
    if not MUJOCO3.is_dir():
        pytest.skip("no Memory Maze here: scripts/setup.sh dev installs it")
    paths = os.pathsep.join([str(MUJOCO3), os.environ.get("PYTHONPATH", "")])
    env = os.environ | {"PYTHONPATH": paths, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "egl")}
    script = [sys.executable, "-c", SIMULATE, str(tmp_path / "a.npz")]
    subprocess.run(script, check=True, env=env, timeout=300, capture_output=True)
    made = np.load(tmp_path / "a.npz")
    assert run(["import", str(tmp_path / "a.npz"), f"out={tmp_path / 'out'}"]) == 0
    (found,) = EvaluationReader(tmp_path / "out")
    pose = found.world_from_camera
    assert made["fovy"] == 80 and len(found) == 59 and found.goal[0] == pytest.approx(made["target_color"][0])
    assert np.abs(pose[:, :3, :3] - made["turn"] * [1, -1, -1]).max() < 1e-6
    assert np.abs(pose[:, :2, 3] - made["at"][:, :2]).max() < 1e-5
    rise = np.abs(pose[:, 2, 3] - made["at"][:, 2])
    assert np.sqrt(np.mean(rise**2)) < 1.3e-3 and rise.max() < 5e-3
    edge = np.ones((64, 64), bool)
    edge[2:-2, 2:-2] = False
    shown = (made["target_color"] * 255 * 0.7).astype(np.uint8)
    assert (made["image"][:, edge] == shown[:, None]).all(), "the border shows the colour, and nothing else does"
    assert not found.rgb[:, edge].any() and np.array_equal(found.rgb[:, ~edge], made["image"][:, ~edge])
