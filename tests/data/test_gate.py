"""One gate: whoever meets a faulty episode refuses it, and all with the same words."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from PIL import Image

from embodied_liftwm.config import CollectConfig
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.data.episode import Episode, Truth
from embodied_liftwm.data.importers.realestate import read_clip
from embodied_liftwm.data.integrity import check
from embodied_liftwm.data.storage import FORMAT, group_name, scan, write_episode, write_info
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from liftwm_agents.collection.workers import CollectShards, Shard

HERE = Path(__file__).parent
Build = Callable[..., Episode]
Arrays = dict[str, np.ndarray]


def put(name: str, *where: Any, value: Any) -> Callable[[Arrays], None]:
    """A fault: a value at a place of an array."""

    def spoil(arrays: Arrays) -> None:
        arrays[name][where] = value

    return spoil


def scale(arrays: Arrays) -> None:
    arrays["world_from_camera"][6, :3, :3] *= 1.5


def bend(arrays: Arrays) -> None:
    arrays["world_from_camera"][6, :3, 0] += 0.2


def mirror(arrays: Arrays) -> None:
    arrays["world_from_camera"][2, :3, 1] *= -1


def transpose(arrays: Arrays) -> None:
    arrays["world_from_camera"] = np.ascontiguousarray(arrays["world_from_camera"].swapaxes(1, 2))


def rows(name: str, count: int) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[name] = np.resize(arrays[name], (len(arrays[name]) + count, *arrays[name].shape[1:]))

    return spoil


def as_type(name: str, dtype: Any) -> Callable[[Arrays], None]:
    def spoil(arrays: Arrays) -> None:
        arrays[name] = arrays[name].astype(dtype)

    return spoil


def to_shares(arrays: Arrays) -> None:
    arrays["intrinsics"][:2] /= 16


K = "pixels of a 16 x 16 frame"
POSE, FOUND = "world_from_camera", "fx fy cx cy ="
COUNT, FINITE = "for 10 actions and 11 frames", "expected finite numbers"
FAULTS: dict[str, tuple[Callable[[Arrays], None], str]] = {  # what is spoiled, and how what is said of it begins
    "a pose short": (rows(POSE, -1), f"{POSE}: expected [11, 4, 4] float32 {COUNT}, got [10, 4, 4] float32"),
    "a frame more": (rows("rgb", 1), f"rgb: expected [11, H, W, 3] uint8 {COUNT}, got [12, 16, 16, 3] uint8"),
    "actions short": (rows("action", -2), f"action: expected [10, A] float32 {COUNT}, got [8, 2] float32"),
    "a reward more": (rows("reward", 1), f"reward: expected [10] float32 {COUNT}, got [11] float32"),
    "a goal short": (rows("goal", -1), f"goal: expected [11, G] float32 {COUNT}, got [10, 9] float32"),
    "double poses": (as_type(POSE, np.float64), f"{POSE}: expected [11, 4, 4] float32 {COUNT}, got [11, 4, 4] float64"),
    "no rows at all": (rows("truncated", -10), f"truncated: expected [10] bool {COUNT}, got [0] bool"),
    "nan pose": (put(POSE, 4, 1, 3, value=np.nan), f"{POSE}: frame 4 holds nan, {FINITE}"),
    "infinite pose": (put(POSE, 0, 0, 0, value=-np.inf), f"{POSE}: frame 0 holds -inf, {FINITE}"),
    "far away": (put(POSE, 8, 1, 3, value=-2e6), f"{POSE}: frame 8 lies 2e+06 m from the origin: expected 100000 m at most"),
    "mirrored": (mirror, f"{POSE}: frame 2 is mirrored (determinant -1)"),
    "scaled": (scale, f"{POSE}: frame 6 has a rotation that is scaled by 1.5"),
    "bent": (bend, f"{POSE}: frame 6 has a rotation that is not orthonormal (off by"),
    "transposed": (transpose, f"{POSE}: frame 1 is transposed"),
    "last row a little off": (put(POSE, 3, 3, value=[0, 0, 5e-5, 1]), f"{POSE}: frame 3 has a last row of 0 0 5e-05 1"),
    "last row": (put(POSE, 3, 3, value=[0, 0, 1, 2]), f"{POSE}: frame 3 has a last row of 0 0 1 2"),
    "shares": (to_shares, f"intrinsics: {FOUND} 1 1 0.5 0.5 are shares of the frame: expected {K}"),
    "no focal length": (
        put("intrinsics", 0, 0, value=0),
        f"intrinsics: {FOUND} 0 16 8 8: expected focal lengths above 0, in {K}",
    ),
    "negative focal length": (
        put("intrinsics", 1, 1, value=-16),
        f"intrinsics: {FOUND} 16 -16 8 8: expected focal lengths above 0, in {K}",
    ),
    "focal length in metres": (
        put("intrinsics", 0, 0, value=0.004),
        f"intrinsics: {FOUND} 0.004 16 8 8: no camera has such a focal length, expected {K}",
    ),
    "of a larger picture": (
        put("intrinsics", 0, 2, value=320),
        f"intrinsics: {FOUND} 16 16 320 8: the principal point lies outside, expected {K}",
    ),
    "skew": (put("intrinsics", 0, 1, value=0.5), "intrinsics: skew is 0.5 0: expected fx 0 cx, 0 fy cy, 0 0 1"),
    "intrinsics by columns": (
        put("intrinsics", value=[[16, 0, 0], [0, 16, 0], [8, 8, 1]]),
        "intrinsics: is transposed: expected fx 0 cx, 0 fy cy, 0 0 1",
    ),
    "intrinsics' last row": (
        put("intrinsics", 2, 2, value=0),
        "intrinsics: last row is 0 0 0: expected fx 0 cx, 0 fy cy, 0 0 1",
    ),
    "nan intrinsics": (put("intrinsics", 0, 2, value=np.nan), f"intrinsics: holds nan, {FINITE}"),
    "nan action": (put("action", 7, 1, value=np.nan), f"action: step 7 holds nan, {FINITE}"),
    "infinite reward": (put("reward", 9, value=np.inf), f"reward: step 9 holds inf, {FINITE}"),
    "nan goal": (put("goal", 10, 8, value=np.nan), f"goal: frame 10 holds nan, {FINITE}"),
    "goes on": (put("truncated", 4, value=True), "truncated: step 4 of 10 ends the episode, which goes on: expected no other"),
    "infinite depth": (put("truth/depth", 3, 2, 1, value=np.inf), "truth/depth: frame 3 holds inf, expected finite metres"),
    "nan depth": (put("truth/depth", 0, 2, 1, value=np.nan), "truth/depth: frame 0 holds nan, expected finite metres"),
    "depth behind": (put("truth/depth", 10, 15, 15, value=-0.5), "truth/depth: frame 10 holds -0.5, expected finite metres"),
    "true pose": (put("truth/world_from_camera", 5, 2, 2, value=np.nan), f"truth/{POSE}: frame 5 holds nan"),
    "true thing": (put("truth/object_pose", 5, 1, 6, value=np.nan), f"truth/object_pose: frame 5 holds nan, {FINITE}"),
    "a true frame short": (rows("truth/segmentation", -1), f"truth/segmentation: expected [11, 16, 16] uint16 {COUNT}"),
}  # fmt: skip
TOLD_BY_SHAPE = {name for name, (_, words) in FAULTS.items() if COUNT in words}
COLLECTED = {name for name in FAULTS if "tru" not in name and "depth" not in name} - TOLD_BY_SHAPE - {"nan action", "goes on"}
IMPORTED = {"nan pose", "mirrored", "scaled", "bent", "negative focal length", "of a larger picture", "nan intrinsics"}


def arrays_of(episode: Episode) -> Arrays:
    truth = {f"truth/{name}": array for name, array in episode.truth_arrays().items()}
    return {name: array.copy() for name, array in (episode.arrays() | truth).items()}


def as_episode(arrays: Arrays, episode: Episode) -> Episode:
    assert episode.truth is not None
    mine = {name: array for name, array in arrays.items() if "/" not in name}
    truth: dict[str, Any] = {name.removeprefix("truth/"): array for name, array in arrays.items() if "/" in name}
    hidden = Truth(**truth, object_shape=episode.truth.object_shape, scene=episode.truth.scene)
    return Episode(**mine, meta=episode.meta, truth=hidden)


def store(folder: Path, arrays: Arrays, index: int = 1) -> None:
    """Write arrays as another program would, with no look at them."""
    with h5py.File(folder / f"{group_name(index)}.h5", "w") as file:
        group = file.create_group(group_name(index))
        for name, array in arrays.items():
            group[name] = array
        group["meta"], group["truth/scene"], group["truth/object_shape"] = "{}", "{}", json.dumps(["box", "cone"])


def said(work: Callable[[], object]) -> str:
    """What is said of the episode, behind its name."""
    with pytest.raises(UserError) as caught:
        work()
    assert "\n" not in str(caught.value)
    return str(caught.value).partition("1: ")[2]


@pytest.mark.parametrize("kind", FAULTS)
def test_all_refuse_it_with_the_same_words(tmp_path: Path, episode: Episode, make_dataset: Any, kind: str) -> None:
    spoil, words = FAULTS[kind]
    arrays = arrays_of(episode)
    spoil(arrays)
    line = said(lambda: as_episode(arrays, episode).validate("episode 1"))
    assert line.startswith(words)
    folder = make_dataset(9)
    store(folder, arrays)
    (problem,) = [problem for problem in check(folder) if "in no sound file" not in problem]
    assert problem == f"{folder / 'episode-00000001.h5'}: episode-00000001: {line}"
    assert said(lambda: list(EvaluationReader(folder))) == line
    assert said(lambda: write_episode(tmp_path, 1, as_episode(arrays, episode))) == line
    if not line.startswith("truth/"):  # which training cannot see
        assert said(lambda: TrainingReader(folder)) == line


@pytest.fixture
def replay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, episode: Episode) -> Callable[..., Path]:
    """Has `replay_env` show an episode with a fault, and others without."""
    monkeypatch.syspath_prepend(str(HERE))

    def prepare(spoil: Callable[[Arrays], None], faulty: int) -> Path:
        arrays = {name: array for name, array in arrays_of(episode).items() if "/" not in name}
        np.savez(tmp_path / "sound.npz", **arrays)
        spoil(arrays)
        np.savez(tmp_path / "faulty.npz", **arrays)
        for name, value in {"REPLAY": "faulty.npz", "REPLAY_SOUND": "sound.npz"}.items():
            monkeypatch.setenv(name, str(tmp_path / value))
        monkeypatch.setenv("FAULTY", str(faulty))
        return tmp_path / "data"

    return prepare


@pytest.mark.parametrize("kind", sorted(COLLECTED))
def test_collection_says_the_same(replay: Callable[..., Path], kind: str) -> None:
    spoil, words = FAULTS[kind]
    folder = replay(spoil, 1)
    folder.mkdir()
    write_info(folder, {"format": FORMAT})
    config = CollectConfig(env="replay_env:make_env", policy="random", out=str(folder), steps=10, episodes=4)
    perform = CollectShards(config, find_env("replay_env:make_env")).start(lambda report: None)
    assert said(lambda: perform(Shard(0, [0, 1, 2, 3], [0, 1, 2, 3]))).startswith(words)
    assert list(scan(folder)) == [0]


@pytest.mark.parametrize("kind", sorted(IMPORTED))
def test_importers_say_the_same(tmp_path: Path, episode: Episode, kind: str) -> None:
    spoil, words = FAULTS[kind]
    arrays = arrays_of(episode)
    spoil(arrays)
    (tmp_path / "clip 1").mkdir()
    fx, fy, cx, cy = arrays["intrinsics"][[0, 1, 0, 1], [0, 1, 2, 2]] / 16
    lines = ["https://a/b"]
    for frame, (pose, rgb) in enumerate(zip(arrays["world_from_camera"].astype(float), arrays["rgb"], strict=True)):
        inverse = np.concatenate([pose[:3, :3].T, -pose[:3, :3].T @ pose[:3, 3:]], axis=1)
        shares = f"{fx} {fy} {min(cx, 1.5)} {cy}" if cx > 1 else f"{fx} {fy} {cx} {cy}"
        lines.append(f"{frame} {shares} 0 0 " + " ".join(map(str, inverse.ravel())))
        Image.fromarray(rgb).save(tmp_path / "clip 1" / f"{frame}.png")
    (tmp_path / "clip 1.txt").write_text("\n".join(lines))
    with pytest.raises(UserError) as caught:
        read_clip(tmp_path / "clip 1.txt", 16)
    line = str(caught.value).partition("clip 1.txt: ")[2]
    assert line.startswith(words.replace("320", "24").partition(" (off")[0])


def huge_float(arrays: Arrays) -> None:
    arrays["world_from_camera"] = arrays["world_from_camera"].astype(np.float64)
    arrays["world_from_camera"][5, 0, 3] = 1e39


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (huge_float, "world_from_camera: frame 5 holds inf, expected finite numbers"),
        (lambda a: a.update({POSE: a[POSE][:, :3]}), f"{POSE}: frame 0 holds [3, 4] float32, expected [4, 4] numbers"),
        (lambda a: a.update({POSE: a[POSE] + 0j}), f"{POSE}: frame 0 holds [4, 4] complex64, expected [4, 4] numbers"),
        (lambda a: a.update(intrinsics=np.ones(4)), "intrinsics: frame 0 holds [4] float64, expected [3, 3] numbers"),
        (lambda a: a.update(reward=np.array(["bad"] * 10)), "reward: frame 1 holds 'bad', expected a number"),
        (lambda a: a.update(rgb=a["rgb"] / np.float32(255)), "rgb: frame 0 has no image: expected rgb [H, W, 3] uint8"),
    ],
)
def test_what_no_episode_can_hold_is_one_line(replay: Callable[..., Path], spoil: Callable, words: str) -> None:
    folder = replay(spoil, 0)
    folder.mkdir()
    write_info(folder, {"format": FORMAT})
    config = CollectConfig(env="replay_env:make_env", policy="random", out=str(folder), steps=10, episodes=1)
    perform = CollectShards(config, find_env("replay_env:make_env")).start(lambda report: None)
    with pytest.raises(UserError) as caught:
        perform(Shard(0, [0], [0]))
    assert str(caught.value).startswith(f"episode-00000000: {words}")


def test_a_bad_pose_ends_collect_with_one_line_and_keeps_the_rest(replay: Callable[..., Path], tmp_path: Path) -> None:
    folder = replay(FAULTS["nan pose"][0], 6)
    words = ["env=replay_env:make_env", "policy=random", "episodes=8", "episodes_per_shard=4", "steps=10", f"out={folder}"]
    command = [sys.executable, "-m", "embodied_liftwm.cli", "collect", *words, "workers=2"]
    done = subprocess.run(command, cwd=HERE, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr == ("liftwm: error: episode-00000006: world_from_camera: frame 4 holds nan, expected finite numbers\n")
    kept = list(scan(folder))
    assert {4, 5} <= set(kept) and 6 not in kept
    assert check(folder) == []
    assert len(TrainingReader(folder)) == len(kept)


def test_sound_episodes_of_other_programs_are_taken(make_dataset: Any, episode: Episode) -> None:
    folder = make_dataset(9)
    store(folder, arrays_of(episode))
    assert check(folder) == []
    assert len(TrainingReader(folder)) == len(EvaluationReader(folder)) == 2


def test_an_episode_whose_meta_is_of_another_kind(episode: Episode) -> None:
    with pytest.raises(UserError, match="meta: seed is 'x', expected a whole number"):
        dataclasses.replace(episode, meta={"seed": "x"}).validate()
    with pytest.raises(UserError, match="meta: expected a JSON object, got list"):
        dataclasses.replace(episode, meta=[1]).validate()  # type: ignore[arg-type]
