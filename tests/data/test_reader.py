"""The training reader returns the frames asked for, and cannot return truth."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from embodied_liftwm.data import TrainingReader
from embodied_liftwm.data.episode import Episode
from embodied_liftwm.data.storage import data_files, group_name, pack_shard, write_episode
from embodied_liftwm.errors import TruthAccessError, UserError

Make = Callable[..., Path]
Build = Callable[..., Episode]


def test_facts(make_dataset: Make) -> None:
    reader = TrainingReader(make_dataset(9, 12))
    assert (len(reader), reader.image_size, reader.action_dim, reader.goal_dim) == (2, (16, 16), 2, 9)
    assert reader.episode_lengths.tolist() == [9, 12]
    assert reader.info["env"] == "Toy"


def test_windows_are_the_frames_asked_for(make_dataset: Make, make_episode: Build) -> None:
    reader = TrainingReader(make_dataset(9, 1, 12))
    for number, steps in enumerate((9, 1, 12)):
        episode = make_episode(steps, number)
        frames = np.array([0, steps, steps // 2])
        window = reader.window(number, frames)
        for name in ("rgb", "world_from_camera", "goal"):
            assert np.array_equal(window[name], getattr(episode, name)[frames]), name
        for name in ("action", "reward", "terminated", "truncated", "intrinsics"):
            assert np.array_equal(window[name], getattr(episode, name)), name


def test_windows_are_copies(make_dataset: Make, make_episode: Build) -> None:
    reader = TrainingReader(make_dataset(9))
    for array in reader.window(0, np.arange(3)).values():
        array[...] = 0
    assert np.array_equal(reader.read(0, "rgb"), make_episode(9, 0).rgb)
    with pytest.raises(ValueError, match="read-only"):
        reader.read(0, "rgb")[0] = 0


@pytest.mark.parametrize("frames", [[-1], [0, 10]])
def test_frames_out_of_range_are_refused(make_dataset: Make, frames: list[int]) -> None:
    with pytest.raises(UserError, match="has frames 0 to 9"):
        TrainingReader(make_dataset(9)).window(0, np.array(frames))


def test_unknown_names_and_episodes_are_refused(make_dataset: Make) -> None:
    reader = TrainingReader(make_dataset(9))
    with pytest.raises(UserError, match="no array 'depth'"):
        reader.read(0, "depth")
    with pytest.raises(UserError, match="no episode 1 in"):
        reader.read(1, "rgb")


@pytest.mark.parametrize("name", ["truth/depth", "truth/segmentation", "truth", "truth/world_from_camera", "truth/anything"])
def test_truth_cannot_be_asked_for(make_dataset: Make, name: str) -> None:
    with pytest.raises(TruthAccessError, match="evaluation alone"):
        TrainingReader(make_dataset(9)).read(0, name)


def test_truth_is_not_in_what_the_reader_holds(make_dataset: Make) -> None:
    folder = make_dataset(9, 12)
    TrainingReader(folder)
    cached = {path.name for path in (folder / ".cache").rglob("*.npy")}
    assert cached == {f"{name}.npy" for name in (
        "rgb", "action", "reward", "terminated", "truncated", "intrinsics", "world_from_camera", "goal", "lengths", "indices",
        "seeds",
    )}  # fmt: skip


def test_a_dataset_stripped_of_truth_reads_the_same(make_dataset: Make) -> None:
    whole, stripped = make_dataset(9, 12), make_dataset(9, 12, name="stripped")
    for index, path in enumerate(data_files(stripped)):
        with h5py.File(path, "r+") as file:
            del file[f"{group_name(index)}/truth"]
    first, second = TrainingReader(whole), TrainingReader(stripped)
    for number in range(2):
        mine, theirs = first.window(number, np.arange(9)), second.window(number, np.arange(9))
        assert all(np.array_equal(mine[name], theirs[name]) for name in mine)


def test_the_cache_follows_the_dataset(make_dataset: Make, make_episode: Build) -> None:
    folder = make_dataset(9)
    first = TrainingReader(folder)
    assert len(first) == 1
    write_episode(folder, 1, make_episode(12, 1))
    assert len(TrainingReader(folder)) == 2
    pack_shard(folder, 0, [0, 1])
    assert len(TrainingReader(folder)) == 2
    assert np.array_equal(first.read(0, "rgb"), make_episode(9, 0).rgb), "an open reader lost its cache"
    assert len(list((folder / ".cache").iterdir())) == 1, "old caches are left behind"


def test_the_cache_is_used(make_dataset: Make) -> None:
    folder = make_dataset(9)
    TrainingReader(folder)
    stamps = {path: path.stat().st_mtime_ns for path in (folder / ".cache").rglob("*.npy")}
    TrainingReader(folder)
    assert stamps == {path: path.stat().st_mtime_ns for path in (folder / ".cache").rglob("*.npy")}


def test_two_processes_build_the_cache_at_once(make_dataset: Make, make_episode: Build) -> None:
    folder = make_dataset(*[30] * 6)
    code = f"from embodied_liftwm.data import TrainingReader; print(TrainingReader({str(folder)!r}).read(5, 'rgb').sum())"
    root = Path(__file__).parents[2]
    started = [subprocess.Popen([sys.executable, "-c", code], cwd=root, stdout=subprocess.PIPE) for _ in range(3)]
    expected = str(make_episode(30, 5).rgb.sum()).encode()
    assert [process.communicate()[0].strip() for process in started] == [expected] * 3
    assert len(list((folder / ".cache").iterdir())) == 1


def test_a_folder_that_takes_no_cache(make_dataset: Make, capsys: pytest.CaptureFixture[str], make_episode: Build) -> None:
    folder = make_dataset(9)
    (folder / ".cache").write_text("in the way")
    reader = TrainingReader(folder)
    assert np.array_equal(reader.read(0, "rgb"), make_episode(9, 0).rgb)
    warning = capsys.readouterr().err
    assert warning.startswith("warning: no cache in")
    assert warning.count("\n") == 1
    assert (folder / ".cache").read_text() == "in the way"


def test_reading_imports_no_torch() -> None:
    code = "import embodied_liftwm.data, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
