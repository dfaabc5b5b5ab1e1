"""Collection: the same dataset whatever happens on the way, and one clear line when it cannot be had."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import gymnasium as gym
import h5py
import numpy as np
import pytest

from embodied_liftwm import folder_lock
from embodied_liftwm.config import CollectConfig, EnvOptions
from embodied_liftwm.data import EvaluationReader, TrainingReader
from embodied_liftwm.data.integrity import check
from embodied_liftwm.data.storage import data_files, read_info, scan, write_info
from embodied_liftwm.environments import find_env
from embodied_liftwm.errors import UserError
from liftwm_agents.collection import shown
from liftwm_agents.collection.collect import CollectProgress, collect
from liftwm_agents.collection.workers import CollectShards, Report, Shard, ShardCollector
from liftwm_envs.actions import ActionCodec
from liftwm_envs.errors import EnvError

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


def config(out: Path, **changes: object) -> CollectConfig:
    settings = {"env": "toy_camera_env:make_env", "policy": "random", "episodes": 5, "episodes_per_shard": 2, "steps": 8}
    return CollectConfig(out=str(out), **(settings | {"workers": 1} | changes))


def assert_same(one: Path, other: Path) -> None:
    first, second = EvaluationReader(one), EvaluationReader(other)
    assert first.indices == second.indices
    for mine, theirs in zip(first, second, strict=True):
        assert mine.meta == theirs.meta
        for name, array in (mine.arrays() | mine.truth_arrays()).items():
            assert array.tobytes() == (theirs.arrays() | theirs.truth_arrays())[name].tobytes(), name


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("undisturbed") / "data"
    sys.path.insert(0, str(HERE))
    collect(config(folder))
    return folder


def test_episodes_hold_what_the_environment_showed(undisturbed: Path) -> None:
    from toy_camera_env import make_env

    episode = EvaluationReader(undisturbed)[3]
    env = make_env()
    obs, _ = env.reset(seed=3)
    for frame, action in enumerate([*episode.action, None]):
        assert np.array_equal(episode.rgb[frame], obs["rgb"])
        assert np.array_equal(episode.world_from_camera[frame].ravel(), obs["world_from_camera"])
        if action is not None:
            obs, reward, terminated, _, _ = env.step(action)
            assert (episode.reward[frame], episode.terminated[frame]) == (reward, terminated)
    assert episode.meta["seed"] == episode.meta["index"] == 3
    assert episode.truth is None


def test_last_step_is_marked_as_ended(undisturbed: Path) -> None:
    for episode in EvaluationReader(undisturbed):
        assert len(episode) <= 8
        assert episode.terminated[-1] != episode.truncated[-1]
        assert not (episode.terminated[:-1] | episode.truncated[:-1]).any()
        assert episode.meta["success"] == episode.terminated[-1]


def test_shards_are_packed(undisturbed: Path) -> None:
    assert [path.name for path in data_files(undisturbed)] == ["shard-00000.h5", "shard-00001.h5", "shard-00002.h5"]
    assert list(scan(undisturbed)) == [0, 1, 2, 3, 4]
    assert read_info(undisturbed)["episodes"] == [[0, 4]]


def test_workers_do_not_matter(undisturbed: Path, tmp_path: Path) -> None:
    seen = []
    collect(config(tmp_path / "two", workers=2), seen.append)
    assert_same(undisturbed, tmp_path / "two")
    assert (seen[-1].episodes, seen[-1].total) == (5, 5)
    assert seen[-1].frames == sum(len(episode.rgb) for episode in EvaluationReader(undisturbed))


def test_continues_and_grows(undisturbed: Path, tmp_path: Path) -> None:
    first = collect(config(tmp_path, episodes=3))
    before = (tmp_path / "shard-00000.h5").stat().st_mtime_ns
    second = collect(config(tmp_path, episodes=5))
    assert (first.found, second.found, second.episodes) == (0, 3, 5)
    assert (tmp_path / "shard-00000.h5").stat().st_mtime_ns == before, "a finished shard was touched"
    assert_same(undisturbed, tmp_path)
    assert collect(config(tmp_path)).frames == 0, "nothing was left to do"


def test_our_environments_bring_truth(tmp_path: Path) -> None:
    ours = {"env": "Revisit-S", "env_options": EnvOptions(image_size=32), "episodes": 2, "steps": 6}
    collect(config(tmp_path, **ours))
    episode = EvaluationReader(tmp_path)[1]
    assert episode.truth is not None
    assert np.array_equal(episode.truth.world_from_camera, episode.world_from_camera), "no odometry noise was asked for"
    assert episode.meta["env"] == "Revisit-S"
    assert check(tmp_path) == []
    with pytest.raises(UserError, match="collected with env_options.image_size=32, not env_options.image_size=48"):
        collect(config(tmp_path, **(ours | {"env_options": EnvOptions(image_size=48)})))


def test_truth_follows_what_moves(tmp_path: Path) -> None:
    collect(
        config(tmp_path, env="MovingOcclusion-S", env_options=EnvOptions(image_size=32), policy="explore", episodes=1, steps=60)
    )
    episode = EvaluationReader(tmp_path)[0]
    truth = episode.truth
    assert truth is not None and check(tmp_path) == []
    moved = np.hypot(*np.diff(truth.object_pose[..., :2], axis=0).transpose(2, 0, 1))  # [T, O]
    tracks = {track["object"]: track["speed"] for track in truth.scene["tracks"]}
    for k, item in enumerate(truth.object_id.tolist()):
        assert np.median(moved[:, k]) == pytest.approx(tracks.get(item, 0.0), abs=1e-5)
        assert moved[:, k].max() <= tracks.get(item, 0.0) + 1e-5
    assert (truth.visible_pixels[:, : len(tracks)] == 0).all(1).any() and truth.visible_pixels[0, 0] > 0


def start(folder: Path, episodes: int, pause_s: float = 0.01) -> subprocess.Popen[bytes]:
    """A collection in a process of its own, that can be killed."""
    code = (
        "from embodied_liftwm.config import CollectConfig; from liftwm_agents.collection.collect import collect\n"
        "if __name__ == '__main__': collect(CollectConfig(env='toy_camera_env:make_env', policy='random', "
        f"out={str(folder)!r}, episodes={episodes}, episodes_per_shard=2, steps=8, workers=2))"
    )
    script = folder.with_suffix(".py")
    script.write_text(code)
    path = os.pathsep.join([*(str(HERE.parents[1] / part) for part in ("", "envs", "agents")), str(HERE)])
    return subprocess.Popen([sys.executable, str(script)], env=os.environ | {"PYTHONPATH": path, "TOY_PAUSE_S": str(pause_s)})


def test_killed_at_any_moment(tmp_path: Path) -> None:
    collect(config(tmp_path / "whole", episodes=12))
    folder, rng = tmp_path / "killed", np.random.default_rng(0)
    finished = 0
    for _ in range(3):
        process = start(folder, 12)
        deadline = time.monotonic() + 20
        while (len(episodes_of(folder)) <= finished) and time.monotonic() < deadline:
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        process.wait()
        time.sleep(0.3)
        survivors = episodes_of(folder)
        assert len(survivors) > finished, "finished episodes were lost"
        finished = len(survivors)
        EvaluationReader(folder)[finished - 1]  # readable as it is
    assert start(folder, 12, 0).wait() == 0
    assert_same(tmp_path / "whole", folder)
    assert read_info(folder) == read_info(tmp_path / "whole") and check(folder) == []
    assert not list(folder.glob(".*partial*"))


def test_an_episode_that_was_taken_out_is_noticed_and_collected_again(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "data")
    with h5py.File(tmp_path / "data" / "shard-00000.h5", "r+") as file:
        del file["episode-00000001"]
    (tmp_path / "data" / "shard-00002.h5").unlink()
    assert [line.split(": ")[1][:16] for line in check(tmp_path / "data")] == ["episode-00000001", "episode-00000004"]
    assert collect(config(tmp_path / "data")).found == 3
    assert check(tmp_path / "data") == []
    assert_same(undisturbed, tmp_path / "data")


def test_killed_before_its_episodes_were_listed(undisturbed: Path, tmp_path: Path) -> None:
    shutil.copytree(undisturbed, tmp_path / "data")
    write_info(tmp_path / "data", read_info(undisturbed) | {"episodes": [[0, 1]]})
    assert check(tmp_path / "data") == []
    collect(config(tmp_path / "data"))
    assert read_info(tmp_path / "data") == read_info(undisturbed)


def episodes_of(folder: Path) -> dict[int, Path]:
    return scan(folder) if folder.is_dir() else {}


def test_orphans_end_with_their_parent(tmp_path: Path) -> None:
    process = start(tmp_path / "data", 200)
    while not episodes_of(tmp_path / "data"):
        time.sleep(0.01)
    process.kill()
    process.wait()
    time.sleep(0.5)
    before = set(episodes_of(tmp_path / "data"))
    time.sleep(0.5)
    assert set(episodes_of(tmp_path / "data")) == before, "workers went on without their parent"


def test_a_killed_worker_is_replaced(undisturbed: Path, tmp_path: Path) -> None:
    import multiprocessing

    killed = []

    def kill_once(progress: object) -> None:
        if not killed and getattr(progress, "episodes", 0) == 1:
            killed.append(multiprocessing.active_children()[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    collect(config(tmp_path), kill_once)
    assert killed
    assert_same(undisturbed, tmp_path)


def test_episodes_on_disk_are_not_collected_again(undisturbed: Path, tmp_path: Path) -> None:
    """Their worker was killed after it had written them, and before it could say so."""
    collect(config(tmp_path, episodes=3))  # a packed shard of two, and one of one
    reports: list[Report] = []
    perform = CollectShards(config(tmp_path), find_env("toy_camera_env:make_env")).start(reports.append)
    for number, indices in enumerate([[0, 1], [2, 3], [4]]):
        perform(Shard(number, indices, indices))
    assert sorted(report.episode for report in reports if report.episode is not None) == [0, 1, 2, 3, 4]
    assert sum(report.frames for report in reports) == sum(len(EvaluationReader(undisturbed)[i].rgb) for i in (3, 4))
    assert_same(undisturbed, tmp_path)


def test_an_interrupted_command_says_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(meter: object, progress: CollectProgress) -> dict[str, float]:
        if progress.episodes == 2:
            signal.raise_signal(signal.SIGINT)
        return {}

    monkeypatch.setattr(shown._Meter, "update", interrupt)
    with pytest.raises(KeyboardInterrupt) as told:
        shown.collect_shown(config(tmp_path, episodes=100))
    held = len(scan(tmp_path))
    assert str(told.value) == f"{held} episodes are kept in {tmp_path}: the same command continues there" and held >= 2
    monkeypatch.undo()
    with pytest.raises(KeyboardInterrupt, match="no episode was finished"):
        monkeypatch.setattr(shown, "collect", lambda *given: signal.raise_signal(signal.SIGINT))
        shown.collect_shown(config(tmp_path / "new"))


def test_workers_see_the_folder_of_their_collection(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not see .*: the dataset must be on a file system that all nodes share"):
        CollectShards(config(tmp_path / "elsewhere"), find_env("toy_camera_env:make_env")).start(print)


def test_workers_of_an_earlier_collection_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folder_lock, "LAST_S", 0.2)
    with folder_lock.join(tmp_path), pytest.raises(UserError, match="workers of an earlier collection still write"):
        collect(config(tmp_path))
    monkeypatch.setattr(folder_lock, "LAST_S", 60.0)
    lock = folder_lock.join(tmp_path)
    threading.Timer(0.3, lock.close).start()
    assert collect(config(tmp_path, episodes=1)).episodes == 1


def test_a_worker_that_always_dies_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"died 3 times over at episode 0 \(signal SIGKILL\)"):
        collect(config(tmp_path, env="toy_camera_env:make_mortal"))


def test_an_environment_that_fails_is_blamed_by_its_line(tmp_path: Path) -> None:
    line = r"^episode-00000000: \S*toy_camera_env.py:\d+ \(raise .*\): ZeroDivisionError: a bug of the environment$"
    with pytest.raises(UserError, match=line):
        collect(config(tmp_path, env="toy_camera_env:make_buggy"))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("OldStep", r"step of OldStep returned \(dict, float, bool, dict\): expected step\(action\) -> \(obs, reward, term"),
        ("OldReset", r"OldReset.reset\(\) got an unexpected keyword argument 'seed': expected reset\(seed=\) -> \(obs, info\)"),
    ],
)
def test_an_environment_of_an_older_interface_is_told_of_the_present_one(tmp_path: Path, name: str, line: str) -> None:
    with pytest.raises(UserError, match=f"^episode-00000000: {line}"):
        ShardCollector(config(tmp_path), find_env(f"toy_camera_env:{name}")).record(0)


def test_episodes_before_a_fault_of_the_environment_are_kept(tmp_path: Path) -> None:
    line = r"^episode-00000002: \S*toy_camera_env.py:\d+ \(np.zeros.*\): ValueError: cannot reshape"
    with pytest.raises(UserError, match=line):
        collect(config(tmp_path, env="toy_camera_env:LostReset", episodes=5))
    assert sorted(scan(tmp_path)) == [0, 1]


@pytest.mark.parametrize("action", [3, -1, "left", None])
def test_an_action_that_is_none_of_the_space_is_named(action: object) -> None:
    with pytest.raises(EnvError, match=r"action: got .*, expected one of 0 .. 2"):
        ActionCodec(gym.spaces.Discrete(3)).encode(action)


def test_discrete_actions_are_one_hot(tmp_path: Path) -> None:
    collect(config(tmp_path, env="toy_camera_env:make_discrete", episodes=1))
    action = EvaluationReader(tmp_path)[0].action
    assert action.shape[1] == 3
    assert set(np.unique(action)) <= {0.0, 1.0}
    assert (action.sum(1) == 1).all()


def test_camera_source(undisturbed: Path, tmp_path: Path) -> None:
    collect(config(tmp_path, env="toy_camera_env:make_with_source"))
    for mine, theirs in zip(EvaluationReader(tmp_path), EvaluationReader(undisturbed), strict=True):
        assert np.array_equal(mine.rgb, theirs.rgb)
        assert np.array_equal(mine.world_from_camera, theirs.world_from_camera)
    assert TrainingReader(tmp_path).goal_dim == 0


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"env": "Revisit-Z"}, "unknown env 'Revisit-Z': did you mean 'Revisit-"),
        ({"env": "no_such_module:make_env"}, "no module named 'no_such_module'"),
        ({"env": "toy_camera_env:mak_env"}, "toy_camera_env.py has no 'mak_env': did you mean 'make_env'?"),
        ({"env": "toy_camera_env:make_image_only"}, "has no camera"),
        ({"env": "toy_camera_env:SIZE"}, "toy_camera_env.py is 32, expected a function"),
        ({"env": "CartPole-v1"}, "its observation lacks rgb, intrinsics, world_from_camera: wrap it in a make_env"),
        ({"policy": "tour"}, "policy=tour knows liftwm environments only"),
        ({"env_options": EnvOptions(image_size=48)}, "env_options are for liftwm environments"),
    ],
)
def test_bad_input_is_one_clear_line(tmp_path: Path, changes: dict, line: str) -> None:
    with pytest.raises(UserError) as caught:
        collect(config(tmp_path / "data", **changes))
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"seed": 1}, "was collected with seed=0, not seed=1"),
        ({"steps": 9}, "was collected with steps=8, not steps=9"),
        ({"env": "toy_camera_env:make_discrete"}, "was collected with env=toy_camera_env:make_env, not env="),
    ],
)
def test_other_settings_are_refused(undisturbed: Path, changes: dict, line: str) -> None:
    with pytest.raises(UserError, match=line):
        collect(config(undisturbed, **changes))


def test_two_collections_of_one_folder_are_refused(tmp_path: Path) -> None:
    process = start(tmp_path / "data", 100)
    try:
        while not episodes_of(tmp_path / "data"):
            time.sleep(0.01)
        with pytest.raises(UserError, match=r"another process \(pid \d+ on .*\) holds .*data"):
            collect(config(tmp_path / "data"))
    finally:
        process.kill()
        process.wait()


def test_a_folder_of_other_things_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds other files \(thesis.tex\)"):
        collect(config(tmp_path))
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_path_that_cannot_be_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="cannot write"):
        collect(config(tmp_path / "file" / "data"))


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")
def test_a_full_disk_loses_nothing(tmp_path: Path) -> None:
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", tmp_path], capture_output=True).returncode:
        pytest.skip("this machine does not let us mount")
    try:
        with pytest.raises(UserError, match="the disk is full"):
            collect(config(tmp_path, episodes=20))
        survivors = scan(tmp_path)
        assert survivors
        assert not list(tmp_path.glob(".*partial*"))
        assert len(EvaluationReader(tmp_path)[0]) > 0
        subprocess.run(["mount", "-o", "remount,size=10m", tmp_path], check=True)
        assert collect(config(tmp_path, episodes=20)).found == len(survivors)
        subprocess.run(["mount", "-o", "remount,ro", tmp_path], check=True)
        with pytest.raises(UserError, match="read-only"):
            collect(config(tmp_path, episodes=21))
    finally:
        subprocess.run(["umount", tmp_path], check=True)
